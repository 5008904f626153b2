"""A list of layers whose weights are saved in checkpoints."""

from collections.abc import Iterable, Iterator

import keras


class LayerList:
    """A list of layers that are also the attributes `name_0`, `name_1`, ... of the layer or model that owns them.

        self.encoders = LayerList(self, "encoder", [Encoder(), Encoder()])      # saved as encoder_0 and encoder_1

    tf.train.Checkpoint follows attributes and does not look into lists of Keras layers: in a plain list their weights
    would be trained and silently not be saved.

    Args:
        owner: the layer or model that gets the attributes.
        name: the prefix of the attributes' names.
        layers: the members of the list, in order.
    """

    def __init__(self, owner: keras.layers.Layer, name: str, layers: Iterable[keras.layers.Layer]):
        self._layers = tuple(layers)
        for index, layer in enumerate(self._layers):
            setattr(owner, f"{name}_{index}", layer)

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[keras.layers.Layer]:
        return iter(self._layers)

    def __getitem__(self, index: int) -> keras.layers.Layer:
        return self._layers[index]
