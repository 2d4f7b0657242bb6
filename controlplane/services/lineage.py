"""Where a dataset comes from: what made it, of which other sets, how much was refused. Runs in the web process.

A parent is remembered by name, version and hash, so that the record outlives the parent. The `validate` job writes the
record as `lineage.json` beside the rows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.errors import InvalidInputError
from controlplane.legible import is_legible
from controlplane.models import Dataset
from controlplane.models.datasets import DatasetStatus
from controlplane.row_ids import row_id

LONGEST_NAME = 100
MOST_PARENTS = 50
SHOWN_CODES = 3


@dataclass(frozen=True)
class Lineage:
    """What whoever brings a file says of it; all of it may be unsaid."""

    generator: str = ""
    version: str = ""
    parents: tuple[int, ...] = ()

    def check(self) -> "Lineage":
        """The same, trimmed. Raises InvalidInputError for names that can't be and parents that aren't there."""
        generator, version = self.generator.strip(), self.version.strip()
        for text, what in ((generator, "generator"), (version, "generator_version")):
            if len(text) > LONGEST_NAME or not is_legible(text):
                raise InvalidInputError(f"{what} has at most {LONGEST_NAME} printable characters.")
        if version and not generator:
            raise InvalidInputError("generator_version needs a generator. Name what made the file, or leave both out.")
        if len(self.parents) > MOST_PARENTS:
            raise InvalidInputError(f"A dataset has at most {MOST_PARENTS} parents.")
        known = set(Dataset.objects.filter(pk__in=self.parents).values_list("pk", flat=True))
        if unknown := [parent for parent in self.parents if parent not in known]:
            raise InvalidInputError(f"There is no dataset {unknown[0]} to be a parent. GET /api/datasets lists them.")
        return Lineage(generator, version, tuple(dict.fromkeys(self.parents)))

    def parent_facts(self) -> list[dict[str, Any]]:
        """What is remembered of the parents."""
        found = Dataset.objects.filter(pk__in=self.parents).defer("report").order_by("pk")
        return [{"id": item.pk, "name": item.name, "version": item.version, "sha256": item.sha256} for item in found]


def parents_from_text(text: str) -> tuple[int, ...]:
    """Ids with commas between them. Raises InvalidInputError."""
    found = [row_id(word.strip()) for word in text.split(",") if word.strip()]
    numbers = tuple(number for number in found if number is not None)
    if len(numbers) < len(found):
        raise InvalidInputError(f"parents must be ids of datasets with commas between them, not {text!r}.")
    return numbers


def facts(dataset: Dataset) -> dict[str, Any]:
    """A dataset's record: what was said of it, and what its validation made of it."""
    return {
        "generator": dataset.generator, "generator_version": dataset.generator_version, "parents": dataset.parents,
        "rows_accepted": dataset.examples, "rows_rejected": dataset.rejected_rows,
    }  # fmt: skip


def said(dataset: Dataset) -> dict[str, Any]:
    """The part that the `validate` job takes over into `lineage.json`."""
    return {
        "name": dataset.name, "version": dataset.version, "filename": dataset.filename, "sha256": dataset.sha256,
        "generator": dataset.generator, "generator_version": dataset.generator_version, "parents": dataset.parents,
        "created_by": dataset.created_by, "created_at": dataset.created_at.isoformat(),
    }  # fmt: skip


def children(dataset: Dataset) -> list[Dataset]:
    """The datasets that name this one as a parent, newest first."""
    named = Dataset.objects.exclude(parents=[]).only("pk", "name", "version", "parents")
    return [item for item in named if any(parent["sha256"] == dataset.sha256 for parent in item.parents)]


def generators() -> list[dict[str, Any]]:
    """Each generator and version with what became of its data, the one that fails most first.

    `failed_fraction` is rejected rows by all rows, None where no row was counted.
    """
    columns = ("generator", "generator_version", "status", "examples", "rejected_rows", "report__fault_codes")
    groups: dict[tuple[str, str], list[Sequence[Any]]] = {}
    for generator, version, *rest in Dataset.objects.order_by("pk").values_list(*columns):
        groups.setdefault((generator, version), []).append(rest)
    found = [_summary(generator, version, rows) for (generator, version), rows in groups.items()]
    return sorted(found, key=lambda item: (-(item["failed_fraction"] or 0), -item["rejected_datasets"]))


def _summary(generator: str, version: str, rows: list[Sequence[Any]]) -> dict[str, Any]:
    codes: Counter[str] = Counter()
    for row in rows:
        codes.update(row[3] or {})
    accepted, rejected = sum(row[1] or 0 for row in rows), sum(row[2] or 0 for row in rows)
    return {
        "generator": generator, "generator_version": version, "datasets": len(rows),
        "rejected_datasets": sum(row[0] == DatasetStatus.REJECTED for row in rows),
        "rows_accepted": accepted, "rows_rejected": rejected,
        "failed_fraction": rejected / (accepted + rejected) if accepted + rejected else None,
        "fault_codes": dict(codes.most_common(SHOWN_CODES)),
    }  # fmt: skip
