"""Whether a run would fit, and how long it would take, before it is started. Runs in the web process; reads only.

What it needs is reckoned by `training.estimate` from the model's files, the settings and the longest example of the
dataset's report; what is free is what the hosts' last readings say.
"""

from dataclasses import dataclass
from typing import Any, TypedDict

from controlplane.models import Dataset, Host, LanguageModel, Run
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import Status
from controlplane.services import datasets, hosts, models, runs
from training.config.loader import parse_config
from training.config.schedule import plan
from training.config.schema import TrainerConfig
from training.estimate.advice import MARGIN, Need, Verdict, judge, largest_batch, ways_to_fit
from training.estimate.memory import Place, estimate_memory
from training.estimate.shape import ModelShape, UnknownShapeError, read_shape

RUNS_LOOKED_AT = 20


class FreeMemory(TypedDict):
    """The emptiest place of all hosts: a card (`gpu`), or a host's own memory. None: nobody knows."""

    host: str | None
    gpu: str | None
    free_bytes: int | None
    total_bytes: int | None


class TimeEstimate(TypedDict):
    """How long a run takes if it is as fast as an earlier one of the same model. None: there is none."""

    steps: int | None
    seconds: float | None
    measured_by_run: int | None


class Estimate(TypedDict):
    """`memory` is None, with a `reason`, where the model's files don't tell how large it is."""

    verdict: Verdict
    reason: str
    memory: dict[str, int] | None
    free: FreeMemory
    largest_batch: int | None
    ways: list[dict[str, Any]]
    notes: list[str]
    time: TimeEstimate


@dataclass(frozen=True)
class _Longest:
    """Tokens of the longest example, and how sure that is (empty: counted)."""

    tokens: int
    note: str


def estimate(
    actor: Actor, *, dataset: int | str, model: str = "", profile: str = "plain", config: dict[str, Any] | None = None
) -> Estimate:
    """What a run with these choices needs. Raises as `runs.create` does; creates nothing."""
    actor.require(Role.USE)
    whole = runs.check(dataset=dataset, model=model, profile=profile, config=config)
    settings, data = parse_config(whole), datasets.get(dataset)
    start = models.get(settings.model.model)
    free, place = _free(settings)
    time = _time(settings, data, start, free["host"])
    try:
        shape = _shape(start)
    except UnknownShapeError as error:
        return Estimate(
            verdict="unknown", reason=str(error), memory=None, free=free, largest_batch=None, ways=[], notes=[],
            time=time,
        )  # fmt: skip
    longest = _longest(data, settings)
    need = Need(shape, settings, longest.tokens, place)
    figures = estimate_memory(shape, settings, longest.tokens, place)
    verdict, free_bytes = judge(figures.peak, free["free_bytes"]), free["free_bytes"]
    is_short = verdict in ("tight", "does not fit")
    return Estimate(
        verdict=verdict, reason=_reason(verdict), memory=figures.to_json(), free=free,
        largest_batch=largest_batch(need, free_bytes) if free_bytes is not None else None,
        ways=[way.to_json() for way in ways_to_fit(need, free_bytes)] if is_short and free_bytes is not None else [],
        notes=[note for note in (longest.note, _of_place(place)) if note], time=time,
    )  # fmt: skip


def _reason(verdict: Verdict) -> str:
    return {
        "fits": "",
        "tight": f"It takes nearly all that is free, and estimates err by up to {MARGIN - 1:.0%}.",
        "does not fit": "It takes more than is free.",
        "unknown": "No host has told how much memory is free.",
    }[verdict]


def _shape(model: LanguageModel) -> ModelShape:
    """The shape of the model, or of an adapter's base."""
    whole = model.base if model.kind == "adapter" and model.base is not None else model
    return read_shape(whole.folder)


def _longest(data: Dataset, settings: TrainerConfig) -> _Longest:
    """The longest example by the dataset's report; where it was not counted, as long as one may be."""
    tokens = (data.report or {}).get("tokens") or {}
    limit = settings.hyperparams.max_length
    most = tokens.get("max")
    if not isinstance(most, int):
        return _Longest(limit, f"Tokens were not counted: reckoned with examples of {limit:,} tokens.")
    note = (
        f"Counted on {tokens.get('sample_rows', 0):,} rows: a longer one may be there." if tokens.get("sampled") else ""
    )
    longest = limit if tokens.get("sampled") and 2 * most > limit else most
    if settings.data.max_tokens:
        longest = min(longest, settings.data.max_tokens)
    return _Longest(min(longest, limit), note)


def _of_place(place: Place) -> str:
    if place.device == "cuda":
        return "The share of the GPU's own context (0.9 GB) is an assumption; the rest was checked on a processor."
    return "No host has a GPU that can be read: reckoned for a processor, whose `precision: auto` is taken for fp32."


def _free(settings: TrainerConfig) -> tuple[FreeMemory, Place]:
    """The place with most free memory: cards first, by the last readings of hosts that answer."""
    wanted = max(1, settings.environment.gpus)
    online = [host for host in hosts.list_hosts() if host.is_online]
    cards = [found for host in online if (found := _cards(host, wanted)) is not None]
    if cards:
        return max(cards, key=lambda found: found["free_bytes"] or 0), Place("cuda", "bf16", wanted)
    memory = [found for host in online if (found := _own_memory(host)) is not None]
    nothing = FreeMemory(host=None, gpu=None, free_bytes=None, total_bytes=None)
    best = max(memory, key=lambda found: found["free_bytes"] or 0, default=nothing)
    return best, Place("cpu", "fp32")


def _cards(host: Host, wanted: int) -> FreeMemory | None:
    """The emptiest `wanted` cards of a host, by the fullest of them."""
    known = []
    for gpu in hosts.gpus_of(host):
        total, used = gpu.reading.get("memory_total_bytes"), gpu.reading.get("memory_used_bytes")
        if total is not None and used is not None and not gpu.reading.get("fault"):
            known.append((total - used, total, gpu))
    known.sort(key=lambda item: item[0], reverse=True)
    if len(known) < wanted:
        return None
    free, total, gpu = known[wanted - 1]
    return FreeMemory(host=host.name, gpu=f"GPU {gpu.index} · {gpu.name}", free_bytes=free, total_bytes=total)


def _own_memory(host: Host) -> FreeMemory | None:
    total, used = host.reading.get("memory_total_bytes"), host.reading.get("memory_used_bytes")
    if total is None or used is None:
        return None
    return FreeMemory(host=host.name, gpu=None, free_bytes=total - used, total_bytes=total)


def _time(settings: TrainerConfig, data: Dataset, model: LanguageModel, host: str | None) -> TimeEstimate:
    """Tokens to train on, at the rate of the last finished run of this model and method on the host."""
    planned = plan(settings, data.examples) if data.examples else None
    nothing = TimeEstimate(steps=planned.total_steps if planned else None, seconds=None, measured_by_run=None)
    mean = ((data.report or {}).get("tokens") or {}).get("mean")
    if host is None or planned is None or mean is None:
        return nothing
    tokens = planned.total_steps * planned.effective_batch * min(float(mean), settings.hyperparams.max_length)
    earlier = Run.objects.filter(model=model, job__status=Status.DONE, job__host__name=host).select_related("job")
    for run in earlier.order_by("-id")[:RUNS_LOOKED_AT]:
        result, method = run.job.result or {}, run.config.get("model", {}).get("method")
        if method == settings.model.method and result.get("tokens") and result.get("seconds"):
            seconds = tokens * result["seconds"] / result["tokens"]
            return TimeEstimate(steps=planned.total_steps, seconds=round(seconds, 1), measured_by_run=run.pk)
    return nothing
