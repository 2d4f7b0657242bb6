"""The check of a whole dataset, row by row in a stream: what is accepted, what is faulty and why, how it looks.

Runs in the `validate` job. Holds one line, the kept faults and some counters in memory, whatever the size of the file.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final

from training.data.rows import LINE_LIMIT_BYTES, Line, iter_lines
from training.data.specs import ParsedRow, RowFaultError, is_chat, parse_line, texts_of

KEPT_FAULTS = 100
ROWS_PER_TELLING = 50
DUPLICATE_ROWS_LIMIT = 1_000_000
"""Rows remembered (by a hash each) to find doubles; beyond them doubles are not looked for, and the report says so."""

WARNING_TEXTS: Final[dict[str, str]] = {
    "mixed_shapes": "The file mixes shapes. Raw text is trained on whole, conversations on the answers alone.",
    "dropped_keys": "Keys beyond the shape's own are left out.",
    "unanswered_end": "The last message is not the assistant's, so it is not trained on.",
    "repeated_role": "Two messages of one role follow each other; some chat templates refuse that.",
    "duplicate_rows": "The row stands in the file before. `drop_duplicates` leaves it out of training.",
}
"""What is accepted but worth knowing: the row is used."""


@dataclass(frozen=True)
class Fault:
    """One faulty row: its line from 1, a code of training.data.specs.FAULT_CODES, and what to do."""

    line: int
    code: str
    message: str


@dataclass
class Findings:
    """What the rows told. `rows` = `accepted` + `faulty`; blank lines are no rows."""

    accepted: int = 0
    characters: int = 0
    messages: int = 0
    duplicates: int = 0
    faults: list[Fault] = field(default_factory=list)
    fault_codes: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    dropped_keys: Counter[str] = field(default_factory=Counter)

    @property
    def faulty(self) -> int:
        """How many rows are faulty, kept in `faults` or not."""
        return self.fault_codes.total()

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.accepted + self.faulty

    def rejection(self, max_fault_fraction: float) -> str | None:
        """A sentence that says why the dataset can't be used, or None when it can."""
        if not self.rows:
            return "The file holds no rows."
        first = self.faults[0] if self.faults else None
        where = f" First at line {first.line}: {first.message}" if first else ""
        if not self.accepted:
            return f"None of the {self.rows} rows can be used.{where}"
        fraction = self.faulty / self.rows
        if fraction > max_fault_fraction:
            return (
                f"{self.faulty} of {self.rows} rows ({fraction:.2%}) are faulty, and at most {max_fault_fraction:.2%} "
                f"may be.{where}"
            )
        return None

    def to_report(self) -> dict[str, Any]:
        """The report's part that the rows alone make."""
        return {
            "format": "jsonl",
            "rows": self.rows,
            "accepted": self.accepted,
            "faulty": self.faulty,
            "fault_count": self.faulty,
            "faults": [asdict(fault) for fault in self.faults],
            "fault_codes": dict(self.fault_codes.most_common()),
            "shapes": dict(self.shapes.most_common()),
            "roles": dict(self.roles),
            "messages": self.messages,
            "characters": self.characters,
            "duplicates": self.duplicates,
            "duplicates_complete": self.accepted <= DUPLICATE_ROWS_LIMIT,
            "warnings": [
                {"code": code, "count": count, "message": WARNING_TEXTS[code]}
                for code, count in self.warnings.most_common()
            ],
            "dropped_keys": dict(self.dropped_keys.most_common(20)),
        }


def validate(
    source: Path, accepted_rows: BinaryIO, on_bytes: Callable[[int], None], *, line_limit_bytes: int = LINE_LIMIT_BYTES
) -> Findings:
    """Checks every row of `source` and writes the accepted ones, mapped, to `accepted_rows`.

    `on_bytes` is told now and then how many bytes have been read.
    """
    findings = Findings()
    seen: set[int] = set()
    with source.open("rb") as stream:
        for line in iter_lines(stream, line_limit_bytes):
            try:
                row = _parsed(line, line_limit_bytes)
            except RowFaultError as fault:
                _note_fault(findings, line.number, fault)
            else:
                mapped = _mapped_line(line, row)
                accepted_rows.write(mapped + b"\n")
                _note_row(findings, row)
                _note_duplicate(findings, seen, mapped)
            if line.number % ROWS_PER_TELLING == 0:
                on_bytes(line.end)
    if len(findings.shapes) > 1:
        findings.warnings["mixed_shapes"] = findings.accepted
    return findings


def _parsed(line: Line, line_limit_bytes: int) -> ParsedRow:
    if line.data is None:
        raise RowFaultError(
            "line_too_long",
            f"The line is longer than {line_limit_bytes:,} bytes. Split the conversation, or leave it out.",
        )
    return parse_line(line.data)


def _mapped_line(line: Line, row: ParsedRow) -> bytes:
    if not row.is_mapped and line.data is not None:
        return line.data  # writing it anew would take as long as all else together
    return json.dumps(row.example, ensure_ascii=False, separators=(",", ":")).encode()


def _note_fault(findings: Findings, number: int, fault: RowFaultError) -> None:
    findings.fault_codes[fault.code] += 1
    if len(findings.faults) < KEPT_FAULTS:
        findings.faults.append(Fault(number, fault.code, fault.message))


def _note_row(findings: Findings, row: ParsedRow) -> None:
    findings.accepted += 1
    findings.shapes[row.shape] += 1
    findings.characters += sum(map(len, texts_of(row.example)))
    if row.dropped_keys:
        findings.warnings["dropped_keys"] += 1
        findings.dropped_keys.update(row.dropped_keys)
    if not is_chat(row.example):
        return
    roles = [message["role"] for message in row.example["messages"]]
    findings.messages += len(roles)
    findings.roles.update(roles)
    if roles[-1] != "assistant":
        findings.warnings["unanswered_end"] += 1
    if any(one == next_one for one, next_one in pairwise(roles)):
        findings.warnings["repeated_role"] += 1


def _note_duplicate(findings: Findings, seen: set[int], mapped: bytes) -> None:
    fingerprint = hash(mapped)  # 64 bits, keyed by chance in each process: enough to count by
    if fingerprint in seen:
        findings.duplicates += 1
        findings.warnings["duplicate_rows"] += 1
    elif len(seen) < DUPLICATE_ROWS_LIMIT:
        seen.add(fingerprint)
