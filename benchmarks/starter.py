"""A rendering of how the starter evaluates and predicts with a LogisticModel: a process that does that and no more.

    PYTHONPATH=.:benchmarks python -c 'import starter; starter.evaluate("CHECKPOINT", "SHARDS")'

The starter itself (google/youtube-8m, 2018) needs TensorFlow 1. Here its work is done by TensorFlow 2: records are
parsed one by one; LogisticModel is one matrix product; metrics and rows are those of `metrics.old_way` and
`submission.old_way`, one pair at a time. Weights come from a checkpoint of ours, so that results can be compared.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import metrics
import numpy as np
import submission
import tensorflow as tf

FEATURES = {"mean_rgb": 1024, "mean_audio": 128}
NUM_CLASSES = 3862


def read(pattern: str, batch_size: int) -> tf.data.Dataset:
    """Parses the records of video-level shards one by one: batches of ids, features and labels."""

    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        columns = {name: tf.io.FixedLenFeature([size], tf.float32) for name, size in FEATURES.items()}
        columns |= {"id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64)}
        record = tf.io.parse_single_example(serialized, columns)
        labels = tf.sparse.to_indicator(record["labels"], NUM_CLASSES)
        features = tf.concat([record[name] for name in FEATURES], axis=0)
        return record["id"], features, tf.ensure_shape(labels, [NUM_CLASSES])

    records = tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(pattern)))
    return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(2)


def load_model(checkpoint: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns features `(B, D)` -> predictions `(B, C)`, with the weights of a checkpoint."""
    reader = tf.train.load_checkpoint(checkpoint)
    names = [name for name in reader.get_variable_to_shape_map() if "/_trainable_variables/" in name]
    bias, kernel = sorted((reader.get_tensor(name) for name in names), key=np.ndim)
    kernel, bias = tf.Variable(kernel), tf.Variable(bias)

    @tf.function(reduce_retracing=True)
    def predict(features: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(tf.nn.l2_normalize(features, 1) @ kernel + bias)

    return predict


def predictions(checkpoint: str, pattern: str, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields ids, predictions `(B, C)` and labels `(B, C)` of each batch."""
    predict = load_model(checkpoint)
    for ids, features, labels in read(pattern, batch_size):
        yield ids.numpy(), predict(features).numpy(), labels.numpy()


def evaluate(checkpoint: str, pattern: str) -> None:
    """Prints GAP, the last of the metrics to be computed."""
    batches = [(scores, labels) for _, scores, labels in predictions(checkpoint, pattern, 1024)]
    print(metrics.old_way(batches)["gap"])


def infer(checkpoint: str, pattern: str, output_file: str) -> None:
    """Writes a submission."""
    with Path(output_file).open("w") as file:
        file.write("VideoId,LabelConfidencePairs\n")
        for ids, scores, _ in predictions(checkpoint, pattern, 512):
            file.write(submission.old_way(ids.tolist(), scores))
