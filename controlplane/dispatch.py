"""The dispatcher: claims jobs, launches them, carries out wishes, reads what comes back. Threads of the web process.

One thread decides (claim, launch, signal); one thread a host reads (a long poll). Both keep nothing that is not in the
data base: after a restart they go on where the rows and the event files stand.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from controlplane import fence, placing, threads
from controlplane.duties import DUTIES
from controlplane.errors import ConflictError, PilothouseError
from controlplane.fleet.local import ensure_agent
from controlplane.fleet.protocol import AgentRefusedError, AttemptNews, Cursor, HostUnreachableError, PollAnswer, Wish
from controlplane.fleet.registry import carrier, local
from controlplane.fleet_watch import FleetWatch
from controlplane.host_loss import LossWatch
from controlplane.kept_connections import give_back, keep_sound, let_go
from controlplane.kinds.registry import kind_of
from controlplane.launches import Launches
from controlplane.models import Attempt, Deployment, Host, Job
from controlplane.models.jobs import Desired, Status
from controlplane.placement import Place
from controlplane.services import bell, energy, engine_watch, hosts, ingest, jobs, members, staging, telemetry
from controlplane.stuck import StuckWatch

log = logging.getLogger(__name__)
TICK_SECONDS = 1.0
POLL_SECONDS = 1.0
BATCH_SECONDS = 0.2
"""At most five batches a second from a host, and so at most five messages a second on a topic."""
STATISTICS_EVERY_SECONDS = 3.0
AGENT_GONE_SECONDS = 3.0
GRACE_SECONDS = 10.0
STORE_TRIES = 10
_read_at: dict[int, float | None] = {}
"""The time of the last reading of each host that is stored."""

_unstorable: dict[tuple[int, int], int] = {}
"""How often an attempt's news could not be stored, by (job, attempt)."""

TRY_AGAIN = frozenset({"stopping", "still_running", "launching"})


class Dispatcher:
    """Owns the threads."""

    def __init__(self, *, home: Path | None = None, lease: fence.Fence | None = None) -> None:
        """`lease`: what its threads act by, where several processes might (`controlplane.leading`)."""
        self.home = home or Path(settings.HOME)
        self._lease = lease
        self.stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._polled: set[int] = set()
        self._checking: set[int] = set()
        self._stuck = StuckWatch()
        self._loss = LossWatch()
        self._launches = Launches(launch)

    def start(self) -> None:
        """Starts deciding; pollers start as hosts become known."""
        self._spawn("dispatcher", self._decide)
        self._spawn("fleet", lambda: FleetWatch().run(self.stopping))
        self._spawn("statistics", self._read_statistics)
        for duty in DUTIES:
            self._spawn(duty.name, lambda duty=duty: duty.run(self.stopping))  # type: ignore[misc] # bound now

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Ends all threads; jobs go on."""
        self.stopping.set()
        bell.wake()
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        with fence.behind(self._lease):
            self._threads.append(threads.begin(name, work))

    def _decide(self) -> None:
        while not self.stopping.is_set():
            keep_sound()
            try:
                self.tick()
            except Exception:  # this loop must live; what failed is tried again at the next tick
                log.exception("the dispatcher stumbled")
                self.stopping.wait(TICK_SECONDS)
            bell.wait(TICK_SECONDS)
        let_go()

    def tick(self) -> None:
        """One round of everything that the dispatcher decides."""
        self._meet_hosts()
        launch_claimed(self._launches.start)
        if Job.objects.filter(status=Status.PENDING).exists():  # at rest small questions instead of large ones
            launch_pending(self._launches.start)
        if Attempt.objects.filter(ended_at=None).exists():
            carry_out_wishes()
            self._stuck.look()
        self._loss.look()
        members.look()
        self._watch_deployments()

    def _meet_hosts(self) -> None:
        """Makes the host row of this machine's agent, and gives every host its reader."""
        if not self._polled:
            try:
                hosts.register(local().describe())
            except HostUnreachableError:
                self._start_agent()
                return
        for host in Host.objects.all():
            if host.pk not in self._polled:
                self._polled.add(host.pk)
                self._spawn(f"poll {host.name}", lambda host=host: self._read(host))  # type: ignore[misc] # bound now

    def _read(self, host: Host) -> None:
        """Long-polls one host for ever."""
        gone_since: float | None = None
        while not self.stopping.is_set():
            keep_sound()
            try:
                started = time.monotonic()
                poll(host)
                gone_since = None
                self.stopping.wait(max(0.0, BATCH_SECONDS - (time.monotonic() - started)))
            except HostUnreachableError as error:
                gone_since = gone_since or time.monotonic()
                hosts.unreachable(host, str(error))
                if time.monotonic() - gone_since > AGENT_GONE_SECONDS and host.carrier == "local":
                    self._start_agent()
                    gone_since = time.monotonic()
                self.stopping.wait(TICK_SECONDS)
            except Exception:  # this loop must live
                log.exception("reading %s stumbled", host.name)
                self.stopping.wait(TICK_SECONDS)
        let_go()

    def _start_agent(self) -> None:
        log.warning("no agent answers on this machine: starting it, or waiting for its service")
        try:
            ensure_agent(self.home)
        except HostUnreachableError as error:
            log.error("the agent can't be started: %s", error)

    def _watch_deployments(self) -> None:
        if not engine_watch.any_coming():
            return
        engine_watch.give_up_slow()
        for deployment in engine_watch.waiting_for_check():
            if deployment.pk not in self._checking:
                self._checking.add(deployment.pk)
                self._spawn(f"check {deployment.pk}", lambda row=deployment: self._check(row))  # type: ignore[misc]

    def _read_statistics(self) -> None:
        """Asks the engines for their figures; in a thread of its own, since a busy one takes its time."""
        while not self.stopping.wait(STATISTICS_EVERY_SECONDS):
            keep_sound()
            try:
                engine_watch.refresh_statistics()
            except Exception:  # this loop must live
                log.exception("reading the engines' figures stumbled")
        let_go()

    def _check(self, deployment: Deployment) -> None:
        try:
            engine_watch.check(deployment)
        finally:
            self._checking.discard(deployment.pk)
            let_go()


_asks = placing.Asks()


def launch_pending(start: Callable[[Attempt], None] | None = None) -> None:
    """Claims and launches every pending job that has a place now; tells the others why they wait."""
    claimed: list[Attempt] = []

    def take(job: Job, found: Place) -> bool:
        attempt = claim(job, found)
        if attempt is not None:
            claimed.append(attempt)
        return attempt is not None

    try:
        placing.run(_asks, take)
    finally:
        for attempt in claimed:
            (start or launch)(attempt)


def claim(job: Job, found: Place) -> Attempt | None:
    """Makes a pending job running, with a new attempt. None when somebody was faster."""
    number = job.attempt_count + 1
    try:
        with transaction.atomic():
            reason = f"attempt {number} on {found.host.name}" + (f" ({found.because})" if found.because else "")
            claimed = jobs.transition(
                job.pk, Status.RUNNING, reason=reason, host=found.host, gpus=list(found.gpus), attempt_count=number,
                phase="launching", waiting_reason="",
            )  # fmt: skip
            attempt = Attempt.objects.create(
                job=claimed, number=number, host=found.host, gpus=list(found.gpus), placed_because=found.because
            )
            members.enlist(attempt, found.others)
            kind_of(claimed).on_launch(claimed, attempt)
    except ConflictError:
        return None
    return attempt


def launch_claimed(start: Callable[[Attempt], None] | None = None) -> None:
    """Launches attempts that were claimed but never acknowledged (a restart came between); none is started twice."""
    rows = Attempt.objects.filter(launched=False, ended_at=None, job__status=Status.RUNNING)
    for attempt in rows.filter(number=F("job__attempt_count")).select_related("job", "job__host", "host"):
        (start or launch)(attempt)


def launch(attempt: Attempt) -> None:
    """Hands a claimed attempt to its host's agent. Whatever goes wrong ends this job alone, never the dispatcher."""
    job = jobs.get(attempt.job_id)
    if job.status != Status.RUNNING or job.attempt_count != attempt.number:
        ingest.drop(attempt)  # cancelled between the claim and now
        return
    if staging.is_called_off(job):
        ingest.call_off(attempt)
        return
    try:
        is_launched = _hand_over(job, attempt)
    except HostUnreachableError as error:
        log.warning("job %s: %s; it is launched when the host answers", job.pk, error)
        return
    except AgentRefusedError as error:
        if error.code == "superseded":
            ingest.drop(attempt)
        elif error.code not in TRY_AGAIN:
            ingest.fail_before_launch(attempt, error.code, error.message, error.fix)
        return
    except PilothouseError as error:
        ingest.fail_before_launch(attempt, error.code, error.message, "")
        return
    except Exception as error:  # a row that nobody foresaw must not stop all others, now and after each restart
        log.exception("job %s can't be launched", job.pk)
        message = f"It can't be launched: {type(error).__name__}: {error}"
        ingest.fail_before_launch(attempt, "internal", message, "The web server's log has more.")
        return
    if is_launched:
        Attempt.objects.filter(pk=attempt.pk).update(launched=True)


def _hand_over(job: Job, attempt: Attempt) -> bool:
    """Launches the attempt on each of its hosts. False while its files are on their way there."""
    kind = kind_of(job)
    parts = []
    for member, host, whole in members.specs(attempt, kind.spec(job, attempt)):
        spec = staging.staged(members.as_on(attempt, host), whole, carrier(host))
        if spec is not None:
            parts.append((member, host, spec))
    if len(parts) <= attempt.members.count():
        return False
    for member, host, spec in parts:
        carrier(host).launch(spec.to_json(), kind.secrets(job, attempt))
        members.launched(member)
    return True


def carry_out_wishes() -> None:
    """Tells running jobs what their owners want."""
    rows = Attempt.objects.filter(launched=True, ended_at=None, job__status=Status.RUNNING)
    for attempt in rows.exclude(job__desired=Desired.RUN).select_related("job", "host"):
        desired = attempt.job.desired
        if attempt.wish_sent == desired or attempt.number != attempt.job.attempt_count:
            continue
        if not attempt.host.is_online:
            continue  # it is told when it is back
        try:
            carrier(attempt.host).signal(attempt.job_id, attempt.number, Wish(desired))
        except (HostUnreachableError, AgentRefusedError) as error:
            log.info("job %s: %s not delivered yet: %s", attempt.job_id, desired, error)
            continue
        if desired == Desired.CANCEL:
            members.end_others(attempt)
        with transaction.atomic():
            Attempt.objects.filter(pk=attempt.pk).update(wish_sent=desired)
            jobs.set_phase(attempt.job_id, "stopping")


_writing = threading.Lock()


def _turn() -> AbstractContextManager[Any]:
    """On SQLite hosts are stored one after the other: waiting for its lock, sixty threads would starve one another."""
    return _writing if connection.vendor == "sqlite" else nullcontext()


def poll(host: Host) -> None:
    """One long poll of a host: stores what it brings, and ends what runs there without a right to."""
    rows = Attempt.objects.filter(host=host, launched=True, ended_at=None)
    cursors = [Cursor(job_id=row.job_id, attempt=row.number, offset=row.offset) for row in rows]
    parts = members.parts_on(host)
    cursors += [Cursor(job_id=key[0], attempt=key[1], offset=part.offset) for key, part in parts.items()]
    give_back()
    answer = carrier(host).poll(cursors, POLL_SECONDS, host.samples_until or 0.0)
    received_at = time.time()
    for news in answer["attempts"]:
        if (part := parts.get((news["job_id"], news["attempt"]))) is not None:
            members.heard(part, news)
        else:
            _store(news)
    try:
        with _turn():
            _record(host, answer, received_at)
    except Exception:
        host.refresh_from_db(fields=["samples_until"])  # it may stand where nothing was stored
        raise
    for job_id, number in answer["live"]:
        _end_if_superseded(host, job_id, number)


def _record(host: Host, answer: PollAnswer, received_at: float) -> None:
    """Stores the reading and the samples; the agent reads once a second, and polls come oftener."""
    is_new = answer["reading"].get("time") != _read_at.get(host.pk)
    if not is_new and not answer["samples"]:
        return
    with transaction.atomic():
        if is_new:
            # Most of a poll is waiting; what is left of the round trip is milliseconds, and counted as none.
            host.clock_skew_seconds = round(answer["now"] - received_at, 3)
            hosts.record(host, answer["reading"], host.clock_skew_seconds)
        energy.account(host, telemetry.store(host, answer["samples"], answer["now"]))
    _read_at[host.pk] = answer["reading"].get("time")


def _store(news: AttemptNews) -> None:
    """Stores one attempt's news; an attempt whose news can't be stored, tried often enough, fails alone."""
    key = (news["job_id"], news["attempt"])
    try:
        ingest.store(members.held_back(news))
        _unstorable.pop(key, None)
    except Exception as error:  # this loop must live for the other jobs of the host
        log.exception("the events of job %s attempt %s can't be stored", *key)
        _unstorable[key] = _unstorable.get(key, 0) + 1
        if _unstorable[key] >= STORE_TRIES:
            ingest.give_up(news, f"Its events can't be stored: {type(error).__name__}: {error}")


def _end_if_superseded(host: Host, job_id: int, number: int) -> None:
    """A process whose attempt has ended on the books (cancelled while its host was away, say) is killed."""
    attempt = Attempt.objects.filter(job_id=job_id, number=number).select_related("job").first()
    if attempt is None or not (attempt.host_id == host.pk or attempt.members.filter(host=host).exists()):
        return  # another data base's: not ours to end
    if attempt.ended_at is None and attempt.job.status == Status.RUNNING:
        return
    if attempt.ended_at is not None and (timezone.now() - attempt.ended_at).total_seconds() < GRACE_SECONDS:
        return  # its supervisor is still leaving
    log.warning("job %s attempt %s still runs on %s but has ended here: killing it", job_id, number, host.name)
    carrier(host).signal(job_id, number, Wish.CANCEL)
