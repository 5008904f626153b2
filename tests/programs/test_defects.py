"""What the published code bases get wrong, one test each: what is tested here fails there.

The numbers are those of the list of defects in docs/notes/defects.md.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import RNG, SIZE, SPEC, built, close, make_batch, padded, pooled, randomise

from yt8m.data.records import multi_hot
from yt8m.engine.weight_averages import WeightAverages
from yt8m.layers.assignment import weighted_sums
from yt8m.layers.attention_clusters import AttentionClusters, softmax_over_frames
from yt8m.layers.dbof import GatedBagOfFrames, MeanAndMaxBagOfFrames, SoftBagOfFrames
from yt8m.layers.fisher import NetFV
from yt8m.layers.frames import read_frames
from yt8m.layers.nextvlad import NeXtVLAD
from yt8m.layers.non_local import NonLocalBlock, NonLocalVLAD
from yt8m.layers.normalisation import LayerNormalization, MaskedBatchNormalization, l2_normalise
from yt8m.layers.pooling import masked_max, masked_mean
from yt8m.layers.second_order import TEmbedding
from yt8m.layers.transformer import NormalisedBlock
from yt8m.layers.vlad import GatedVLAD, NetRVLAD, NetVLAD
from yt8m.layers.whitening import ReverseWhitening
from yt8m.models.nextvlad import MixNeXtVLADModel, NeXtVLADModel
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.sampling import FrameSampling, sample_indices
from yt8m.schema import DataSpec

from losses import cross_entropy_loss

MIX: dict[str, Any] = {"num_branches": 2, "cluster_size": 2, "groups": 2, "hidden_size": 4, "dropout": 0.0}


def longer(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The same videos with three more frames of padding, all white."""
    white = {name: tf.fill((4, 3, batch[name].shape[2]), tf.constant(255, tf.uint8)) for name in SPEC.feature_names}
    return batch | {name: tf.concat([batch[name], white[name]], axis=1) for name in white}


@pytest.mark.parametrize("training", [False, True])
def test_01_nextvlad_leaves_padding_out_of_its_norms(training: bool) -> None:
    # Behind the shift padding of 0 is -4 / 512 times the scale; it must not get into cluster norms or sums.
    model = built(NeXtVLADModel(SPEC, cluster_size=2, groups=2, hidden_size=4, dropout=0.0))
    batch = make_batch()
    plain = model(batch, training=training)["logits"]
    close(model(longer(batch), training=training)["logits"], plain)


def test_02_netvlad_assigns_padding_to_no_cluster() -> None:
    frames = tf.constant(RNG(0).normal(size=(1, 2, SIZE)), tf.float32)
    layer = NetVLAD(3)
    layer.build(frames.shape)
    randomise(layer)
    alone = layer(frames, tf.constant([[True, True]]))
    zeros = tf.concat([frames, tf.zeros((1, 5, SIZE))], axis=1)
    close(layer(zeros, tf.constant([[True] * 2 + [False] * 5])), alone)
    assert np.max(np.abs(layer(zeros, tf.ones((1, 7), tf.bool)) - alone)) > 0.01  # five times a zero frame counts


@pytest.mark.parametrize(
    "make",
    [
        lambda: NetVLAD(3),
        lambda: NetRVLAD(3),
        lambda: GatedVLAD(3),
        lambda: NetFV(3),
        lambda: SoftBagOfFrames(3, max_pool=True),
        lambda: GatedBagOfFrames(3),
        lambda: MeanAndMaxBagOfFrames(3),
        lambda: NeXtVLAD(3, groups=2),
        lambda: NonLocalVLAD(3),
        lambda: TEmbedding(3),
    ],
)
def test_03_batch_norm_learns_from_true_frames_alone(make: Callable[[], Any]) -> None:
    frames, valid = padded()
    layers = [make(), make()]
    for layer, scale in zip(layers, (1.0, 100.0), strict=True):
        layer.build(frames.shape)
        randomise(layer)
        layer(tf.where(valid[:, :, tf.newaxis], frames, scale * frames), valid, training=True)
    moments = [[w.numpy() for w in layer.weights if not w.trainable] for layer in layers]
    assert moments[0]
    for small, large in zip(*moments, strict=True):
        close(small, large)


def test_04_padding_gets_no_attention() -> None:
    frames, valid = tf.constant([[[1.0], [3.0], [0.0], [0.0]]]), tf.constant([[True, True, False, False]])
    layer = AttentionClusters(1, shift=False)
    layer.build(frames.shape)
    layer.attention.kernel.assign([[0.0]])  # all frames score alike: a softmax over four would give padding half
    close(layer.attention(frames, valid)[0, :, 0], [0.5, 0.5, 0.0, 0.0])


def test_05_attention_is_masked_before_the_softmax() -> None:
    # exp(-200) is 0 in float32: a softmax over both leaves nothing to divide by once padding is taken out.
    weights = softmax_over_frames(tf.constant([[[-200.0], [-201.0], [0.0]]]), tf.constant([[True, True, False]]))
    close(weights[0, :, 0], [1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(1.0)), 0.0])


def test_06_the_largest_of_negative_numbers_is_negative() -> None:
    frames = tf.constant([[[-3.0], [-2.0], [0.0]]])
    close(masked_max(frames, tf.constant([[True, True, False]])), [[-2.0]])


def test_07_a_mean_is_divided_by_the_length_of_the_video() -> None:
    close(masked_mean(tf.constant([[[1.0], [3.0], [0.0], [0.0]]]), tf.constant([[True, True, False, False]])), [[2.0]])
    model = built(MixNeXtVLADModel(SPEC, **MIX))
    for weight in model.trunk_0.weights + model.trunk_1.weights:
        weight.assign(tf.zeros_like(weight))  # every branch is its bias: only the blend's gate sees frames
    batch = make_batch()
    plain = model(batch)["logits"]
    twice = {name: tf.repeat(batch[name], 2, axis=1) for name in SPEC.feature_names}
    close(model(batch | twice | {"num_frames": 2 * batch["num_frames"]})["logits"], plain)
    # A mean over the width of the batch would be the same there, too; here it would not be.
    close(model(longer(batch))["logits"], plain)
    assert np.max(np.abs(plain[0] - plain[1])) > 1e-3


@pytest.mark.parametrize("name", FRAME_LEVEL_MODELS.names())
def test_08_evaluation_draws_no_frames(name: str) -> None:
    sampling = FRAME_LEVEL_MODELS[name](SPEC).frame_sampling(training=False)
    assert sampling is None  # all frames, in order


def test_09_a_short_video_has_as_many_frames_as_were_drawn() -> None:
    indices, num_frames = sample_indices(
        FrameSampling("random", 150), tf.constant([3, 300, 0]), tf.range(3, dtype=tf.int64)
    )
    assert num_frames.numpy().tolist() == [150, 150, 0]  # not 3: an LSTM would stop there
    assert set(indices[0].numpy()) == {0, 1, 2}


def test_10_every_cluster_of_the_second_order_counts_alike() -> None:
    second = pooled(NetFV(3))[:, 3 * SIZE :].reshape(4, 3, SIZE)
    close(np.linalg.norm(second[[0, 1, 3]], axis=2), np.full((3, 3), 3**-0.5))


def test_11_lengths_are_a_vectors_own_and_clusters_stay_whole() -> None:
    # Two of five: normalised without an axis, a vector is scaled by its batch; (F, K) read as (K, F), cluster k is
    # a mixture of all.
    x = tf.constant([[3.0, 4.0], [600.0, 800.0]])
    close(l2_normalise(x), [[0.6, 0.8], [0.6, 0.8]])
    frames, valid = padded()
    layer = NetVLAD(3, flatten=False)
    layer.build(frames.shape)
    randomise(layer)
    shares = layer.assign(frames, valid, False)
    for k in range(3):
        alone = (
            weighted_sums(shares[:, :, k : k + 1], frames)[:, 0]
            - tf.reduce_sum(shares[:, :, k], 1)[:, None] * layer.centres[k]
        )
        close(layer(frames, valid)[:, k], l2_normalise(alone))


def _published_encoder() -> tuple[NormalisedBlock, tf.Tensor]:
    layer, (frames, valid) = NormalisedBlock(2, 0.1, "block"), padded()
    layer.build(frames.shape)
    randomise(layer)
    return layer, layer.attention(frames, valid)


def test_11_a_tenth_is_dropped_not_nine() -> None:
    dropout = _published_encoder()[0].attention.dropout
    ones = dropout(tf.ones((100, 1, 100)), random_key=tf.range(100, dtype=tf.int64), training=True)
    # 10,000 draws: a share of 0.9, give or take 0.003
    assert abs(np.count_nonzero(ones) / 10_000 - 0.9) < 0.015


def test_11_a_residual_is_added_once() -> None:
    layer, seen = _published_encoder()
    once = layer.norm(seen + layer.feedforward(seen))
    np.testing.assert_array_equal(layer(*padded()), once)
    assert np.max(np.abs(layer.norm(once + seen) - once)) > 0.01


def test_11_a_frame_is_normalised_by_its_own_moments() -> None:
    layer, frames = LayerNormalization(), padded()[0]
    layer.build(frames.shape)
    louder = tf.concat([frames[:, :1], 100.0 * frames[:, 1:]], axis=1)
    close(layer(louder)[:, 0], layer(frames)[:, 0])


def test_12_non_local_values_are_not_the_keys() -> None:
    tokens = tf.constant(RNG(0).normal(size=(1, 3, 4)), tf.float32)
    block = NonLocalBlock(2, 0.5)
    block.build(tokens.shape)
    block.value.assign(tf.zeros((4, 2)))
    close(block(tokens), tokens)  # nothing to add, whatever the keys say
    light = NonLocalVLAD(3, light=True)
    light.build((None, None, 4))
    assert len(light.block.trainable_variables) == 4


def test_13_a_sure_mistake_still_has_a_gradient() -> None:
    # sigmoid(40) is 1 in float32; with 1e-5 added under a logarithm the loss would stop at 11.5 and its gradient at 0.
    logits = tf.Variable([[40.0]])
    with tf.GradientTape() as tape:
        outputs = {"predictions": tf.sigmoid(logits), "logits": tf.convert_to_tensor(logits)}
        loss = cross_entropy_loss(tf.constant([[False]]), outputs)
    close(loss, [40.0])
    close(tape.gradient(loss, logits), [[1.0]])


def test_14_every_feature_is_shifted_alike() -> None:
    spec = DataSpec(("rgb", "audio"), (1024, 3), 2, record_format="frame")
    batch = {name: tf.fill((1, 1, size), tf.constant(127, tf.uint8)) for name, size in (("rgb", 1024), ("audio", 3))}
    frames, valid = read_frames(batch | {"num_frames": tf.constant([1])}, spec)
    layer = ReverseWhitening(spec)
    y = layer(frames, valid) / layer.scale
    close(y, np.full((1, 1, 1027), 127 * 4 / 255 - 2))


def test_15_a_video_without_frames_is_a_zero_vector() -> None:
    frames, valid = tf.ones((1, 3, 2)), tf.constant([[False, False, False]])
    for pool in (masked_mean, masked_max):
        close(pool(frames, valid), [[0.0, 0.0]])
    for method in ("random", "random_sequence", "uniform"):
        _, num_frames = sample_indices(FrameSampling(method, 5), tf.constant([0]), tf.zeros(1, tf.int64))
        assert num_frames.numpy().tolist() == [0]  # not frame 0, which is padding


def test_16_a_half_life_is_the_age_at_which_a_value_counts_half() -> None:
    model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.build((None, 1))
    averages = WeightAverages(model, halflife=40.0)
    averages.num_updates.assign(10_000.0)  # a long run: the warm-up is over
    model.set_weights([np.ones((1, 1))])
    for _ in range(40):
        averages.update(model)
    # A time constant of 40 would leave 1 / e of the way, at 0.632.
    close(averages.averages[0], [[0.5]], 1e-5)


def test_17_batch_norm_is_as_good_after_thirty_steps_as_after_thousands() -> None:
    layer = MaskedBatchNormalization()
    layer.build((None, 1))
    for step in range(30):
        layer(tf.constant(RNG(step).normal(5.0, 2.0, (80, 1)), tf.float32), training=True)
    # A momentum of 0.999 would have moved 3 % of the way from 0 to 5.
    close(layer.moving_mean, [5.0], 0.2)
    close(layer.moving_variance, [4.0], 0.5)


def test_18_a_label_counts_once_and_must_exist() -> None:
    labels = multi_hot(tf.ragged.constant([[2, 0, 2]], dtype=tf.int64), 3)
    assert labels.numpy().tolist() == [[True, False, True]]
    for label in (-1, 3):
        with pytest.raises(tf.errors.InvalidArgumentError):
            multi_hot(tf.ragged.constant([[label]], dtype=tf.int64), 3)
