"""The job processes of training: `python -m training train|validate|fetch SPEC`, and `config`, which explains settings.

Each verb imports its own module alone, so that `validate` and `config` never load torch. The exit code tells how the
attempt went (`monitoring.attempt`); 2 is a call that can't be understood.
"""

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

JOBS = {"train": "training.job", "validate": "training.data.job", "fetch": "training.fetch.job"}
EXIT_USAGE = 2
USAGE = """Usage:
  python -m training train SPEC       trains a model as SPEC (a spec.json) says
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
        case ["config", *rest]:
            return _config(rest)
        case _:
            print(USAGE, end="", file=sys.stderr)
            return EXIT_USAGE


def _config(arguments: list[str]) -> int:
    """Prints the schema, the help, or the configuration that a JSON file and the arguments make."""
    from training.config import loader

    if arguments in (["--help"], ["-h"]):
        print(loader.help_text(), end="")
        return 0
    if arguments == ["--schema"]:
        print(json.dumps(loader.schema(), indent=2))
        return 0
    explain = "--explain" in arguments
    rest = [item for item in arguments if item != "--explain"]
    try:
        given = json.loads(Path(rest[1]).read_text()) if rest[:1] == ["--json"] else {}
        loaded = loader.load(given, rest[2:] if rest[:1] == ["--json"] else rest)
    except loader.ConfigError as error:
        for fault in error.faults:
            print(f"{fault}", file=sys.stderr)
        return EXIT_USAGE
    except (OSError, ValueError, IndexError) as error:
        print(f"The JSON file can't be read: {error}.", file=sys.stderr)
        return EXIT_USAGE
    if explain:
        for path, value, source in loader.explain(loaded):
            print(f"{path} = {json.dumps(value, ensure_ascii=False)}  ({source})")
    else:
        print(json.dumps(loader.to_dict(loaded.config), indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
