"""From a command line to a run: flags, how a program starts and how it ends."""
