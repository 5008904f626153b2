"""The training loop: many steps a call of the device, checkpoints, and a clean end whatever ends it."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from yt8m.distribution import Workers
from yt8m.engine.profiling import Profile
from yt8m.engine.step import Measures, TrainState, TrainStep
from yt8m.errors import UserError
from yt8m.positions import Position
from yt8m.runs.checkpoints import Checkpoints


@dataclass(frozen=True)
class LoopSettings:
    """When the loop does what beside stepping.

    Attributes:
        max_steps: the step to stop at; 0 goes on to the end of the data.
        log_steps: steps between two reports; so many run in one call.
        export_model_steps: steps between two checkpoints.
        save_checkpoint_seconds: seconds after which a checkpoint is due before its step; 0 never.
        profile_steps: first and last step that TensorBoard's profiler records; None for none.
    """

    max_steps: int
    log_steps: int
    export_model_steps: int
    save_checkpoint_seconds: float
    profile_steps: tuple[int, int] | None = None

    def steps_until_pause(self, step: int) -> int:
        """How many steps may run before the loop has something else to do."""
        until = [every - step % every for every in (self.log_steps, self.export_model_steps)]
        if self.profile_steps is not None:
            first, last = self.profile_steps
            until += [pause - step for pause in (first - 1, last) if pause > step]
        return min([*until, self.max_steps - step] if self.max_steps else until)


def train(
    train_step: TrainStep,
    state: TrainState,
    iterator: Any,
    checkpoints: Checkpoints,
    settings: LoopSettings,
    *,
    workers: Workers,
    report: Callable[[int, int, Measures], None],
    profile: Profile,
    evaluate: Callable[[int], None] | None = None,
    evaluated_at: int | None = None,
) -> int:
    """Trains to the last step, to the end of the data, or until a signal asks to stop; then saves a checkpoint.

    Args:
        train_step: runs steps.
        state: what they change.
        iterator: yields global batches, or this worker's share of them.
        checkpoints: where the run is saved.
        settings: when.
        workers: those that train together: what one of them is asked to do, all do.
        report: is told the step, the examples seen, and the measures of the step.
        profile: is told the step before and after each call of the device.
        evaluate: is told the step of each checkpoint that is due by its step, and of the last one unless a signal asked
            to stop.
        evaluated_at: the step of the newest evaluation before; one that was due since and did not come is caught up on.

    Returns:
        the number of the signal that stopped the loop, 0 if it came to its end.

    Raises:
        UserError: if the loss or the gradient stops being a number, or another worker is lost.
    """
    clock = _CheckpointClock(settings.save_checkpoint_seconds)
    step = saved_at = int(state.global_step.numpy())
    position = Position()
    with stop_signals() as signals, workers.explained_loss():
        if evaluate is not None and step and step % settings.export_model_steps == 0 and step != evaluated_at:
            evaluate(step)
            evaluated_at = step
        while not settings.max_steps or step < settings.max_steps:
            profile.after_step(step)
            measures = train_step.run(iterator, settings.steps_until_pause(step))
            if measures is None:
                break
            before, step = step, int(state.global_step.numpy())
            _check_finite(measures, before, step, saved_at)
            report(step, int(state.examples_seen.numpy()), measures)
            profile.after_step(step)
            stop, due = workers.any_worker([bool(signals), clock.is_due()])
            on_schedule = step % settings.export_model_steps == 0
            position = measures.position
            if due or on_schedule:
                saved_at = _save(checkpoints, step, position, clock)
            if on_schedule and evaluate is not None:
                evaluate(step)
                evaluated_at = step
            if stop:
                break
        if step != saved_at:
            _save(checkpoints, step, position, clock)
        if step and step != evaluated_at and evaluate is not None and not signals:
            evaluate(step)
        # Nobody leaves before the one who evaluates is done: a worker that is missed stops the others.
        workers.barrier()
    return signals[0] if signals else 0


class _CheckpointClock:
    """Tells when so many seconds have passed since the last checkpoint."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        self._start = time.monotonic()

    def is_due(self) -> bool:
        return bool(self._seconds) and time.monotonic() - self._start >= self._seconds


def _save(checkpoints: Checkpoints, step: int, position: Position, clock: _CheckpointClock) -> int:
    checkpoints.save(step, position)
    clock.restart()
    return step


def _check_finite(measures: Measures, before: int, now: int, saved_at: int) -> None:
    # A scaled loss has gradients that overflow now and then. Those updates are left out, and the scale falls: only if
    # it is no longer above 1 are the gradients themselves too large.
    names = (
        ("label_loss", "reg_loss")
        if measures.scalars["loss_scale"] > 1
        else ("label_loss", "reg_loss", "gradient_norm")
    )
    for name in names:
        if not math.isfinite(measures.scalars[name]):
            what = "Gradient" if name == "gradient_norm" else "Loss"
            sound = f"Checkpoint {saved_at} is sound." if saved_at else "There is no checkpoint yet."
            raise UserError(
                f"{what} became {measures.scalars[name]} between steps {before} and {now}. {sound} "
                "Try a lower --base_learning_rate."
            )


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; the second one of a kind does kill, as it would have."""
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, handlers[signal.Signals(number)])

    for number in handlers:
        signal.signal(number, remember)
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
