"""Devices and workers: which there are, who holds which rows of a batch, and sums over all of them."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import tensorflow as tf

from yt8m.errors import UserError

Strategy: TypeAlias = tf.distribute.Strategy


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
    if _cluster_size() > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if num_gpu <= 1:
        return tf.distribute.get_strategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) < num_gpu:
        raise UserError(
            f"--num_gpu={num_gpu}: this machine offers {len(devices)} {devices[0].device_type} device(s). "
            "Ask for as many as there are, and check that TensorFlow sees the GPUs (BUILD.md)."
        )
    return _mirrored(tuple(device.name for device in devices[:num_gpu]))


@cache
def _mirrored(devices: tuple[str, ...]) -> Strategy:
    """One strategy for the same devices: the sums of two of them would be taken for each other in one process."""
    return tf.distribute.MirroredStrategy(devices)


def _cluster_size() -> int:
    """How many processes train together by TF_CONFIG; 0 where it is not set."""
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
        cluster = config.get("cluster", {})
        size = sum(len(cluster.get(job, ())) for job in ("chief", "worker"))
        if size > 1:
            _check_task(config["task"], cluster)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG={text} describes no cluster: {error!r}. Expected "
            '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}, each with its own '
            "index. Put it right, or unset it to train on this machine alone (BUILD.md)."
        ) from error
    return size


def _check_task(task: dict[str, Any], cluster: dict[str, list[str]]) -> None:
    num_tasks = len(cluster[task["type"]])
    if not 0 <= int(task["index"]) < num_tasks:
        raise IndexError(f"task {task['index']} of {num_tasks}")


def is_multi_worker(strategy: Strategy) -> bool:
    """Tells whether several processes train together."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def num_workers(strategy: Strategy) -> int:
    """Returns how many processes train together."""
    return _cluster_size() if is_multi_worker(strategy) else 1


def worker_index(strategy: Strategy) -> int:
    """Returns the number of this process among the workers, 0 for the chief."""
    if not is_multi_worker(strategy):
        return 0
    resolver = strategy.cluster_resolver
    has_chief = "chief" in resolver.cluster_spec().as_dict()
    return resolver.task_id + (1 if has_chief and resolver.task_type == "worker" else 0)


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


def agreement(strategy: Strategy) -> Callable[[Sequence[bool]], list[bool]]:
    """Returns a function that turns this worker's wishes into those that any worker has.

    All workers call it at the same point, with as many wishes, and get the same answer. So it is a barrier too: nobody
    goes on before all have come.
    """
    if not is_multi_worker(strategy):
        return list

    @tf.function
    def count(wishes: tf.Tensor) -> tf.Tensor:
        return all_replica_sum(tf.identity(wishes))

    def agree(wishes: Sequence[bool]) -> list[bool]:
        counts = strategy.run(count, args=(tf.cast(tf.stack(wishes), tf.float32),))
        return [bool(n) for n in strategy.experimental_local_results(counts)[0].numpy() > 0]

    return agree


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
        return {name: _rows(value, replica, num_local) for name, value in batch.items()}


def _rows(value: tf.Tensor, replica: int | tf.Tensor, num_replicas: int) -> tf.Tensor:
    n = tf.shape(value)[0]
    return value[replica * n // num_replicas : (replica + 1) * n // num_replicas]
