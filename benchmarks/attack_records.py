"""Damaged records by the ten thousand: no crash, no hang, no wrong value, and always file, record and reason.

    PYTHONPATH=. python benchmarks/attack_records.py [--records 20000] [--files 500] [--seed 0]

Prints a line per finding, the number of the file in progress, by which a crash is found, and a count of the outcomes.
A file that takes longer than ten minutes ends the program with status 1.
"""

import argparse
import collections
import faulthandler
import gc
import os
import sys
import tempfile
import traceback
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Damage and judge are those of the tests.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from attacks.damaged_records import Arena, draw

RECORDS_PER_FILE = 258
SECONDS_PER_FILE = 600


def main() -> None:
    """Plays the attacks; status 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20000, help="damaged records, in files that are sound otherwise")
    parser.add_argument("--files", type=int, default=500, help="files whose framing or compression is damaged")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    num_files = -(-arguments.records // (RECORDS_PER_FILE - 2))
    plays = [(seed, False) for seed in range(num_files)] + [(seed, True) for seed in range(arguments.files)]
    outcomes: collections.Counter[str] = collections.Counter()
    num_findings = num_records = 0
    with tempfile.TemporaryDirectory() as folder:
        arena = Arena(Path(folder))
        for number, (seed, of_file) in enumerate(plays):
            print(f"\rfile {number + 1} of {len(plays)}, {num_findings} findings", end="", flush=True)
            faulthandler.dump_traceback_later(SECONDS_PER_FILE, exit=True)
            attack = draw(arguments.seed * 1_000_000 + seed, 18 if of_file else RECORDS_PER_FILE, of_file)
            try:
                outcomes[arena.play(attack)] += 1
            except Exception as error:  # whatever it is, it is a finding
                num_findings += 1
                place = traceback.extract_tb(error.__traceback__)[-1]
                text = " | ".join(str(error).split("\n"))[:600]
                kind = f"{type(error).__name__} at {place.name}:{place.lineno}"
                print(f"\nseed {seed}, of_file={of_file}, {attack.level}: {kind}: {text}", flush=True)
            num_records += attack.num_damaged
            gc.collect()
    print(f"\n{num_records} damaged records and files: {dict(outcomes)}, {num_findings} findings")
    sys.exit(bool(num_findings))


if __name__ == "__main__":
    main()
