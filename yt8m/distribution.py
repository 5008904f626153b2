"""Devices and workers: how many there are, which rows of a batch each one gets, and sums over all of them."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import tensorflow as tf

from yt8m.batch import POSITION
from yt8m.errors import UserError

Strategy: TypeAlias = tf.distribute.Strategy

_TRAINING_JOBS = ("chief", "worker")
_JOB_NAMES = {"master": "chief"}


def build_strategy(num_gpu: int = 1, log_device_placement: bool = False) -> Strategy:
    """Chooses how a step is spread over devices.

    Several workers when the environment variable TF_CONFIG names them, several devices of this machine when
    `num_gpu` is above 1, else one device. Without GPUs, logical CPUs take their place.

    Args:
        num_gpu: devices of this machine.
        log_device_placement: whether to log on which device each operation runs.

    Raises:
        UserError: if the machine has fewer devices than `num_gpu`, or TF_CONFIG is no description of a cluster.
    """
    tf.debugging.set_log_device_placement(log_device_placement)
    cluster = _cluster()
    if cluster is not None and cluster.num_processes > 1:
        spec = tf.train.ClusterSpec(cluster.jobs)
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            spec, task_type=cluster.job, task_id=cluster.index, rpc_layer="grpc"
        )
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    if num_gpu <= 1:
        return one_device_strategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) < num_gpu:
        raise UserError(
            f"--num_gpu={num_gpu}: this machine offers {len(devices)} {devices[0].device_type} device(s). "
            "Ask for as many as there are, and check that TensorFlow sees the GPUs (BUILD.md)."
        )
    return _mirrored(tuple(device.name for device in devices[:num_gpu]))


def one_device_strategy() -> Strategy:
    """Returns the strategy of a program that works alone, whatever cluster TF_CONFIG describes."""
    return tf.distribute.get_strategy()


@cache
def _mirrored(devices: tuple[str, ...]) -> Strategy:
    """One strategy per set of devices: in one process the collective sums of two equal ones would be mixed up."""
    return tf.distribute.MirroredStrategy(devices)


@dataclass(frozen=True)
class _Cluster:
    """The processes that train together, by TF_CONFIG.

    Attributes:
        jobs: addresses by job: `chief`, of one process, and `worker`; either may be missing.
        job: the job of this process.
        index: its number in the job.
    """

    jobs: dict[str, list[str]]
    job: str
    index: int

    @property
    def num_processes(self) -> int:
        """How many processes train together."""
        return sum(map(len, self.jobs.values()))


def _cluster() -> _Cluster | None:
    """Reads TF_CONFIG; None where it is not set or names no process that trains."""
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
        # `master` is what a chief was called until TensorFlow 1.
        named = {_JOB_NAMES.get(job, job): list(addresses) for job, addresses in config.get("cluster", {}).items()}
        jobs = {job: addresses for job, addresses in named.items() if job in _TRAINING_JOBS}
        if not any(jobs.values()):
            return None
        job = _JOB_NAMES.get(config["task"]["type"], config["task"]["type"])
        index = int(config["task"]["index"])
        if job in _TRAINING_JOBS and not 0 <= index < len(jobs[job]):
            raise IndexError(f"task {index} of {len(jobs[job])}")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG={text} describes no cluster: {error!r}. Expected "
            '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}, each with its own '
            "index. Put it right, or unset it to train on this machine alone (BUILD.md)."
        ) from error
    if job not in _TRAINING_JOBS:
        raise UserError(
            f"TF_CONFIG makes this process a '{job}', which does not train: a chief (or master) and workers train "
            "a run, and keep the weights themselves. Start none of this kind; to evaluate, start eval.py."
        )
    return _Cluster(jobs, job, index)


def is_multi_worker(strategy: Strategy) -> bool:
    """Tells whether several processes train together."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def num_workers(strategy: Strategy) -> int:
    """Returns how many processes train together."""
    if not is_multi_worker(strategy):
        return 1
    return sum(map(len, strategy.cluster_resolver.cluster_spec().as_dict().values()))


def worker_index(strategy: Strategy) -> int:
    """Returns the number of this process among the workers, 0 for the chief."""
    if not is_multi_worker(strategy):
        return 0
    resolver = strategy.cluster_resolver
    has_chief = "chief" in resolver.cluster_spec().as_dict()
    return int(resolver.task_id) + (1 if has_chief and resolver.task_type == "worker" else 0)


def all_replica_sum(x: Any) -> Any:
    """Sums a tensor, or each of a list or dict of them, over all replicas of all workers.

    Differentiable: the gradient of the sum is summed over the replicas too, so that every replica's loss reaches every
    replica's term. Outside a replica, and where there is one replica, the tensors come back as they are.

    Args:
        x: float tensors, of one shape on all replicas.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    return context.all_reduce(tf.distribute.ReduceOp.SUM, x)


class Workers:
    """Synchronises the processes that train together; a process that trains alone never waits.

    All workers call the same methods in the same order.

    Args:
        strategy: spreads a step over them.
    """

    def __init__(self, strategy: Strategy):
        self._strategy = strategy

    def any_worker(self, flags: Sequence[bool]) -> list[bool]:
        """Returns, for each flag, whether any worker raised it. All workers pass the same number of flags."""
        if not is_multi_worker(self._strategy):
            return list(flags)
        counts = self._strategy.run(self._count, args=(tf.cast(tf.stack(flags), tf.float32),))
        return [bool(n) for n in self._strategy.experimental_local_results(counts)[0].numpy() > 0]

    def barrier(self) -> None:
        """Returns when all workers have called it."""
        self.any_worker([False])

    @contextmanager
    def explained_loss(self) -> Iterator[None]:
        """Ends this worker with one line if another one ends before its time, which aborts every sum over them.

        Raises:
            UserError: if that happened in the `with` block.
        """
        try:
            yield
        except tf.errors.OpError as error:
            reason = re.search("Collective ops is aborted by: ([^\n]*)", error.message)
            if not is_multi_worker(self._strategy) or reason is None:
                raise
            raise UserError(
                f"Worker {worker_index(self._strategy)} of {num_workers(self._strategy)} stops, for another one was "
                f"lost: {reason[1].rstrip('.')}. What that one said last may tell why. The newest checkpoint in "
                "--train_dir is sound: start every worker again with the same command, and the run goes on from there."
            ) from error

    @tf.function(autograph=False)
    def _count(self, flags: tf.Tensor) -> tf.Tensor:
        return all_replica_sum(tf.identity(flags))


def replica_rows(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Takes this replica's contiguous share of its worker's batch.

    Called in a replica's context. The cut is made in host memory, so only the share crosses to the device. With n
    rows and R replicas, replica r holds rows floor(r * n / R) to floor((r + 1) * n / R), maybe none.
    """
    context: Any = tf.distribute.get_replica_context()
    num_local = context.num_replicas_in_sync // num_workers(context.strategy)
    if num_local == 1:
        return dict(batch)
    replica = context.replica_id_in_sync_group % num_local
    with tf.device("/device:CPU:0"):
        rows = {name: _rows(value, replica, num_local) for name, value in batch.items() if name != POSITION}
        return rows | {name: value for name, value in batch.items() if name == POSITION}


def _rows(value: tf.Tensor, replica: int | tf.Tensor, num_replicas: int) -> tf.Tensor:
    n = tf.shape(value)[0]
    return value[replica * n // num_replicas : (replica + 1) * n // num_replicas]
