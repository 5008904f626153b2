"""How processes start and end: what is shown of TensorFlow's start-up, signals, words that are no paths."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from absl import flags

from yt8m.cli.program import start
from yt8m.errors import UserError

ROOT = Path(__file__).parents[2]


def run_python(code: str) -> subprocess.CompletedProcess:
    """Runs code in a process of its own, which knows a module `tensorflow` that is ours."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


IMPORTING = """
    import importlib, os, signal, sys
    from yt8m.cli import startup
    startup.end_on_signals()
    def load(name):
        os.write(2, b"a note of C++\\n")
        {happens}
    importlib.import_module = load
    startup.load_tensorflow()
    print("loaded", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("happens", "status", "shown"),
    [
        ("pass", 0, "loaded\n"),
        ("raise ImportError('no such module')", 1, "a note of C++\n"),
        ("os.abort()", -signal.SIGABRT, "a note of C++\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "a note of C++\n"),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, ""),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, ""),
    ],
)
def test_notes_are_shown_only_where_the_process_ends_for_their_reason(happens: str, status: int, shown: str) -> None:
    ended = run_python(IMPORTING.replace("{happens}", happens))
    assert ended.returncode == status
    assert ended.stderr.startswith(shown)
    assert bool(ended.stderr) == bool(shown)
    assert ("a note" in ended.stderr) == ("a note" in shown)


PACKAGE = """
import os, signal
def length():
    os.kill(os.getpid(), signal.SIGTERM)
    return 3
def ask():  # as C++ does, which takes an exception for an answer
    try:
        return length()
    except BaseException:
        return "none"
def call(function):
    length()
    function()
"""
SIGNALLED = """
    import types
    from yt8m.cli import startup
    startup.end_on_signals()
    package = types.ModuleType({name})
    exec({package}, vars(package))
    def own():
        print("called")
    {does}
    print("went on")
"""


@pytest.mark.parametrize(
    ("name", "does", "printed"),
    [
        ("tensorflow.python", "print(package.ask())", "3\n"),
        ("tensorflow.python", "package.call(own)", ""),
        ("elsewhere", "package.call(own)", ""),
    ],
)
def test_a_signal_is_no_answer_to_tensorflow(name: str, does: str, printed: str) -> None:
    code = SIGNALLED.replace("{name}", repr(name)).replace("{package}", repr(PACKAGE)).replace("{does}", does)
    ended = run_python(code)
    assert (ended.returncode, ended.stdout) == (143, printed), ended.stderr


@pytest.mark.slow
def test_a_signal_while_tensorflow_asks_for_a_shape_is_not_lost() -> None:
    """An exception in the place of a length made room for no dimension of that shape: memory was corrupted."""
    ended = run_python("""
        import os, signal
        from yt8m.cli import startup
        startup.end_on_signals()
        startup.load_tensorflow()
        import tensorflow as tf
        place = {"__name__": "tensorflow.python", "os": os, "signal": signal, "length": tf.TensorShape.__len__}
        exec("def signalled(self): os.kill(os.getpid(), signal.SIGTERM); return length(self)", place)
        batches = tf.data.Dataset.range(2).batch(2)
        tf.TensorShape.__len__ = place["signalled"]
        iterator = iter(batches)
        print("went on")
    """)
    assert (ended.returncode, ended.stdout) == (143, ""), ended.stderr


@pytest.mark.parametrize("earlier", [True, False])
def test_keras_finds_pandas_only_where_the_program_loaded_it(tmp_path: Path, earlier: bool) -> None:
    (tmp_path / "pandas.py").write_text("")
    ended = run_python(f"""
        import importlib, sys
        from yt8m.cli import startup
        sys.path.insert(0, {str(tmp_path)!r})
        if {earlier}:
            import pandas
        def load(name):
            try:
                import pandas
                print("found")
            except ImportError:
                print("not found")
        importlib.import_module = load
        startup.load_tensorflow()
        import pandas
        print(pandas.__file__)
    """)
    found = "found" if earlier else "not found"
    assert (ended.stdout, ended.stderr) == (f"{found}\n{tmp_path}/pandas.py\n", "")


def test_wrong_command_lines_need_no_tensorflow() -> None:
    code = "import sys; sys.modules['tensorflow'] = None; sys.argv = ['train.py', {}]; import runpy; "
    code += "runpy.run_path('train.py', run_name='__main__')"
    for argument, message in (
        ("'--hlep'", "error: Unknown command line flag 'hlep'. Did you mean: help"),
        ("'--model=MoeModle'", "error: --model=MoeModle: there is no such video-level model. Did you mean MoeModel?"),
        ("'--batch_size=0'", "error: --batch_size=0: expected a whole number from 1 to 1048576."),
        ("'--hparams=dropuot=1'", "error: --hparams: LogisticModel has no hyper-parameter 'dropuot'. Did you mean "),
        ("'word'", "error: Unexpected argument 'word': settings are given as --name=value."),
        ("'--train_dir=\\udcff'", "error: '--train_dir=\\udcff' is not text in UTF-8"),
    ):
        ended = run_python(code.format(argument))
        assert ended.returncode == 1
        assert ended.stderr.startswith(message), ended.stderr
        assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("program", ["train.py", "eval.py"])
def test_wrong_metrics_need_no_tensorflow(program: str) -> None:
    code = f"import sys; sys.modules['tensorflow'] = None; sys.argv = ['{program}', '--metrics=marco']; import runpy; "
    ended = run_python(code + f"runpy.run_path('{program}', run_name='__main__')")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: --metrics=marco: there is no such group of metrics. Did you mean macro?")


def test_help_needs_no_tensorflow() -> None:
    code = "import sys; sys.modules['tensorflow'] = None; sys.argv = ['train.py', '--help']; import runpy; "
    ended = run_python(code + "runpy.run_path('train.py', run_name='__main__')")
    assert "--netvlad_cluster_size" in ended.stdout
    assert not ended.stderr


def test_home_is_read_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    values = flags.FlagValues()
    for name, text in (("one", "~/a"), ("more", "~/a*,b~c,~/d"), ("none", "a/~")):
        flags.DEFINE_string(name, text, "", flag_values=values)
    values(["program"])
    start(lambda _: None, values)
    assert (values.one, values.more, values.none) == ("/home/me/a", "/home/me/a*,b~c,/home/me/d", "a/~")


def test_a_storage_that_nobody_knows_is_named() -> None:
    values = flags.FlagValues()
    flags.DEFINE_string("train_dir", "foo://bucket/run", "", flag_values=values)
    values(["program"])
    with pytest.raises(
        UserError, match=r"^foo://bucket/run: there is no storage 'foo://'\. Known: local paths, .*gs://"
    ):
        start(lambda _: None, values)
