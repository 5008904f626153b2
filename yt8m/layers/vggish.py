"""VGGish, the network that turns a second of sound into the audio feature of YouTube-8M."""

from typing import Any

import keras
import tensorflow as tf

from yt8m.arguments import check_at_least
from yt8m.layers.backbones import load_weights, vectors_of_real_frames
from yt8m.layers.layer_list import LayerList
from yt8m.schema import MEL_BANDS, PATCH_FRAMES, SOUND_FLOOR, SOUND_STEP

AUDIO_SIZE = 128


class SoundNetwork(keras.layers.Layer):
    """VGGish over the patches of sound of the real frames of clips: a vector per frame.

        y[b, t] = vggish(v),   v = SOUND_FLOOR + SOUND_STEP x[b, t]

    Args:
        frozen: whether the network is not trained.
        chunk_size: the number of patches that are computed at a time, again for the gradient; 0 for all.

    Raises:
        ArgumentError: if `chunk_size` is negative.
    """

    width = AUDIO_SIZE

    def __init__(self, *, frozen: bool = False, chunk_size: int = 0, **kwargs: Any):
        check_at_least(0, chunk_size=chunk_size)
        super().__init__(autocast=False, **kwargs)
        self.network = vggish()
        # Checkpoints do not follow a model made of layers; the attributes of this list are their names there.
        self.members = LayerList(self, "part", [layer for layer in self.network.layers if layer.weights])
        self.chunk_size, self.trainable = chunk_size, not frozen

    def build(self, input_shape: Any = None) -> None:
        """Creates nothing: the network has its weights from the start."""

    def call(self, patches: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Computes a vector per real frame; training makes no difference.

        Args:
            patches: `(B, T, 6144)` uint8.
            valid: `(B, T)` bool, the padding mask: True for real frames.
            training: ignored.

        Returns:
            `(B, T, 128)` float32, 0 where padded.
        """
        vectors = vectors_of_real_frames(self.vectors, patches, valid, self.chunk_size, self.width)
        return vectors if self.trainable else tf.stop_gradient(vectors)

    def vectors(self, patches: tf.Tensor) -> tf.Tensor:
        """Maps patches `(N, 6144)` uint8 to their features `(N, 128)` float32."""
        bands = SOUND_FLOOR + SOUND_STEP * tf.cast(patches, tf.float32)
        return tf.cast(self.network(tf.reshape(bands, (-1, PATCH_FRAMES, MEL_BANDS))), tf.float32)

    def load(self, path: str) -> None:
        """Reads the network's weights from a file, as Keras writes them.

        Raises:
            UserError: if there is no such file, or it holds the weights of another network.
        """
        load_weights(self.network, path, "audio_weights")


def vggish() -> keras.Model:
    """Builds VGGish.

    Returns:
        A model from log mel patches `(N, 96, 64)` float to `(N, 128)` float: four groups of 3 x 3 convolutions, each
        followed by a maximum over 2 x 2, then two hidden layers and a linear one.

    Source: Hershey et al. 2017; tensorflow/models, research/audioset/vggish, vggish_slim.py.
    """
    patches = keras.Input((96, 64))
    x = keras.layers.Reshape((96, 64, 1))(patches)
    for group, (channels, repeats) in enumerate(((64, 1), (128, 1), (256, 2), (512, 2)), start=1):
        for repeat in range(1, repeats + 1):
            name = f"conv{group}_{repeat}"
            x = keras.layers.Conv2D(channels, 3, padding="same", activation="relu", name=name)(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool{group}")(x)
    x = keras.layers.Flatten()(x)
    for number in (1, 2):
        x = keras.layers.Dense(4096, activation="relu", name=f"fc1_{number}")(x)
    return keras.Model(patches, keras.layers.Dense(AUDIO_SIZE, name="fc2")(x), name="vggish")
