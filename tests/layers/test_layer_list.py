"""Layers in a row: a checkpoint finds their weights, under names that do not change."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from yt8m.layers.layer_list import LayerList
from yt8m.layers.recurrent import RecurrentStack
from yt8m.models.attention import TransformerModel
from yt8m.models.nextvlad import MixNeXtVLADModel
from yt8m.models.vlad import NetVLADModelLF
from yt8m.schema import DataSpec

SPEC = DataSpec(("rgb", "audio"), (4, 2), 3, record_format="frame")


class Chain(keras.layers.Layer):
    """Dense layers one after the other."""

    def __init__(self, units: list[int], **kwargs: Any):
        super().__init__(**kwargs)
        self.links = LayerList(self, "link", (keras.layers.Dense(width) for width in units))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        for link in self.links:
            x = link(x)
        return x


def test_it_is_a_sequence_of_its_layers() -> None:
    links = Chain([3, 2]).links
    assert [link.units for link in links] == [3, 2]
    assert (len(links), links[0].units, links[-1].units) == (2, 3, 2)


def saved_names(trackable: Any, path: Path) -> set[str]:
    """The names of the variables in a checkpoint, without what TensorFlow adds to each."""
    written = tf.train.Checkpoint(model=trackable).write(str(path))
    names = [name for name, _ in tf.train.list_variables(written) if not name.startswith(("_CHECKPOINT", "save_"))]
    return {name.removeprefix("model/").partition("/.ATTRIBUTES")[0] for name in names}


def test_weights_are_trained_and_saved(tmp_path: Path) -> None:
    chain, other = Chain([3, 2]), Chain([3, 2])
    x = tf.constant([[1.0, -2.0]])
    before, _ = chain(x), other(x)
    assert len(chain.trainable_variables) == 4
    assert saved_names(chain, tmp_path / "weights") >= {"link_0/_kernel", "link_1/_kernel"}
    tf.train.Checkpoint(model=other).read(str(tmp_path / "weights")).assert_consumed()
    np.testing.assert_array_equal(other(x), before)


def test_in_a_plain_list_they_would_not_be_saved(tmp_path: Path) -> None:
    chain = keras.layers.Layer()
    chain.links = [keras.layers.Dense(3)]
    chain.links[0].build((None, 2))
    assert len(chain.trainable_variables) == 2
    assert saved_names(chain, tmp_path / "weights") == set()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: RecurrentStack("gru", 3, 2), {"walk_0/cell/kernel", "walk_1/cell/bias"}),
        (lambda: NetVLADModelLF(SPEC, cluster_size=2, hidden_size=3), {"pool_0/centres", "pool_1/centres"}),
        (
            lambda: TransformerModel(SPEC, head_size=2, separate_encoders=True),
            {"encoder_0/block_0/attention/projection", "encoder_1/block_1/attention/projection"},
        ),
        (
            lambda: MixNeXtVLADModel(SPEC, num_branches=2, cluster_size=2, groups=2, hidden_size=4),
            {
                "trunk_0/pool_0/centres",
                "trunk_1/pool_1/centres",
                "classifier/dense/_kernel",
                "classifier_1/dense/_kernel",
            },
        ),
    ],
    ids=["RecurrentStack", "NetVLADModelLF", "TransformerModel", "MixNeXtVLADModel"],
)
def test_names_in_checkpoints_are_those_of_older_runs(make: Any, expected: set[str], tmp_path: Path) -> None:
    layer = make()
    layer.build((None, None, 6))
    assert expected <= saved_names(layer, tmp_path / "weights")
