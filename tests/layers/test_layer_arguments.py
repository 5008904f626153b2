"""Every number and name that a layer is built from has a range, and what is outside it is named."""

import ast
import inspect
import math
import re
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import keras
import pytest

from yt8m.errors import UserError
from yt8m.layers.assignment import SoftAssignment
from yt8m.layers.attention import LogitNormalization, SelfAttention
from yt8m.layers.attention_clusters import AttentionClusters, FrameAttention
from yt8m.layers.attention_vlad import AttentionEnhancedVLAD, AttentionSimilarityVLAD
from yt8m.layers.backbones import Backbone
from yt8m.layers.dbof import DeepBagOfFrames, GatedBagOfFrames, MeanAndMaxBagOfFrames, SoftBagOfFrames
from yt8m.layers.dense import NormalisedDense
from yt8m.layers.dropout import KeyedDropout
from yt8m.layers.fisher import NetFV
from yt8m.layers.frame_cnn import FrameCNN
from yt8m.layers.gating import (
    BottleneckGate,
    BottleneckGating,
    ContextGating,
    GatedLinearUnit,
    GateLogits,
    SqueezeExcitation,
)
from yt8m.layers.hidden_layers import HiddenLayers
from yt8m.layers.inception import FrameInception, Inception, InceptionModule
from yt8m.layers.nextvlad import NeXtVLAD
from yt8m.layers.noise import KeyedNoise
from yt8m.layers.non_local import NonLocalBlock, NonLocalVLAD
from yt8m.layers.normalisation import LayerNormalization, MaskedBatchNormalization
from yt8m.layers.recurrent import RecurrentStack
from yt8m.layers.second_order import FAEmbedding, SecondOrderPooling, TEmbedding
from yt8m.layers.space_time import SpaceTimeConv
from yt8m.layers.supports import PredictionCode
from yt8m.layers.transformer import (
    EncoderBlock,
    FeedForward,
    NormalisedAttention,
    NormalisedBlock,
    PositionEmbedding,
    TransformerEncoder,
)
from yt8m.layers.triangulation import DirectionWhitening, MovingMean
from yt8m.layers.vggish import SoundNetwork
from yt8m.layers.vlad import GatedVLAD, NetRVLAD, NetVLAD
from yt8m.layers.whitening import ReverseWhitening
from yt8m.schema import DataSpec

import rankpool_ops

CLUSTERS: dict[str, Any] = {"cluster_size": 3}
ATTENTION: dict[str, Any] = {"head_size": 2, "dropout": 0.1, "salt": "a"}
BLOCK: dict[str, Any] = ATTENTION | {"feedforward_size": 4, "activation": "relu"}

# What each layer cannot be built without.
REQUIRED: dict[type[keras.layers.Layer], dict[str, Any]] = {
    AttentionClusters: CLUSTERS,
    AttentionEnhancedVLAD: CLUSTERS | ATTENTION,
    AttentionSimilarityVLAD: CLUSTERS | ATTENTION,
    Backbone: {"backbone": "SmallCnn", "size": 32},
    BottleneckGate: {"units": 2},
    BottleneckGating: {},
    ContextGating: {},
    DeepBagOfFrames: CLUSTERS,
    DirectionWhitening: {},
    EncoderBlock: BLOCK,
    FAEmbedding: CLUSTERS | {"projected_size": 2},
    FeedForward: {},
    FrameAttention: {"num_heads": 2},
    FrameCNN: {"filters": 2},
    FrameInception: {},
    GateLogits: {"units": 2},
    GatedBagOfFrames: CLUSTERS,
    GatedLinearUnit: {},
    GatedVLAD: CLUSTERS,
    HiddenLayers: {"widths": (2,), "add_batch_norm": True, "dropout": 0.1, "salt": "a"},
    Inception: {},
    InceptionModule: {"widths": (2, (2, 2), (2, 2), 2), "extent": 1},
    KeyedDropout: {"rate": 0.1, "salt": "a"},
    KeyedNoise: {"stddev": 0.1, "salt": "a"},
    LayerNormalization: {},
    PredictionCode: {"code_size": 2},
    LogitNormalization: {},
    MaskedBatchNormalization: {},
    MeanAndMaxBagOfFrames: CLUSTERS,
    MovingMean: {"shape": (2,)},
    NetFV: CLUSTERS,
    NetRVLAD: CLUSTERS,
    NetVLAD: CLUSTERS,
    NeXtVLAD: CLUSTERS,
    NonLocalBlock: {"inner_size": 2, "scale": 1.0},
    NonLocalVLAD: CLUSTERS,
    NormalisedAttention: ATTENTION,
    NormalisedBlock: ATTENTION,
    NormalisedDense: {"units": 2},
    PositionEmbedding: {"positions": "learnt", "num_positions": 3},
    RecurrentStack: {"cell": "gru", "units": 2, "num_layers": 2},
    ReverseWhitening: {"spec": DataSpec()},
    SecondOrderPooling: CLUSTERS | {"second_cluster_size": 2, "projected_size": 2},
    SelfAttention: {"head_size": 2},
    SoftAssignment: CLUSTERS,
    SoftBagOfFrames: CLUSTERS,
    SoundNetwork: {},
    SpaceTimeConv: {"filters": 2, "kernel": (1, 3, 3)},
    SqueezeExcitation: {},
    TEmbedding: CLUSTERS,
    TransformerEncoder: BLOCK
    | {"num_layers": 2, "model_size": 0, "positions": "none", "num_positions": 3, "pooling": "mean"},
    rankpool_ops.RankPooling: {},
}

OUT_OF_RANGE: dict[type, list[Any]] = {int: [-2], float: [math.nan, math.inf], str: ["nonsense"]}


def kind_of(annotation: Any) -> type:
    """The type of an argument: that of a choice is `str`, and of `float | None` it is `float`."""
    if get_origin(annotation) is Literal:
        return str
    return get_args(annotation)[0] if isinstance(annotation, UnionType) else annotation


CASES = [
    (layer, name, value)
    for layer in REQUIRED
    for name, parameter in inspect.signature(layer).parameters.items()
    for value in OUT_OF_RANGE.get(kind_of(parameter.annotation), [])
    if name != "salt"
]


@pytest.mark.parametrize(
    ("layer", "name", "value"), [pytest.param(*case, id=f"{case[0].__name__}-{case[1]}={case[2]}") for case in CASES]
)
def test_an_argument_out_of_range_is_named(layer: Any, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{name}={re.escape(str(value))}: expected|^{name}={value}: there is no such"):
        layer(**REQUIRED[layer] | {name: value})


def test_every_layer_is_here() -> None:
    folder = Path(__file__).parents[2] / "yt8m" / "layers"
    classes = [
        node.name
        for path in folder.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.bases and not node.name.startswith("_")
    ]
    assert set(classes) == {layer.__name__ for layer in REQUIRED} - {"RankPooling"}
