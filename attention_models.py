"""Registered models that attend to frames before anything is classified."""

from typing import Any

from yt8m.late_fusion import LateFusionModel, random_frames
from yt8m.layers.attention_clusters import AttentionClusters
from yt8m.registry import FRAME_LEVEL_MODELS
from yt8m.schema import DataSpec


@FRAME_LEVEL_MODELS.register()
class AttentionClusterModel(LateFusionModel):
    """Weighted means of every feature's frames, moved apart, a hidden layer, a gate, a classifier.

        y_k = (alpha_k v_k + beta_k) / (sqrt(K) |alpha_k v_k + beta_k|),   v_k = sum_t a[t, k] x_t
        a[:, k] = softmax_t(tanh(x_t V + b) W)_k

    One cluster that is not shifted is plain attention pooling.

    Args:
        spec: what the records hold.
        cluster_size: the number of means of the widest feature; others have half of it, at least 1.
        attention_size: the width of x V; 0 scores a frame by x W alone.
        shift: whether there are alpha and beta.
        hidden_size: the width of the hidden layer.
        add_batch_norm: whether to normalise; if not, biases take its place.
        relu: whether the hidden layer is relu6 of its batch normalisation; if not, it is linear.
        gating: whether the hidden layer is gated.
        gating_form: `context`, `squeeze_excitation`, `bottleneck` or `glu`: see yt8m/layers/gating.py.
        gating_remove_diag: whether a hidden unit has no say in its own gate.
        iterations: how many frames a training example has; 0 for all.
        sample_random_frames: whether they are drawn one by one; if not, they follow each other from a random start.
        sampling: how they are drawn: a method of yt8m/sampling.py, or `all`.
        evaluation_sampling: which frames are evaluated: `all`, or `uniform` for `iterations` of them.
        classifier: the name of a video-level model.
        classifier_hparams: its hyper-parameters.

    Source: Long et al. 2018, "Attention Clusters: purely attention based local feature integration for video
    classification".
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cluster_size: int = 32,
        attention_size: int = 256,
        shift: bool = True,
        hidden_size: int = 1024,
        add_batch_norm: bool = True,
        relu: bool = True,
        gating: bool = False,
        gating_form: str = "context",
        gating_remove_diag: bool = False,
        iterations: int = 100,
        sample_random_frames: bool = True,
        sampling: str = "uniform",
        evaluation_sampling: str = "all",
        classifier: str = "MoeModel",
        classifier_hparams: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            spec,
            lambda clusters, _: AttentionClusters(clusters, attention_size, shift, dtype=self.dtype_policy),
            cluster_size=cluster_size,
            share=2,
            hidden_size=hidden_size,
            add_batch_norm=add_batch_norm,
            relu=relu,
            gating=gating,
            gating_form=gating_form,
            gating_remove_diag=gating_remove_diag,
            training_sampling=random_frames(iterations, sample_random_frames, sampling),
            evaluation_sampling=evaluation_sampling,
            iterations=iterations,
            classifier=classifier,
            classifier_hparams=classifier_hparams,
            **kwargs,
        )
