"""Blends submissions of the same videos: weighted means of their scores, in memory that does not grow with the files.

Files whose rows are in the same order are read side by side. The rows of a file in another order are first dealt to
temporary files of 16,384 videos each, which are then sorted one after another. In memory are the ids of the videos,
about 150 bytes per video, and the rows of one block per member.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from yt8m.arguments import LARGEST_SIZE
from yt8m.errors import UserError
from yt8m.output.submission import Submission, SubmissionWriter, parsed_blocks, read_rows

_VIDEOS_PER_TEMPORARY_FILE = 16_384
_NAMED_VIDEOS = 3  # of the videos that a file lacks, so many are in the message

# How strongly learned weights may be pulled towards equal ones, as shares of the mean squared score of a member.
PULLS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.0)

# Below this share of the largest moment a gradient is rounding: the weights are optimal.
_OPTIMALITY = 1e-10


class PairTable(NamedTuple):
    """All pairs (video, class) that any of M members lists for a block of videos; U pairs, by video, then by class.

    Attributes:
        ids: the videos of the block.
        rows: `(U,)` int64, the index of each pair's video in `ids`.
        classes: `(U,)` int64.
        scores: `(U, M)` float64, the score that each member gives the pair; 0 where it does not list the class.
    """

    ids: list[str]
    rows: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def best(self, scores: np.ndarray, top_k: int) -> Submission:
        """Returns the best classes of each video, best first; among equal scores the lower class comes first.

        Args:
            scores: `(U,)` float, a score per pair, such as `self.scores @ weights`.
            top_k: the largest number of classes per video.
        """
        order = np.lexsort((self.classes, -scores, self.rows))
        num_pairs = np.bincount(self.rows, minlength=len(self.ids))
        ranks = np.arange(len(order)) - np.repeat(np.cumsum(num_pairs) - num_pairs, num_pairs)
        kept = order[ranks < top_k]
        return Submission(self.ids, np.minimum(num_pairs, top_k), self.classes[kept], scores[kept])


class AlignedSubmissions:
    """M submissions of the same videos, read side by side in the order of the first; iterates over `PairTable`s.

    Args:
        paths: the M files.

    Raises:
        UserError: if a file cannot be read, has a video twice, or has other videos than the first file; the message
            names them.
    """

    def __init__(self, paths: Sequence[str]):
        self._paths = paths
        self._rows_of_ids: dict[str, int] = {}
        for where, row in read_rows(paths[0]):
            video_id = _id_of(row)
            if video_id in self._rows_of_ids:
                raise _has_twice(where, video_id)
            self._rows_of_ids[video_id] = len(self._rows_of_ids)
        self._is_in_order = [True, *(self._check_videos(path) for path in paths[1:])]

    @property
    def ids(self) -> Collection[str]:
        """The ids of the videos, in the order of the first file."""
        return self._rows_of_ids.keys()

    @property
    def num_members(self) -> int:
        """The number of files, M."""
        return len(self._paths)

    def __iter__(self) -> Iterator[PairTable]:
        members = [
            read_rows(path) if in_order else self._sorted_rows(path)
            for path, in_order in zip(self._paths, self._is_in_order, strict=True)
        ]
        return map(pair_table, parsed_blocks(members))

    def _check_videos(self, path: str) -> bool:
        """Checks that a file has the videos of the first file, each once; tells whether they are in its order."""
        is_found = bytearray(len(self._rows_of_ids))
        others: list[str] = []
        num_others = num_rows = 0
        in_order = True
        for where, row in read_rows(path):
            video_id = _id_of(row)
            number = self._rows_of_ids.get(video_id)
            if number is None:
                num_others += 1
                others += [video_id] if num_others <= _NAMED_VIDEOS else []
                continue
            if is_found[number]:
                raise _has_twice(where, video_id)
            is_found[number] = True
            in_order = in_order and number == num_rows
            num_rows += 1
        missing = (video_id for video_id, found in zip(self._rows_of_ids, is_found, strict=True) if not found)
        check_same_videos(path, missing, len(self._rows_of_ids) - num_rows, others, num_others, self._paths[0])
        return in_order

    def _sorted_rows(self, path: str) -> Iterator[tuple[str, str]]:
        """Yields the rows of a file in the order of the first file, by way of temporary files."""
        with contextlib.ExitStack() as stack:
            try:
                files = [
                    stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n"))
                    for _ in range(0, len(self._rows_of_ids), _VIDEOS_PER_TEMPORARY_FILE)
                ]
                for _, row in read_rows(path):
                    files[self._rows_of_ids[_id_of(row)] // _VIDEOS_PER_TEMPORARY_FILE].write(row + "\n")
                for file in files:
                    file.seek(0)
            except OSError as error:
                raise UserError(
                    f"{path} has its videos in another order than {self._paths[0]}, and its rows cannot be sorted in "
                    f"{tempfile.gettempdir()} ({error}). Make room there, or set TMPDIR to another folder."
                ) from error
            for file in files:
                rows = sorted((line.rstrip("\n") for line in file), key=lambda row: self._rows_of_ids[_id_of(row)])
                yield from ((path, row) for row in rows)


def check_same_videos(
    path: str, missing: Iterable[str], num_missing: int, others: Sequence[str], num_others: int, expected: str
) -> None:
    """Raises an error that names videos unless a file has exactly the videos that it should have.

    Args:
        path: the file.
        missing: the ids of the videos that it lacks.
        num_missing: the number of all that it lacks.
        others: ids of videos that it should not have, at least the first three.
        num_others: the number of all that it should not have.
        expected: what has the right videos.

    Raises:
        UserError: if `num_missing` or `num_others` is not 0.
    """
    faults = []
    if num_missing:
        faults.append(f"lacks {_some(list(itertools.islice(missing, _NAMED_VIDEOS)), num_missing)} of {expected}")
    if num_others:
        faults.append(f"has {_some(others[:_NAMED_VIDEOS], num_others)} that {expected} lacks")
    if faults:
        raise UserError(f"{path} {' and '.join(faults)}. Expected the same videos in both, in any order.")


def pair_table(block: Sequence[Submission]) -> PairTable:
    """Returns all pairs that any of M members lists.

    Args:
        block: M submissions of the same videos in the same order.

    Raises:
        ValueError: if the videos differ.
    """
    ids = block[0].ids
    if any(member.ids != ids for member in block):
        raise ValueError("The members of a block have different videos.")
    videos = np.arange(len(ids), dtype=np.int64)
    keys = [np.repeat(videos, member.num_pairs) * LARGEST_SIZE + member.classes for member in block]
    unique, places = np.unique(np.concatenate(keys), return_inverse=True)
    scores = np.zeros((len(unique), len(block)))
    for m, (member, end) in enumerate(zip(block, np.cumsum(list(map(len, keys))), strict=True)):
        scores[places[end - len(keys[m]) : end], m] = member.scores
    return PairTable(ids, *np.divmod(unique, LARGEST_SIZE), scores)


def write_block(writer: SubmissionWriter, block: Submission) -> None:
    """Writes videos that may have different numbers of pairs.

    Raises:
        UserError: as `SubmissionWriter.add` does.
    """
    # The writer takes rectangles: runs of videos with equally many pairs, which are usually all of them.
    starts = [0, *(np.flatnonzero(np.diff(block.num_pairs)) + 1), len(block.ids)]
    end_of_pairs = np.concatenate([[0], np.cumsum(block.num_pairs)])
    for start, end in itertools.pairwise(starts):
        pairs, shape = slice(end_of_pairs[start], end_of_pairs[end]), (end - start, block.num_pairs[start])
        writer.add(block.ids[start:end], block.classes[pairs].reshape(shape), block.scores[pairs].reshape(shape))


def tempered(scores: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """Divides the logits of probabilities by temperatures; 0 and 1 stay what they are.

        p' = sigmoid(logit(p) / T) = p^(1/T) / (p^(1/T) + (1 - p)^(1/T))

    Args:
        scores: `(U, M)` float64, p, in [0, 1] where T is not 1.
        temperatures: `(M,)` float64, T of each member, above 0; at 1 its scores are returned as they are.

    Returns:
        `(U, M)` float64.

    Raises:
        UserError: if a score that is not in [0, 1] has a temperature other than 1.
    """
    changes = temperatures != 1.0
    p = scores[:, changes]
    if p.size and not (p.min() >= 0 and p.max() <= 1):
        raise UserError(
            f"A score is {p.min() if p.min() < 0 else p.max():g}, and its file has a temperature: expected scores from "
            "0 to 1. Give that file the temperature 1."
        )
    for_label, against = p ** (1.0 / temperatures[changes]), (1.0 - p) ** (1.0 / temperatures[changes])
    result = scores.copy()
    result[:, changes] = for_label / (for_label + against)
    return result


class LeastSquares:
    """Normal equations of the weights w of M members, over all pairs (video, class) of the blocks that were added.

        minimise over w >= 0   sum over videos v and classes c of (y[v, c] - sum_m w[m] p[m, v, c])^2
                               + q s sum_m (w[m] - 1 / M)^2,   s = mean over m of sum p[m, v, c]^2

    y is 1 for a label, else 0. Pairs that no member lists do not depend on w. The second term pulls towards equal
    weights: where members resemble each other very different w have nearly the same error, and the least error is not
    the best order. Memory: M * M numbers.

    Args:
        num_members: M.
    """

    def __init__(self, num_members: int):
        self._gram = np.zeros((num_members, num_members))
        self._moments = np.zeros(num_members)

    def add(self, scores: np.ndarray, hits: np.ndarray) -> None:
        """Adds pairs: `scores` `(U, M)` float, p, and `hits` `(U,)` bool, y."""
        self._gram += scores.T @ scores
        self._moments += scores.T @ hits

    def __add__(self, other: "LeastSquares") -> "LeastSquares":
        """Returns the equations of the pairs of both."""
        both = LeastSquares(len(self._moments))
        both._gram, both._moments = self._gram + other._gram, self._moments + other._moments
        return both

    @property
    def know_a_label(self) -> bool:
        """Whether some member gives a label a score above 0; else nothing can be learned."""
        return bool(self._moments.any())

    def weights(self, pull: float) -> np.ndarray:
        """Returns the weights `(M,)` float64, divided by their sum: GAP is the same, and means of scores are means.

        Args:
            pull: q, at least 0. Weights of which nothing is known are equal.
        """
        count = len(self._moments)
        if not self.know_a_label:
            return np.full(count, 1.0 / count)
        pull *= np.trace(self._gram) / count
        weights = nonnegative_least_squares(self._gram + pull * np.eye(count), self._moments + pull / count)
        return weights / weights.sum()


def nonnegative_least_squares(gram: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Returns the w >= 0 that minimises |A w - b|^2, from the normal equations, by an active-set method.

    Args:
        gram: `(M, M)` float64, A^T A.
        moments: `(M,)` float64, A^T b.

    Returns:
        `(M,)` float64. Of members that are equal one has the weight of all, the others have 0.

    Source: Lawson & Hanson 1974, "Solving Least Squares Problems", algorithm NNLS.
    """
    weights = np.zeros(len(moments))
    is_free = np.zeros(len(moments), bool)
    while True:
        gradient = np.where(is_free, 0.0, moments - gram @ weights)
        if gradient.max() <= _OPTIMALITY * np.abs(moments).max():
            return weights
        is_free[gradient.argmax()] = True
        while True:
            optimum = np.zeros(len(moments))
            optimum[is_free] = np.linalg.lstsq(gram[np.ix_(is_free, is_free)], moments[is_free], rcond=None)[0]
            is_blocked = is_free & (optimum <= 0)
            if not is_blocked.any():
                break
            # As far towards the optimum as all weights stay 0 or more; the first that reaches 0 is fixed there.
            steps = weights[is_blocked] / (weights[is_blocked] - optimum[is_blocked])
            weights += steps.min() * (optimum - weights)
            is_free[np.flatnonzero(is_blocked)[steps == steps.min()]] = False
            weights[~is_free] = 0.0
        weights = optimum


def _id_of(row: str) -> str:
    return row.partition(",")[0]


def _has_twice(where: str, video_id: str) -> UserError:
    return UserError(f"{where}: video {video_id} has a row already; expected one row per video.")


def _some(names: Sequence[str], count: int) -> str:
    return f"{count} video{'s' if count > 1 else ''} ({', '.join(names)}{', ...' if count > len(names) else ''})"
