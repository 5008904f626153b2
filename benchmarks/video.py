"""Video files into records of clips and into batches, beside the decoder by itself.

    PYTHONPATH=. python benchmarks/video.py [--videos FILE ...] [--rounds 5]

Without --videos it makes one of 300 frames of 640 x 360 in a temporary folder. Programs take turns, round by round, in
one process and thread; ratios are medians of rounds. Peak memory is that of this process after each row's first round,
in the order of the rows. It needs requirements-video.txt.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
import tensorflow as tf
from timing import interleaved, median_ratio, peak_gigabytes

from tools.make_video_records import clip_of_frames
from yt8m.data.shard_writing import write_shard
from yt8m.schema import DataSpec
from yt8m.video.decoding import decoded_frames
from yt8m.video.inputs import InputOptions, network_inputs
from yt8m.video.listing import Video
from yt8m.video.pictures import ClipOptions, clip_frames

from readers import evaluation_batches

BARE = "bare decoder: container.decode"


def make_film(path: Path, num_frames: int = 300, height: int = 360, width: int = 640) -> str:
    """Writes a film of smooth patches that drift over each other, with a little noise, in H.264."""
    rng = np.random.default_rng(0)
    canvas = rng.integers(0, 256, (2, height // 8, width // 8, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        large = [tf.image.resize(picture, (height, width)).numpy() for picture in canvas]
        for t in range(num_frames):
            frame = 0.5 * np.roll(large[0], 2 * t, 1) + 0.5 * np.roll(large[1], t, 0)
            frame += rng.normal(0, 4, frame.shape[:2])[:, :, np.newaxis]
            picture = av.VideoFrame.from_ndarray(np.clip(frame, 0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return str(path)


def bare(path: str) -> int:
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return sum(1 for _ in container.decode(video=0))


def write_record(path: str, shard: str, size: int = 128, flow: str = "none") -> None:
    jpegs = clip_frames(path, ClipOptions(0, size, 10**6, flow, 90))
    if isinstance(jpegs, str):
        raise RuntimeError(jpegs)
    write_shard(shard, [clip_of_frames(Video(path, "v", (0,)), jpegs)])


def drain(dataset: tf.data.Dataset) -> None:
    for _ in dataset:
        pass


def compare(path: str, folder: Path, rounds: int) -> None:
    """Prints a table of one video."""
    shard = str(folder / "x.tfrecord")
    write_record(path, shard)
    num_frames = bare(path)
    spec = DataSpec(("rgb",), (3,), 1, "clip", max_frames=num_frames, clip_size=112)
    specs = {
        "read them as one clip, window of 112": spec,
        "read them, whole frames scaled to 112": replace(spec, clip_crop=0.0),
    }
    read = {name: evaluation_batches([shard], it, 1, labels_required=True) for name, it in specs.items()}
    inputs = InputOptions(fps=0, size=224, crop=0.0, max_frames=num_frames, sound=False)
    programs: dict[str, Callable[[], object]] = {
        BARE: partial(bare, path),
        "decoded_frames: to RGB": lambda: sum(1 for _ in decoded_frames(path, 0, 10**6)),
        "make a record, short side 128": partial(write_record, path, shard),
        "make a record, frames as they are": partial(write_record, path, str(folder / "y"), size=0),
        "make a record, short side 128, DIS flow": partial(write_record, path, str(folder / "z"), flow="dis"),
        "inputs of a network, 224 x 224": partial(network_inputs, path, inputs),
        **{name: partial(drain, dataset) for name, dataset in read.items()},
    }
    peaks = {}
    for name, program in programs.items():
        program()
        peaks[name] = peak_gigabytes()
    seconds = interleaved(programs, rounds)
    print(f"\n{Path(path).name}: {num_frames} frames\n| way | frames/s | share of the bare decoder | peak GB |")
    print("| --- | --- | --- | --- |")
    for name, values in seconds.items():
        share = median_ratio(seconds[BARE], values)
        print(f"| {name} | {num_frames / sorted(values)[len(values) // 2]:.0f} | {share:.2f} | {peaks[name]:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for path in arguments.videos or [make_film(Path(folder, "film.mp4"))]:
            compare(path, Path(folder), arguments.rounds)


if __name__ == "__main__":
    main()
