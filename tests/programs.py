"""Programs run in the tests' own process, which spares them a start of TensorFlow."""

import importlib

from absl import flags

from yt8m.cli.program import start


def run(name: str, *arguments: str) -> int | None:
    """Runs a program on a command line; what would be its one line of error comes out as a `UserError`."""
    program = importlib.import_module(name)
    values = flags.FlagValues()
    program.define_flags(values)
    values([name, *arguments])
    return start(program.main, values)
