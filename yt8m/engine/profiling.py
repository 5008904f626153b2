"""A profile of some training steps, for TensorBoard: what the devices and the host do, and for how long."""

import logging
from types import TracebackType
from typing import Self

import tensorflow as tf

LOG = logging.getLogger("yt8m.profiling")


class Profile:
    """Records some steps while training runs; whatever ends the block, what was recorded is written.

    Args:
        train_dir: the run, which gets `plugins/profile/TIME/HOST.xplane.pb`.
        steps: first and last step to record; None records nothing.
    """

    def __init__(self, train_dir: str, steps: tuple[int, int] | None):
        self._train_dir = train_dir
        self._first, self._last = steps or (0, -1)
        self._is_recording = self._has_recorded = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_recording:
            self._stop()
        elif error is None and self._last > 0 and not self._has_recorded:
            LOG.warning("No profile: training did not come past step %d in this start.", self._first - 1)

    def after_step(self, step: int) -> None:
        """Starts before the first step to record, and stops after the last; is told where training is."""
        if not self._is_recording and step == self._first - 1:
            tf.profiler.experimental.start(self._train_dir)
            self._is_recording = self._has_recorded = True
        elif self._is_recording and step >= self._last:
            self._stop()

    def _stop(self) -> None:
        tf.profiler.experimental.stop()
        self._is_recording = False
        LOG.info("The profile of steps from %d on is in %s/plugins/profile.", self._first, self._train_dir)
