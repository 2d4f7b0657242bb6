"""`python -m training config`: lists the settings, or prints what a JSON file and arguments come to. No torch."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monitoring.attempt import EXIT_USAGE
from training.config import loader

MAX_BYTES = 1 << 20


def main(arguments: Sequence[str]) -> int:
    """Prints the help, the schema or the configuration. Returns the exit code: 2 for what can't be taken."""
    if list(arguments) in (["--help"], ["-h"]):
        print(loader.help_text(), end="")
        return 0
    if list(arguments) == ["--schema"]:
        print(json.dumps(loader.schema(), indent=2))
        return 0
    own = argparse.ArgumentParser(prog="python -m training config", add_help=False, allow_abbrev=False)
    own.add_argument("--json", type=Path)
    own.add_argument("--explain", action="store_true")
    asked, settings = own.parse_known_args(list(arguments))
    try:
        loaded = loader.load(read_json(asked.json) if asked.json else None, settings)
    except loader.ConfigError as error:
        for fault in error.faults:
            print(f"{fault}", file=sys.stderr)
        return EXIT_USAGE
    except (OSError, ValueError) as error:
        print(f"The JSON file can't be read: {error}.", file=sys.stderr)
        return EXIT_USAGE
    for left in loaded.left_out:
        print(f"left out: {left}", file=sys.stderr)
    _show(loaded, is_explained=asked.explain)
    return 0


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file holds. Raises OSError, ValueError."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES:,} bytes, which no configuration is")
    value = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no object of settings")
    return value


def _show(loaded: loader.Loaded, *, is_explained: bool) -> None:
    if not is_explained:
        print(json.dumps(loader.to_dict(loaded.config), indent=2, ensure_ascii=False))
        return
    for path, value, source in loader.explain(loaded):
        key = loaded.keys.get(path, path)
        called = "" if key in (path, path.split(".")[1]) else f": {key}"
        print(f"{path} = {json.dumps(value, ensure_ascii=False)}  ({source}{called})")
