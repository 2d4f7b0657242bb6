"""What the calls about uploads and datasets take and answer."""

from typing import Any

from ninja import Field, Schema

from controlplane.api.schemas.tables import Listed


class BeginUpload(Schema):
    """A file that is to come, for a `dataset` or for a `run`. With `sha256` the whole is checked at the end."""

    filename: str
    bytes: int
    sha256: str = ""
    purpose: str = "dataset"


class Upload(Schema):
    """`parts` are the numbers that are here, of 1 to `part_count`; each has `part_bytes` bytes, the last one fewer."""

    id: str
    filename: str
    bytes: int
    sha256: str
    part_bytes: int
    part_count: int
    parts: list[int]


class Part(Schema):
    """A part that is stored."""

    part: int
    bytes: int


class CompleteUpload(Schema):
    """What the dataset is to be called, the share of rows that is kept for evaluation, and where it comes from.

    `generator` names what made it, `parents` are ids of the datasets it was made of.
    """

    name: str
    eval_fraction: float = Field(0.05, ge=0, le=0.5)
    generator: str = ""
    generator_version: str = ""
    parents: list[int] = []


class Dataset(Schema):
    """One version of a dataset. `status`: receiving, validating, ready or rejected (`reason` says why)."""

    id: int
    name: str
    version: int
    status: str
    bytes: int
    sha256: str
    filename: str
    examples: int | None
    eval_fraction: float
    reason: str
    job_id: int | None
    progress: dict[str, Any] | None
    created_by: str
    created_at: str


class Validate(Schema):
    """`level`: quick (a sample of rows), standard (all of them) or deep; `profile` and `eval_dataset` are deep's."""

    level: str = "standard"
    profile: str = ""
    eval_dataset: int | None = None


class Validation(Schema):
    """The job that checks; the dataset's `report` has what it found, under `quick` or `deep` for these levels."""

    job_id: int
    dataset_id: int
    level: str


class Parent(Schema):
    """A dataset that another one was made of; it may be gone."""

    id: int
    name: str
    version: int
    sha256: str


class Lineage(Schema):
    """Where a dataset comes from, and what its validation made of it."""

    generator: str
    generator_version: str
    parents: list[Parent]
    rows_accepted: int | None
    rows_rejected: int | None


class DatasetDetail(Dataset):
    """With lineage and report (`faults` [{line, code, message}], `fault_count`, `tokens` …); None before validation."""

    lineage: Lineage
    report: dict[str, Any] | None


class Generator(Schema):
    """What became of the data of one generator; `failed_fraction` is rejected rows by all, None without rows."""

    generator: str
    generator_version: str
    datasets: int
    rejected_datasets: int
    rows_accepted: int
    rows_rejected: int
    failed_fraction: float | None
    fault_codes: dict[str, int]


class GeneratorList(Schema):
    """The generator whose data fails most first; one without a name stands for all data whose maker nobody named."""

    generators: list[Generator]


class DatasetList(Listed):
    """All versions of all datasets, newest first."""

    datasets: list[Dataset]


class Preview(Schema):
    """Rows as they are trained on: {"messages": [...]} or {"text": ...}.

    Where a profile was named, each has the same once more under `after`, shaped by the `profile` {name, version,
    description}.
    """

    offset: int
    total: int | None
    rows: list[dict[str, Any]]
    profile: dict[str, str] | None = None
