"""The check of a whole dataset, row by row in a stream: what is accepted, what is faulty and why, how it looks.

Runs in the `validate` job. Holds one line, the kept faults and some counters in memory, whatever the size of the file.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, BinaryIO, Final

from training.data.lengths import Lengths, Outliers
from training.data.records import Reader, Record, UnreadableSourceError
from training.data.specs import (
    Message,
    ParsedRow,
    RowFaultError,
    SpecName,
    check_spec,
    has_answer_markers,
    is_chat,
    spec_of,
)
from training.data.unpacking import Limits

KEPT_FAULTS = 100
ROWS_PER_TELLING = 50
DECIDING_ROWS = 200
"""Whose spec becomes the file's."""

FEW_ANSWERS = 0.05
DUPLICATE_ROWS_LIMIT = 1_000_000
"""Rows remembered (by a hash each) to find doubles; beyond them doubles are not looked for, and the report says so."""

WARNING_TEXTS: Final[dict[str, str]] = {
    "mixed_shapes": "The file mixes shapes. Raw text is trained on whole, conversations on the answers alone.",
    "dropped_keys": "Keys beyond the shape's own are left out.",
    "unanswered_end": "The last message is not the assistant's, so it is not trained on.",
    "repeated_role": "Two messages of one role follow each other; some chat templates refuse that.",
    "few_answers": "Answers are less than a twentieth of the text: most of what is read is not learned from.",
    "some_system": "These rows have a system message and the others have none; the model learns both.",
    "length_outliers": "The row is far longer than the others. What is beyond `max_length` is cut off.",
    "duplicate_rows": "The row stands in the file before. `drop_duplicates` leaves it out of training.",
}
"""What is accepted but worth knowing: the row is used."""


@dataclass(frozen=True)
class Fault:
    """One faulty row: its line (element, row: `Findings.place`) from 1, a code of FAULT_CODES, and what to do."""

    line: int
    code: str
    message: str


@dataclass
class Findings:
    """What the rows told. `rows` = `accepted` + `faulty`; blank lines are no rows."""

    place: str = "line"
    spec: SpecName | None = None
    accepted: int = 0
    characters: int = 0
    messages: int = 0
    duplicates: int = 0
    faults: list[Fault] = field(default_factory=list)
    fault_codes: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    role_characters: Counter[str] = field(default_factory=Counter)
    lengths: Lengths = field(default_factory=Lengths)
    outliers: Outliers | None = None
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

    def rejection(self, name: str, max_fault_fraction: float) -> str | None:
        """A sentence that says why the file of that name can't be used, or None when it can."""
        if not self.rows:
            return f"{name} is empty: it holds no rows. Give a file with one JSON object a line."
        first = self.faults[0] if self.faults else None
        where = f" First at {self.place} {first.line}: {first.message}" if first else ""
        if not self.accepted:
            return f"None of the {self.rows} rows of {name} can be used.{where}"
        fraction = self.faulty / self.rows
        if fraction > max_fault_fraction:
            return (
                f"{self.faulty} of {self.rows} rows ({fraction:.2%}) of {name} are faulty, and at most "
                f"{max_fault_fraction:.2%} may be.{where}"
            )
        return None

    def to_report(self) -> dict[str, Any]:
        """The report's part that the rows alone make."""
        return {
            "place": self.place,
            "spec": self.spec,
            "rows": self.rows,
            "accepted": self.accepted,
            "faulty": self.faulty,
            "fault_count": self.faulty,
            "faults": [asdict(fault) for fault in self.faults],
            "fault_codes": dict(self.fault_codes.most_common()),
            "shapes": dict(self.shapes.most_common()),
            "roles": dict(self.roles),
            "role_characters": dict(self.role_characters),
            "length_outliers": self.outliers,
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


def choose_spec(reader: Reader) -> SpecName | None:
    """The spec that most of the first usable rows follow; None where there is none among them."""
    specs: Counter[SpecName] = Counter()
    marked = 0
    for record in islice(reader.records(), DECIDING_ROWS):
        if isinstance(record.row, RowFaultError):
            continue
        specs[spec_of(record.row)] += 1
        marked += has_answer_markers(record.row.example)
    if 2 * marked > specs.total():
        return "regime3_v1"
    return specs.most_common(1)[0][0] if specs else None


def validate(
    reader: Reader, spec: SpecName | None, accepted_rows: BinaryIO, on_bytes: Callable[[int], None], limits: Limits
) -> Findings:
    """Checks every row against `spec` and writes the accepted ones, mapped, to `accepted_rows`.

    `on_bytes` is told now and then how many bytes have been read. Raises UnreadableSourceError for a file that can't be
    read to its end, or becomes more than the limit.
    """
    findings = Findings(place=reader.place, spec=spec)
    seen: set[int] = set()
    written = 0
    for index, record in enumerate(reader.records()):
        fault = _fault_of(record, spec)
        if fault is not None:
            _note_fault(findings, record.number, fault)
        elif isinstance(record.row, ParsedRow):
            mapped = record.data if record.data is not None else _canonical(record.row)
            written += accepted_rows.write(mapped + b"\n")
            _note_row(findings, record.number, record.row)
            _note_duplicate(findings, seen, mapped)
        if index % ROWS_PER_TELLING == 0:
            on_bytes(reader.position())
            _check_written(written, limits)
    _conclude(findings)
    return findings


def _conclude(findings: Findings) -> None:
    """The warnings that only all rows together give."""
    warnings, characters = findings.warnings, findings.role_characters
    if len(findings.shapes) > 1:
        warnings["mixed_shapes"] = findings.accepted
    if characters and characters["assistant"] < FEW_ANSWERS * characters.total():
        warnings["few_answers"] = findings.accepted
    if 0 < findings.roles["system"] < findings.accepted:
        warnings["some_system"] = findings.roles["system"]
    findings.outliers = findings.lengths.outliers()
    if findings.outliers and findings.outliers["count"]:
        warnings["length_outliers"] = findings.outliers["count"]


def _fault_of(record: Record, spec: SpecName | None) -> RowFaultError | None:
    if isinstance(record.row, RowFaultError):
        return record.row
    try:
        if spec is not None:
            check_spec(record.row, spec)
    except RowFaultError as fault:
        return fault
    return None


def _canonical(row: ParsedRow) -> bytes:
    """The row as `rows.jsonl` has it. A line that is so already is kept: writing it anew would take as long as all else
    together."""
    return json.dumps(row.example, ensure_ascii=False, separators=(",", ":")).encode()


def _check_written(written: int, limits: Limits) -> None:
    """A table can name one long text a million times and be small itself."""
    if written > limits.most_bytes:
        raise UnreadableSourceError(
            f"The rows come to more than {limits.most_bytes:,} bytes. Split the file, or raise the setting "
            "datasets.max_unpacked_bytes."
        )


def _note_fault(findings: Findings, number: int, fault: RowFaultError) -> None:
    findings.fault_codes[fault.code] += 1
    if len(findings.faults) < KEPT_FAULTS:
        findings.faults.append(Fault(number, fault.code, fault.message))


def _note_row(findings: Findings, number: int, row: ParsedRow) -> None:
    findings.accepted += 1
    findings.shapes[row.shape] += 1
    if row.dropped_keys:
        findings.warnings["dropped_keys"] += 1
        findings.dropped_keys.update(row.dropped_keys)
    example = row.example
    characters = _note_messages(findings, example["messages"]) if is_chat(example) else len(example["text"])
    findings.characters += characters
    findings.lengths.note(number, characters)


def _note_messages(findings: Findings, messages: list[Message]) -> int:
    """Notes the turns of a conversation; returns its characters. One loop: this is met once a message of the file."""
    roles, role_characters = findings.roles, findings.role_characters
    characters, before, is_repeated = 0, "", False
    for message in messages:
        role, length = message["role"], len(message["content"])
        roles[role] += 1
        role_characters[role] += length
        characters += length
        is_repeated = is_repeated or role == before
        before = role
    findings.messages += len(messages)
    if before != "assistant":
        findings.warnings["unanswered_end"] += 1
    if is_repeated:
        findings.warnings["repeated_role"] += 1
    return characters


def _note_duplicate(findings: Findings, seen: set[int], mapped: bytes) -> None:
    fingerprint = hash(mapped)  # 64 bits, keyed by chance in each process: enough to count by
    if fingerprint in seen:
        findings.duplicates += 1
        findings.warnings["duplicate_rows"] += 1
    elif len(seen) < DUPLICATE_ROWS_LIMIT:
        seen.add(fingerprint)
