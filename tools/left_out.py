"""Classifies clips of a sequence by support vector machines that never saw the sequence, nor chose anything on it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from yt8m.packages import optional_package


class Setting(NamedTuple):
    """What is chosen for a fold.

    Attributes:
        descriptor: the name of the descriptors that are compared.
        c: the weight of the errors of the support vector machines against their norms.
    """

    descriptor: str
    c: float


class LeftOut(NamedTuple):
    """What is said about each clip by machines that were trained on other sequences.

    Attributes:
        predictions: `(N,)` int, a class per clip.
        chosen: the setting of each sequence's fold.
    """

    predictions: np.ndarray
    chosen: dict[int, Setting]

    def accuracy(self, labels: np.ndarray) -> float:
        """Returns the share of clips whose class, of `labels` `(N,)` int, is predicted."""
        return float(np.mean(self.predictions == labels))


def classify_left_out(
    kernels: Mapping[str, np.ndarray], weights: Sequence[float], labels: np.ndarray, sequences: np.ndarray
) -> LeftOut:
    """Leaves one sequence out after the other; chooses a setting and trains machines on the others.

    A setting is chosen by the same game inside: each of the other sequences is left out in turn, and the setting with
    the most hits wins, of equals the first. With two sequences there is no game inside, and the first setting is used.

    Args:
        kernels: by the name of a descriptor, inner products of the clips' descriptors, `(V, N, V, N)` float: each clip
            is seen in V views, such as itself and its mirror image, all of which are trained on, and whose scores are
            added.
        weights: the C of the support vector machines to choose from.
        labels: `(N,)` int, classes.
        sequences: `(N,)` int.

    Returns:
        The predictions for every clip, and what was chosen.
    """
    settings = [Setting(name, c) for name in kernels for c in weights]

    def hits(setting: Setting, clips: np.ndarray) -> int:
        kernel, total = kernels[setting.descriptor], 0
        for inner in np.unique(sequences[clips]):
            is_left_out = sequences[clips] == inner
            test = clips[is_left_out]
            total += np.sum(_predict(kernel, setting.c, labels, clips[~is_left_out], test) == labels[test])
        return int(total)

    predictions, chosen = np.empty_like(labels), {}
    for sequence in np.unique(sequences):
        test, train = np.flatnonzero(sequences == sequence), np.flatnonzero(sequences != sequence)
        has_choice = len(settings) > 1 and len(np.unique(sequences[train])) > 1
        setting = max(settings, key=lambda setting: hits(setting, train)) if has_choice else settings[0]
        predictions[test] = _predict(kernels[setting.descriptor], setting.c, labels, train, test)
        chosen[int(sequence)] = setting
    return LeftOut(predictions, chosen)


def _predict(kernel: np.ndarray, c: float, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Trains on all views of the clips `train` and returns the classes of the clips `test`."""
    known = np.unique(labels[train])
    if len(known) == 1:
        return np.full(len(test), known[0])
    from sklearn.svm import SVC

    num_views = len(kernel)
    seen = kernel[:, :, :, train]
    gram = seen[:, train].reshape(num_views * len(train), -1)
    machine = SVC(C=c, kernel="precomputed", decision_function_shape="ovr")
    machine.fit(gram, np.tile(labels[train], num_views))
    scores = machine.decision_function(seen[:, test].reshape(num_views * len(test), -1))
    if len(known) == 2:
        scores = np.stack([-scores, scores], axis=1)
    total = scores.reshape(num_views, len(test), -1).sum(axis=0)
    return np.asarray(known[np.argmax(total, axis=1)])


def paired_test(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """McNemar's exact test: are two classifiers right equally often, of those examples that one of them alone knows?

    Args:
        first: `(N,)` bool, whether the first classifier is right.
        second: `(N,)` bool, the same of the second one, on the same examples.

    Returns:
        `only_first` and `only_second`, how many examples one of them alone knows, and `p`, two-sided: the probability
        of a split that is at least as uneven, if each of these examples were known to either by the toss of a coin.

    Source: McNemar 1947, with the binomial distribution in place of its approximation.
    """
    from scipy.stats import binomtest

    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    count = only_first + only_second
    p = binomtest(only_first, count, 0.5).pvalue if count else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": float(p)}


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """Returns the exact 95 % interval of a probability of which `count` examples are seen, `hits` of them right.

    Source: Clopper & Pearson 1934.
    """
    from scipy.stats import binomtest

    low, high = binomtest(hits, count).proportion_ci(method="exact")
    return round(float(low), 4), round(float(high), 4)


def check_packages() -> None:
    """Checks that scikit-learn and SciPy are there.

    Raises:
        UserError: if they are not.
    """
    optional_package("sklearn.svm", "Support vector machines are trained", "requirements-video.txt")
