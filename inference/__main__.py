"""`python -m inference VERB SPEC`: one inference job in this process."""

import argparse
import importlib
import logging
import sys
from pathlib import Path

from monitoring.attempt import Work, run_attempt

VERBS = frozenset({"evaluate", "generate_data", "serve"})
"""Each is a function in the module of its name."""


def main() -> int:
    """Runs the verb and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m inference")
    parser.add_argument("verb", choices=sorted(VERBS))
    parser.add_argument("spec", type=Path, help="the spec.json of the attempt")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    # torch takes seconds to import: not for a wrong argument
    work: Work = getattr(importlib.import_module(f"inference.{arguments.verb}"), arguments.verb)
    return run_attempt(arguments.spec, work)


if __name__ == "__main__":
    sys.exit(main())
