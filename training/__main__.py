"""The job processes of training: `python -m training train|validate|fetch SPEC`, and `config`, which explains settings.

Each verb imports its own module alone, so that `validate` and `config` never load torch. The exit code tells how the
attempt went (`monitoring.attempt`); 2 is a call that can't be understood.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

JOBS = {"train": "training.job", "validate": "training.data.job", "fetch": "training.fetch.job"}
EXIT_USAGE = 2
USAGE = """Usage:
  python -m training train SPEC       trains a model as SPEC (a spec.json) says
  python -m training train --dataset FILE --model DIR [--base DIR] [--output DIR] [--json FILE]
                     [--section.setting VALUE ...]
                                      trains here, with a bar; Ctrl-C ends with a checkpoint
  python -m training train --output DIR --resume
                                      goes on with such a run
  python -m training validate SPEC    checks a dataset
  python -m training fetch SPEC       fetches, converts or exports a model
  python -m training config --help    lists every setting of a run
  python -m training config --schema  prints the JSON schema of a configuration
  python -m training config [--json FILE] [--explain] [--section.setting VALUE ...]
                                      prints the configuration that these make, or where each value comes from
"""


def main(arguments: Sequence[str]) -> int:
    """Runs one verb; returns the exit code."""
    match list(arguments):
        case [verb, spec] if verb in JOBS:
            code: int = importlib.import_module(JOBS[verb]).main(Path(spec))
            return code
        case ["train", first, *_] if first.startswith("--") and first != "--help":
            trained: int = importlib.import_module("training.terminal.run").main(arguments[1:])
            return trained
        case ["rank", spec, resume]:  # one of several processes of a run (training.distributed)
            ended: int = importlib.import_module("training.distributed.worker").main(
                Path(spec), Path(resume) if resume else None
            )
            return ended
        case ["config", *rest]:
            told: int = importlib.import_module("training.config.command").main(rest)
            return told
        case _:
            print(USAGE, end="", file=sys.stderr)
            return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
