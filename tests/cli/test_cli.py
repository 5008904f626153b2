"""From command lines to runs: the old ones unchanged, wrong ones answered in one line."""

import dataclasses
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st
from programs import run

from yt8m.cli.metric_flags import fitting_metrics, resolve_metrics
from yt8m.cli.program import define_listed_flags
from yt8m.cli.run_flags import (
    at_evaluation,
    check_repeated_flags,
    config_from_flags,
    define_program_flags,
    define_run_flags,
)
from yt8m.config import (
    LossConfig,
    LossTerm,
    ModelConfig,
    RunConfig,
    architecture_differences,
    fixed_differences,
    flat_hparams,
    schedule_differences,
)
from yt8m.data.vocabulary import class_names
from yt8m.distribution import build_strategy
from yt8m.errors import UserError
from yt8m.registry import FRAME_LEVEL_MODELS, LOSSES, MODELS, RECORD_FORMATS
from yt8m.schema import DataSpec

FRAMES = "--frame_features --feature_names='rgb,audio' --feature_sizes='1024,128' "
_MOE_AS_GIVEN = {"num_mixtures": 2, "l2_penalty": 1e-6}
WILLOW = FRAMES + "--train_data_pattern='d/train*.tfrecord' --train_dir=run "


def parse(line: str) -> flags.FlagValues:
    """Parses the command line of train.py."""
    values = flags.FlagValues()
    define_run_flags(values)
    define_program_flags(values, batch_size=1024)
    values(["train.py", *shlex.split(line)])
    return values


def config(line: str) -> RunConfig:
    """The run that a command line of train.py asks for."""
    return config_from_flags(parse(line))


def test_without_flags_a_run_is_the_starters() -> None:
    run = config("")
    assert run.model.name == "LogisticModel"
    assert run.data == DataSpec(("mean_rgb",), (1024,), 3862, "video", 300)
    assert run.training.batch_size == 1024
    assert run.training.num_epochs == 5
    assert run.optimization.base_learning_rate == 0.01
    assert run.optimization.learning_rate_decay_examples == 4_000_000
    assert run.optimization.clip_gradient_norm == 1.0


def test_frame_level_command_of_the_starter() -> None:
    run = config(
        "--frame_features --model=FrameLevelLogisticModel --feature_names='rgb,audio' --feature_sizes='1024,128' "
        "--train_data_pattern=d/train*.tfrecord --train_dir run --start_new_model"
    )
    assert run.model.name == "FrameLevelLogisticModel"
    assert run.data == DataSpec(("rgb", "audio"), (1024, 128), 3862, "frame", 300)
    assert run.training.train_data_pattern == "d/train*.tfrecord"


@pytest.mark.parametrize(
    "flag", ["--frame_features", "--record_format=frame", "--frame_features --record_format=frame"]
)
def test_frame_features_is_the_record_format_frame(flag: str) -> None:
    assert config(f"{flag} --model=LstmModel").data.record_format == "frame"


def test_willow_commands_reach_the_hyper_parameters() -> None:
    gru = config(
        WILLOW + "--model=GruModel --batch_size=128 --base_learning_rate=0.0002 --gru_cells=1200 "
        "--learning_rate_decay=0.9 --moe_l2=1e-6 --max_step=300000"
    )
    assert gru.model.hparams["gru_cells"] == 1200
    assert gru.model.hparams["classifier_hparams"] | _MOE_AS_GIVEN == gru.model.hparams["classifier_hparams"]
    assert gru.training.max_steps == 300_000
    lstm = config(WILLOW + "--model=LstmModel --iterations=150 --lstm_random_sequence=True --max_step=400000")
    assert lstm.model.hparams["iterations"] == 150
    assert lstm.model.hparams["random_sequence"] is True


@pytest.mark.parametrize(
    ("line", "hparams", "classifier", "steps"),
    [
        (
            "--model=NetVLADModelLF --batch_size=80 --base_learning_rate=0.0002 --netvlad_cluster_size=256 "
            "--netvlad_hidden_size=1024 --moe_l2=1e-6 --iterations=300 --learning_rate_decay=0.8 --netvlad_relu=False "
            "--gating=True --moe_prob_gating=True --max_step=700000",
            {"cluster_size": 256, "hidden_size": 1024, "iterations": 300, "relu": False, "gating": True},
            {**_MOE_AS_GIVEN, "prob_gating": True},
            700_000,
        ),
        (
            "--model=NetVLADModelLF --batch_size=80 --base_learning_rate=0.0002 --netvlad_cluster_size=256 "
            "--netvlad_hidden_size=1024 --moe_l2=1e-6 --iterations=300 --learning_rate_decay=0.8 --netvlad_relu=False "
            "--gating=True --moe_prob_gating=True --max_step=600000 --lightvlad=True",
            {"lightvlad": True, "vlagd": False, "relu": False, "gating": True},
            {**_MOE_AS_GIVEN, "prob_gating": True},
            600_000,
        ),
        (
            "--model=NetFVModelLF --batch_size=80 --base_learning_rate=0.0002 --fv_cluster_size=128 "
            "--fv_hidden_size=1024 --moe_l2=1e-6 --iterations=300 --learning_rate_decay=0.8 --fv_relu=False "
            "--gating=True --moe_prob_gating=True --fv_couple_weights=False --max_step=600000",
            {"cluster_size": 128, "hidden_size": 1024, "relu": False, "gating": True, "couple_weights": False},
            {**_MOE_AS_GIVEN, "prob_gating": True},
            600_000,
        ),
        (
            "--model=GatedDbofModelLF --batch_size=80 --base_learning_rate=0.0002 --dbof_cluster_size=4096 "
            "--dbof_hidden_size=1024 --moe_l2=1e-6 --iterations=300 --dbof_relu=False --max_step=1000000",
            {"cluster_size": 4096, "hidden_size": 1024, "iterations": 300, "relu": False, "gating": False},
            {**_MOE_AS_GIVEN, "prob_gating": False},
            1_000_000,
        ),
        (
            "--model=SoftDbofModelLF --batch_size=80 --base_learning_rate=0.0002 --dbof_cluster_size=8000 "
            "--dbof_hidden_size=1024 --iterations=300 --dbof_relu=False --max_step=800000",
            {"cluster_size": 8000, "hidden_size": 1024, "relu": False, "max_pool": False},
            {"l2_penalty": 1e-8, "prob_gating": False},
            800_000,
        ),
    ],
    ids=["NetVLAD", "NetRVLAD", "NetFV", "GatedDBoF", "SoftDBoF"],
)
def test_willow_pooling_commands(line: str, hparams: dict, classifier: dict, steps: int) -> None:
    run = config(WILLOW + line)
    assert run.training.batch_size == 80
    assert run.optimization.base_learning_rate == 0.0002
    assert run.training.max_steps == steps
    assert run.model.hparams | hparams == run.model.hparams
    chosen = run.model.hparams["classifier_hparams"]
    assert chosen | classifier == chosen
    FRAME_LEVEL_MODELS[run.model.name](run.data, **run.model.hparams)


def test_a_model_has_the_hyper_parameters_of_the_class_above_and_its_own_defaults() -> None:
    plain, kmiec = (FRAME_LEVEL_MODELS.entry(name).defaults for name in ("NetVLADModelLF", "NetVladV1"))
    assert plain.keys() - kmiec.keys() == {"lightvlad", "vlagd", "tied"}
    assert kmiec.keys() - plain.keys() == {"head_size", "attention_dropout"}
    changed = {"cluster_size": 256, "hidden_size": 512, "relu": False, "gating": True, "iterations": 256}
    assert plain | kmiec == plain | changed | {"sampling": "uniform", "head_size": 16, "attention_dropout": 0.1}


def test_other_flags_of_willow_and_their_defaults() -> None:
    run = config(
        WILLOW + "--model=NetVLADModelLF --vlagd --nonetvlad_add_batch_norm --netvlad_dimred=512 --gating_remove_diag "
        "--hidden_size=64 --moe_prob_gating_input=input --moe_low_rank_gating=8 --sample_random_frames=False"
    )
    given = {"vlagd": True, "add_batch_norm": False, "dimred": 512, "gating_remove_diag": True, "hidden_size": 64}
    assert run.model.hparams | given | {"sample_random_frames": False} == run.model.hparams
    assert (
        run.model.hparams["classifier_hparams"] | {"prob_gating_input": "input", "low_rank_gates": 8}
        == (run.model.hparams["classifier_hparams"])
    )
    as_willow = {"cluster_size": 64, "hidden_size": 1024, "relu": True, "gating": False, "iterations": 30}
    netvlad = config(WILLOW + "--model=NetVLADModelLF").model.hparams
    assert netvlad | as_willow | {"lightvlad": False, "dimred": -1} == netvlad
    fisher = config(WILLOW + "--model=NetFVModelLF --fv_coupling_factor=0.02 --nonetvlad_add_batch_norm").model.hparams
    as_willow = {"hidden_size": 2048, "couple_weights": True, "relu": True}
    assert fisher | as_willow | {"add_batch_norm": False, "coupling_factor": 0.02} == fisher
    bag = config(WILLOW + "--model=SoftDbofModelLF --softdbof_maxpool").model.hparams
    assert bag | {"max_pool": True, "relu": True} == bag
    assert config(WILLOW + "--model=DbofModelLF --dbof_activation=glu").model.hparams["activation"] == "glu"


def test_explicit_zero_false_and_empty_are_values() -> None:
    run = config(FRAMES + "--model=DbofModel --nodbof_add_batch_norm --clip_gradient_norm=0 --class_prior_examples=0")
    assert run.model.hparams["add_batch_norm"] is False
    assert run.optimization.clip_gradient_norm == 0
    assert run.optimization.class_prior_examples == 0


def test_hparams_set_any_hyper_parameter() -> None:
    run = config(FRAMES + "--model=DbofModel --hparams=cluster_size=64 --hparams=classifier.num_mixtures=4")
    assert run.model.hparams["cluster_size"] == 64
    assert run.model.hparams["classifier_hparams"]["num_mixtures"] == 4
    run = config("--model=LogisticModel --hparams=l2_penalty=1")
    assert run.model.hparams["l2_penalty"] == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--model=LogisticModle", r"no such video-level model\. Did you mean LogisticModel\? Known: .*MoeModel"),
        (
            "--model=LstmModel",
            r"frame or segment, not video: change that \(--frame_features means frame\)",
        ),
        (FRAMES + "--model=MoeModel", "reads records of --record_format=video, not frame: change that"),
        (
            "--record_format=frames",
            r"Did you mean frame\? Known: clip, frame, segment, video\.",
        ),
        (
            "--frame_features --record_format=video",
            "--frame_features means --record_format=frame. Give one of the two.",
        ),
        ("--noframe_features --record_format=frame", "--frame_features=False is not --record_format=frame"),
        ("--hparams=clusters=3", "LogisticModel has no hyper-parameter 'clusters'. It has: l2_penalty."),
        ("--hparams=l2_penalty", "expected name=value"),
        ("--hparams=l2_penalty=strong", "expected a value of type float"),
        ("--hparams=classifier.l2_penalty=1", "LogisticModel has no classifier"),
        ("--moe_num_mixtures=3", "--moe_num_mixtures: LogisticModel has no hyper-parameter 'num_mixtures'"),
        (FRAMES + "--model=LstmModel --dbof_cluster_size=3", "--dbof_cluster_size: LstmModel has no hyper-parameter"),
        ("--label_loss=CrossEntropy", "no such loss. Did you mean CrossEntropyLoss?"),
        (
            "--label_loss=",
            "--label_loss=: '' is no term of a loss; expected a name or a weight of 0 or more and a name",
        ),
        ("--label_loss=HingeLoss+", r"'' is no term of a loss; .* as in CrossEntropyLoss\+0\.05\*HingeLoss"),
        ("--label_loss=HingeLoss*2", r"'HingeLoss\*2' is no term of a loss"),
        ("--label_loss=two*HingeLoss", r"'two\*HingeLoss' is no term of a loss"),
        ("--label_loss=-1*HingeLoss", r"'-1\*HingeLoss' is no term of a loss"),
        ("--label_loss=nan*HingeLoss", r"'nan\*HingeLoss' is no term of a loss"),
        ("--label_loss=HingeLoss+2*HingeLoss", r"names HingeLoss twice\. Give each loss once"),
        (
            "--label_loss=DistillationLoss",
            r"^--label_loss=DistillationLoss: DistillationLoss learns from a teacher\. Give",
        ),
        ("--teacher=a.csv", r"^--teacher=a\.csv: no term of --label_loss=CrossEntropyLoss learns from a teacher\."),
        (
            "--hparams=loss.margin=1",
            "the loss CrossEntropyLoss has no hyper-parameter 'margin'. It has: label_smoothing",
        ),
        ("--label_loss=HingeLoss --hparams=loss.margn=1", r"'margn'\. Did you mean margin\? It has: margin\."),
        (
            "--label_loss=HingeLoss --hparams=loss.margin=wide",
            r"^--hparams=loss\.HingeLoss\.margin='wide': expected a value of type float, such as 1\.0\.",
        ),
        (
            "--hparams=loss.HingeLoss.margin=1",
            "HingeLoss is no term of the loss CrossEntropyLoss. Add it to --label_loss",
        ),
        ("--label_loss=HingeLoss --hparams=loss.HingeLoss.m=1", r"HingeLoss has no hyper-parameter 'm'\."),
        (
            "--feature_names=rgb,audio",
            "--feature_names=rgb,audio: expected as many names as feature_sizes=1024 has sizes",
        ),
        ("--feature_sizes=wide", "expected whole numbers"),
        ("--feature_names=rgb,rgb --feature_sizes=1,1", "--feature_names=rgb,rgb: it names a feature twice"),
        ("--num_classes=0", "--num_classes=0: expected a whole number from 1 to 1048576"),
        ("--batch_size=0", "--batch_size=0: expected a whole number from 1 to 1048576"),
        ("--num_epochs=0", "would train for ever"),
        ("--on_bad_record=ignore", "--on_bad_record=ignore: there is no such choice. Known: error, skip"),
        ("--seed=-1", "--seed=-1: expected a whole number from 0 to 4294967295"),
        ("--seed=4294967296", "--seed=4294967296: expected a whole number from 0 to 4294967295"),
        ("--precision=float8", "--precision=float8: there is no such choice. Did you mean float32"),
        ("--base_learning_rate=nan", "--base_learning_rate=nan: expected a number above 0"),
    ],
)
def test_wrong_command_lines_are_answered_in_one_line(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        config(line)
    assert "\n" not in str(raised.value)


def test_a_loss_is_a_weighted_sum_with_settings() -> None:
    plain = {"label_smoothing": 0.0, "positive_weight": 1.0, "negative_weight": 1.0}
    assert config("").loss == LossConfig((LossTerm("CrossEntropyLoss", 1.0, plain),))
    line = "--label_loss='CrossEntropyLoss + 5e-2*HingeLoss' --hparams=loss.margin=0.5"
    loss = config(line).loss
    assert loss == LossConfig((LossTerm("CrossEntropyLoss", 1.0, plain), LossTerm("HingeLoss", 0.05, {"margin": 0.5})))
    assert str(loss) == "CrossEntropyLoss+0.05*HingeLoss"
    assert config(line.replace("loss.margin", "loss.HingeLoss.margin")).loss == loss
    assert config("--label_loss=HingeLoss").loss.terms[0].hparams == {"margin": 1.0}


def test_a_setting_that_two_losses_have_needs_the_name_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = dataclasses.replace(LOSSES.entry("HingeLoss"), name="TwinLoss")
    monkeypatch.setitem(LOSSES.entries, "TwinLoss", twin)
    line = "--label_loss=HingeLoss+TwinLoss --hparams=loss.margin=2"
    with pytest.raises(UserError, match=r"HingeLoss and TwinLoss both have it\. Say which: loss\.HingeLoss\.margin or"):
        config(line)
    terms = config(line.replace("loss.margin", "loss.TwinLoss.margin")).loss.terms
    assert [term.hparams for term in terms] == [{"margin": 1.0}, {"margin": 2}]


CLIPS = "--record_format=clip --feature_names=rgb --feature_sizes=3 --num_classes=5 "


def test_parts_of_models_have_settings_of_their_own() -> None:
    run = config(
        CLIPS + "--model=ClipModel --hparams=frame_model=RankPoolModel --hparams=frame_model.c=10 "
        "--hparams=frame_model.classifier=LogisticModel --hparams=frame_model.classifier.dropout=0.5"
    )
    pooling = run.model.hparams["frame_model_hparams"]
    assert (run.model.hparams["frame_model"], pooling["c"], pooling["epsilon"]) == ("RankPoolModel", 10.0, 0.1)
    assert pooling["classifier_hparams"] == {"l2_penalty": 1e-8, "dropout": 0.5}
    run.check_hyper_parameters("config.json")
    flat = flat_hparams(run.model.hparams)
    assert (flat["frame_model.c"], flat["frame_model.classifier.dropout"]) == (10.0, 0.5)
    assert not [name for name in flat if name.endswith("_hparams")]


def test_the_settings_that_a_model_has_for_a_part_are_for_its_own_part_alone() -> None:
    lstm = config(CLIPS + "--model=CnnLstmModel --hparams=frame_model.units=8").model.hparams["frame_model_hparams"]
    assert (lstm["units"], lstm["num_layers"], lstm["fusion"]) == (8, 1, "last")
    mean = config(CLIPS + "--model=CnnLstmModel --hparams=frame_model=FrameVoteModel").model.hparams
    assert "units" not in mean["frame_model_hparams"]
    dropouts = [
        config(CLIPS + f"--model=I3dModel {flag}").model.hparams["classifier_hparams"].get("dropout")
        for flag in ("", "--hparams=classifier.dropout=0.1", "--hparams=classifier=SvmModel")
    ]
    assert dropouts == [0.5, 0.1, None]


@pytest.mark.parametrize(
    ("hparam", "message"),
    [
        ("frame_model.cc=1", r"--hparams: AveragePoolModel has no hyper-parameter 'cc'"),
        ("frame_model.classifier.cc=1", r"--hparams: MoeModel has no hyper-parameter 'cc'"),
        ("frame_model=LstmModle", r"--model=LstmModle: there is no such frame-level model\. Did you mean LstmModel"),
        ("classifier.dropout=1", r"--hparams: ClipModel has no classifier to pass 'dropout' to\."),
        ("frame_model.input_dropout=a", r"--hparams=frame_model\.input_dropout='a': expected a value of type float"),
    ],
)
def test_a_part_that_cannot_be_is_named(hparam: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        config(CLIPS + f"--model=ClipModel --hparams={hparam}")


def test_a_part_names_the_loss_of_a_model_that_names_none() -> None:
    losses = [
        str(config(CLIPS + f"--model=ClipModel {flags}").loss)
        for flags in (
            "",
            "--hparams=frame_model=FrameVoteModel",
            "--hparams=frame_model.classifier=SvmModel",
            "--hparams=frame_model=DeepLstmModel --hparams=frame_model.classifier=SvmModel",
        )
    ]
    assert losses == ["CrossEntropyLoss", "BranchCrossEntropyLoss", "SquaredHingeLoss", "BranchCrossEntropyLoss"]


def test_a_model_names_its_loss_and_the_command_line_may_name_another() -> None:
    mixture = FRAMES + "--model=MixNeXtVLADModel "
    assert str(config(mixture).loss) == "BranchCrossEntropyLoss"
    assert str(config(mixture + "--label_loss=CrossEntropyLoss").loss) == "CrossEntropyLoss"
    # A classifier names the loss of a model over frames that names none.
    machines = "--hparams=classifier=SvmModel "
    assert str(config(FRAMES + "--model=AveragePoolModel " + machines).loss) == "SquaredHingeLoss"
    assert str(config(mixture + machines).loss) == "BranchCrossEntropyLoss"
    assert str(config(FRAMES + "--model=AveragePoolModel").loss) == "CrossEntropyLoss"
    entries = [entry for models in MODELS.values() for entry in models.entries.values()]
    for entry in entries:
        assert entry.facts.get("loss", "CrossEntropyLoss") in LOSSES


@pytest.mark.parametrize(
    ("program", "flag", "message"),
    [
        ("train", "--keep_checkpoints=0", "expected a whole number from 1 to "),
        ("train", "--log_steps=0", "expected a whole number from 1 to "),
        ("train", "--export_model_steps=-1", "expected a whole number from 1 to "),
        ("train", "--save_checkpoint_seconds=-1", "expected a whole number from 0 to "),
        ("eval", "--batch_size=0", "expected a whole number from 1 to "),
        ("eval", "--top_k=0", "expected a whole number from 1 to "),
        ("inference", "--top_k=-1", "expected a whole number from 1 to "),
        ("inference", "--on_bad_record=Skip", "there is no such choice. Did you mean skip"),
        ("segment_eval_inference", "--top_n=-1", "expected a whole number from 0 to "),
    ],
)
def test_a_program_checks_its_own_flags_first(program: str, flag: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{flag}: {message}"):
        run(program, flag)


def test_inference_takes_what_old_command_lines_repeat_and_nothing_of_an_evaluation() -> None:
    values = flags.FlagValues()
    importlib.import_module("inference").define_flags(values)
    willow = WILLOW + "--num_readers=1 --batch_size=1024 --run_once=True --top_k=50 --output_file=OUT.csv"
    values(["inference.py", *shlex.split(willow)])
    assert not {"eval_data_pattern", "macro"} & set(values)


@pytest.mark.parametrize("program", ["train", "eval", "inference", "segment_eval_inference", "tools.check_dataset"])
def test_help_lists_every_flag(program: str) -> None:
    values = flags.FlagValues()
    define_listed_flags(values, importlib.import_module(program).define_flags)
    listed = set(re.findall(r"^ +--(?:\[no\])?(\w+):", values.main_module_help(), re.MULTILINE))
    assert listed == set(values)


def test_help_of_training_names_the_models() -> None:
    values = flags.FlagValues()
    define_listed_flags(values, importlib.import_module("train").define_flags)
    words = set(re.findall(r"\w+", values.main_module_help()))
    assert words >= {*LOSSES.names(), *(name for models in MODELS.values() for name in models.names())}


def test_names_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.csv"
    path.write_text('Index,Name,Vertical1\n3,NA,\n0,"Arts, crafts",Arts\n')
    assert class_names(str(path)) == {3: "NA", 0: "Arts, crafts"}
    path.write_text("\ufeffindex,mid,display_name\r\n0,/m/09x0r,Speech\r\n\r\n1,/m/0dgw9r\r\n", newline="")
    assert class_names(str(path)) == {0: "Speech", 1: ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Index,Name\n0,Game\n,Car\n", r", row 2 after the header: the class index is ''; expected a whole number"),
        ("Index,Name\none,Game\n", r", row 1 after the header: the class index is 'one'; expected a whole number"),
        ("Name\nGame\n", r" has the columns Name; expected Index and Name"),
        ("", " cannot be read: No columns"),
        ('Index,Name\n0,"Game\n', " cannot be read: .*unexpected end"),
        (None, " cannot be read: .*No such file"),
    ],
)
def test_what_is_no_vocabulary_is_answered_in_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "vocabulary.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"^--vocabulary={path}{message}"):
        class_names(str(path))


TWO_WORKERS = '"cluster": {"worker": ["a:1", "b:1"]}'


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"cluster": 2}',
        "{" + TWO_WORKERS + "}",
        "{" + TWO_WORKERS + ', "task": {"type": "worker"}}',
        "{" + TWO_WORKERS + ', "task": {"type": "worker", "index": 2}}',
        "{" + TWO_WORKERS + ', "task": {"type": "chief", "index": 0}}',
    ],
)
def test_a_broken_cluster_is_answered_in_one_line(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=r"^TF_CONFIG=.* describes no cluster: .* Expected .* Put it right") as raised:
        build_strategy()
    assert "\n" not in str(raised.value)


def test_a_run_survives_its_json() -> None:
    run = config(FRAMES + "--model=DbofModel --batch_size=7 --label_loss=CrossEntropyLoss+2*HingeLoss")
    assert RunConfig.from_json(run.to_json(), "config.json") == run


@pytest.mark.parametrize("value", [False, True])
def test_a_hyper_parameter_of_format_1_has_its_new_name(value: bool) -> None:
    run = config(FRAMES + f"--model=TransformerModel --hparams=separate_encoders={value} --weight_decay_of=all")
    content = json.loads(run.to_json())
    del content["format"], content["loss"], content["data"]["record_format"]
    content["data"]["frame_features"] = True
    content["optimization"]["label_loss"] = "CrossEntropyLoss"
    content["model"]["hparams"]["late_fusion"] = content["model"]["hparams"].pop("separate_encoders")
    assert RunConfig.from_json(json.dumps(content), "config.json") == run


@given(st.text())
def test_any_other_text_is_no_run(text: str) -> None:
    with pytest.raises(UserError, match="is not the configuration of a run"):
        RunConfig.from_json(text, "config.json")


def test_architecture_and_schedule_are_told_apart() -> None:
    old, new = (
        config(FRAMES + "--model=DbofModel"),
        config(FRAMES + "--model=DbofModel --dbof_cluster_size=64 --seed=3"),
    )
    assert architecture_differences(old, new) == [("cluster_size", 8192, 64)]
    assert schedule_differences(old, new) == [("seed", 0, 3)]
    hinge, wider, other = (
        config(line)
        for line in (
            "--label_loss=HingeLoss",
            "--label_loss=HingeLoss --hparams=loss.margin=2",
            "--label_loss=2*CrossEntropyLoss",
        )
    )
    assert schedule_differences(hinge, wider) == [("loss.HingeLoss.margin", 1.0, 2)]
    assert schedule_differences(hinge, other) == [("label_loss", "HingeLoss", "2*CrossEntropyLoss")]
    assert not fixed_differences(hinge, other)
    deeper = dataclasses.replace(old, model=ModelConfig("DbofModel", {"classifier_hparams": {"num_mixtures": 4}}))
    assert ("classifier.num_mixtures", 2, 4) in architecture_differences(old, deeper)


def test_repeated_flags_are_compared_with_the_run() -> None:
    line = FRAMES + "--model=GruModel --gru_cells=1200 --moe_l2=1e-6 --base_learning_rate=0.1"
    run = config(line)
    check_repeated_flags(parse(line), run)
    check_repeated_flags(parse("--base_learning_rate=0.7 --batch_size=3"), run)  # not of the architecture
    for wrong, message in [
        ("--gru_cells=7", "hyper-parameter gru_cells: you gave 7; the run was trained with 1200"),
        ("--moe_l2=1e-5", "hyper-parameter classifier.l2_penalty: you gave 1e-05; the run was trained with 1e-06"),
        ("--model=LstmModel", "--model: you gave LstmModel; the run was trained with GruModel"),
        ("--num_classes=7", "--num_classes: you gave 7; the run was trained with 3862"),
        ("--record_format=video", "--record_format: you gave video; the run was trained with frame"),
        ("--noframe_features", "--frame_features: you gave video; the run was trained with frame"),
    ]:
        with pytest.raises(UserError, match=message):
            check_repeated_flags(parse(wrong), run)


def test_weights_of_features_are_those_of_the_run() -> None:
    line = "--feature_names=mean_rgb,mean_audio --feature_sizes=1024,128 "
    run = config(line + "--feature_weights=1,0.6")
    assert run.data.feature_weights == (1.0, 0.6)
    assert config(line).data.feature_weights == ()
    check_repeated_flags(parse(line + "--feature_weights=1,0.6"), run)
    for wrong, message in [
        (
            "--feature_weights=1",
            r"^--feature_weights=1\.0: expected a number for each of feature_names=mean_rgb,mean_aud",
        ),
        ("--feature_weights=1,x", r"^--feature_weights=1,x: expected numbers separated by commas, one for each of "),
        ("--feature_weights=1,1 --record_format=clip", r"^--feature_weights=1\.0,1\.0: .* and clips are pictures\."),
        ("--feature_weights=1,0", r"^--feature_weights=0\.0: expected a number above 0\."),
        ("--feature_weights=1,nan", r"^--feature_weights=nan: expected a number above 0\."),
    ]:
        with pytest.raises(UserError, match=message):
            config(line + wrong)
    with pytest.raises(UserError, match=r"--feature_weights: you gave .*; the run was trained with "):
        check_repeated_flags(parse(line + "--feature_weights=1,1"), run)


def test_evaluation_may_take_more_clips_than_the_run_says() -> None:
    run, line = config(FRAMES + "--model=LstmModel"), parse("--eval_clips=10")
    check_repeated_flags(line, run)
    assert at_evaluation(line, run).data == dataclasses.replace(run.data, eval_clips=10)
    assert at_evaluation(parse(""), run) == run
    with pytest.raises(UserError, match=r"^--eval_clips=0: expected a whole number from 1"):
        at_evaluation(parse("--eval_clips=0"), run)


SEGMENTS = "--segment_labels --model=LstmModel "


@pytest.mark.parametrize("flag", ["", "--frame_features ", "--record_format=frame ", "--record_format=segment "])
def test_segment_labels_is_the_record_format_segment(flag: str) -> None:
    assert config(flag + SEGMENTS + "--segment_context=3").data.record_format == "segment"


def test_evaluation_may_read_segments_or_whole_videos_of_any_run_on_frames() -> None:
    of_videos, of_segments = config("--frame_features --model=LstmModel"), config(SEGMENTS)
    for line, record_format in (("--segment_labels", "segment"), ("--nosegment_labels --frame_features", "frame")):
        for trained in (of_videos, of_segments):
            check_repeated_flags(parse(line), trained)
            assert at_evaluation(parse(line), trained).data.record_format == record_format
    check_repeated_flags(parse("--frame_features --segment_context=2"), of_segments)
    assert at_evaluation(parse("--segment_context=2"), of_segments).data.segment_context == 2
    assert at_evaluation(parse("--nosegment_labels"), config("")) == config("")
    with pytest.raises(UserError, match=r"^--segment_labels: the run reads records of the format video, and segments"):
        at_evaluation(parse("--segment_labels"), config(""))
    with pytest.raises(UserError, match="--record_format: you gave segment; the run was trained with frame"):
        check_repeated_flags(parse("--record_format=segment"), of_videos)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--noframe_features",
            "^--segment_labels: segments are cut out .* --frame_features=False",
        ),
        ("--record_format=video", "^--segment_labels: .* and --record_format=video was given. Leave one of them out"),
        ("--segment_context=-1", "^--segment_context=-1: expected a whole number from 0 to"),
        ("--label_loss=DistillationLoss --teacher=records", "^--teacher=records: .* whole videos, not for segments"),
    ],
)
def test_what_does_not_go_with_segments_is_refused(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(SEGMENTS + line)


def test_segments_are_evaluated_by_metrics_of_what_was_rated() -> None:
    assert list(fitting_metrics(resolve_metrics("default", False), "segment")) == ["default", "segment_map"]
    assert list(fitting_metrics(resolve_metrics("hit_at_k:k=5,segment_map", False), "segment"))[1:] == [
        "hit_at_k",
        "segment_map",
    ]
    assert list(fitting_metrics(resolve_metrics("macro", False), "frame")) == ["default", "macro"]
    with pytest.raises(UserError, match=r"^--metrics: macro would count the classes that a segment was not rated for"):
        fitting_metrics(resolve_metrics("default", True), "segment")


@pytest.mark.parametrize("flag", ["--feature_names=rgb,audio", "--feature_sizes=1024,128", "--moe_num_mixtures=3"])
def test_a_flag_is_repeated_without_its_pair(flag: str) -> None:
    line = FRAMES + "--model=GruModel --hparams=classifier=MoeModel --moe_num_mixtures=3"
    check_repeated_flags(parse(flag), config(line))
    wrong = flag.replace("audio", "sound").replace("128", "64").replace("3", "4")
    with pytest.raises(
        UserError, match=r": you gave .*; the run was trained with (rgb,audio|1024,128|3)\. Leave it out"
    ):
        check_repeated_flags(parse(wrong), config(line))


def test_the_models_of_a_new_format_are_those_of_its_level(monkeypatch: pytest.MonkeyPatch) -> None:
    new = dataclasses.replace(RECORD_FORMATS.entry("frame"), name="scenes")
    monkeypatch.setitem(RECORD_FORMATS.entries, "scenes", new)
    assert config(FRAMES.replace("--frame_features", "--record_format=scenes") + "--model=LstmModel")
    with pytest.raises(UserError, match=r"frame or segment or scenes, not video"):
        config("--model=LstmModel")


def test_deep_brackets_are_a_word() -> None:
    with pytest.raises(UserError, match=r"^--hparams=l2_penalty='.*': expected a value of type float"):
        config("--hparams=l2_penalty=" + "(" * 100_000)
    with pytest.raises(UserError, match=r"^--hparams=l2_penalty='.*': expected a value of type float"):
        config("--hparams=l2_penalty=" + "-" * 100_000 + "1")


def test_a_repeated_setting_of_the_loss_is_compared_with_the_run() -> None:
    line = "--label_loss=CrossEntropyLoss+HingeLoss --hparams=loss.margin=0.5"
    run = config(line)
    check_repeated_flags(parse(line), run)
    with pytest.raises(UserError, match=r"loss\.HingeLoss\.margin: you gave 2; the run was trained with 0\.5"):
        check_repeated_flags(parse("--hparams=loss.margin=2"), run)
    with pytest.raises(UserError, match="the loss CrossEntropyLoss has no hyper-parameter 'margin'"):
        check_repeated_flags(parse("--hparams=loss.margin=2"), config(""))
