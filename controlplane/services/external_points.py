"""What a script elsewhere sends of its run: read, checked, stored. Runs in the web process.

Several posts are stored in one transaction, each with an answer of its own. A writer's batches are numbered by `seq`:
one that comes again (its answer was lost) is answered and not stored twice.
"""

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Required

from django.db import transaction
from django.utils import timezone
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError, PilothouseError
from controlplane.live.announce import publish
from controlplane.models import Metric, Run, RunWriter
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import Kind, Status
from controlplane.services import curves, jobs, run_points
from controlplane.services.points import Point
from monitoring.events import encode_number

LAST_STEP = 2**53 - 1
"""The largest whole number that every reader of JSON keeps."""

END_OF_TIME = 1e11
"""Beyond it lies no moment in Unix seconds that anybody means: what is larger is in milliseconds."""

MOST_VALUES = 100_000
MOST_METRICS = 2_000
"""Each is a curve of its own, and its run's page lists them all. A step in a metric's name makes thousands."""

LONGEST_NAME = 500
SILENT = "silent"
"""Code of the error of a run that nobody has heard of for long; its next points take it up again."""

Step = Annotated[int, Field(ge=0, le=LAST_STEP, description="The step; steps of a metric rise.")]
Time = Annotated[float, Field(ge=0, lt=END_OF_TIME, description="Unix seconds; now where it is left out.")]
Values = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)], float],
    Field(description='The value of each metric; "NaN", "Infinity" and "-Infinity" for what JSON has no number for.'),
]


@with_config(ConfigDict(extra="forbid"))
class SentPoint(TypedDict, total=False):
    """Values of one step."""

    step: Required[Step]
    time: Time
    values: Required[Values]


@with_config(ConfigDict(extra="forbid"))
class SentPoints(TypedDict, total=False):
    """One point (`step`, `values`), or a batch (`points`)."""

    step: Step
    time: Time
    values: Values
    points: Annotated[list[SentPoint], Field(max_length=MOST_VALUES)]
    seq: Annotated[int, Field(ge=1, le=LAST_STEP, description="The number of this batch: 1, 2, 3 … of its writer.")]
    writer: Annotated[str, Field(max_length=100, description="Who counts `seq`, where several processes send.")]
    resumed: Annotated[Step, Field(description="The script goes on from this step: what lies beyond it leaves first.")]


_SENT: TypeAdapter[SentPoints] = TypeAdapter(SentPoints)


@dataclass(frozen=True)
class Post:
    """A batch with who sends it, for which run."""

    actor: Actor
    run_id: int
    batch: SentPoints


@dataclass(frozen=True)
class Stored:
    """What became of a post: values stored, and left out since their metric has that step or a later one already.

    `repeated`: the batch was here before, and nothing was done. `last_step` is the run's.
    """

    stored: int
    left_out: int
    last_step: int
    repeated: bool = False

    def facts(self) -> dict[str, Any]:
        """As the API answers it."""
        return {
            "stored": self.stored, "left_out": self.left_out, "last_step": self.last_step, "repeated": self.repeated
        }  # fmt: skip


Outcome = Stored | PilothouseError
Tell = Callable[[Run, run_points.Fresh], None]


def schema() -> dict[str, Any]:
    """The JSON schema of a batch, with that of a point in its place: it becomes a part of a larger document."""
    whole = _SENT.json_schema()
    whole["properties"]["points"]["items"] = whole.pop("$defs")["SentPoint"]
    return whole


def read(body: bytes) -> SentPoints:
    """The batch that a body holds. Raises InvalidInputError with the paths at fault."""
    try:
        batch = _SENT.validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from error
    if ("points" in batch) == ("step" in batch) or ("step" in batch) != ("values" in batch):
        raise InvalidInputError(
            "Send one point as step and values, or several as points: neither both nor half of one.",
            (FieldFault("points", "or step and values"),),
        )
    count = sum(len(point["values"]) for point in _points(batch))
    if count > MOST_VALUES:
        raise InvalidInputError(
            f"The batch has {count:,} values; one call takes {MOST_VALUES:,}. Send it in several.",
            (FieldFault("points", f"at most {MOST_VALUES:,} values"),),
        )
    return batch


def _refusal(error: ValidationError) -> InvalidInputError:
    faults = tuple(
        FieldFault(".".join(map(str, fault["loc"]))[:200], fault["msg"])
        for fault in error.errors(include_url=False, include_input=False, include_context=False)[:20]
    )
    first = faults[0]
    place = f"{first.path}: " if first.path else "The body: "
    return InvalidInputError(f"{place}{first.message}.", faults)


def _points(batch: SentPoints) -> Sequence[SentPoint]:
    if "points" in batch:
        return batch["points"]
    point = SentPoint(step=batch["step"], values=batch["values"])
    return [SentPoint(**point, time=batch["time"]) if "time" in batch else point]


def store(posts: Sequence[Post], tell: Tell = run_points.tell) -> list[Outcome]:
    """Stores all of them in one transaction, and answers each. What can't be taken is answered by its refusal."""
    outcomes: dict[int, Outcome] = {}
    by_run: dict[int, list[int]] = {}
    for place, post in enumerate(posts):
        by_run.setdefault(post.run_id, []).append(place)
    with transaction.atomic():
        for run_id, places in sorted(by_run.items()):  # in one order: two processes never wait for each other
            intake = _Intake.of(run_id)
            for place in places:
                try:
                    outcomes[place] = _take(intake, run_id, posts[place])
                except PilothouseError as error:
                    outcomes[place] = error
            if intake is not None:
                intake.keep(tell)
    return [outcomes[place] for place in range(len(posts))]


def store_one(post: Post) -> Stored:
    """Stores one. Raises its refusal."""
    outcome = store([post])[0]
    if isinstance(outcome, PilothouseError):
        raise outcome
    return outcome


def _take(intake: "_Intake | None", run_id: int, post: Post) -> Stored:
    post.actor.require(Role.USE)
    if intake is None:
        raise NotFoundError(f"There is no run {run_id}.")
    post.actor.require_owner(f"Run {run_id}", intake.run.created_by)
    return intake.take(post.batch)


class _Intake:
    """The posts of one run, in the order in which they came, on their way into its curves."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._reached = dict(Metric.objects.filter(run=run).values_list("key", "last_step"))
        self._seqs = dict(run.writers.values_list("name", "last_seq"))
        self._counted: dict[str, int] = {}
        self._fresh: dict[str, list[Point]] = {}
        self._names: dict[str, str] = {}

    @classmethod
    def of(cls, run_id: int) -> "_Intake | None":
        """The run's, locked until the transaction ends; None where there is no such run."""
        rows = Run.objects.select_for_update(of=("self",)).select_related("job")
        run = rows.filter(pk=run_id).first()
        return None if run is None else cls(run)

    def take(self, batch: SentPoints) -> Stored:
        """Notes the batch's values. Raises ConflictError for a run that takes none, InvalidInputError for too many."""
        writer, seq = batch.get("writer", ""), batch.get("seq")
        if seq is not None and seq <= self._seqs.get(writer, 0):
            return Stored(0, 0, self.run.last_step, repeated=True)
        self._check_open()
        self._check_room(batch)
        now = clock.time()
        if "resumed" in batch:
            self._rewind(batch["resumed"], now)
        stored = left_out = 0
        for point in _points(batch):
            kept = self._add(point, now)
            stored, left_out = stored + kept, left_out + len(point["values"]) - kept
        if seq is not None:
            self._seqs[writer] = self._counted[writer] = seq
        return Stored(stored, left_out, self.run.last_step)

    def _check_open(self) -> None:
        run, job = self.run, self.run.job
        if job.kind != Kind.EXTERNAL:
            raise ConflictError(
                f"Run {run.pk} isn't one that a script sends: make such a run by POST /api/runs/external."
            )
        if job.status == Status.FAILED and (job.error or {}).get("code") == SILENT:
            jobs.transition(job.pk, Status.PENDING, reason="its script is heard again", error=None)
            run.job = jobs.transition(job.pk, Status.RUNNING, reason="its script is heard again", phase="active")
        elif job.status != Status.RUNNING:
            raise ConflictError(f"Run {run.pk} has ended ({job.status}) and takes no more points: begin a new one.")

    def _check_room(self, batch: SentPoints) -> None:
        """Refuses a batch whose metrics are more than a run may have, before anything of it is noted."""
        fresh = set[str]().union(*(point["values"] for point in _points(batch))) - self._names.keys()
        if len(self._reached) + len(fresh) <= MOST_METRICS:
            return
        count = len(self._reached.keys() | map(curves.stored_key, fresh))
        if count > MOST_METRICS:
            raise InvalidInputError(
                f"Run {self.run.pk} would have {count:,} metrics; it may have {MOST_METRICS:,}. Send what counts up as "
                "the step, not in a metric's name.",
                (FieldFault("values", f"at most {MOST_METRICS:,} different names in a run"),),
            )

    def _rewind(self, step: int, now: float) -> None:
        self._flush()
        run_points.rewind(self.run, step, now)
        publish(f"run:{self.run.pk}", "reset", {})
        self._reached = dict(Metric.objects.filter(run=self.run).values_list("key", "last_step"))

    def _add(self, point: SentPoint, now: float) -> int:
        """Notes the values of metrics that haven't reached this step; returns how many."""
        step, time, kept = point["step"], point.get("time", now), 0
        names, reached, fresh = self._names, self._reached, self._fresh
        for name, value in point["values"].items():
            key = names.get(name) or names.setdefault(name, curves.stored_key(name))
            if step <= reached.get(key, -1):
                continue
            reached[key] = step
            kept += 1
            if key in fresh:
                fresh[key].append((step, value, time))
            else:
                fresh[key] = [(step, value, time)]
        if kept:
            run_points.reach(self.run, step, time)
        return kept

    def _flush(self) -> run_points.Fresh:
        fresh, self._fresh = self._fresh, {}
        self.run.last |= {key: encode_number(points[-1][1]) for key, points in fresh.items()}
        self.run.heard_at = timezone.now()
        run_points.keep(self.run, fresh)
        return fresh

    def keep(self, tell: Tell) -> None:
        """Stores what was noted, and tells of it."""
        if self._counted:
            rows = [RunWriter(run=self.run, name=name, last_seq=seq) for name, seq in self._counted.items()]
            RunWriter.objects.bulk_create(
                rows, update_conflicts=True, unique_fields=["run", "name"], update_fields=["last_seq"]
            )
        if self._fresh:
            tell(self.run, self._flush())
