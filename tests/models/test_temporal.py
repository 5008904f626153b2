"""Temporal pooling, recurrent winners and chains over frames, against slow definitions and published sizes."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from layer_checks import LENGTHS, RNG, SIZE, SPEC, built, close, make_batch, norm, padded

from yt8m.errors import UserError
from yt8m.layers.frame_cnn import FrameCNN
from yt8m.layers.mixture import average_logits
from yt8m.losses.branches import branch_cross_entropy_loss
from yt8m.models.bidirectional import BiGruModel, BiLstmModel
from yt8m.models.chains import CnnChainModel, LstmCnnChainModel
from yt8m.models.deep_lstm import DeepLstmModel
from yt8m.models.moments import MomentsModel
from yt8m.models.monkeytyping import LstmAttentionModel, MultiscaleCnnLstmModel
from yt8m.models.temporal_pooling import ConvPoolModel, LatePoolModel, LocalPoolModel, SlowPoolModel, TimeConvModel
from yt8m.schema import DataSpec

from oracles import models as oracles_models
from oracles import temporal as oracles

YT8M = DataSpec(("rgb", "audio"), (1024, 128), 3862, record_format="frame")
SMALL: dict[str, Any] = {"hidden_size": 5}


def pooled(model: Any, video: int) -> np.ndarray:
    frames, valid = padded()
    return model.pool(tf.where(valid[:, :, tf.newaxis], frames, 0.0), valid, None, False)[video].numpy()


def frames_of(video: int) -> np.ndarray:
    return padded()[0].numpy()[video, : LENGTHS[video]].astype(np.float64)


def fully_connected(layers: Any, x: np.ndarray) -> np.ndarray:
    for layer in layers.layers:
        x = oracles.hidden(x, layer.kernel.numpy(), layer.bias.numpy())
    return x


def logistic(classifier: Any, x: np.ndarray) -> np.ndarray:
    return x @ classifier.dense.kernel.numpy() + classifier.dense.bias.numpy()


def weights_of(stack: Any) -> list[np.ndarray]:
    (layer,) = stack.layers
    return [weight.numpy().astype(np.float64) for weight in layer.weights]


VIDEOS = pytest.mark.parametrize("video", range(4))


class TestTemporalPooling:
    @VIDEOS
    def test_conv_pool(self, video: int) -> None:
        model = built(ConvPoolModel(SPEC, **SMALL))
        close(pooled(model, video), fully_connected(model.layers_after, oracles.largest(frames_of(video))))

    @VIDEOS
    def test_late_pool(self, video: int) -> None:
        model = built(LatePoolModel(SPEC, **SMALL))
        rows = [fully_connected(model.layers_before, frame) for frame in frames_of(video)]
        close(pooled(model, video), oracles.largest(np.reshape(rows, (-1, 5))))

    @VIDEOS
    def test_slow_pool(self, video: int) -> None:
        model, frames = built(SlowPoolModel(SPEC, window_size=3, window_stride=1, **SMALL)), frames_of(video)
        windows = oracles.windows(len(frames), 3, 1)
        rows = [fully_connected(model.window_layer, oracles.largest(frames[list(window)])) for window in windows]
        expected = fully_connected(model.video_layer, oracles.largest(np.reshape(rows, (-1, 5))))
        close(pooled(model, video), expected)

    @VIDEOS
    def test_local_pool(self, video: int) -> None:
        model, frames = built(LocalPoolModel(SPEC, num_parts=3, **SMALL)), frames_of(video)
        rows = [
            fully_connected(model.part_layers, oracles.largest(frames[part])) for part in oracles.parts(len(frames), 3)
        ]
        close(pooled(model, video), np.concatenate(rows))

    @VIDEOS
    def test_time_conv(self, video: int) -> None:
        model = built(TimeConvModel(SPEC, num_kernels=4, window_size=3, window_stride=1, **SMALL))
        frames = np.concatenate([frames_of(video), np.zeros((3, SIZE))])  # what the last window lacks is 0
        windows = oracles.windows(LENGTHS[video], 3, 1)
        kernel, bias = model.kernels.kernel.numpy(), model.kernels.bias.numpy()
        rows = [oracles.hidden(frames[window[0] : window[0] + 3].ravel(), kernel, bias) for window in windows]
        close(pooled(model, video), fully_connected(model.video_layer, oracles.largest(np.reshape(rows, (-1, 4)))))

    def test_sizes(self) -> None:
        # FC, FC and the head: 1152 * 4096 + 4096 * 4096 + 4096 * 3862, and a bias of each.
        matrices = 1152 * 4096 + 4096 * 4096 + 4096 * 3862 + 2 * 4096 + 3862
        for model in (ConvPoolModel(YT8M), LatePoolModel(YT8M), SlowPoolModel(YT8M)):
            model.build()
            assert model.count_params() == matrices

    def test_frames_between_windows_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"^window_size=4: expected at least 5"):
            SlowPoolModel(SPEC, window_size=4)


class TestDeepLstm:
    def outputs(self, fusion: str) -> tuple[Any, dict[str, Any], list[np.ndarray]]:
        """A model, its outputs, and the logits of each real frame; without frames, those of h = 0."""
        model = built(DeepLstmModel(SPEC, units=3, num_layers=2, fusion=fusion))
        batch = make_batch()
        logits = []
        for video, length in enumerate(LENGTHS):
            stored = [batch[name].numpy()[video] for name in SPEC.feature_names]
            rows: Any = np.array(oracles_models.unit_frames(stored, length)).reshape(length, SIZE)
            for layer in model.stack.layers:
                weights = [weight.numpy().astype(np.float64) for weight in layer.weights]
                rows = np.reshape(oracles_models.lstm(rows, *weights)[0], (length, 3))
            logits.append(logistic(model.classifier, rows if length else np.zeros((1, 3))))
        return model, model(batch), logits

    @pytest.mark.parametrize("fusion", ["linear", "mean", "last", "max"])
    def test_predictions_are_fused(self, fusion: str) -> None:
        _, outputs, logits = self.outputs(fusion)
        for video, frame_logits in enumerate(logits):
            count = len(frame_logits)
            weights = {"mean": np.ones(count), "last": np.eye(count)[-1]}.get(fusion, np.arange(1.0, count + 1))
            expected = oracles.average_prediction(frame_logits, weights)
            if fusion == "max":
                expected = oracles.largest(np.vectorize(oracles_models.sigmoid)(frame_logits))
            close(outputs["predictions"][video], expected)
            close(tf.sigmoid(outputs["logits"][video]), expected)

    def test_losses_grow_linearly_in_time(self) -> None:
        _, outputs, logits = self.outputs("max")
        labels = RNG(3).random((4, 3)) < 0.5
        losses = branch_cross_entropy_loss(tf.constant(labels), outputs)
        for video, frame_logits in enumerate(logits):
            gains = [t + 1.0 for t in range(len(frame_logits))]
            terms = [oracles.cross_entropy(labels[video], row) for row in frame_logits]
            expected = sum(g * term for g, term in zip(gains, terms, strict=True)) / sum(gains)
            np.testing.assert_allclose(losses[video], expected, rtol=1e-4)

    def test_weights_by_hand(self) -> None:
        # Four frames: 1/4, 2/4, 3/4, 4/4 over their sum 10/4; two: 1/3, 2/3; none and one: all on the first.
        _, outputs, _ = self.outputs("last")
        expected = [[0, 0.1, 0.2, 0.3, 0.4, 0], [0, 1 / 3, 2 / 3, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]
        close(outputs["branch_weights"], expected, 1e-6)


def test_an_average_of_predictions_by_hand() -> None:
    # p = 1/4 with weight 1 and 3/4 with weight 3: 5/8, odds 5 to 3. A weight of 0 is out, however certain.
    logits = tf.constant([[[-np.log(3.0)], [np.log(3.0)], [80.0]]], tf.float32)
    close(average_logits(logits, tf.constant([[1.0, 3.0, 0.0]])), [[np.log(5.0 / 3.0)]], 1e-6)
    # Two improbable classes whose probabilities no float32 holds keep their logit.
    close(average_logits(tf.fill((1, 2, 1), -200.0), tf.ones((1, 2))), [[-200.0]], 1e-4)


class TestBidirectional:
    @VIDEOS
    def test_lstm(self, video: int) -> None:
        model, frames = built(BiLstmModel(SPEC, units=4)), frames_of(video)
        ahead, _ = oracles_models.lstm(frames, *weights_of(model.forward_layer))
        back, _ = oracles_models.lstm(frames[::-1], *weights_of(model.backward_layer))
        both = np.concatenate([np.reshape(ahead, (-1, 2)), np.reshape(back, (-1, 2))[::-1]], axis=1)
        _, cell = oracles_models.lstm(both, *weights_of(model.second_layer))
        close(pooled(model, video), cell)

    @VIDEOS
    def test_gru(self, video: int) -> None:
        model, frames = built(BiGruModel(SPEC, units=4)), frames_of(video)
        ahead = oracles_models.gru(frames, *weights_of(model.forward_layer))
        back = oracles_models.gru(frames[::-1], *weights_of(model.backward_layer))
        both = np.concatenate([np.reshape(ahead, (-1, 2)), np.reshape(back, (-1, 2))[::-1]], axis=1)
        outputs = oracles_models.gru(both, *weights_of(model.second_layer))
        close(pooled(model, video), outputs[-1] if outputs else np.zeros(4))

    def test_sizes_are_the_published_ones(self) -> None:
        # Matrices: 2 (1152 + 512) 512 and (1024 + 1024) 1024 of each gate, and 1024 * 3862: 15.4 million with 3 gates.
        for model, gates, biases in ((BiGruModel(YT8M), 3, 2), (BiLstmModel(YT8M), 4, 1)):
            model.build()
            matrices = gates * (2 * (1152 + 512) * 512 + 2048 * 1024) + 1024 * 3862
            assert model.count_params() == matrices + gates * biases * 2048 + 3862

    def test_an_odd_width_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"^units=5: expected an even number"):
            BiLstmModel(SPEC, units=5)


@VIDEOS
def test_lstm_attention(video: int) -> None:
    hparams: dict[str, Any] = {"units": 3, "num_layers": 1, "num_heads": 2, "input_batch_norm": True}
    model = built(LstmAttentionModel(SPEC, classifier="LogisticModel", **hparams))
    frames = norm(model.input_norm, frames_of(video))
    outputs = np.reshape(oracles_models.lstm(frames, *weights_of(model.stack))[0], (-1, 3))
    scores = np.exp(np.concatenate([frames, outputs], axis=1) @ model.attention.kernel.numpy())
    heads = (scores / np.sum(scores, axis=0)).T @ outputs if len(frames) else np.zeros((2, 3))
    close(pooled(model, video), heads)
    seen = model.classify(tf.constant(heads[np.newaxis], tf.float32), None, None, None, False)
    close(seen["logits"][0], oracles.largest(logistic(model.classifier, heads)))


def test_multiscale_by_the_definition() -> None:
    model = built(MultiscaleCnnLstmModel(SPEC, num_levels=2, filters=1, units=2, classifier="LogisticModel"))
    values, valid = padded()
    cells = model.pool(tf.where(valid[:, :, tf.newaxis], values, 0.0), valid, None, False)
    for video in range(4):
        frames = frames_of(video)
        for level in range(2):
            kernels = [dense.kernel.numpy() for dense in model.cnns[level].filters]
            rows = oracles.frame_cnn(frames, kernels).reshape(-1, 4)
            rows = np.maximum(norm(model.norms[level], rows), 0.0)
            _, cell = oracles_models.lstm(rows, *weights_of(model.lstms[level]))
            close(cells[level][video], cell)
            frames = np.reshape([oracles.largest(rows[t : t + 2]) for t in range(0, len(rows), 2)], (-1, 4))
    outputs = model(make_batch())
    close(outputs["branch_weights"], [[0.0, 1.0, 1.0]])  # only the predictions of the scales are trained
    for video in range(4):
        close(outputs["predictions"][video], oracles.average_prediction(outputs["branch_logits"][video], np.ones(2)))


def test_a_filter_sees_no_later_frame() -> None:
    layer = FrameCNN(2)
    frames = RNG(1).normal(size=(1, 5, 3)).astype(np.float32)
    layer.build(frames.shape)
    kernels = [dense.kernel.numpy() for dense in layer.filters]
    close(layer(tf.constant(frames))[0], oracles.frame_cnn(frames[0].astype(np.float64), kernels))
    changed = frames.copy()
    changed[0, 3:] = 9.0
    np.testing.assert_array_equal(layer(tf.constant(changed))[0, :3], layer(tf.constant(frames))[0, :3])


@pytest.mark.parametrize("kind", [CnnChainModel, LstmCnnChainModel])
def test_a_chain_over_frames_by_the_definition(kind: Any) -> None:
    hparams = {"lstm_cells": 8} if kind is LstmCnnChainModel else {}
    model = built(kind(SPEC, num_supports=2, code_size=2, classifier="LogisticModel", **hparams))
    batch = make_batch()
    outputs = model(batch)
    for video, length in enumerate(LENGTHS):
        stored = [batch[name].numpy()[video] for name in SPEC.feature_names]
        frames = np.array(oracles_models.unit_frames(stored, length)).reshape(length, SIZE)
        encoded = frames
        if kind is LstmCnnChainModel:
            frames = np.array([np.concatenate([oracles.unit(x[:4]), oracles.unit(x[4:])]) for x in frames])
            frames = frames.reshape(length, SIZE)
            streams = zip(model.lstms, np.split(frames, [4], axis=1), strict=True)
            runs = [oracles_models.lstm(stream, *weights_of(lstm))[0] for lstm, stream in streams]
            encoded = np.concatenate([np.reshape(run, (length, -1 if length else 1)) for run in runs], axis=1)
        mean = np.mean(frames, axis=0) if length else np.zeros(SIZE)
        mean_code = oracles.code(mean, *(weight.numpy() for weight in model.mean_code.weights))
        beside = np.concatenate([mean, mean_code]) if kind is CnnChainModel else mean_code
        codes: list[np.ndarray] = []
        for step in range(3):
            kernels = [dense.kernel.numpy() for dense in model.cnns[step].filters]
            own = oracles.unit(
                oracles.largest(oracles.frame_cnn(encoded, kernels).reshape(length, -1 if length else 8))
            )
            seen = np.concatenate([own, *([beside] if step else []), *codes])
            logits = logistic(model.classifiers[step], seen)
            close(outputs["branch_logits"][video, step] if step < 2 else outputs["logits"][video], logits, 1e-4)
            if step < 2:
                predictions = np.vectorize(oracles_models.sigmoid)(logits)
                codes.append(oracles.code(predictions, *(weight.numpy() for weight in model.codes[step].dense.weights)))
    close(outputs["branch_weights"], [[0.95, 0.05, 0.05]])


@VIDEOS
def test_moments(video: int) -> None:
    frames = frames_of(video)
    expected = np.zeros(2 * SIZE + 1)
    if len(frames):
        expected[:SIZE] = [sum(frames[:, d]) / len(frames) for d in range(SIZE)]
        deviations = frames - expected[:SIZE]
        expected[SIZE : 2 * SIZE] = [np.sqrt(sum(deviations[:, d] ** 2) / len(frames)) for d in range(SIZE)]
    expected[-1] = len(frames) / SPEC.max_frames - 0.5
    close(pooled(built(MomentsModel(SPEC)), video), expected)
