"""Writes examples of `regime3`: `python -m training.profiles.regime3 --count N --level L > FILE`. Runs by hand."""

import argparse
import json
import sys

from training.profiles.regime3.samples import LEVELS, SamplesError, samples


def main() -> int:
    """Writes the examples as they are made. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.profiles.regime3", description=(__doc__ or "").partition(":")[0]
    )
    parser.add_argument("--count", type=int, default=1000, help="how many examples (default 1000)")
    parser.add_argument("--level", type=int, default=1, help=f"1 to {max(LEVELS)}: how deep, how large (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same examples (default 0)")
    asked = parser.parse_args()
    try:
        for example in samples(asked.count, asked.level, asked.seed):
            print(json.dumps(example, ensure_ascii=False))
    except SamplesError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
