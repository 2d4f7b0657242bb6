"""What goes on and shouldn't: looked at every few seconds, by the duty `alerts`. Runs in the web process.

Each check says what is wrong now. What is new becomes an alert; one that is open and no longer wrong ends when it has
been well for a while, so that what comes and goes is one alert and not many.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from django.db.models import Max
from django.utils import timezone

from controlplane.fleet.protocol import DiskReading
from controlplane.kinds.registry import kind_of
from controlplane.models import Alert, Attempt, Deployment, Gpu, Host, InboxFile, Job
from controlplane.models.alerts import RANK, Severity
from controlplane.models.deployments import DeploymentStatus
from controlplane.models.inbox import InboxState
from controlplane.models.jobs import Status
from controlplane.services import alert_routes, alerts, run_alerts, settings
from controlplane.services.power_profiles import label

log = logging.getLogger(__name__)
CALM = timedelta(seconds=20)
"""How long it must have been well before an alert ends."""

PATIENCE = timedelta(seconds=10)
"""How long a driver may be silent, or a card unnamed, before it is lost: one late answer is no alert."""

MISSING_GPU_DAYS = 7
"""A card that its host hasn't named for longer was taken out."""

DISK_CALM = 1.1
"""A disk is well again with a tenth more room than the limit."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong now. `only_keeps`: not enough to begin an alert, enough to let one go on."""

    subject: str
    severity: str
    message: str
    fix: str = ""
    url: str = ""
    only_keeps: bool = False


Check = Callable[[], Iterable[Finding]]


def look() -> None:
    """One look at everything. A step that fails doesn't keep the others from being made."""
    with settings.read_once():
        _attempt("ending what is switched off", alerts.end_switched_off)
        open_now = _open_alerts()
        for rule, check in CHECKS.items():
            _attempt(f"the rule {rule}", partial(_look_at, rule, check, open_now[rule]))
        _attempt("the rule engine_failed", fire_failed_engines)
        _attempt("ending what is open of deleted runs", run_alerts.end_of_deleted_runs)
        _attempt("planning reminders", alert_routes.plan_reminders)


def _open_alerts() -> dict[str, list[Alert]]:
    """What is open by rule, looked up once for all of them."""
    found: dict[str, list[Alert]] = {rule: [] for rule in CHECKS}
    for alert in Alert.objects.filter(rule__in=CHECKS, ended_at=None):
        found[alert.rule].append(alert)
    return found


def _attempt(name: str, step: Callable[[], None]) -> None:
    try:
        step()
    except Exception:  # whatever it is, it will be there at the next look too: the other steps can't wait for its end
        log.exception("a step of looking for alerts failed: %s", name)


def _look_at(rule: str, check: Check, open_alerts: list[Alert]) -> None:
    settle(rule, list(check()), open_alerts)


def settle(rule: str, findings: list[Finding], open_alerts: list[Alert]) -> None:
    """Fires what is new or worse, keeps what goes on, ends what has been well for a while.

    An alert stays as urgent as it was at its worst, so that what wavers about a limit isn't told again and again.
    """
    open_now = {alert.subject: alert for alert in open_alerts}
    for found in findings:
        alert = open_now.pop(found.subject, None)
        is_news = alert is None or RANK[found.severity] > RANK[alert.severity]
        if is_news and not found.only_keeps:
            alerts.fire(rule, found.subject, found.severity, found.message, fix=found.fix, url=found.url)
        elif alert is not None:
            alerts.keep(rule, found.subject)
    for alert in open_now.values():
        if timezone.now() - alert.last_at >= CALM:
            alerts.end(rule, alert.subject)


# --- Hosts and GPUs ---------------------------------------------------------------------------------------------------


def _out_of_sight(rule: str, host: Host) -> Iterable[Finding]:
    """What is open of a host that doesn't answer goes on: nobody can know that it is well."""
    for alert in Alert.objects.filter(rule=rule, url=_page(host), ended_at=None):
        yield Finding(alert.subject, alert.severity, alert.message, only_keeps=True)


def offline_hosts() -> Iterable[Finding]:
    """Hosts whose agent can't be reached. `fault` is set by the poll alone: a web server that has just started, and
    hasn't asked yet, finds nobody away."""
    limit = timedelta(seconds=settings.get("alerts.host_offline_seconds"))
    for host in Host.objects.exclude(fault=""):
        if host.last_seen_at is None or timezone.now() - host.last_seen_at < limit:
            continue
        yield Finding(
            host.name, Severity.CRITICAL,
            f"The agent of {host.name} hasn't answered since {_clock(host.last_seen_at)}: {host.fault}",
            fix="Is the machine up and on the network? systemctl status pilothouse-agent says more there.",
            url=_page(host),
        )  # fmt: skip


def lost_gpus() -> Iterable[Finding]:
    """Drivers that don't answer, cards with a fault, cards that are gone."""
    for host in Host.objects.prefetch_related("gpus"):
        if not host.is_online:
            yield from _out_of_sight("gpu_lost", host)
            continue
        oldest = timezone.now() - timedelta(days=MISSING_GPU_DAYS)
        known = [gpu for gpu in host.gpus.all() if gpu.seen_at > oldest]
        deaf = _deaf_driver(host, known)
        yield from [deaf] if deaf else _lost_cards(host, known)


def _deaf_driver(host: Host, known: list[Gpu]) -> Finding | None:
    """The driver as a whole: one finding, not one a card. Where there never was a card, its absence is no fault."""
    fault, since = host.reading.get("gpu_fault"), host.reading.get("gpu_fault_since")
    if since is not None:
        began = datetime.fromtimestamp(since, UTC)
    elif fault and known and not host.reading.get("gpus"):
        began = max(gpu.seen_at for gpu in known)
    else:
        return None
    return Finding(
        f"GPUs of {host.name}", Severity.CRITICAL, f"No GPU of {host.name} can be read since {_clock(began)}: {fault}",
        fix="nvidia-smi and dmesg on the host say more; a driver that hangs needs a reboot.",
        url=_page(host), only_keeps=timezone.now() - began < PATIENCE,
    )  # fmt: skip


def _lost_cards(host: Host, known: list[Gpu]) -> Iterable[Finding]:
    named = {gpu["uuid"]: gpu for gpu in host.reading.get("gpus", [])}
    for gpu in known:
        fault = named.get(gpu.uuid, {}).get("fault")
        if gpu.uuid in named and not fault:
            continue
        words = fault or f"the driver hasn't named it since {_clock(gpu.seen_at)}."
        yield Finding(
            label(gpu), Severity.CRITICAL, f"GPU {gpu.index} ({gpu.name}) on {host.name} is lost: {words}",
            fix="The host's kernel log says why (dmesg, lines with Xid); a card off the bus needs a reboot.",
            url=_page(host), only_keeps=not fault and timezone.now() - gpu.seen_at < PATIENCE,
        )  # fmt: skip


def full_disks() -> Iterable[Finding]:
    """Disks with a host's home folder that are nearly full."""
    percent, gib = settings.get("alerts.disk_free_percent"), settings.get("alerts.disk_free_gib")
    for host in Host.objects.all():
        if not host.is_online:
            yield from _out_of_sight("disk", host)
            continue
        disk = home_disk(host)
        if disk is None:
            continue
        free, limit = disk["total_bytes"] - disk["used_bytes"], max(percent / 100 * disk["total_bytes"], gib * 2**30)
        if free >= DISK_CALM * limit:
            continue
        yield Finding(
            f"{disk['mount']} on {host.name}", Severity.CRITICAL if free < limit / 4 else Severity.WARNING,
            f"The disk {disk['mount']} of {host.name} has {free / 2**30:.1f} GiB left of "
            f"{disk['total_bytes'] / 2**30:.0f}: runs stop when they can't write their checkpoints.",
            fix="Delete runs, datasets or models that nobody needs, or give the home folder a larger disk.",
            url=_page(host), only_keeps=free >= limit,
        )  # fmt: skip


def home_disk(host: Host) -> DiskReading | None:
    """The disk that holds a host's home folder; None where the host doesn't say."""
    home = str(host.facts.get("home") or "") + "/"
    disks: list[DiskReading] = host.reading.get("disks", [])
    holding = [disk for disk in disks if home.startswith(disk["mount"].rstrip("/") + "/")]
    return max(holding, key=lambda disk: len(disk["mount"]), default=None)


# --- The queue --------------------------------------------------------------------------------------------------------


class QueueWatch:
    """Remembers when each running job last told anything: a queue behind one that works is no stuck queue."""

    def __init__(self) -> None:
        self._heard: dict[int, tuple[int, float]] = {}

    def findings(self) -> Iterable[Finding]:
        """One for each lane in which jobs wait and nothing that runs makes progress."""
        limit_seconds = 60.0 * settings.get("alerts.queue_stuck_minutes")
        going = self._lanes_that_work(limit_seconds)
        waiting: dict[str, list[Job]] = {}
        pending = Job.objects.filter(status=Status.PENDING).annotate(last_ended_at=Max("attempts__ended_at"))
        for job in pending.order_by("-priority", "position", "id"):
            lane = kind_of(job).lane
            moments = (job.created_at, job.not_before, job.last_ended_at)
            since = max(moment for moment in moments if moment is not None)
            if lane not in going and (timezone.now() - since).total_seconds() > limit_seconds:
                waiting.setdefault(lane, []).append(job)
        return [_stuck(lane, jobs, limit_seconds) for lane, jobs in waiting.items()]

    def _lanes_that_work(self, limit_seconds: float) -> set[str]:
        running = Attempt.objects.filter(ended_at=None, job__status=Status.RUNNING).select_related("job")
        present = {row.pk: row for row in running}
        self._heard = {key: value for key, value in self._heard.items() if key in present}
        for key, row in present.items():
            if self._heard.get(key, (-1, 0.0))[0] != row.offset:
                self._heard[key] = (row.offset, time.monotonic())
        return {
            kind_of(row.job).lane
            for key, row in present.items()
            if time.monotonic() - self._heard[key][1] <= limit_seconds
        }


def _stuck(lane: str, waiting: list[Job], limit_seconds: float) -> Finding:
    first = waiting[0]
    reason = first.waiting_reason or "nothing says why"
    count = f"{len(waiting)} jobs have" if len(waiting) > 1 else "A job has"
    return Finding(
        f"queue of {lane} jobs", Severity.WARNING,
        f"{count} been waiting for more than {limit_seconds / 60:g} min though nothing before them makes progress. "
        f"The first, {first.kind} {first.pk} “{first.title}”, {reason}.",
        fix="The page Queue says what each job waits for; the log of the dispatcher is /api/logs/jobs.", url="/queue/",
    )  # fmt: skip


_queue = QueueWatch()


def stuck_inbox_files() -> Iterable[Finding]:
    """Files in the inbox that are not taken although they have been there for long."""
    if not settings.get("inbox.enabled"):
        return
    minutes = settings.get("alerts.inbox_stuck_minutes")
    waiting = InboxFile.objects.filter(state__in=(InboxState.SETTLING, InboxState.TAKING))
    for row in waiting.filter(seen_at__lt=timezone.now() - timedelta(minutes=minutes)):
        yield Finding(
            f"inbox file {row.pk}", Severity.WARNING,
            f"The file {row.filename} has been in the inbox for more than {minutes} min and isn't taken: "
            f"{row.reason or 'it changes again and again.'}",
            fix="End what writes to it, or take it out of the inbox; the page Inbox says more.", url="/queue/inbox/",
        )  # fmt: skip


# --- Engines ----------------------------------------------------------------------------------------------------------


def engines_down() -> Iterable[Finding]:
    """The active deployment, where its engine doesn't answer for longer than the limit."""
    limit = timedelta(seconds=settings.get("alerts.engine_down_seconds"))
    row = Deployment.objects.filter(is_active=True).exclude(status=DeploymentStatus.READY).first()
    if row is None:
        return
    last = Attempt.objects.filter(job_id=row.job_id).order_by("-number").first()
    moments = (row.created_at, row.ready_at, *((last.created_at, last.ended_at) if last else ()))
    since = max(moment for moment in moments if moment is not None)
    if timezone.now() - since < limit:
        return
    yield Finding(
        f"engine of {row.model.name}", Severity.CRITICAL,
        f"The engine of the active model {row.model.name} has not answered since {_clock(since)}: it is {row.status}.",
        fix="Its log says more (page Models, or /api/logs/gpu_worker). Activate another model meanwhile.",
        url=f"/models/at/{row.model.name}",
    )  # fmt: skip


def fire_failed_engines() -> None:
    """The newest deployment, where it has failed: told once. An earlier one may serve still."""
    row = Deployment.objects.select_related("model").order_by("-id").first()
    if row is None or row.status != DeploymentStatus.FAILED:
        _end_failed_engines()
        return
    told_before = row.ended_at or row.created_at
    if told_before < timezone.now() - timedelta(days=settings.get("alerts.keep_days")):
        return  # its alert may be forgotten already
    subject = f"deployment {row.pk}"
    if Alert.objects.filter(rule="engine_failed", subject=subject).exists():
        return
    _end_failed_engines()
    serves = Deployment.objects.filter(is_active=True, status=DeploymentStatus.READY).select_related("model").first()
    words = f"{serves.model.name} serves meanwhile." if serves else "No model answers now."
    alerts.fire(
        "engine_failed", subject, Severity.WARNING if serves else Severity.CRITICAL,
        f"The engine of {row.model.name} has failed: {row.error or 'it did not say why.'} {words}",
        fix="Its log says more. Activate the model again, or another one.", url=f"/models/at/{row.model.name}",
    )  # fmt: skip


def _end_failed_engines() -> None:
    """Somebody has activated a model since."""
    for subject in Alert.objects.filter(rule="engine_failed", ended_at=None).values_list("subject", flat=True):
        alerts.end("engine_failed", subject)


def _page(host: Host) -> str:
    return f"/hosts/{host.name}/"


def _clock(moment: datetime) -> str:
    local = timezone.localtime(moment)
    return local.strftime("%H:%M:%S" if local.date() == timezone.localdate() else "%Y-%m-%d %H:%M:%S")


CHECKS: dict[str, Check] = {
    "host_offline": offline_hosts, "gpu_lost": lost_gpus, "disk": full_disks, "queue_stuck": _queue.findings,
    "inbox_stuck": stuck_inbox_files,
    "engine_down": engines_down,
}  # fmt: skip
