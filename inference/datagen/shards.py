"""What is kept, on the disk: `shards/shard-00001.jsonl` and so on, of 500 rows each; the last may have fewer.

Runs in the inference process of the verb `generate_data`. A shard is whole or not there at all. Beside it, under
`progress/`, lies how far the tries had come when it was whole, written before it: so whoever finds a shard knows where
to go on, and whatever was done behind the last one is done again.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from monitoring.files import sha256_of, write_bytes, write_json

SHARDS_FOLDER = "shards"
PROGRESS_FOLDER = "progress"
SHARD_ROWS = 500


@dataclass(frozen=True)
class Tally:
    """What the tries before `tries` have come to, over all attempts of the job.

    `dropped` counts those without a row by their reason. `ended` says why nothing more is tried, "" while it is.
    """

    tries: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    generated_tokens: int = 0
    seconds: float = 0.0
    ended: str = ""


@dataclass(frozen=True)
class Shard:
    """A whole shard: its file's name, how many rows it has, their new prompts, and the tally behind its last row."""

    file: str
    rows: int
    sha256: str
    prompts: tuple[str, ...]
    tally: Tally


class Shards:
    """The whole shards of a job's folder. Opening it clears away what isn't whole."""

    def __init__(self, output_dir: Path) -> None:
        self.rows_a_shard = SHARD_ROWS
        self._shards, self._progress = output_dir / SHARDS_FOLDER, output_dir / PROGRESS_FOLDER
        self.whole: list[Shard] = []
        for number in count(1):
            if (shard := self._read(number)) is None:
                break
            self.whole.append(shard)
        self._clear_away()

    @property
    def tally(self) -> Tally:
        """That of the last whole shard."""
        return self.whole[-1].tally if self.whole else Tally()

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(shard.rows for shard in self.whole)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of all whole shards, in order."""
        for shard in self.whole:
            with (self._shards / shard.file).open("rb") as stream:
                yield from map(json.loads, stream)

    def write(self, rows: Sequence[dict[str, Any]], prompts: Sequence[str], tally: Tally) -> None:
        """Adds a shard."""
        data = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
        name = _name(len(self.whole) + 1)
        shard = Shard(f"{name}.jsonl", len(rows), hashlib.sha256(data).hexdigest(), tuple(prompts), tally)
        write_json(self._progress / f"{name}.json", asdict(shard))
        write_bytes(self._shards / shard.file, data)
        self.whole.append(shard)

    def _read(self, number: int) -> Shard | None:
        """The shard of a number, None where it isn't whole."""
        name = _name(number)
        try:
            told = json.loads((self._progress / f"{name}.json").read_bytes())
            shard = Shard(**{**told, "prompts": tuple(told["prompts"]), "tally": Tally(**told["tally"])})
            is_whole = sha256_of(self._shards / shard.file) == shard.sha256
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None
        return shard if is_whole else None

    def _clear_away(self) -> None:
        """Removes what a kill has left behind: half-written files, and what belongs to no whole shard."""
        kept = {shard.file for shard in self.whole} | {f"{Path(shard.file).stem}.json" for shard in self.whole}
        for folder in (self._shards, self._progress):
            for path in folder.glob("*shard-*"):
                if path.name not in kept:
                    path.unlink(missing_ok=True)


def _name(number: int) -> str:
    return f"shard-{number:05d}"
