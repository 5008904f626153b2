"""Second-order pooling, attention clusters and non-local VLAD against slow definitions, by hand, and their sizes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_checks import LENGTHS, RNG, SIZE, SPEC, close, dense, norm, padded, pooled, randomise, shares_of, true_frames

from yt8m.distribution import build_strategy
from yt8m.errors import UserError
from yt8m.layers.attention import SelfAttention
from yt8m.layers.attention_clusters import AttentionClusters, FrameAttention, softmax_over_frames
from yt8m.layers.fisher import NetFV
from yt8m.layers.non_local import NonLocalBlock, NonLocalVLAD
from yt8m.layers.second_order import FAEmbedding, SecondOrderPooling, TEmbedding, approximation_error
from yt8m.layers.triangulation import (
    AllFrames,
    DirectionWhitening,
    direction_product_sums,
    direction_sums,
    squared_distances,
)
from yt8m.layers.vlad import NetVLAD
from yt8m.models.attention import AttentionClusterModel
from yt8m.models.attention_vlad import SecondOrderVLADModel
from yt8m.models.vlad import NonLocalVLADModel
from yt8m.sampling import FrameSampling

from oracles import models as oracles_models
from oracles import second_order as oracles
from oracles import vlad as oracles_vlad

RIDGE = 1e-3  # of 1 / D
VIDEOS = range(len(LENGTHS))


def all_true_frames() -> list[np.ndarray]:
    return [true_frames(video) for video in VIDEOS]


def warmed_up(layer: Any) -> Any:
    """Builds a layer, gives it random weights, and lets its moving moments be those of the padded videos.

    The first batch replaces the moments, so they can be compared with those of an oracle. Those of batch normalisation
    are random after it.
    """
    frames, valid = padded()
    layer.build(frames.shape)
    for index, weight in enumerate(layer.trainable_variables):
        weight.assign(RNG(index).uniform(0.2, 1.2, weight.shape) * RNG(index).choice([-1, 1], weight.shape))
    layer(frames, valid, training=True)
    for index, weight in enumerate(w for w in layer.weights if w.name in ("moving_mean", "moving_variance")):
        if len(weight.shape) == 1:
            weight.assign(RNG(index).uniform(0.5, 1.5, weight.shape))
    return layer


def diagonal(centres: np.ndarray) -> Callable[[int, np.ndarray], np.ndarray]:
    """Whitening by the moments of the padded videos, feature by feature."""
    moments = [oracles.direction_moments(all_true_frames(), centre) for centre in centres]

    def whiten(k: int, r: np.ndarray) -> np.ndarray:
        mean, covariance = moments[k]
        return (r - mean) / np.sqrt(np.diag(covariance) + RIDGE / len(r))

    return whiten


class TestDirections:
    FRAMES, CENTRES = RNG(1).normal(size=(2, 5, 4)), RNG(2).normal(size=(3, 4))
    WEIGHTS = RNG(3).uniform(size=(2, 5, 3))

    def arguments(self) -> list[tf.Tensor]:
        weights, frames, centres = (tf.constant(x, tf.float32) for x in (self.WEIGHTS, self.FRAMES, self.CENTRES))
        return [weights, frames, centres, squared_distances(frames, centres)]

    def test_sums_without_residuals(self) -> None:
        singles, products = (f(*self.arguments()).numpy() for f in (direction_sums, direction_product_sums))
        for video in range(2):
            for k, centre in enumerate(self.CENTRES):
                directions = [oracles.direction(x, centre) for x in self.FRAMES[video]]
                weights = self.WEIGHTS[video, :, k]
                close(singles[video, k], sum(w * r for w, r in zip(weights, directions, strict=True)))
                expected = sum(w * np.outer(r, r) for w, r in zip(weights, directions, strict=True))
                close(products[video, k], expected)

    def test_by_hand(self) -> None:
        # From (1, 0): (4, 4) lies at (3, 4) / 5, (1, 2) at (0, 1). 5 * (0.6, 0.8) + 2 * (0, 1) = (3, 6);
        # 5 * [[.36, .48], [.48, .64]] + 2 * [[0, 0], [0, 1]] = [[1.8, 2.4], [2.4, 5.2]]
        frames, centres = tf.constant([[[4.0, 4.0], [1.0, 2.0]]]), tf.constant([[1.0, 0.0]])
        arguments = (tf.constant([[[5.0], [2.0]]]), frames, centres, squared_distances(frames, centres))
        close(squared_distances(frames, centres), [[[25.0], [4.0]]])
        close(direction_sums(*arguments), [[[3.0, 6.0]]])
        close(direction_product_sums(*arguments), [[[[1.8, 2.4], [2.4, 5.2]]]])

    def test_a_frame_in_the_centre_has_a_finite_gradient(self) -> None:
        frames = tf.Variable([[[1.0, 2.0], [3.0, 1.0]]])
        centres, ones = tf.constant([[1.0, 2.0]]), tf.ones((1, 2, 1))
        with tf.GradientTape() as tape:
            squares = squared_distances(frames, centres)
            total = tf.reduce_sum(direction_sums(ones, frames, centres, squares))
            total += tf.reduce_sum(direction_product_sums(ones, frames, centres, squares))
        assert np.all(np.isfinite(tape.gradient(total, frames)))


class TestWhitening:
    def whitened(self, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Random sums whitened by the moving moments of the padded videos, the sums centred by hand, the centres."""
        layer = DirectionWhitening(kind)
        layer.build((None, 3, SIZE))
        frames, valid = padded()
        centres = RNG(5).normal(size=(3, SIZE)).astype(np.float32)
        all_frames = AllFrames(frames, valid, centres, squared_distances(frames, tf.constant(centres)))
        sums, mass = RNG(6).normal(size=(4, 3, SIZE)), RNG(7).uniform(size=(4, 3))
        in_training = layer(tf.constant(sums, tf.float32), tf.constant(mass, tf.float32), all_frames=all_frames)
        seen = layer(tf.constant(sums, tf.float32), tf.constant(mass, tf.float32)).numpy()
        close(seen, in_training, 1e-4)  # the first batch is all that the moving moments know
        centred = sums.copy()
        for k, centre in enumerate(centres):
            mean, _ = oracles.direction_moments(all_true_frames(), centre.astype(np.float64))
            centred[:, k] -= mass[:, k, np.newaxis] * mean
        return seen, centred, centres.astype(np.float64)

    def test_diagonal(self) -> None:
        seen, centred, centres = self.whitened("diagonal")
        for k, centre in enumerate(centres):
            _, covariance = oracles.direction_moments(all_true_frames(), centre)
            close(seen[:, k], centred[:, k] / np.sqrt(np.diag(covariance) + RIDGE / SIZE), 2e-4)

    def test_full_is_the_inverse_root_of_the_covariance_but_for_a_rotation(self) -> None:
        seen, centred, centres = self.whitened("full")
        for k, centre in enumerate(centres):
            _, covariance = oracles.direction_moments(all_true_frames(), centre)
            inverse = np.linalg.inv(covariance + RIDGE / SIZE * np.eye(SIZE))
            products = centred[:, k] @ inverse @ centred[:, k].T
            np.testing.assert_allclose(seen[:, k] @ seen[:, k].T, products, rtol=0, atol=2e-3 * np.abs(products).max())

    def test_none(self) -> None:
        sums = tf.constant(RNG(6).normal(size=(4, 3, SIZE)), tf.float32)
        layer = DirectionWhitening("none")
        np.testing.assert_array_equal(layer(sums, tf.ones((4, 3))), sums)
        assert not layer.weights

    def test_full_makes_directions_white(self) -> None:
        frames = tf.constant(RNG(0).normal(size=(1, 400, 4)) * [3.0, 1.0, 1.0, 0.3], tf.float32)
        centres = tf.constant([[0.5, 0.0, -0.5, 0.2]])
        layer = DirectionWhitening("full")
        layer.build((None, 1, 4))
        singles = tf.reshape(frames, (400, 1, 4))
        squares = squared_distances(singles, centres)
        sums = direction_sums(tf.ones((400, 1, 1)), singles, centres, squares)
        all_frames = AllFrames(singles, tf.ones((400, 1), tf.bool), centres, squares)
        white = layer(sums, tf.ones((400, 1)), all_frames=all_frames).numpy()[:, 0]
        close(white.mean(axis=0), np.zeros(4), 1e-4)
        close(np.cov(white.T, bias=True), np.eye(4), 0.02)  # the ridge takes a little from the narrowest

    def test_what_cannot_be_done_is_named(self) -> None:
        with pytest.raises(UserError, match=r"^whitening=ful: .*Did you mean full"):
            DirectionWhitening("ful")
        with pytest.raises(UserError, match=r"^whitening=full: of 1024 features"):
            DirectionWhitening("full").build((None, 2, 1024))


class TestTEmbedding:
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("whitening", ["diagonal", "none"])
    def test_direction_by_direction(self, whitening: str, weighted: bool) -> None:
        layer = warmed_up(TEmbedding(3, weighted=weighted, whitening=whitening))
        y = layer(*padded()).numpy()
        centres = layer.centres.numpy().astype(np.float64)
        whiten = diagonal(centres) if whitening == "diagonal" else lambda _, r: r
        for video in VIDEOS:
            x = true_frames(video)
            shares = shares_of(layer.assignment, x) if weighted else np.ones((len(x), 3))
            close(y[video], oracles.t_embedding(x, shares, centres, whiten), 1e-3)

    def test_training_whitens_by_the_batch(self) -> None:
        layer = TEmbedding(3, weighted=False)
        frames, valid = padded()
        layer.build(frames.shape)
        layer.whitening.mean.mean.assign(tf.fill((3, SIZE), 7.0))  # not looked at
        y = layer(frames, valid, training=True).numpy()
        centres = layer.centres.numpy().astype(np.float64)
        for video in VIDEOS:
            x = true_frames(video)
            expected = oracles.t_embedding(x, np.ones((len(x), 3)), centres, diagonal(centres))
            close(y[video], expected, 1e-3)

    def test_by_hand(self) -> None:
        # From (1, 0): (4, 4) lies at (0.6, 0.8) and (1, 2) at (0, 1). Sum (0.6, 1.8), length 0.6 sqrt(10).
        layer = TEmbedding(1, weighted=False, whitening="none")
        frames = tf.constant([[[4.0, 4.0], [1.0, 2.0], [9.0, 9.0]]])
        layer.build(frames.shape)
        layer.centres.assign([[1.0, 0.0]])
        close(layer(frames, tf.constant([[True, True, False]])), [[10**-0.5, 3 * 10**-0.5]])


class TestFAEmbedding:
    def test_product_by_product(self) -> None:
        layer = warmed_up(FAEmbedding(3, 4, cubic=0.3))
        y, error = (part.numpy() for part in layer(*padded()))
        centres = layer.centres.numpy().astype(np.float64)
        narrow = [x @ layer.projection.numpy().astype(np.float64) for x in all_true_frames()]
        means = [oracles.product_mean(narrow, centre) for centre in centres]
        assert y.shape == (4, 3 * 10)
        for video, z in enumerate(narrow):
            shares = shares_of(layer.assignment, z)
            means_of_video = 3 * 4 / max(len(z), 1) * oracles.product_sums(z, shares, centres, means)
            rows = norm(layer.sum_norm, means_of_video.ravel()).reshape(3, 10)
            expected = [oracles_vlad.unit(row) for row in rows] if len(z) else np.zeros((3, 10))
            close(y[video], np.concatenate(expected), 1e-3)
            close(error[video], oracles.approximation_error(z, shares, centres, 0.3), 2e-3)

    def test_training_centres_by_the_batch(self) -> None:
        layer = FAEmbedding(2, 3, add_batch_norm=False)
        frames, valid = padded()
        layer.build(frames.shape)
        layer.mean.mean.assign(tf.fill((2, 3, 3), 7.0))  # not looked at
        y = layer(frames, valid, training=True)[0].numpy()
        centres = layer.centres.numpy().astype(np.float64)
        narrow = [x @ layer.projection.numpy().astype(np.float64) for x in all_true_frames()]
        means = [oracles.product_mean(narrow, centre) for centre in centres]
        # The third video has no frames, and no say in the moments.
        sums = [oracles.product_sums(z, shares_of(layer.assignment, z), centres, means).ravel() for z in narrow]
        existing = np.array([2 * 3 / len(narrow[video]) * sums[video] for video in (0, 1, 3)])
        white = (existing - existing.mean(axis=0)) / np.sqrt(existing.var(axis=0) + 1e-3)
        for row, video in enumerate([0, 1, 3]):
            close(y[video], np.concatenate([oracles_vlad.unit(k) for k in white[row].reshape(2, 6)]), 2e-3)
        close(y[2], np.zeros(12))

    def test_lengths_survive_the_triangle(self) -> None:
        # [[1, 2], [2, 3]] has the squared length 1 + 4 + 4 + 9 = 18, and so has (1, 2 sqrt(2), 3).
        layer = FAEmbedding(1, 2)
        layer.build((None, None, 2))
        layer.sum_norm.moving_variance.assign(tf.ones(3) - 1e-3)
        y = layer._describe(tf.constant([[[[1.0, 2.0], [2.0, 3.0]]]]), tf.constant([True]), False)
        close(y, [[1 / 18**0.5, (8 / 18) ** 0.5, 3 / 18**0.5]])

    def test_the_error_by_hand(self) -> None:
        # Frame (3, 4), centres (0, 0) and (3, 0), shares 1/4 and 3/4: the blend is (2.25, 0), the rest (0.75, 4),
        # half its square 8.28125; the cubes are 125 / 4 + 3 / 4 * 64 = 79.25. A second frame in the second centre:
        # blend (2.25, 0), rest (0.75, 0), 0.28125, cubes 27 / 4 = 6.75. Mean 4.28125 + mu 43.
        frames, centres = tf.constant([[[3.0, 4.0], [3.0, 0.0], [8.0, 8.0]]]), tf.constant([[0.0, 0.0], [3.0, 0.0]])
        valid = tf.constant([[True, True, False]])
        shares = tf.constant([[[0.25, 0.75], [0.25, 0.75], [0.0, 0.0]]])
        error = approximation_error(shares, frames, valid, centres, squared_distances(frames, centres), 0.1)
        close(error, [4.28125 + 4.3], 1e-4)

    def test_a_projection_is_needed(self) -> None:
        with pytest.raises(UserError, match="projected_size=0"):
            FAEmbedding(2, 0)


class TestAttentionClusters:
    def scores(self, attention: FrameAttention, x: np.ndarray) -> np.ndarray:
        kernel = attention.kernel.numpy()
        seen = x if attention.hidden is None else [np.tanh(dense(attention.hidden, f)) for f in x]
        return np.array([oracles_vlad.affine(f, kernel) for f in seen]).reshape(-1, kernel.shape[1])

    @pytest.mark.parametrize("attention_size", [0, 5])
    @pytest.mark.parametrize("shift", [False, True])
    def test_head_by_head(self, shift: bool, attention_size: int) -> None:
        layer = AttentionClusters(3, attention_size, shift)
        y = pooled(layer)
        for video in VIDEOS:
            x = true_frames(video)
            means = oracles.attention_means(x, self.scores(layer.attention, x))
            if not shift:
                expected = oracles_vlad.unit(means.ravel())
            elif len(x):
                expected = oracles.shifted(means, layer.alpha.numpy()[:, 0], layer.beta.numpy()[:, 0])
            else:
                expected = np.zeros(3 * SIZE)
            close(y[video], expected)

    def test_by_hand(self) -> None:
        # Scores 0 and log 3: weights 1/4 and 3/4; the mean of (8, 0) and (0, 4) is (2, 3). With alpha 2 and beta -1 it
        # is (3, 5), divided by sqrt(34).
        layer = AttentionClusters(1)
        frames = tf.constant([[[8.0, 0.0], [0.0, 4.0], [5.0, 5.0]]])
        layer.build(frames.shape)
        layer.attention.kernel.assign([[0.0], [np.log(3.0) / 4.0]])
        layer.alpha.assign([[2.0]])
        layer.beta.assign([[-1.0]])
        close(layer(frames, tf.constant([[True, True, False]])), [[3 / 34**0.5, 5 / 34**0.5]])

    def test_clusters_start_shifted_a_little(self) -> None:
        layer = AttentionClusters(4)
        layer.build((None, None, 3))
        close(layer.alpha, np.ones((4, 1)))
        close(layer.beta, np.full((4, 1), 0.01))

    @given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=5))
    @settings(deadline=None, max_examples=30)
    def test_weights_of_frames_that_exist_add_up(self, scores: list[float]) -> None:
        logits = tf.constant([[[s] for s in scores] + [[1e4]]], tf.float32)  # padding with the highest score of all
        valid = tf.constant([[True] * len(scores) + [False]])
        weights = softmax_over_frames(logits, valid).numpy()[0, :, 0]
        assert weights[-1] == 0.0
        close(weights[:-1], oracles_vlad.softmax(np.array(scores, np.float32).astype(np.float64)), 1e-5)

    @pytest.mark.parametrize(
        ("sizes", "message"), [((0, 0), "^cluster_size=0: expected at least 1"), ((2, -1), "^attention_size=-1: ")]
    )
    def test_what_cannot_be_built_is_named(self, sizes: tuple[int, int], message: str) -> None:
        with pytest.raises(UserError, match=message):
            AttentionClusters(*sizes)


class TestNonLocal:
    def test_token_by_token(self) -> None:
        tokens = RNG(0).normal(size=(2, 4, 5))
        layer = NonLocalBlock(3, 0.7)
        layer.build((None, 4, 5))
        randomise(layer)
        y = layer(tf.constant(tokens, tf.float32)).numpy()
        maps = [w.numpy().astype(np.float64) for w in (layer.query, layer.key, layer.value, layer.output_map)]
        for video in range(2):
            close(y[video], oracles.non_local(tokens[video], maps, 0.7), 1e-4)

    @pytest.mark.parametrize("light", [False, True])
    def test_frame_by_frame(self, light: bool) -> None:
        layer = NonLocalVLAD(3, light=light)
        y = pooled(layer)
        centres = np.zeros((3, SIZE)) if light else layer.vlad.centres.numpy()
        block = layer.block
        maps = [w.numpy().astype(np.float64) for w in (block.query, block.key, block.value, block.output_map)]
        assert (block.inner_size, block.scale) == ((3, SIZE**-0.5) if light else (3, 1 / 3))
        for video in VIDEOS:
            x = true_frames(video)
            shares = shares_of(layer.vlad.assignment, x)
            totals = [
                sum((a * (f - c) for a, f in zip(shares[:, k], x, strict=True)), 0 * c) for k, c in enumerate(centres)
            ]
            tokens = oracles.non_local(300 / max(len(x), 1) * np.array(totals), maps, block.scale)
            expected = oracles_vlad.unit(np.concatenate([oracles_vlad.unit(token) for token in tokens]))
            close(y[video], expected, 1e-3)

    def test_by_hand(self) -> None:
        # Tokens 1 and 2, all maps 1 but for the output, 3; scale log 2. The first token's logits are log 2 and 2 log 2:
        # shares 1/3 and 2/3, blend 5/3, result 1 + 5 = 6. The second's are 2 log 2 and 4 log 2: shares 4/20 and 16/20,
        # blend 36/20, result 2 + 5.4 = 7.4.
        layer = NonLocalBlock(1, float(np.log(2.0)))
        layer.build((None, 2, 1))
        for matrix, value in zip((layer.query, layer.key, layer.value, layer.output_map), (1, 1, 1, 3), strict=True):
            matrix.assign([[value]])
        close(layer(tf.constant([[[1.0], [2.0]]])), [[[6.0], [7.4]]], 1e-4)


LAYERS: dict[str, Callable[[], Any]] = {
    "NetVLAD": lambda: NetVLAD(5),
    "NetFV": lambda: NetFV(5),
    "NonLocalVLAD": lambda: NonLocalVLAD(5),
    "TEmbedding": lambda: TEmbedding(5),
    "TEmbedding-full": lambda: TEmbedding(12, whitening="full"),  # K > D: a residual is larger than a frame squared
    "SecondOrderPooling": lambda: SecondOrderPooling(5, 4, 3),
    "AttentionClusters": lambda: AttentionClusters(5, 4),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def descriptor_of(layer: Any, frames: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
    y = layer(frames, valid, training=training)
    return y[0] if isinstance(y, tuple) else y


@every_layer
def test_no_residual_is_written_down(make: Callable[[], Any]) -> None:
    frames, valid, layer = tf.zeros((3, 13, 11)), tf.ones((3, 13), tf.bool), make()
    layer.build(frames.shape)

    @tf.function
    def step() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(descriptor_of(layer, frames, valid, training=True)))
        return tape.gradient(loss, layer.trainable_variables)

    graphs = [step.get_concrete_function().graph]
    graphs += [function.graph for function in graphs[0]._functions.values() if hasattr(function, "graph")]
    sizes = [out.shape.num_elements() for graph in graphs for op in graph.get_operations() for out in op.outputs]
    known = [size for size in sizes if size is not None]
    assert len(known) > 50
    # Frames alone are 3 * 13 * 11 numbers; a residual for every frame and cluster would be five times as many.
    products = 11 if "full" in str(getattr(getattr(layer, "whitening", None), "kind", "")) else 1
    assert max(known) <= max(3 * 13 * 11 * products, 5 * 11 * 11)


@every_layer
def test_order_and_company_do_not_matter(make: Callable[[], Any]) -> None:
    layer, (frames, valid) = warmed_up(make()), padded()
    y = descriptor_of(layer, frames, valid).numpy()
    backwards = tf.reverse_sequence(frames, list(LENGTHS), seq_axis=1, batch_axis=0)
    close(descriptor_of(layer, backwards, valid), y, 1e-4)
    for video, length in enumerate(LENGTHS):
        if length:
            alone = descriptor_of(layer, frames[video : video + 1, :length], valid[video : video + 1, :length])
            close(alone[0], y[video], 1e-4)
    close(y[LENGTHS.index(0)], np.zeros_like(y[0]))


@every_layer
def test_the_number_of_frames_does_not_matter(make: Callable[[], Any]) -> None:
    layer, (frames, valid) = warmed_up(make()), padded()
    thrice = descriptor_of(layer, tf.repeat(frames, 3, axis=1), tf.repeat(valid, 3, axis=1))
    close(thrice, descriptor_of(layer, frames, valid), 1e-4)


@every_layer
def test_padding_is_left_out_in_training_too(make: Callable[[], Any]) -> None:
    frames, valid = padded()
    results = []
    for scale in (1.0, 100.0):
        layer = make()
        layer.build(frames.shape)
        randomise(layer)
        y = descriptor_of(layer, tf.where(valid[:, :, tf.newaxis], frames, scale * frames), valid, training=True)
        results.append([y.numpy(), *(w.numpy() for w in layer.weights if not w.trainable)])
    for small, large in zip(*results, strict=True):
        close(small, large, 1e-4)


@pytest.mark.parametrize("make", [*LAYERS.values(), lambda: SelfAttention(2, add_batch_norm=True)])
def test_two_devices_agree_with_one(make: Callable[[], Any]) -> None:
    frames, valid = padded()

    def built() -> Any:
        layer = make()
        layer.build(frames.shape)
        return randomise(layer)

    def descriptor_and_gradients(layer: Any, rows: list[tf.Tensor]) -> list[tf.Tensor]:
        seen, exists = rows
        with tf.GradientTape() as tape:
            tape.watch(seen)
            y = descriptor_of(layer, seen, exists, training=True)
            y = tf.where(exists[:, :, tf.newaxis], y, 0.0) if y.shape.rank == 3 else y
            loss = tf.reduce_sum(tf.sin(3.0 * y))
        return [y, *tape.gradient(loss, [seen, *(weight.value for weight in layer.trainable_variables)])]

    alone, strategy = built(), build_strategy(2)
    y, to_frames, *to_weights = descriptor_and_gradients(alone, [frames, valid])
    with strategy.scope():
        shared = built()

    def share(context: Any) -> list[tf.Tensor]:
        rows = slice(0, 3) if context.replica_id_in_sync_group == 0 else slice(3, 4)  # unequal shares
        return [frames[rows], valid[rows]]

    parts = strategy.experimental_distribute_values_from_function(share)
    results = strategy.run(tf.function(lambda rows: descriptor_and_gradients(shared, rows)), args=(parts,))
    ys, to_shares, *to_shared = (strategy.experimental_local_results(result) for result in results)
    close(np.concatenate(ys), y, 1e-4)
    close(np.concatenate(to_shares), to_frames, 1e-3)
    for mine, theirs in zip(to_weights, to_shared, strict=True):
        close(sum(theirs), mine, 1e-3)
    for mine, theirs in zip(alone.weights, shared.weights, strict=True):
        close(theirs.numpy(), mine.numpy(), 1e-5)


def batch_of(lengths: tuple[int, ...]) -> dict[str, tf.Tensor]:
    sizes = zip(SPEC.feature_names, SPEC.feature_sizes, strict=True)
    features = {name: tf.constant(RNG(7).integers(0, 256, (len(lengths), 4, size)), tf.uint8) for name, size in sizes}
    return features | {"num_frames": tf.constant(lengths), "key": tf.range(len(lengths), dtype=tf.int64)}


SMALL: dict[str, Any] = {"cluster_size": 8, "hidden_size": 3}


class TestModels:
    def test_narrow_features_have_fewer_clusters(self) -> None:
        model: Any = SecondOrderVLADModel(SPEC, second_cluster_size=4, projected_size=3, **SMALL)
        model.build()
        rgb, audio = model.pools
        assert (rgb.first.cluster_size, rgb.second.cluster_size, rgb.second.projected_size) == (8, 4, 3)
        assert (audio.first.cluster_size, audio.second.cluster_size, audio.second.projected_size) == (2, 1, 1)
        assert model.hidden.kernel.shape[0] == (8 * 4 + 4 * 6) + (2 * 2 + 1 * 1)
        model = NonLocalVLADModel(SPEC, **SMALL)
        model.build()
        assert [pool.vlad.cluster_size for pool in model.pools] == [8, 4]
        model = AttentionClusterModel(SPEC, **SMALL)
        model.build()
        assert [pool.cluster_size for pool in model.pools] == [8, 4]

    def test_the_approximation_error_is_a_loss_in_training(self) -> None:
        hparams: dict[str, Any] = {"second_cluster_size": 4, "projected_size": 3, **SMALL}
        told: dict[str, Any] = {"approximation_penalty": 2.0, "cubic": 0.5, "add_batch_norm": False}
        model: Any = SecondOrderVLADModel(SPEC, **told, **hparams)
        model.build()
        batch = batch_of(LENGTHS)
        seen = model(batch, training=True)["losses"]["approximation"]
        for video, length in enumerate(LENGTHS):
            stored = [batch[name][video].numpy() for name in SPEC.feature_names]
            x = np.array(oracles_models.unit_frames(stored, length)).reshape(-1, 6)
            errors = []
            for pool, stream in zip(model.pools, (x[:, :4], x[:, 4:]), strict=True):
                z = stream @ pool.second.projection.numpy()
                shares, centres = shares_of(pool.second.assignment, z), pool.second.centres.numpy()
                errors.append(oracles.approximation_error(z, shares, centres, 0.5))
            close(seen[video], 2.0 * sum(errors), 1e-4)
        assert "losses" not in model(batch)
        assert "losses" not in SecondOrderVLADModel(SPEC, **hparams)(batch, training=True)

    def test_frames_asked_for(self) -> None:
        def wishes(model: Any) -> list[FrameSampling | None]:
            return [model.frame_sampling(training) for training in (True, False)]

        assert wishes(SecondOrderVLADModel(SPEC, **SMALL)) == [FrameSampling("uniform", 256), None]
        assert wishes(NonLocalVLADModel(SPEC, **SMALL)) == [FrameSampling("random", 300), None]
        told: dict[str, Any] = {
            "sampling": "random_without_replacement",
            "evaluation_sampling": "uniform",
            "iterations": 7,
        }
        expected = [FrameSampling("random_without_replacement", 7), FrameSampling("uniform", 7)]
        assert wishes(AttentionClusterModel(SPEC, **SMALL, **told)) == expected
        assert wishes(AttentionClusterModel(SPEC, sampling="all", **SMALL)) == [None, None]

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: SecondOrderVLADModel(SPEC, projected_size=0), "projected_size=0"),
            (lambda: SecondOrderVLADModel(SPEC, cubic=-1.0), "cubic=-1.0"),
            (lambda: SecondOrderVLADModel(SPEC, whitening="zca"), "^whitening=zca: "),
            (lambda: NonLocalVLADModel(SPEC, evaluation_sampling="random"), "evaluation_sampling=random"),
            (lambda: NonLocalVLADModel(SPEC, sampling="some"), "^sampling=some: "),
            (
                lambda: NonLocalVLADModel(SPEC, sampling="uniform", sample_random_frames=False),
                "^sample_random_frames=False, sampling=uniform: ",
            ),
        ],
    )
    def test_what_cannot_be_built_is_named(self, make: Any, message: str) -> None:
        with pytest.raises(UserError, match=message):
            make()
