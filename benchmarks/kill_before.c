/* Kills its process before the n-th change of a file below a folder: loaded by LD_PRELOAD, see attack_kills.py.

   A change is a call of the C library that makes, opens for writing, closes, renames or removes a file or a folder, and
   the first of several writes to one file in a row. TensorFlow's own writing, in C++, passes here too. Event files, which
   are only added to, and temporary files of AutoGraph do not count. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[4096];
static long kill_at = -1, changes;
static int list = -1;
static char last_written[4096];

/* Starts to count changes below `below`; the process dies before change `at`, or of none if that is 0. A line for each
   change is written to the descriptor `to`, unless that is negative. */
void arm(const char *below, long at, int to) {
  strncpy(folder, below, sizeof folder - 1);
  kill_at = at;
  list = to;
  changes = 0;
}

static void before(const char *what, const char *path) {
  if (kill_at < 0 || strncmp(path, folder, strlen(folder)) != 0) return;
  if (strstr(path, "tfevents") || strstr(path, "__autograph")) return;
  int is_write = strcmp(what, "write") == 0;
  if (is_write && strcmp(path, last_written) == 0) return;
  strncpy(last_written, is_write ? path : "", sizeof last_written - 1);
  changes++;
  if (list >= 0) dprintf(list, "%s %s\n", what, path);
  if (changes == kill_at) kill(getpid(), SIGKILL);
}

static void before_at(const char *what, int directory, const char *name) {
  char link[64], path[8192];
  if (name[0] == '/' || directory == AT_FDCWD) {
    before(what, name);
    return;
  }
  snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
  ssize_t length = readlink(link, path, 4096);
  if (length < 0) return;
  snprintf(path + length, sizeof path - length, "/%s", name);
  before(what, path);
}

static void before_open(const char *what, int descriptor) {
  char link[64], path[4096];
  if (kill_at < 0 || descriptor < 0 || descriptor == list) return;
  if ((fcntl(descriptor, F_GETFL) & O_ACCMODE) == O_RDONLY) return;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return;
  path[length] = 0;
  before(what, path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRAP_PATH(name, result, arguments, passed, path) \
  result name arguments {                                \
    before(#name, path);                                 \
    return NEXT(name) passed;                            \
  }

WRAP_PATH(rename, int, (const char *from, const char *to), (from, to), to)
WRAP_PATH(unlink, int, (const char *path), (path), path)
WRAP_PATH(rmdir, int, (const char *path), (path), path)
WRAP_PATH(mkdir, int, (const char *path, mode_t mode), (path, mode), path)

int renameat(int from, const char *old, int to, const char *new) {
  before_at("rename", to, new);
  return NEXT(renameat)(from, old, to, new);
}

int unlinkat(int directory, const char *name, int flags) {
  before_at("unlink", directory, name);
  return NEXT(unlinkat)(directory, name, flags);
}

#define WRAP_OPEN(name)                            \
  int name(const char *path, int flags, ...) {     \
    va_list rest;                                  \
    va_start(rest, flags);                         \
    mode_t mode = va_arg(rest, mode_t);            \
    va_end(rest);                                  \
    if (flags & O_CREAT) before("open", path);     \
    return NEXT(name)(path, flags, mode);          \
  }

WRAP_OPEN(open)
WRAP_OPEN(open64)

#define WRAP_FOPEN(name)                              \
  FILE *name(const char *path, const char *mode) {    \
    if (mode[0] != 'r') before("open", path);         \
    return NEXT(name)(path, mode);                    \
  }

WRAP_FOPEN(fopen)
WRAP_FOPEN(fopen64)

size_t fwrite(const void *content, size_t size, size_t count, FILE *file) {
  before_open("write", fileno(file));
  return NEXT(fwrite)(content, size, count, file);
}

int fclose(FILE *file) {
  before_open("close", fileno(file));
  return NEXT(fclose)(file);
}

ssize_t write(int descriptor, const void *content, size_t count) {
  before_open("write", descriptor);
  return NEXT(write)(descriptor, content, count);
}

int close(int descriptor) {
  before_open("close", descriptor);
  return NEXT(close)(descriptor);
}
