"""The flags of ensembles: which members, by which weights, and by which labels they are compared."""

from collections.abc import Sequence

from absl import flags

from yt8m.arguments import LARGEST_FLOAT
from yt8m.cli.run_flags import define_cache_flags
from yt8m.errors import UserError
from yt8m.schema import NUM_CLASSES


def define_label_flags(values: flags.FlagValues) -> None:
    """Defines the flags that say where the labels of videos are."""
    define = flags.DEFINE_string
    define("eval_data_pattern", "", "Shards that hold the labels: comma-separated patterns.", flag_values=values)
    define("labels_file", "", "A CSV that holds the labels instead: VideoId,Labels.", flag_values=values)
    flags.DEFINE_integer("num_classes", NUM_CLASSES, "Classes that labels may have.", flag_values=values)
    define_cache_flags(values)


def weights_of_members(given: Sequence[str], count: int, flag: str, members: str) -> list[float]:
    """Returns the weights of the members of an ensemble, divided by their sum; equal ones if none are given.

    Args:
        given: the words that the user typed.
        count: M, the number of members.
        flag: the name of the flag that gave the words, for messages.
        members: what the members are, for messages.

    Returns:
        M numbers, with sum 1.

    Raises:
        UserError: if there are not M numbers of at least 0, or all are 0.
    """
    if not given:
        return [1.0 / count] * count
    try:
        weights = [float(word) for word in given]
    except ValueError:
        weights = []
    if len(weights) != count or not all(0 <= weight <= LARGEST_FLOAT for weight in weights) or not any(weights):
        raise UserError(
            f"--{flag}={','.join(given)}: expected {count} number{'s' if count > 1 else ''} separated by commas, one "
            f"for each of {members}, none below 0 and not all 0."
        )
    return [weight / sum(weights) for weight in weights]


def run_directories(train_dir: str) -> list[str]:
    """Returns the runs that `--train_dir` names, separated by commas; a directory with a comma in its name is one run.

    Raises:
        UserError: if one of several is empty, or named twice.
    """
    import tensorflow as tf  # slow to import, and flags are defined without it

    if tf.io.gfile.isdir(train_dir):
        return [train_dir]
    runs = [run.strip() for run in train_dir.split(",")]
    wrong = [run for run in runs if not run or runs.count(run) > 1]
    if len(runs) > 1 and wrong:
        raise UserError(
            f"--train_dir={train_dir} names {f'{wrong[0]} twice' if wrong[0] else 'a run without a name'}. Give "
            "different runs, separated by commas."
        )
    return runs
