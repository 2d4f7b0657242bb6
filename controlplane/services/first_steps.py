"""The way from an empty home to a model of one's own that answers, as far as it has been gone. In the web process.

Nothing is remembered but that somebody put the steps away: what is done is read from what is there.
"""

from dataclasses import dataclass
from typing import Any

from django.db import transaction

from controlplane.errors import ConflictError
from controlplane.models import Dataset, Deployment, Host, LanguageModel, Run, Turn, User
from controlplane.models.access import Actor, Role
from controlplane.models.conversations import Speaker
from controlplane.models.datasets import DatasetStatus
from controlplane.models.deployments import LIVE
from controlplane.models.jobs import ENDED, Status
from controlplane.models.language_models import ModelState
from controlplane.services import hosts, jobs, models, sample_data
from controlplane.services.access import audit

RUN_NAME = "first run"
BATCH = 4
MAX_LENGTH = 256
STEPS = (12, 40)
"""A style is learned within these; how many fit into BUDGET_SECONDS is reckoned for the machine."""

BUDGET_SECONDS = 120.0
TOKENS_AN_EXAMPLE = 90.0
OPERATIONS_A_PARAMETER = 4
"""Of a token that adapters are trained on: forward 2, backward 2."""

OPERATIONS_A_CORE = 40e9
"""A second, cautiously: two cores of a usual machine were measured at 110e9."""

TINY_PARAMETERS = 20_000_000
"""A model below has too little in it for adapters: all of its weights are trained."""


@dataclass(frozen=True)
class FirstSteps:
    """What there is of each step; None: nothing yet. `can_talk`: the trained model is active."""

    host: Host | None
    model: LanguageModel | None
    fetching: LanguageModel | None
    dataset: Dataset | None
    checking: Dataset | None
    run: Run | None
    going: Run | None
    trained: LanguageModel | None
    engine: Deployment | None

    @property
    def has_trained(self) -> bool:
        return self.run is not None and self.run.job.status == Status.DONE

    @property
    def done_count(self) -> int:
        return sum((self.host is not None, self.model is not None, self.dataset is not None, self.has_trained))

    @property
    def can_talk(self) -> bool:
        return self.engine is not None and self.engine.is_active

    @property
    def knows_bowlines(self) -> bool:
        """Whether the run has learned from the sample data."""
        return self.run is not None and self.run.training_set.generator == sample_data.ORIGIN.generator

    @property
    def next(self) -> str:
        """The step whose button is the one to press."""
        if self.model is None:
            return "model"
        if self.dataset is None:
            return "data"
        return "talk" if self.has_trained else "train"


def of(user: User) -> FirstSteps | None:
    """How far it is gone; None for whom the steps aren't: who put them away, may not train, or has come to the end.

    Where others have trained already, a new person isn't taken by the hand.
    """
    actor = user.actor()
    if user.hides_first_steps or actor.role < Role.USE:
        return None
    rows = Run.objects.filter(dataset__isnull=False).select_related("job", "dataset").order_by("-id")
    done = rows.filter(job__status=Status.DONE)
    own = done.filter(created_by=actor.name).first()
    if own is None and done.exists():
        return None
    if own is not None and _has_talked(actor):
        return None
    return _found(own or rows.first(), rows.exclude(job__status__in=ENDED).first())


def _has_talked(actor: Actor) -> bool:
    return Turn.objects.filter(conversation__owner=actor.owner, role=Speaker.ASSISTANT).exists()


def _found(run: Run | None, going: Run | None) -> FirstSteps:
    ready = models.list_ready()
    fetching = LanguageModel.objects.select_related("job").exclude(state=ModelState.READY).exclude(source="run")
    datasets = Dataset.objects.select_related("job").defer("report")
    trained = run.models.filter(source="run", state=ModelState.READY).first() if run is not None else None
    engines = Deployment.objects.filter(model=trained).order_by("-is_active", "-id") if trained is not None else None
    host = hosts.first()
    return FirstSteps(
        host=host if host is not None and host.reading else None, model=_smallest(ready),
        fetching=fetching.order_by("-created_at").first(), dataset=datasets.filter(status=DatasetStatus.READY).first(),
        checking=datasets.exclude(status=DatasetStatus.READY).first(), run=run, going=going, trained=trained,
        engine=engines.filter(status__in=LIVE).first() if engines is not None else None,
    )  # fmt: skip


def _smallest(ready: list[LanguageModel]) -> LanguageModel | None:
    """The model with which one sees something soonest."""
    whole = [model for model in ready if model.kind == "full" and model.source != "run"]
    return min(whole, key=lambda model: (model.parameters or 1 << 62, model.name), default=None)


def show(user: User, shown: bool) -> None:
    """Puts the steps away for one person, or brings them back."""
    with transaction.atomic():
        User.objects.filter(pk=user.pk).update(hides_first_steps=not shown)
        audit(user.actor(), "person.first_steps", user.get_username(), shown=shown)


def get_model(actor: Actor) -> LanguageModel:
    """Fetches the small model, or tries once more where that has failed. Raises ConflictError while it comes."""
    actor.require(Role.USE)
    model = LanguageModel.objects.select_related("job").filter(name=models.STARTER).first()
    if model is None:
        return models.register(actor, models.STARTER, "smollm2")
    if model.state != ModelState.FAILED or model.job is None:
        raise ConflictError(f"{model.name} is here already, or on its way.")
    jobs.retry(actor, model.job.pk)
    model.refresh_from_db()
    return model


# --- The first run ----------------------------------------------------------------------------------------------------


def choices(found: FirstSteps) -> dict[str, Any]:
    """What the form of the first run begins with, and about how many `minutes` it takes (None: nobody knows)."""
    model, dataset = found.model, found.dataset
    seconds = step_seconds(model, dataset, found.host)
    few, many = STEPS
    steps = many if seconds is None else max(few, min(many, int(BUDGET_SECONDS / max(seconds, 1e-6))))
    is_tiny = model is not None and (model.parameters or 0) < TINY_PARAMETERS
    return {
        "name": RUN_NAME, "dataset": dataset, "model": model,
        "minutes": None if seconds is None else max(1, round(steps * seconds / 60)),
        "config": {
            "hyperparams": {
                "max_steps": steps, "per_device_train_batch_size": BATCH, "max_length": MAX_LENGTH,
                "learning_rate": 5e-3 if is_tiny else 1e-3,
            },
            "model": {"method": "full" if is_tiny else "lora"},
        },
    }  # fmt: skip


def step_seconds(model: LanguageModel | None, dataset: Dataset | None, host: Host | None) -> float | None:
    """About how long a step takes on a host without GPUs; None where it has some, or nobody knows."""
    reading = host.reading if host is not None else {}
    cores, parameters = reading.get("cpu_count"), model.parameters if model is not None else None
    if reading.get("gpus") or not cores or not parameters:
        return None
    tokens = ((dataset.report if dataset is not None else None) or {}).get("tokens") or {}
    length = min(float(tokens.get("mean") or TOKENS_AN_EXAMPLE), MAX_LENGTH)
    return float(OPERATIONS_A_PARAMETER * parameters * BATCH * length / (cores * OPERATIONS_A_CORE))
