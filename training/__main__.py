"""The job processes of training: `python -m training train|validate|fetch SPEC`, and `config`, which explains settings.

Each verb imports its own module alone, so that `validate` and `config` never load torch. The exit code tells how the
attempt went (`monitoring.attempt`); 2 is a call that can't be understood.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monitoring.attempt import EXIT_USAGE

JOBS = {"train": "training.job", "validate": "training.data.job", "fetch": "training.fetch.job"}
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
            return _call(JOBS[verb], Path(spec))
        case ["train", first, *_] if first.startswith("--") and first != "--help":
            return _call("training.terminal.run", arguments[1:])
        case ["rank", spec, parent, resume]:  # one of several processes of a run (training.distributed)
            return _call("training.distributed.worker", Path(spec), int(parent), Path(resume) if resume else None)
        case ["config", *rest]:
            return _call("training.config.command", rest)
        case _:
            print(USAGE, end="", file=sys.stderr)
            return EXIT_USAGE


def _call(module: str, *given: Any) -> int:
    code: int = importlib.import_module(module).main(*given)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
