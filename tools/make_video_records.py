r"""Makes records of clips, a JPEG per frame, of video files.

    python -m tools.make_video_records --videos=clips.csv --output=DIR/train --fps=12 --size=128

`--videos` is a CSV with the columns path,labels, or a folder with a folder per class. A program that was ended goes on
where it was: finished shards are kept. docs/video.md tells what may be wrong with a video.
"""

from dataclasses import asdict
from functools import partial

from absl import flags

from tools.video_shards import check_shard_flags, define_process_flag, define_shard_flags, write_missing_shards
from yt8m.arguments import ArgumentError, check_at_least, check_one_of, check_size, typed_as
from yt8m.cli import program
from yt8m.video.flow import FLOW_METHODS
from yt8m.video.listing import Video
from yt8m.video.pictures import ClipOptions, clip_frames


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program."""
    define_shard_flags(values)
    define_process_flag(values)
    flags.DEFINE_float("fps", 0.0, "Frames per second; 0 takes every frame.", flag_values=values)
    flags.DEFINE_integer(
        "size", 256, "Short side of the stored frames; smaller ones stay as they are; 0: all do.", flag_values=values
    )
    flags.DEFINE_integer("max_frames", 300, "Frames of a video after this one are cut off.", flag_values=values)
    flags.DEFINE_string("flow", "none", f"Optical flow to store: {', '.join(FLOW_METHODS)}.", flag_values=values)
    flags.DEFINE_integer("quality", 90, "Quality of the JPEGs, 1 to 100.", flag_values=values)
    flags.DEFINE_bool("audio", False, "Store the sound too, a patch per frame; it needs --fps.", flag_values=values)


def options_from_flags(values: flags.FlagValues) -> ClipOptions:
    """Turns the flags of this program into what is taken of a video.

    Raises:
        ArgumentError: if one is out of range.
    """
    with typed_as("--"):
        check_at_least(0, fps=values.fps)
        check_size(0, size=values.size)
        check_size(1, max_frames=values.max_frames)
        check_one_of(FLOW_METHODS, flow=values.flow)
        if not 1 <= values.quality <= 100:
            raise ArgumentError(f"quality={values.quality}: expected a whole number from 1 to 100.")
        if values.audio and not values.fps:
            raise ArgumentError(
                "audio=True: a frame's sound begins at its number / fps seconds. Give --fps too, as in --fps=12."
            )
    return ClipOptions(values.fps, values.size, values.max_frames, values.flow, values.quality, values.audio)


if __name__ == "__main__":
    # Before TensorFlow is loaded, so that --help and mistyped flags are answered at once.
    program.parse_flags(define_flags, check_shard_flags, options_from_flags)


def main(values: flags.FlagValues) -> None:
    """Writes the shards that are not there yet.

    Raises:
        UserError: if a flag, a video or the output cannot be used.
    """
    check_shard_flags(values)
    options = options_from_flags(values)
    # Shards that were begun when there was no --audio have no setting of that name, and are continued.
    settings = {name: value for name, value in asdict(options).items() if name != "audio" or value}
    write_missing_shards(values, settings, partial(clip_frames, options=options), clip_of_frames)


def clip_of_frames(video: Video, frames: dict[str, list[bytes]]) -> bytes:
    """Returns the serialized record of a video, whose `frames` are those of `clip_frames` by name of the feature."""
    import numpy as np

    from yt8m.data.record_writing import frame_record  # TensorFlow comes with it

    features = {name: [np.frombuffer(frame, np.uint8) for frame in stored] for name, stored in frames.items()}
    return frame_record(video.id, video.labels, features)


if __name__ == "__main__":
    program.run(main)
