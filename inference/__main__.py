"""`python -m inference VERB SPEC`: one inference job in this process."""

import argparse
import logging
import sys
from pathlib import Path

from monitoring.attempt import run_attempt


def main() -> int:
    """Runs the verb and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m inference")
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("spec", type=Path, help="the spec.json of the attempt")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    from inference.serve import serve  # torch takes seconds to import: not for a wrong argument

    return run_attempt(arguments.spec, serve)


if __name__ == "__main__":
    sys.exit(main())
