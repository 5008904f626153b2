"""Bars of progress: on terminals alone, on stderr alone, and log lines stay whole."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import logging, sys, time
from absl import flags
from yt8m.cli import program
from yt8m.errors import UserError
from yt8m.progress import progress, with_progress

def main(values):
    with progress("training", 50, done=10) as advance:
        for step in range(4):
            advance(10)
            logging.getLogger("yt8m.test").info("line %d of the log, [not markup]", step)
            print(f"row {step} of a table")
            time.sleep(0.15)
            if step == 1:
                for word in with_progress(["ab", "c"], "evaluating", 3, len):
                    time.sleep(0.15)
    if sys.argv[-1] == "fail":
        for number in with_progress(range(3), "failing", 3):
            raise UserError("It is wrong. Expected right.")

flags.FLAGS(["test"])
program.run(main)
"""
LINES = [f"line {step} of the log, [not markup]" for step in range(4)]
ROWS = "".join(f"row {step} of a table\n" for step in range(4))


def on_a_terminal(*arguments: str) -> tuple[int, str, str]:
    """Runs the program with a terminal as its stderr: its status, what it printed, and what the terminal got."""
    terminal, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=slave, text=True, env=environment
    )
    os.close(slave)
    got = b""
    try:
        while chunk := os.read(terminal, 65536):
            got += chunk
    except OSError:  # how the end of a terminal is told
        pass
    printed, _ = process.communicate(timeout=60)
    os.close(terminal)
    return process.returncode, printed, got.decode()


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_shows_bars_below_whole_lines_and_stdout_has_the_table_alone() -> None:
    status, printed, got = on_a_terminal()
    assert (status, printed) == (0, ROWS)
    lines = [line.strip() for line in re.split(r"[\r\n]+", without_codes(got))]
    for line in LINES:
        assert any(re.fullmatch(rf"\d\d:\d\d:\d\d {re.escape(line)}", shown) for shown in lines), line
    assert any(re.match(r"training .*20/50", shown) for shown in lines)  # 10 were done before
    assert any(re.match(r"evaluating .*2/3", shown) for shown in lines)
    assert got.rindex("\x1b[?25h") > got.rindex("\x1b[?25l"), "the cursor stays hidden"


def test_an_error_takes_the_bar_away_and_is_one_line() -> None:
    status, printed, got = on_a_terminal("fail")
    assert (status, printed) == (1, ROWS)
    assert without_codes(got).rstrip().endswith("error: It is wrong. Expected right.")
    assert got.rindex("\x1b[?25h") > got.rindex("\x1b[?25l"), "the cursor stays hidden"


def test_a_file_gets_the_log_alone() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=60, check=True
    )
    assert done.stdout == ROWS
    assert [line.partition(" ")[2] for line in done.stderr.splitlines()] == LINES
