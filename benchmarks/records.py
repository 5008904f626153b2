"""Records to files and back by tools.read_records and tools.make_records, and shards checked by tools.check_dataset.

PYTHONPATH=. python benchmarks/records.py [--videos=200] [--formats=npz,csv,jsonl,parquet]

Video level: the shards of YT8M_REAL_DATA, or made-up ones. Frame level: videos of 300 frames of random bytes.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
from absl import flags

from tools import check_dataset, make_records, read_records
from yt8m.cli.program import start
from yt8m.data import examination
from yt8m.data.record_writing import frame_record, write_records
from yt8m.data.shards import measure_records
from yt8m.data.synthetic import write_video_shards

import readers

FRAMES: tuple[str, ...] = ("--frame_features", "--feature_names=rgb,audio", "--feature_sizes=1024,128")
VECTORS: tuple[str, ...] = ("--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128")
AUDIOSET: tuple[str, ...] = (
    "--frame_features",
    "--feature_names=audio_embedding",
    "--feature_sizes=128",
    "--num_classes=527",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--formats", default="npz,csv,jsonl,parquet")
    arguments = parser.parse_args()
    real = os.environ.get("YT8M_REAL_DATA", "")
    with tempfile.TemporaryDirectory() as place:
        rng = np.random.default_rng(0)
        (Path(place) / "frames").mkdir()
        for shard in range(0, arguments.videos, 100):
            records = (random_video(rng, n) for n in range(shard, min(shard + 100, arguments.videos)))
            write_records(f"{place}/frames/{shard:06d}.tfrecord", records)
        if real:
            videos = f"{real}/yt8m-2018-video/validate*.tfrecord"
        else:
            write_video_shards(f"{place}/videos", num_videos=5000)
            videos = f"{place}/videos/*.tfrecord"
        print("| level | format | direction | records per CPU second | MB of records per CPU second | MB of files |")
        print("| --- | --- | --- | --- | --- | --- |")
        levels = {"video": (videos, VECTORS), "frame": (f"{place}/frames/*.tfrecord", FRAMES)}
        for level, (pattern, spec) in levels.items():
            for file_format in arguments.formats.split(","):
                there_and_back(level, pattern, spec, file_format, f"{place}/{level}-{file_format}")
        print(
            "\n| shards | processes | wall seconds | CPU seconds of all | records/s |\n| --- | --- | --- | --- | --- |"
        )
        checked = {"video level": (videos, VECTORS), "300 frames": (f"{place}/frames/*.tfrecord", FRAMES)}
        if real:
            checked["AudioSet"] = (f"{real}/audioset/*.tfrecord", AUDIOSET)
        examination._BYTES_PER_PROCESS = 1
        for name, (pattern, spec) in checked.items():
            for processes in (1, 2):
                check(name, pattern, spec, processes)


def random_video(rng: np.random.Generator, number: int) -> bytes:
    frames = rng.integers(0, 256, (300, 1152), np.uint8)
    return frame_record(f"{number}", [number % 100], {"rgb": frames[:, :1024], "audio": frames[:, 1024:]})


def there_and_back(level: str, pattern: str, spec: tuple[str, ...], file_format: str, output: str) -> None:
    read = run(read_records, f"--data_pattern={pattern}", f"--output={output}/f", f"--format={file_format}", *spec)
    options = (f"--input={output}/f*.{file_format}", f"--output={output}/r", "--numbers=bytes", *spec)
    made = run(make_records, *options)
    files, records = (list(Path(output).glob(p)) for p in (f"f*.{file_format}", "r*.tfrecord"))
    num_bytes = sum(path.stat().st_size for path in records)
    num_records = count(records)
    for direction, (_, seconds) in (("records to files", read), ("files to records", made)):
        size = sum(path.stat().st_size for path in files) / 1e6
        speed = f"{num_records / seconds:.0f} | {num_bytes / seconds / 1e6:.1f}"
        print(f"| {level} | {file_format} | {direction} | {speed} | {size:.1f} |", flush=True)


def check(name: str, pattern: str, spec: tuple[str, ...], processes: int) -> None:
    wall, cpu = run(check_dataset, f"--data_pattern={pattern}", f"--num_processes={processes}", *spec)
    records = count(map(Path, readers.find_files(pattern, "data_pattern")))
    print(f"| {name} | {processes} | {wall:.1f} | {cpu:.1f} | {records / wall:.0f} |", flush=True)


def count(paths: Iterable[Path]) -> int:
    return sum(measure_records(str(path)).count for path in paths)


def run(program: ModuleType, *arguments: str) -> tuple[float, float]:
    """Wall and CPU seconds, those of processes that were started and have ended included."""
    values = flags.FlagValues()
    program.define_flags(values)
    values([program.__name__, *arguments])
    before, clock = os.times(), time.perf_counter()
    start(quietly(program.main), values)
    after = os.times()
    return time.perf_counter() - clock, sum(after[:4]) - sum(before[:4])


def quietly(main: Callable[[flags.FlagValues], object]) -> Callable[[flags.FlagValues], None]:
    def silent(values: flags.FlagValues) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            main(values)

    return silent


if __name__ == "__main__":
    main()
