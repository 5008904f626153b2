"""Searches settings of train.py by the GAP on validation shards, in any number of processes, and writes a recipe.

python -m tools.tune --study=STUDY.db --space=space.toml --num_trials=20 -- --flagfile=recipes/NAME.flags \
    --train_data_pattern='DIR/train*.tfrecord' --eval_data_pattern='DIR/validate*.tfrecord' --export_model_steps=100

The same command again goes on with the study, and so do others beside it. STUDY.flags is the recipe, STUDY.svg a
picture of scores and of what they depend on, STUDY-trials/ has the runs.
"""

import json
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from yt8m.cli import program


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("study", "", "The study, a file NAME.db that is made if need be.", flag_values=values)
    flags.DEFINE_string("space", "", "What is searched: a TOML file, as in docs/tuning.md.", flag_values=values)
    flags.DEFINE_integer(
        "num_trials", 20, "Trials of the study, over all processes.", lower_bound=1, flag_values=values
    )


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    train_flags = program.parse_flags(define_flags, num_arguments=sys.maxsize)

import logging

from tools.search_space import Range, SearchSpace
from yt8m.cli import run_flags
from yt8m.errors import UserError, did_you_mean
from yt8m.files import one_at_a_time, write_text
from yt8m.packages import optional_package
from yt8m.progress import progress
from yt8m.runs.history import evaluation_curves

import readers

LOG = logging.getLogger("yt8m.tune")

ROOT = Path(__file__).resolve().parent.parent
SECONDS_PER_HEARTBEAT, GRACE_SECONDS = 5, 60  # of a process that is gone its trials are given to others
_SECONDS_BETWEEN_LOOKS = 0.5
_CHOSEN_HERE = ("train_dir", "start_new_model", "keep_checkpoints")
_NOT_IN_RECIPE = (*_CHOSEN_HERE, "train_data_pattern", "eval_data_pattern", "flagfile")
# Starts a program that gets SIGTERM when this process dies, even by SIGKILL, where the system can do that: a run that
# goes on with nobody to watch it would be in the way of whoever goes on with its trial. 1 is PR_SET_PDEATHSIG.
_WITH_PARENT = (
    "import ctypes, os, signal, sys; "
    "getattr(ctypes.CDLL(None), 'prctl', lambda *_: None)(1, signal.SIGTERM); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def main(values: flags.FlagValues, train_flags: Sequence[str]) -> None:
    """Runs trials until the study has enough, then writes recipe and picture and prints the table of trials.

    Args:
        values: the flags of this program.
        train_flags: those of train.py that all trials share.

    Raises:
        UserError: if a flag, the space or the study makes no sense, the validation shards are not named or are training
            shards, or the first trial fails.
    """
    # 1. What is asked for; nothing is written yet.
    optional_package("optuna", "Settings are searched", "requirements-tune.txt")
    optional_package("matplotlib", "The picture of a study is drawn", "requirements-tune.txt")
    if not values.study.endswith(".db"):
        raise UserError(f"--study={values.study}: expected the name of the study's file, which ends in .db.")
    space = SearchSpace.read(values.space)
    train_flags = with_validation_shards(train_flags, space)
    check_space(train_flags, space)

    # 2. The study, which is the same for all processes.
    tuning = Tuning(Path(values.study), space, train_flags)

    # 3. Trials until there are enough.
    with progress("trials", values.num_trials, tuning.num_finished()) as advance:
        while (trial := tuning.next_trial(values.num_trials)) is not None:
            tuning.run(trial)
            advance(1)

    # 4. What was found.
    tuning.write_results()


def parsed(train_flags: Sequence[str]) -> flags.FlagValues:
    """Returns flags of train.py as train.py takes them.

    Raises:
        UserError: if there is a flag that train.py lacks or a word that is none.
    """
    values = flags.FlagValues()
    run_flags.define_train_flags(values)
    try:
        _, *others = values(["train.py", *train_flags])
    except flags.Error as error:
        raise UserError(f"After --: {error}") from error
    if others:
        raise UserError(f"After --: '{others[0]}' is no flag of train.py.")
    return values


def with_validation_shards(train_flags: Sequence[str], space: SearchSpace) -> list[str]:
    """Returns the flags that all trials share, those of the validation shards included.

    Raises:
        UserError: if the validation shards are not named, or one of them is a training shard.
    """
    if space.eval_data_pattern:
        train_flags = [*train_flags, f"--eval_data_pattern={space.eval_data_pattern}"]
    values = parsed(train_flags)
    for name in _CHOSEN_HERE:
        if values[name].present:
            raise UserError(f"--{name} is chosen for each trial. Leave it out.")
    if not values.eval_data_pattern:
        raise UserError(
            "The validation shards are missing, by which trials are compared: give train.py --eval_data_pattern after "
            "--, or name them in the file of --space. Take a part of the training shards: scores on the evaluation "
            "shards are no longer fair once settings were chosen by them."
        )
    both = set(readers.find_files(values.train_data_pattern, "train_data_pattern")) & set(
        readers.find_files(values.eval_data_pattern, "eval_data_pattern")
    )
    if both:
        raise UserError(
            f"{min(both)} is a training and a validation shard: a trial would be scored by what it has learned. Divide "
            "the shards between --train_data_pattern and --eval_data_pattern of train.py."
        )
    return list(train_flags)


def check_space(train_flags: Sequence[str], space: SearchSpace) -> None:
    """Checks that train.py takes the ends of every range and every choice, each alone.

    Raises:
        UserError: names the first setting that it does not take.
    """
    known = parsed(train_flags)
    for name, setting in space.settings.items():
        table, _, flag = name.partition(".")
        if table == "flags" and (flag not in known or flag in _NOT_IN_RECIPE):
            raise UserError(f"--space: [{name}] is no flag to search.{did_you_mean(flag, list(known))}")
        for value in setting.ends():
            argument = SearchSpace({name: setting}).arguments({name: value})
            run_flags.config_from_flags(parsed([*train_flags, *argument]))


class Tuning:
    """A study and its runs.

    Args:
        path: the file of the study, NAME.db; it and the folder NAME-trials are made if need be.
        space: what is searched.
        train_flags: the flags that all trials share.

    Raises:
        UserError: if the file is no study, or one of another search.
    """

    def __init__(self, path: Path, space: SearchSpace, train_flags: Sequence[str]):
        import optuna

        self._optuna: Any = optuna
        self._path, self._space, self._train_flags = path, space, list(train_flags)
        self._trials = path.with_name(f"{path.stem}-trials")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # What is called experimental is pinned; heartbeats serve here without `Study.optimize`, by `record_heartbeat`.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
        try:
            self._trials.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self._trials} cannot be made ({error.strerror}). Choose another --study.") from error
        self._retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
        with one_at_a_time(str(self._trials)):  # two processes that make one study at once would meet half of it
            self._study = self._open_study()
            self._check_same_search()

    def _open_study(self) -> Any:
        optuna = self._optuna
        import sqlalchemy

        try:
            self._storage = optuna.storages.RDBStorage(
                f"sqlite:///{self._path}",
                engine_kwargs={"connect_args": {"timeout": 60}},
                heartbeat_interval=SECONDS_PER_HEARTBEAT,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=self._retry,
            )
            return optuna.create_study(
                study_name="tune",
                storage=self._storage,
                direction="maximize",
                load_if_exists=True,
                sampler=optuna.samplers.TPESampler(constant_liar=True, n_startup_trials=6),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
            )
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--study={self._path} cannot be used ({reason}). Expected a study of this program, or no file yet, "
                "in a folder with permission and room to write."
            ) from error

    def _check_same_search(self) -> None:
        search = {"space": self._space.to_data(), "train_flags": self._train_flags}
        before = self._study.user_attrs
        for name, value in search.items():
            if name not in before:
                self._study.set_user_attr(name, value)
            elif before[name] != json.loads(json.dumps(value)):  # as the study keeps it
                what = "another --space" if name == "space" else f"the flags {' '.join(before[name])}"
                raise UserError(f"--study={self._path} was made with {what}. Go on with that, or choose another name.")

    def num_finished(self) -> int:
        """Returns how many trials need not be run again: scored, pruned, or failed by themselves."""
        states = self._optuna.trial.TrialState
        return sum(
            trial.state in (states.COMPLETE, states.PRUNED) or "error" in trial.user_attrs
            for trial in self._study.get_trials(deepcopy=False)
        )

    def next_trial(self, num_trials: int) -> Any | None:
        """Returns a trial to run, one that a killed process left before a new one; None when there are enough.

        While the last ones are with other processes it waits: they may be killed.
        """
        while True:
            with one_at_a_time(str(self._trials)):
                self._optuna.storages.fail_stale_trials(self._study)
                finished = self.num_finished()
                states = Counter(trial.state for trial in self._study.get_trials(deepcopy=False))
                if finished + states[self._optuna.trial.TrialState.RUNNING] < num_trials:
                    trial = self._study.ask({name: _distribution(it) for name, it in self._space.settings.items()})
                    self._storage.record_heartbeat(trial._trial_id)
                    return trial
            if finished >= num_trials:
                return None
            time.sleep(SECONDS_PER_HEARTBEAT)

    def train_dir(self, trial: Any) -> Path:
        """Returns the run of a trial; of one that a killed process began, the run that is there."""
        first = self._optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
        return self._trials / f"trial-{trial.number if first is None else first:04d}"

    def arguments(self, params: dict[str, Any]) -> list[str]:
        """Returns the flags of train.py that decide a trial's score."""
        return [*self._train_flags, *self._space.arguments(params)]

    def run(self, trial: Any) -> None:
        """Trains by a trial's settings, and tells the study the GAP of the last evaluation.

        A trial whose evaluations are below the median of others at the same step is ended.

        Raises:
            UserError: if training fails, and no trial has succeeded before.
        """
        states = self._optuna.trial.TrialState
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        run, log = self.train_dir(frozen), self.train_dir(frozen).with_suffix(".log")
        command = [
            *(sys.executable, "-c", _WITH_PARENT, sys.executable, "train.py"),
            *(*self.arguments(trial.params), f"--train_dir={run.resolve()}", "--keep_checkpoints=1"),
        ]
        with log.open("a") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
            try:
                is_pruned = self._watch(trial, process, run)
            except BaseException:  # somebody ends this process: another one goes on with the trial
                process.terminate()
                self._study.tell(trial, state=states.FAIL)
                self._retry(self._study, self._study.get_trials(deepcopy=False)[trial.number])
                process.wait()
                raise
        if is_pruned:
            LOG.info("Trial %d is pruned.", trial.number)
            return
        scores = evaluation_curves(str(run)).get("gap")
        if process.returncode == 0 and scores is not None:
            self._study.tell(trial, float(scores.values[-1]))
            settings = " ".join(self._space.arguments(trial.params))
            LOG.info("Trial %d: GAP %.4f, %s", trial.number, scores.values[-1], settings)
            return
        lines = log.read_text(errors="replace").splitlines() or [f"status {process.returncode}"]
        trial.set_user_attr("error", lines[-1])
        self._study.tell(trial, state=states.FAIL)
        if not any(other.state == states.COMPLETE for other in self._study.get_trials(deepcopy=False)):
            raise UserError(f"Trial {trial.number} failed, the whole log is {log}: {lines[-1]}")
        LOG.warning("Trial %d failed: %s", trial.number, lines[-1])

    def _watch(self, trial: Any, process: subprocess.Popen[bytes], run: Path) -> bool:
        """Waits for the end of a training; ends it itself, and returns True, if it does worse than others did."""
        reported = 0
        beat = -float("inf")
        while process.poll() is None:
            if time.monotonic() - beat >= SECONDS_PER_HEARTBEAT:
                self._storage.record_heartbeat(trial._trial_id)
                beat = time.monotonic()
            scores = evaluation_curves(str(run)).get("gap")
            if scores is not None and len(scores.steps) > reported:
                for step, gap in zip(scores.steps[reported:], scores.values[reported:], strict=True):
                    trial.report(float(gap), int(step))
                reported = len(scores.steps)
                if trial.should_prune():
                    self._study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)
                    process.send_signal(signal.SIGTERM)
                    process.wait()
                    return True
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return False

    def write_results(self) -> None:
        """Writes recipe and picture next to the study, and prints the trials, the best first.

        Raises:
            UserError: if no trial was trained to its end, or a file cannot be written.
        """
        from yt8m.output.figures import tuning_figure

        states = self._optuna.trial.TrialState
        trials = self._study.get_trials(deepcopy=False)
        scored = sorted((it for it in trials if it.state == states.COMPLETE), key=lambda it: -it.value)
        if not scored:
            raise UserError(f"No trial of {self._path} came to its end: there is no recipe. Allow more --num_trials.")
        recipe = self._path.with_suffix(".flags")
        write_text(str(recipe), self._recipe(scored[0], len(scored)))
        importances: dict[str, float] = {}
        if len(scored) >= 4 and len(self._space.settings) > 1:
            importances = self._optuna.importance.get_param_importances(self._study)
        picture = self._path.with_suffix(".svg")
        write_text(str(picture), tuning_figure({it.number: it.value for it in scored}, importances))

        names = list(self._space.settings)
        print(f"| trial | GAP | {' | '.join(names)} |")
        print("| --- " * (len(names) + 2) + "|")
        pruned = [it for it in trials if it.state == states.PRUNED]
        for trial in [*scored, *pruned]:
            gap = f"{trial.value:.4f}" if trial.state == states.COMPLETE else "pruned"
            cells = [_argument_value(self._space, name, trial.params[name]) for name in names]
            print(f"| {trial.number} | {gap} | {' | '.join(cells)} |")
        num_failed = sum("error" in trial.user_attrs for trial in trials)
        LOG.info(
            "%d trials scored, %d pruned, %d failed: %s, %s.", len(scored), len(pruned), num_failed, recipe, picture
        )

    def _recipe(self, best: Any, num_scored: int) -> str:
        values = parsed(self.arguments(best.params))
        where = f"trial {best.number} of {self._path.name}, the best of {num_scored}"
        lines = [f"# GAP {best.value:.4f} on {values.eval_data_pattern}: {where}."]
        for name in values:
            if not values[name].present or name in _NOT_IN_RECIPE:
                continue
            if name == "hparams":  # the last value of each counts
                lines += [f"--hparams={key}={value}" for key, value in _last_of_each(values.hparams).items()]
            else:
                lines.append(values[name].serialize())
        return "\n".join(lines) + "\n"


def _distribution(setting: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(setting, Range):
        return CategoricalDistribution(setting.values)
    if isinstance(setting.low, int) and isinstance(setting.high, int) and not isinstance(setting.step, float):
        return IntDistribution(setting.low, setting.high, log=setting.log, step=setting.step or 1)
    return FloatDistribution(float(setting.low), float(setting.high), log=setting.log, step=setting.step)


def _last_of_each(assignments: Sequence[str]) -> dict[str, str]:
    return {name.strip(): value for name, _, value in (text.partition("=") for text in assignments)}


def _argument_value(space: SearchSpace, name: str, value: Any) -> str:
    (argument,) = SearchSpace({name: space.settings[name]}).arguments({name: value})
    return argument.rpartition("=")[2]


if __name__ == "__main__":
    program.run(partial(main, train_flags=train_flags))
