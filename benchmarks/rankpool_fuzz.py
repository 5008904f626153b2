"""Hostile rank pooling problems by the ten thousand: every one has to converge, to a finite and stationary result.

    PYTHONPATH=. python benchmarks/rankpool_fuzz.py [--problems 20000]

Prints one row per precision: problems, those not converged, numbers not finite, how many linear systems a problem took,
and the worst stationarity (see tests/oracles/rankpool.py) in units of the precision's rounding.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

# Problems and certificates are those of the tests.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from oracles.rankpool import Hostile, batch_of_problems, hostile_problems, stationarity
from rankpool_ops import rank_pool

PROBLEMS_PER_BATCH = 32


@tf.function(autograph=False)
def _pool(frames: tf.Tensor, num_frames: tf.Tensor, c: tf.Tensor, epsilon: tf.Tensor) -> Any:
    with tf.GradientTape() as tape:
        tape.watch([frames, c, epsilon])
        u, info = rank_pool(frames, num_frames, c=c, epsilon=epsilon, return_info=True)
    return u, info, tape.gradient(u, [frames, c, epsilon])


class Tally:
    """What a run over many batches has seen, in one precision."""

    def __init__(self, dtype: tf.DType):
        self.dtype = dtype
        self.num_problems = self.num_unconverged = self.num_not_finite = 0
        self.iterations: list[int] = []
        self.worst_stationarity = 0.0

    def add(self, problems: list[Hostile]) -> None:
        """Pools a batch of problems, forward and backward."""
        batch = batch_of_problems(problems)
        batch["frames"] = batch["frames"].astype(self.dtype.as_numpy_dtype).astype(np.float64)
        arguments = [tf.constant(batch[name]) for name in ("num_frames", "c", "epsilon")]
        u, info, gradients = _pool(tf.constant(batch["frames"], self.dtype), *arguments)
        self.num_problems += len(problems)
        self.num_unconverged += int(np.sum(~info.converged.numpy()))
        self.num_not_finite += sum(int(np.sum(~np.isfinite(x.numpy()))) for x in (u, info.duality_gap, *gradients))
        self.iterations += info.iterations.numpy().tolist()
        self.worst_stationarity = max(self.worst_stationarity, stationarity(batch, u.numpy().astype(np.float64)).max())

    @property
    def is_sound(self) -> bool:
        """True where all that is left is rounding: of the result if not of the computation."""
        all_fine = self.num_unconverged == 0 and self.num_not_finite == 0
        return all_fine and bool(self.worst_stationarity < 100 * np.finfo(self.dtype.as_numpy_dtype).eps)

    def row(self) -> str:
        quantiles = " ".join(f"{q:6.0f}" for q in np.percentile(self.iterations, [50, 99, 99.9, 100]))
        return (
            f"{self.dtype.name:8} {self.num_problems:8} {self.num_unconverged:12} {self.num_not_finite:11} "
            f"{quantiles} {self.worst_stationarity / np.finfo(self.dtype.as_numpy_dtype).eps:13.1f}"
        )


def fuzz(num_problems: int) -> list[Tally]:
    """Pools hypothesis' problems in float32 and in float64; the first unsound batch ends the run with its example."""
    tallies = [Tally(tf.float32), Tally(tf.float64)]

    @settings(
        max_examples=-(-num_problems // PROBLEMS_PER_BATCH),
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(hostile_problems(), min_size=PROBLEMS_PER_BATCH, max_size=PROBLEMS_PER_BATCH))
    def run(problems: list[Hostile]) -> None:
        for tally in tallies:
            tally.add(problems)
            if not tally.is_sound:
                raise AssertionError(tally.row())

    run()
    return tallies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=20000)
    tallies = fuzz(parser.parse_args().problems)
    print("dtype    problems  unconverged  not finite    50%    99%  99.9%    max  stationarity")
    for tally in tallies:
        print(tally.row())


if __name__ == "__main__":
    main()
