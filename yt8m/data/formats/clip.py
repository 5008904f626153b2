"""Records of clips: a `tf.train.SequenceExample` with a JPEG per feature and frame.

A feature with 3 channels is a colour picture. One with 2 is optical flow: a grey JPEG of twice the height, its x
component above its y component, in the bytes that yt8m/schema.py defines. One with 1 is a grey picture. One with 6144
is sound: not a JPEG per frame but the bytes of a patch, as yt8m/schema.py defines them too.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from yt8m.arguments import ArgumentError
from yt8m.batch import NUM_FRAMES, Batch
from yt8m.data.formats.base import Layout, RecordFaultError, listing, values_of
from yt8m.data.formats.frame import FrameFormat, check_frames, check_lengths, common_length, decode_bytes
from yt8m.randomness import uniform
from yt8m.registry import RECORD_FORMATS
from yt8m.sampling import FrameSampling, sample_indices
from yt8m.schema import FLOW_ZERO, PATCH_SIZE, DataSpec

FLOW_CHANNELS = 2
_STORED_CHANNELS = {1: 1, 2: 1, 3: 3}  # of the JPEG, by the channels of the feature
_DCT = "INTEGER_ACCURATE"  # so that pixels are those that other decoders give
_PIXELS_PER_BYTE = 6.0  # of JPEGs of films at quality 90, about
_WHERE_FROM = "Such records are written by tools.make_video_records."


class _View(NamedTuple):
    """How a frame is looked at: what is drawn once per clip, so that all of its frames are seen alike.

    Attributes:
        zoom: `(...)` float32, by which the sides of the window are divided.
        top: `(...)` float32 in [0, 1], the window's place: 0 at the upper edge of the frame, 1 at the lower one.
        left: `(...)` float32 in [0, 1], the same from left to right.
        is_mirrored: `(...)` bool.
    """

    zoom: tf.Tensor
    top: tf.Tensor
    left: tf.Tensor
    is_mirrored: tf.Tensor


@RECORD_FORMATS.register("clip", level="clip")
class ClipFormat(FrameFormat):
    """Clips of T = `max_frames` frames, decoded, cut and scaled to S x S = `clip_size` x `clip_size` pixels."""

    def features(
        self,
        spec: DataSpec,
        layout: Layout,
        stored: tuple[Batch, Batch],
        keys: tf.Tensor,
        sampling: FrameSampling | None,
    ) -> Batch:
        """Takes the clips of evaluation: from the middle of the video, the window in the middle of each frame.

        Only the frames that are returned are decoded. A model's own `sampling` has precedence over `clip_sampling`.

        Returns:
            `(B, T, S, S, channels)` uint8 per feature, `(B, T, 6144)` of sound, 0 where padded, and `num_frames` `(B,)`
            int32. With N > 1 `eval_clips` `(B, N, T, S, S, channels)`, `(B, N, T, 6144)` and `(B, N)`.
        """
        lengths, check = common_length([stored[1][name] for name in layout.stored_names])
        with tf.control_dependencies([check]):
            indices, num_frames = _frames_of_clips(spec, lengths, keys, sampling, training=False)
        middle = tf.fill(tf.shape(num_frames), 0.5)
        view = _View(tf.ones_like(middle), middle, middle, tf.zeros_like(middle, tf.bool))
        clips = _decode_clips(spec, layout, stored[0], indices, num_frames, view)
        return clips if spec.eval_clips > 1 else {name: tf.squeeze(value, 1) for name, value in clips.items()}

    def training_features(
        self,
        spec: DataSpec,
        layout: Layout,
        stored: tuple[Batch, Batch],
        keys: tf.Tensor,
        sampling: FrameSampling | None,
    ) -> Batch:
        """Takes a clip that is drawn by each video's random key, and so are its window, zoom and mirroring.

        Returns:
            `(B, T, S, S, channels)` uint8 per feature, `(B, T, 6144)` of sound, 0 where padded, and `num_frames` `(B,)`
            int32.
        """
        lengths, check = common_length([stored[1][name] for name in layout.stored_names])
        with tf.control_dependencies([check]):
            indices, num_frames = _frames_of_clips(spec, lengths, keys, sampling, training=True)
        draws = tf.unstack(uniform(keys, 4, "view")[:, tf.newaxis, :], axis=-1)
        zoom = 1.0 + (spec.clip_zoom - 1.0) * draws[0]
        view = _View(zoom, draws[1], draws[2], (draws[3] < 0.5) & spec.clip_flip)
        clips = _decode_clips(spec, layout, stored[0], indices, num_frames, view)
        return {name: tf.squeeze(value, 1) for name, value in clips.items()}

    def examined_features(
        self,
        spec: DataSpec,
        layout: Layout,
        stored: tuple[Batch, Batch],
        keys: tf.Tensor,
        sampling: FrameSampling | None,
    ) -> Batch:
        """Decodes every stored frame, because training may draw any of them.

        Returns:
            `num_frames` `(B,)` int32, those of the whole videos.
        """
        del keys, sampling
        frames, lengths = stored
        num_frames, check = common_length([lengths[name] for name in layout.stored_names])
        checks = [check]
        sizes = []
        for name, channels in zip(layout.stored_names, spec.feature_sizes, strict=True):
            is_frame = tf.sequence_mask(lengths[name], tf.shape(frames[name])[1])
            if channels == PATCH_SIZE:
                checks.append(tf.debugging.assert_equal(tf.strings.length(frames[name][is_frame]), PATCH_SIZE))
                continue

            def size_of(jpeg: tf.Tensor, channels: int = channels) -> tf.Tensor:
                image = _decode(jpeg, channels)
                with tf.control_dependencies([image]):
                    return tf.shape(image)[:2]

            sizes_of_frames = tf.map_fn(
                size_of, frames[name][is_frame], fn_output_signature=tf.TensorSpec([2], tf.int32)
            )
            first = tf.RaggedTensor.from_row_lengths(sizes_of_frames, lengths[name])
            first = first[:, :1].to_tensor(shape=[None, 1, 2])[:, 0]
            expected = tf.repeat(first, lengths[name], axis=0)
            checks.append(tf.debugging.assert_equal(sizes_of_frames, expected))
            sizes.append(first)
        checks += [tf.debugging.assert_equal(size, sizes[0]) for size in sizes[1:]]
        with tf.control_dependencies(checks):
            return {NUM_FRAMES: tf.identity(num_frames)}

    def blank(self, spec: DataSpec) -> Batch:
        """Returns a clip of T black and silent frames, `(1, T, S, S, channels)` or `(1, T, 6144)` uint8 per feature.

        Raises:
            ArgumentError: if a feature has another number of channels than 1, 2 or 3, and is no sound.
        """
        _check_channels(spec)
        features = zip(spec.feature_names, spec.feature_sizes, strict=True)
        frames = {
            name: tf.zeros([1, spec.max_frames, *_shape(channels, spec)], tf.uint8) for name, channels in features
        }
        return frames | {NUM_FRAMES: tf.fill([1], spec.max_frames)}

    def largest_record(self, spec: DataSpec) -> int:
        """A guess: frames twice as high and wide as those of a clip, and twice as many."""
        pixels = (2 * spec.clip_size) ** 2 / _PIXELS_PER_BYTE
        per_frame = (
            size if size == PATCH_SIZE else pixels * _STORED_CHANNELS.get(size, 3) for size in spec.feature_sizes
        )
        return math.ceil(2 * spec.max_frames * sum(per_frame))

    def check_level(self, record: tf.train.SequenceExample) -> None:
        """Refuses a record without feature lists."""
        if not record.feature_lists.feature_list:
            raise RecordFaultError(
                f"it holds no frames, only {listing(record.context.feature) or 'ids and labels'}, and "
                f"--record_format=clip was given. {_WHERE_FROM}"
            )

    def check_features(self, stored: Mapping[str, tf.train.FeatureList], spec: DataSpec, layout: Layout) -> None:
        """Expects a JPEG per frame and feature, all of one size, or the bytes of a patch of sound."""
        try:
            _check_channels(spec)
        except ArgumentError as error:
            raise RecordFaultError(f"it is read with --{error}") from error
        sizes = {}
        for name, channels in zip(layout.stored_names, spec.feature_sizes, strict=True):
            if channels == PATCH_SIZE:
                check_frames(name, stored[name], PATCH_SIZE, expects_floats=False)
            else:
                sizes[name] = _check_pictures(name, stored[name], channels)
        check_lengths({name: len(stored[name].feature) for name in layout.stored_names})
        found = {name: size for name, size in sizes.items() if size is not None}
        if len(set(found.values())) > 1:
            text = ", ".join(f"'{name}' holds pictures of {_text(size)}" for name, size in found.items())
            raise RecordFaultError(f"{text} (width x height); expected one size. Write the record again.")


def _shape(channels: int, spec: DataSpec) -> list[int]:
    """The shape of a frame of a feature as a model gets it."""
    return [PATCH_SIZE] if channels == PATCH_SIZE else [spec.clip_size, spec.clip_size, channels]


def _check_channels(spec: DataSpec) -> None:
    if not set(spec.feature_sizes) <= {*_STORED_CHANNELS, PATCH_SIZE}:
        raise ArgumentError(
            f"feature_sizes={','.join(map(str, spec.feature_sizes))}: expected for records of clips the channels of "
            f"each feature: 3 for pictures, 2 for flow, 1 for grey pictures; {PATCH_SIZE} for sound."
        )


def _frames_of_clips(
    spec: DataSpec, lengths: tf.Tensor, keys: tf.Tensor, sampling: FrameSampling | None, training: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Chooses the frames of the N clips of each video, 1 in training: `(B, N, T)` int32, and how many, `(B, N)` int32.

    Indices after that many are those of padding and have no meaning.
    """
    count, num_clips = spec.max_frames, 1 if training else spec.eval_clips
    if sampling is not None:
        count = sampling.num_frames or count
        indices, num_frames = sample_indices(sampling, lengths, keys)
        indices = tf.ensure_shape(tf.pad(indices, [[0, 0], [0, count]])[:, tf.newaxis, :count], [None, 1, count])
        clips = [1, num_clips]
        return tf.tile(indices, [*clips, 1]), tf.tile(tf.minimum(num_frames, count)[:, tf.newaxis], clips)
    whole = tf.cast(lengths, tf.int64)[:, tf.newaxis, tf.newaxis]
    taken = tf.minimum(whole, count)
    t = tf.range(count, dtype=tf.int64)
    # Where in [0, 1) of its room each clip starts, or each of its frames lies, in units of 2**-24 as they are drawn.
    if training:
        draws = uniform(keys, count, "clip")[:, tf.newaxis, :]
        places = draws if spec.clip_sampling == "spread" else draws[:, :, :1]
    else:
        places = (2.0 * tf.range(num_clips, dtype=tf.float32)[tf.newaxis, :, tf.newaxis] + 1.0) / (2.0 * num_clips)
    units = tf.cast(places * 2.0**24, tf.int64)
    if spec.clip_sampling == "spread":
        indices = (t * 2**24 + units) * whole // (tf.maximum(taken, 1) * 2**24)
    else:
        indices = t + (units * (whole - taken + 1)) // 2**24
    shape = [tf.shape(lengths)[0], num_clips, count]
    return tf.cast(tf.broadcast_to(indices, shape), tf.int32), tf.tile(
        tf.cast(taken[:, :, 0], tf.int32), [1, num_clips]
    )


def _decode_clips(
    spec: DataSpec, layout: Layout, stored: Batch, indices: tf.Tensor, num_frames: tf.Tensor, view: _View
) -> Batch:
    """Decodes the frames `indices` `(B, N, T)` of which `num_frames` `(B, N)` are real, as the view `(B, N)` says.

    Returns:
        `(B, N, T, S, S, channels)` uint8 per feature, `(B, N, T, 6144)` of sound, and `num_frames`.
    """
    videos, num_clips, count = tf.shape(indices)[0], indices.shape[1], indices.shape[2]
    rows = videos * num_clips * count
    is_frame = tf.reshape(tf.sequence_mask(num_frames, count), [rows])
    view = _View(*(tf.repeat(tf.reshape(drawn, [-1]), count) for drawn in view))
    batch, sizes = {NUM_FRAMES: num_frames}, []
    for name, stored_name, channels in zip(spec.feature_names, layout.stored_names, spec.feature_sizes, strict=True):
        all_frames = stored[stored_name]
        width = tf.maximum(tf.shape(all_frames)[1], 1)
        all_frames = tf.pad(all_frames, [[0, 0], [0, width - tf.shape(all_frames)[1]]])
        flat = tf.minimum(tf.reshape(indices, [videos, num_clips * count]), width - 1)
        flat = tf.reshape(tf.gather(all_frames, flat, batch_dims=1), [rows])
        if channels == PATCH_SIZE:
            frames = decode_bytes(tf.where(is_frame, flat, ""), is_frame, PATCH_SIZE)
        else:
            frames, size = _decode_frames(flat, is_frame, view, channels, spec)
            sizes.append(tf.reshape(size, [videos, num_clips * count, 2]))
        batch[name] = tf.reshape(frames, [videos, num_clips, count, *_shape(channels, spec)])
    # Frames of a video have one size, that of flow and pictures too; of padding it is 0 x 0.
    padding = tf.reshape(~is_frame, [videos, num_clips * count, 1])
    same = [tf.reduce_all(tf.equal(size, sizes[0][:, :1]) | padding) for size in sizes]
    checks = [tf.debugging.Assert(is_same, ["A size."]) for is_same in same]
    with tf.control_dependencies(checks):
        return {name: tf.identity(value) for name, value in batch.items()}


def _decode_frames(
    jpegs: tf.Tensor, is_frame: tf.Tensor, view: _View, channels: int, spec: DataSpec
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes `(n,)` strings to `(n, S, S, channels)` uint8, and their stored sizes `(n, 2)` int32; padding is 0."""
    size = [spec.clip_size, spec.clip_size]

    def decode(row: tuple[tf.Tensor, tf.Tensor, _View]) -> tuple[tf.Tensor, tf.Tensor]:
        jpeg, is_real, seen = row
        nothing = tf.zeros([*size, channels], tf.uint8), tf.zeros([2], tf.int32)
        return tf.cond(is_real, lambda: _look(jpeg, seen, channels, spec), lambda: nothing)

    signature = tf.TensorSpec([*size, channels], tf.uint8), tf.TensorSpec([2], tf.int32)
    return tf.map_fn(decode, (jpegs, is_frame, view), fn_output_signature=signature)


def _look(jpeg: tf.Tensor, view: _View, channels: int, spec: DataSpec) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes the window of one frame, scaled to `(S, S, channels)` uint8, and the frame's own size `(2,)` int32."""
    shape = tf.io.extract_jpeg_shape(jpeg)
    frame = shape[:2] // [2 if channels == FLOW_CHANNELS else 1, 1]
    sides = tf.cast(frame, tf.float32)
    if spec.clip_crop:
        short = spec.clip_crop * tf.reduce_min(sides)
        sides = tf.stack([short, short])
    sides = tf.cast(tf.round(sides / view.zoom), tf.int32)
    sides = tf.clip_by_value(sides, 1, frame)
    room = tf.cast(frame - sides, tf.float32)
    corner = tf.cast(tf.round(room * tf.stack([view.top, view.left])), tf.int32)
    if channels == FLOW_CHANNELS:
        whole = _decode(jpeg, channels)
        image = whole[corner[0] : corner[0] + sides[0], corner[1] : corner[1] + sides[1]]
    else:
        window = tf.concat([corner, sides], 0)
        image = tf.image.decode_and_crop_jpeg(jpeg, window, channels=channels, dct_method=_DCT)
    image = tf.cond(tf.reduce_all(tf.equal(sides, spec.clip_size)), lambda: image, lambda: _scale(image, spec))
    image = tf.cond(view.is_mirrored, lambda: _mirror(image, channels), lambda: image)
    return tf.ensure_shape(image, [spec.clip_size, spec.clip_size, channels]), frame


def _decode(jpeg: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes a whole frame to `(H, W, channels)` uint8."""
    image = tf.io.decode_jpeg(jpeg, channels=_STORED_CHANNELS[channels], dct_method=_DCT)
    if channels != FLOW_CHANNELS:
        return image
    # The upper half is x, the lower one y. An odd height fails here.
    halves = tf.reshape(image, [2, tf.shape(image)[0] // 2, tf.shape(image)[1]])
    return tf.transpose(halves, [1, 2, 0])


def _scale(image: tf.Tensor, spec: DataSpec) -> tf.Tensor:
    """Scales `(h, w, channels)` uint8 to `(S, S, channels)` uint8, averaging where that makes it smaller."""
    size = [spec.clip_size, spec.clip_size]
    scaled = tf.cond(
        tf.reduce_any(tf.shape(image)[:2] > spec.clip_size),
        lambda: tf.image.resize(image, size, antialias=True),
        lambda: tf.image.resize(image, size),  # the same where nothing is to be averaged, and four times as fast
    )
    return tf.cast(tf.clip_by_value(tf.round(scaled), 0.0, 255.0), tf.uint8)


def _mirror(image: tf.Tensor, channels: int) -> tf.Tensor:
    """Mirrors `(S, S, channels)` uint8 from left to right: what moves to the right moves to the left then."""
    mirrored = tf.reverse(image, [1])
    if channels != FLOW_CHANNELS:
        return mirrored
    x, y = tf.split(mirrored, 2, axis=-1)
    opposite = tf.cast(tf.clip_by_value(2 * FLOW_ZERO - tf.cast(x, tf.int32), 1, 255), tf.uint8)
    return tf.concat([opposite, y], axis=-1)


def _check_pictures(name: str, frames: tf.train.FeatureList, channels: int) -> tuple[int, int] | None:
    """Returns height and width of the pictures of a feature; None without frames."""
    size = None
    for i, feature in enumerate(frames.feature):
        kind, values = values_of(feature)
        if kind != "bytes" or len(values) != 1:
            raise RecordFaultError(f"'{name}' holds {len(values)} {kind} at frame {i}, expected a JPEG. {_WHERE_FROM}")
        try:
            height, width = tf.io.decode_jpeg(values[0], channels=_STORED_CHANNELS[channels]).shape[:2]
        except tf.errors.OpError as error:
            raise RecordFaultError(
                f"'{name}' holds {len(values[0])} bytes at frame {i} that cannot be decoded as a JPEG. {_WHERE_FROM}"
            ) from error
        if channels == FLOW_CHANNELS:
            if height % 2:
                raise RecordFaultError(
                    f"'{name}' holds a picture of {width} x {height} (width x height) at frame {i}, expected an even "
                    f"height: x above y. {_WHERE_FROM}"
                )
            height //= 2
        size = size or (height, width)
        if (height, width) != size:
            raise RecordFaultError(
                f"'{name}' holds a picture of {_text((height, width))} at frame {i} and of {_text(size)} at frame 0 "
                "(width x height); expected one size. Write the record again."
            )
    return size


def _text(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width} x {height}"
