"""The formats that `config.json` has had, and how the content of each becomes that of the next.

Format 8 holds the weights of features, and the labels that a teacher keeps; kernel ridge regression has a second stage,
and classifiers that remember may leave out the video that they predict.
Format 7 holds what of a video is read around a segment, and the run whose weights a run started with.
Format 6 holds weight decay, the scope of clipping, the power of the learning rate, and the parts of a batch.
Format 5 holds mixup, and how clips are cut out of videos.
Format 4 holds the weights of examples.
Format 3 holds the teacher, and CrossEntropyLoss has hyper-parameters.
Format 2 holds the loss with its terms and all their hyper-parameters.
Format 1 has no number. Its runs may lack what was added while it was in use: those settings have the value that left a
run as it was before there was such a setting, whatever the default is today.

Who changes what a field means, adds or removes one, or adds a hyper-parameter to a registered model or loss, raises
`CURRENT` and adds a function to `_TO_NEXT` that says what runs of before did.
"""

import copy
from collections.abc import Callable
from typing import Any

from yt8m.registry import MODELS

CURRENT = 8

_ADDED_TO_OPTIMIZATION = {"learning_rate_schedule": "staircase", "learning_rate_warmup": 0.0, "weights_halflife": 0.0}
_ADDED_TO_MODELS = {
    "dimred": -1,
    "dropout": 0.0,
    "evaluation_sampling": "all",
    "hidden_activation": None,
    "input_batch_norm": False,
    "input_dropout": 0.0,
    "low_rank_gates": -1,
    "prob_gating": False,
    "prob_gating_input": "prob",
    "prob_gating_remove_diag": False,
    "reverse_whitening": False,
    "sample_random_frames": True,
    "sampling": "random",
    "unit_frames": True,
}
_RENAMED_IN_MODELS = {"late_fusion": "separate_encoders"}
_RAW_FRAMES = ("AveragePoolModel", "MaxPoolModel", "MixNeXtVLADModel", "NeXtVLADModel", "RankPoolModel")
_LOSS_HYPER_PARAMETERS = {"HingeLoss": {"margin": 1.0}}
# There were no records of clips: these have no meaning, but are part of every description of data.
_CLIPS_BEFORE_5 = {
    "clip_size": 112,
    "clip_crop": 0.875,
    "clip_zoom": 1.0,
    "clip_flip": True,
    "clip_sampling": "consecutive",
    "eval_clips": 1,
}
_REMEMBERING_BEFORE_8 = {
    "KernelRidgeModel": {"stacking": 0.0, "leave_one_out": False},
    "NearestNeighboursModel": {"leave_one_out": False},
}
_CROSS_ENTROPY_BEFORE_3 = {"label_smoothing": 0.0, "positive_weight": 1.0, "negative_weight": 1.0}


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a `config.json` in the current format, without its number.

    Args:
        content: as it was read.

    Raises:
        ValueError: if it is of no format that is known; the message says so.
        KeyError: if it lacks what every run of its format has.
    """
    content = copy.deepcopy(content)
    number = content.pop("format", 1)
    if type(number) is not int or number < 1:
        raise ValueError(f"its format is {number!r}")
    if number > CURRENT:
        raise ValueError(
            f"its format is {number}, and this version knows those up to {CURRENT}: open it with the version that "
            "wrote it, or a newer one"
        )
    for step in range(number, CURRENT):
        _TO_NEXT[step](content)
    return content


def _from_1_to_2(content: dict[str, Any]) -> None:
    optimization, model, data = content["optimization"], content["model"], content["data"]
    data["record_format"] = "frame" if data.pop("frame_features") else "video"
    content["optimization"] = _ADDED_TO_OPTIMIZATION | optimization
    loss = content["optimization"].pop("label_loss")
    term = {"name": loss, "weight": 1.0, "hparams": _LOSS_HYPER_PARAMETERS.get(loss, {})}
    content["loss"] = {"terms": [term]}
    _upgrade_hyper_parameters(model["name"], model["hparams"])


def _upgrade_hyper_parameters(name: str, hparams: dict[str, Any]) -> None:
    """Renames those of a model, and of its classifier, and adds those that they had not yet when the run was made."""
    registry = next((registry for registry in MODELS.values() if name in registry), None)
    if registry is None:
        return
    known = registry.entry(name).hyper_parameters
    for before, now in _RENAMED_IN_MODELS.items():
        if before in hparams and before not in known:
            hparams[now] = hparams.pop(before)
    added = _ADDED_TO_MODELS | ({"unit_frames": False} if name in _RAW_FRAMES else {})
    for hparam in added.keys() & known:
        hparams.setdefault(hparam, added[hparam])
    if hparams.get("classifier"):
        _upgrade_hyper_parameters(hparams["classifier"], hparams["classifier_hparams"])


def _from_2_to_3(content: dict[str, Any]) -> None:
    content["training"]["teacher"] = ""
    for term in content["loss"]["terms"]:
        if term["name"] == "CrossEntropyLoss":
            term["hparams"] = _CROSS_ENTROPY_BEFORE_3 | term["hparams"]


def _from_3_to_4(content: dict[str, Any]) -> None:
    content["training"] |= {"example_weights": "", "bagging_seed": 0}


def _from_4_to_5(content: dict[str, Any]) -> None:
    content["training"]["mixup"] = 0.0
    content["data"] |= _CLIPS_BEFORE_5


def _from_5_to_6(content: dict[str, Any]) -> None:
    content["training"]["accumulate_steps"] = 1
    content["optimization"] |= {
        "clip_gradient_scope": "variable",
        "learning_rate_power": 1.0,
        "weight_decay": 0.004,
        "weight_decay_of": "all",
    }


def _from_6_to_7(content: dict[str, Any]) -> None:
    content["data"]["segment_context"] = 0
    content["training"]["init_from"] = ""


def _from_7_to_8(content: dict[str, Any]) -> None:
    content["data"]["feature_weights"] = []
    for term in content["loss"]["terms"]:
        if term["name"] == "DistillationLoss":
            term["hparams"].setdefault("keep_labels", False)
    model = content["model"]
    for name, hparams in (
        (model["name"], model["hparams"]),
        (model["hparams"].get("classifier"), model["hparams"].get("classifier_hparams")),
    ):
        if name in _REMEMBERING_BEFORE_8:
            hparams |= _REMEMBERING_BEFORE_8[name] | hparams


_TO_NEXT: dict[int, Callable[[dict[str, Any]], None]] = {
    1: _from_1_to_2,
    2: _from_2_to_3,
    3: _from_3_to_4,
    4: _from_4_to_5,
    5: _from_5_to_6,
    6: _from_6_to_7,
    7: _from_7_to_8,
}
