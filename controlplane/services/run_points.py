"""Points of a run on their way in: kept, and told to whoever watches. Runs in the web process, inside a transaction.

Training jobs bring them by their events, scripts elsewhere by the API; both go through here.
"""

from collections.abc import Mapping, Sequence

from controlplane.live.announce import publish
from controlplane.models import Run
from controlplane.services import curves, run_alerts, run_facts
from controlplane.services.points import Point
from monitoring.events import encode_number

Fresh = Mapping[str, Sequence[Point]]
"""New points by their key."""

TOLD_POINTS = 2_000
"""A message holds no more: of what came by the thousand, pages are told to read the curves anew."""

NEW_SHARE = 0.2
"""How much of the moving average of the seconds that a step takes is the newest ones'."""


def reach(run: Run, step: int, time: float) -> None:
    """Notes how far the run is, and a moving average of the seconds that a step takes."""
    if step <= run.last_step:
        return
    if run.last_time is not None and time > run.last_time:
        seconds = (time - run.last_time) / (step - run.last_step)
        before = run.seconds_per_step
        run.seconds_per_step = seconds if before is None else (1 - NEW_SHARE) * before + NEW_SHARE * seconds
    run.last_step, run.last_time = step, time


def keep(run: Run, fresh: Fresh) -> None:
    """Stores new points and how far the run is with them."""
    curves.append_all(run, fresh)
    run_alerts.look_at_points(run, fresh)
    Run.objects.filter(pk=run.pk).update(
        last=run.last, last_step=run.last_step, total_steps=run.total_steps, epoch=run.epoch,
        last_time=run.last_time, seconds_per_step=run.seconds_per_step, heard_at=run.heard_at,
    )  # fmt: skip


def tell(run: Run, fresh: Fresh) -> None:
    """Tells the run's topic of points that are kept, and of its progress."""
    topic = f"run:{run.pk}"
    if not fresh:
        publish(topic, "progress", run_facts.progress(run))
    elif sum(map(len, fresh.values())) > TOLD_POINTS:
        publish(topic, "reset", {})
    else:
        told = {key: [[s, encode_number(v), t] for s, v, t in points] for key, points in fresh.items()}
        publish(topic, "metrics", {"points": told, "progress": run_facts.progress(run)})


def rewind(run: Run, step: int, time: float) -> bool:
    """The run goes on from `step`: what lay beyond it leaves the curves. Returns whether there was anything."""
    changed = curves.rewind(run, step)
    curves.resumed(run, step, time)
    run.last_step, run.last_time, run.seconds_per_step = step, None, None
    run.last, run.epoch = curves.last_values(run), None
    Run.objects.filter(pk=run.pk).update(
        last=run.last, epoch=None, last_step=step, last_time=None, seconds_per_step=None
    )
    publish(f"run:{run.pk}", "progress", run_facts.progress(run))
    return changed
