"""What a kind of job is: how its spec is built and what its events mean. Runs in the web process.

A new kind is one file here and one line in `registry.py`; nothing else knows it.
"""

from typing import Any, ClassVar

from controlplane.models import Attempt, Job, LanguageModel
from controlplane.models.jobs import STUCK
from controlplane.services.artefacts import Need
from monitoring.events import Artefact, Error, Event, JobSpec


def model_artefact(model: LanguageModel) -> Artefact:
    """A model as a job's input."""
    return Artefact(id=model.name, path=str(model.folder))


class JobKind:
    """The defaults: a light job, ordinary retries, events that mean nothing to its noun."""

    name: ClassVar[str]
    lane: ClassVar[str] = "light"
    """Jobs of one lane share its places on a host: `train`, `light`, or `serve` (not limited)."""

    lasting: ClassVar[bool] = False
    """Whether it ends only when it is told to: one that ends by itself (its host went down) is started again."""

    runs_here: ClassVar[bool] = False
    """Whether the web process does it itself (`work`, in the duty `inner jobs`) and no host is asked."""

    in_turn: ClassVar[bool] = True
    """Whether what `runs_here` waits for the one before it; a kind that doesn't has a duty of its own."""

    in_library: ClassVar[bool] = False
    """Whether it runs only where the library lies: it makes or checks what the library holds."""

    def work(self, job: Job) -> dict[str, Any]:
        """Does a job that `runs_here`; returns its result. Raises PilothouseError, JobCancelledError."""
        raise NotImplementedError

    def spec(self, job: Job, attempt: Attempt) -> JobSpec:
        """The spec of an attempt. Raises PilothouseError when an input has gone: the job fails with that sentence."""
        raise NotImplementedError

    def secrets(self, job: Job, attempt: Attempt) -> dict[str, str]:
        """What the process needs and nobody may read."""
        return {}

    def held(self) -> str | None:
        """Why no job of this kind starts at present, or None: asked once for all that wait."""
        return None

    def waits_for(self, job: Job) -> str | None:
        """Why a pending job doesn't start although there may be room, or None."""
        return None

    def environment(self, job: Job) -> dict[str, Any]:
        """What it asks of its host: `host`, `labels`, `num_nodes` (hosts at once); what is missing doesn't matter."""
        return {}

    def gpus_wanted(self, job: Job) -> int:
        """How many GPUs it takes where the host has any."""
        return 0

    def may_share_processor(self, job: Job) -> bool:
        """Whether, on a host without GPUs, as many processes share the processor."""
        return False

    def on_launch(self, job: Job, attempt: Attempt) -> None:
        """The attempt is about to start (inside a transaction)."""

    def on_events(self, job: Job, attempt: Attempt, events: list[Event]) -> None:
        """A batch of its events, inside the ingest transaction. Common meanings are `services.ingest`'s."""

    def makes(self, job: Job, attempt: Attempt) -> list[Need]:
        """What the attempt has made and must lie in the library before its job is done."""
        return []

    def on_done(self, job: Job, attempt: Attempt, result: dict[str, Any]) -> None:
        """It has done what it was for (inside the transaction that makes it done)."""

    def on_failed(self, job: Job, error: dict[str, str]) -> None:
        """It won't be tried again, or was cancelled (inside the transaction that says so)."""

    def on_retry(self, job: Job) -> None:
        """It has failed or was cancelled, and is queued once more (inside the transaction that does so)."""

    def is_held(self, error: dict[str, Any]) -> bool:
        """Whether an attempt that ended with this fault leaves the job paused: it can go on once the cause is gone."""
        return False

    def may_retry(self, error: Error | None) -> bool:
        """Whether a process that died is started again: not when it has said why it can't go on."""
        return error is None or error.code == STUCK
