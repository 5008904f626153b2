"""Looking at clusters: to which of them a model assigns the frames of some videos."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from yt8m.batch import ID, LABELS, NUM_FRAMES, blank_batch, model_inputs
from yt8m.scores import name_of


class VideoShares(NamedTuple):
    """How the frames of a video are assigned to clusters.

    Attributes:
        video_id: the id in the records, as text.
        labels: `(L,)` int64, its classes.
        shares: for each pooling that has clusters `(T, K)` float32, T the frames and K the clusters.
    """

    video_id: str
    labels: np.ndarray
    shares: list[np.ndarray]


class ClusterView:
    """The first videos of a data set, as the clusters of a model see them while its weights change.

    Args:
        model: a model of this project; of one without clusters there is nothing to see.
        batches: one pass over the data.
        num_videos: how many videos are looked at.
    """

    def __init__(self, model: Any, batches: tf.data.Dataset, num_videos: int = 4):
        self._model = model
        self._batches = batches.take(1)
        self._num_videos = num_videos
        self._videos: dict[str, tf.Tensor] | None = None

    def __call__(self) -> list[VideoShares]:
        """Returns the assignments by the weights as they are now, one entry per video."""
        if self._videos is None:
            self._videos = self._first_videos() if self._has_clusters() else {}
        if not self._videos:
            return []
        shares = self._model.cluster_shares(model_inputs(self._videos))
        layers = [tf.cast(of_layer, tf.float32).numpy() for of_layer in shares]
        ids, lengths, labels = (self._videos[name].numpy() for name in (ID, NUM_FRAMES, LABELS))
        return [
            VideoShares(name_of(ids[v]), np.flatnonzero(labels[v]), [of_layer[v, : lengths[v]] for of_layer in layers])
            for v in range(len(ids))
        ]

    def _has_clusters(self) -> bool:
        """Asked of a frame of zeros, which costs nothing: other models need not read a batch."""
        return hasattr(self._model, "cluster_shares") and bool(
            self._model.cluster_shares(blank_batch(self._model.spec))
        )

    def _first_videos(self) -> dict[str, tf.Tensor]:
        return {name: value[: self._num_videos] for batch in self._batches for name, value in batch.items()}
