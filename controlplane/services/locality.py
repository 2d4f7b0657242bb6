"""Where files lie: which hosts hold already what a job reads. Runs in the web process.

The home of the control plane is the library: it holds everything, and so does a host that reads the same folder. What
other hosts hold is asked once a round, not once a job.
"""

from dataclasses import dataclass, field
from typing import Self

from controlplane.models import Host, HostCopy, Job, LanguageModel, Run
from controlplane.services import artefacts


@dataclass(frozen=True)
class Wanted:
    """A dataset ("dataset/SHA256") or a model ("model/UUID") that a job reads, and its size."""

    key: str
    bytes: int


@dataclass(frozen=True)
class Holdings:
    """What each host holds, as it was when this was read: for each that is apart from the library, the keys.

    `apart`: what has been asked of hosts meanwhile, since it means a look at a file.
    """

    held: dict[int, frozenset[str]]
    apart: dict[int, bool] = field(default_factory=dict)

    @classmethod
    def read(cls) -> Self:
        """The present state."""
        found: dict[int, set[str]] = {}
        for host_id, kind, value in HostCopy.objects.values_list("host_id", "item_kind", "item_id"):
            found.setdefault(host_id, set()).add(f"{kind}/{value}")
        return cls({host_id: frozenset(keys) for host_id, keys in found.items()})

    def is_library(self, host: Host) -> bool:
        """Whether the host reads the control plane's own folder, under whichever path."""
        return not self.is_apart(host)

    def is_apart(self, host: Host) -> bool:
        """Whether files must be copied to it."""
        if host.pk not in self.apart:
            self.apart[host.pk] = artefacts.is_apart(host)
        return self.apart[host.pk]

    def held_bytes(self, host: Host, wanted: tuple[Wanted, ...]) -> int:
        """How much of these files needn't be brought to the host."""
        if not self.is_apart(host):
            return sum(item.bytes for item in wanted)
        there = self.held.get(host.pk, frozenset())
        return sum(item.bytes for item in wanted if item.key in there)


def held_bytes(host: Host, job: Job) -> int:
    """How much of what a job reads lies on a host already."""
    return Holdings.read().held_bytes(host, wanted_by(job))


def wanted_by(job: Job) -> tuple[Wanted, ...]:
    """What a job reads, as far as its row tells without another question: that of a run, and of an engine."""
    run: Run | None = getattr(job, "run", None) if job.kind == "train" else None
    if run is None or run.dataset is None or run.model is None:
        return ()
    return (Wanted(f"dataset/{run.dataset.sha256}", run.dataset.bytes), _model(run.model))


def _model(model: LanguageModel) -> Wanted:
    return Wanted(f"model/{model.uuid}", model.size_bytes or 0)
