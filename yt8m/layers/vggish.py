"""VGGish, the network that turns a second of sound into the audio feature of YouTube-8M."""

import keras

AUDIO_SIZE = 128


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
