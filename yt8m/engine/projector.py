"""Classes as points in space, for TensorBoard's projector: classes that the model takes for alike are close."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector import ProjectorConfig

from yt8m.errors import UserError
from yt8m.files import write_text
from yt8m.runs.directory import CLASS_WEIGHTS, PROJECTED_CLASSES, PROJECTOR


def class_weights(model: Any, num_classes: int) -> np.ndarray:
    """Returns the weights of each class in the last layer, `(C, E)` float32.

    Of a mixture of M experts per class, those of all experts side by side, `(C, M E)`; gates are left out.

    Args:
        model: a built model.
        num_classes: C.

    Raises:
        UserError: if the model does not end in one layer with weights per class.
    """
    classifier = getattr(model, "classifier", None)
    layer = getattr(classifier, "dense", None) or getattr(classifier, "experts", None)
    if layer is None:
        raise UserError(
            f"--projector: {type(classifier or model).__name__} has no layer with the weights of each class alone. "
            "Leave it out; it is there for LogisticModel, MoeModel, MonnModel, ResidualMlpModel and SvmModel, and for "
            "models with such a classifier."
        )
    kernel = layer.kernel.numpy()  # mixture by mixture, each with all classes in a row
    return kernel.reshape(len(kernel), -1, num_classes).transpose(2, 1, 0).reshape(num_classes, -1)


def write_projector(
    train_dir: str, weights: np.ndarray, columns: Mapping[str, np.ndarray], names: Mapping[int, str]
) -> None:
    """Writes the points, what is known of each, and the file by which TensorBoard finds both.

    Args:
        train_dir: the run's directory; the files go to those of its evaluations.
        weights: `(C, E)` float, a point per class.
        columns: `(C,)` each, by name: what the points can be coloured by.
        names: names of classes, where known.

    Raises:
        UserError: if a file cannot be written.
    """
    points = "\n".join("\t".join(f"{value:.6g}" for value in point) for point in weights)
    rows = [["class", "name", *columns]]
    for c, cells in enumerate(zip(*columns.values(), strict=True)):
        # A tab or the end of a line would be taken for the end of the name.
        name = " ".join(names.get(c, f"class {c}").split())
        rows.append([str(c), name, *("" if cell != cell else f"{cell:.6g}" for cell in cells)])
    config = ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = "class weights"
    embedding.tensor_path, embedding.metadata_path = CLASS_WEIGHTS.name, PROJECTED_CLASSES.name
    write_text(CLASS_WEIGHTS.path(train_dir), points + "\n")
    write_text(PROJECTED_CLASSES.path(train_dir), "".join("\t".join(row) + "\n" for row in rows))
    write_text(PROJECTOR.path(train_dir), text_format.MessageToString(config))
