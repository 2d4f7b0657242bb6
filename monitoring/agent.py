"""The agent: starts the jobs of one host, reports on them, signals them, and reads and steers the host itself.

One object per host, in a process of its own behind a Unix socket (`monitoring.server`) or in a Ray actor; thread-safe.
It decides nothing and remembers nothing that isn't on disk: any agent that opens the same home goes on where the last
one stopped, while the jobs, which have supervisors of their own, never noticed.
"""

import fcntl
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monitoring.events import SPEC_VERSION, JobSpec, Wish
from monitoring.file_items import Item
from monitoring.file_store import FileStore
from monitoring.files import write_json
from monitoring.folders import AttemptFolder, all_attempts, exclusive
from monitoring.gpu_processes import ProcessWatch, check_may_end, end_process
from monitoring.launch import COMMANDS, start_supervisor
from monitoring.log_pages import Wanted, read_page
from monitoring.logs import MAX_BYTES, read_bytes, read_from, read_tail
from monitoring.news import news_of_all
from monitoring.nvml import NvmlGate
from monitoring.originals import Originals
from monitoring.power import set_persistence, set_power
from monitoring.processes import ProcessIdentity, send, send_to_group
from monitoring.samples import Sampler, SampleStore
from monitoring.system import HostMonitor, host_facts
from monitoring.wire import (
    AgentFaultError,
    Cursor,
    EndAnswer,
    HostFacts,
    LaunchAnswer,
    LogBytes,
    LogPage,
    LogSlice,
    PersistenceAnswer,
    PollAnswer,
    PowerAnswer,
    SignalAnswer,
    StopAnswer,
)

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
"""How often the files of live attempts are looked at during a long poll. Lines of one tick travel together."""

MAX_WAIT_SECONDS = 30.0
START_SECONDS = 5.0
"""How long a launch waits for the pid of its job, and a wish for a job that is just being started."""

MIN_FREE_BYTES = 256 << 20
AGENT_LOG = Path("logs") / "agent.log"


class Agent:
    """The agent of one home. `commands` replaces the table of job kinds: the command that the spec's path follows."""

    def __init__(
        self,
        home: Path,
        *,
        commands: Mapping[str, Sequence[str]] = COMMANDS,
        gate: NvmlGate | None = None,
        min_free_bytes: int = MIN_FREE_BYTES,
    ) -> None:
        self.home = home.resolve()
        self._commands = commands
        self._gate = gate or NvmlGate()
        self._min_free_bytes = min_free_bytes
        self._started_at = time.time()
        for name in ("jobs", "logs", "tmp"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        self._monitor = HostMonitor(self.home, self._gate, ProcessWatch(self.home, self._leaders).describer)
        self._samples = SampleStore()
        self._sampler = Sampler(self._monitor.take, self._samples)
        self._originals = Originals(self.home, self._gate)
        self.files = FileStore(self.home, in_use=self._user_of, min_free_bytes=min_free_bytes)
        self._power = threading.Lock()
        self._changed = threading.Condition()
        self._changes = 0
        self._starts_nothing = False
        self._ended = False
        self._live = {folder.key for folder in all_attempts(self.home) if folder.exit() is None and folder.is_held()}
        if self._live:
            log.info("adopted %s", ", ".join(f"job {job} attempt {attempt}" for job, attempt in sorted(self._live)))
        self._sampler.start()

    def describe(self) -> HostFacts:
        """What doesn't change while this agent runs."""
        return host_facts(self.home, self._gate, self._started_at)

    # --- Launching ---

    def launch(self, spec: dict[str, Any], secrets: dict[str, str]) -> LaunchAnswer:
        """Starts an attempt, or finds that it has been started already: asked twice, it runs once.

        Raises AgentFaultError: `bad_spec`, `unknown_kind`, `foreign_attempt`, `superseded`, `still_running`,
        `disk_full`, `stopping`, `launch_failed`.
        """
        job = self._check_spec(spec)
        folder = AttemptFolder(self.home, job.job_id, job.attempt)
        try:
            folder.job_path.mkdir(parents=True, exist_ok=True)
            with exclusive(folder.job_path / "launch.lock"):
                adopted = self._find_or_start(folder, job, secrets)
        except OSError as error:
            code = "disk_full" if error.errno in {28, 122} else "launch_failed"  # ENOSPC, EDQUOT
            message = f"Job {job.job_id} can't be started: {error.strerror} ({error.filename})."
            raise AgentFaultError(code, message, f"Make room under {self.home}.") from error
        self._note_live(folder)
        identity = self._await_job(folder)
        log.info("%s job %d attempt %d (%s)", "found" if adopted else "started", *folder.key, job.kind)
        return LaunchAnswer(adopted=adopted, pid=identity.pid if identity else None)

    def _check_spec(self, spec: dict[str, Any]) -> JobSpec:
        try:
            job = JobSpec.from_json(spec)
        except (ValueError, TypeError, AttributeError) as error:
            raise AgentFaultError(
                "bad_spec", f"Not a job spec: {error}.", f"This agent reads specs of version {SPEC_VERSION}."
            ) from error
        if job.kind not in self._commands:
            known = ", ".join(sorted(self._commands))
            raise AgentFaultError("unknown_kind", f"This agent runs no jobs of kind {job.kind!r}, only {known}.")
        if not isinstance(job.config, dict):
            raise AgentFaultError("bad_spec", "Not a job spec: config is no table.")
        return job

    def _find_or_start(self, folder: AttemptFolder, job: JobSpec, secrets: dict[str, str]) -> bool:
        """Returns whether the attempt had been started before. Runs under the job's launch lock."""
        if folder.process() is not None or folder.exit() is not None:
            _check_own(folder, job)
            return True
        for other in folder.siblings():
            if other.attempt > folder.attempt:
                message = f"Attempt {folder.attempt} of job {job.job_id} comes too late: {other.attempt} exists."
                raise AgentFaultError("superseded", message)
            if other.attempt < folder.attempt and other.is_held():
                message = f"Attempt {other.attempt} of job {job.job_id} still runs on this host."
                raise AgentFaultError("still_running", message, "Cancel it, or wait until it has ended.")
        self._check_room(job)
        folder.path.mkdir(parents=True, exist_ok=True)
        descriptor = folder.take_lock()
        if descriptor is None:
            _check_own(folder, job)
            return True  # its supervisor has just begun
        try:
            write_json(folder.spec, job.to_json())
            write_json(folder.secret, secrets, mode=0o600)
            start_supervisor(folder, job, self._commands[job.kind], self.home, descriptor)
        except BaseException:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            raise
        finally:
            os.close(descriptor)  # the supervisor's copy goes on holding the lock
        return False

    def _check_room(self, job: JobSpec) -> None:
        if self._starts_nothing:
            raise AgentFaultError("stopping", "The agent is being stopped and starts nothing.", "Start it again.")
        free = shutil.disk_usage(self.home).free
        if free < self._min_free_bytes:
            raise AgentFaultError(
                "disk_full",
                f"Job {job.job_id} isn't started: {free >> 20} MiB are free under {self.home}, "
                f"and {self._min_free_bytes >> 20} MiB must be.",
                "Make room on that disk.",
            )

    def _await_job(self, folder: AttemptFolder) -> ProcessIdentity | None:
        """The job's process, waiting a little for one that is just being started."""
        deadline = time.monotonic() + START_SECONDS
        while (identity := folder.job_identity()) is None and time.monotonic() < deadline and folder.is_held():
            time.sleep(0.005)
        return identity or folder.job_identity()

    # --- Signals ---

    def signal(self, job_id: int, attempt: int, wish: Wish) -> SignalAnswer:
        """Tells a job to pause or stop, or ends it. A wish for an attempt that has ended is no error.

        CANCEL kills the whole process group at once. PAUSE and STOP go to the job's process, through its supervisor,
        which holds them back until the job can hear them. Raises AgentFaultError `launching` for a job that takes
        too long to start; ask again.
        """
        folder = AttemptFolder(self.home, job_id, attempt)
        job = self._await_job(folder) if folder.is_held() else folder.job_identity()
        state, _ = folder.state()
        if state in ("exited", "lost"):
            return SignalAnswer(delivered=False, state=state)
        if job is None:
            raise AgentFaultError("launching", f"Job {job_id} is still being started.", "Ask again in a moment.")
        if wish is Wish.CANCEL:
            delivered = send_to_group(job, wish.signal)
        else:
            supervisor = folder.supervisor_identity()
            delivered = bool(supervisor and send(supervisor, wish.signal)) or send(job, wish.signal)
        log.info("%s job %d attempt %d: %s", wish.value, job_id, attempt, "delivered" if delivered else "gone already")
        return SignalAnswer(delivered=delivered, state=state)

    def stop_all(self, deadline_seconds: float) -> StopAnswer:
        """Pauses every live attempt and waits until it has ended. With none left it starts nothing from now on."""
        self._starts_nothing = True
        deadline = time.monotonic() + deadline_seconds
        seen: set[tuple[int, int]] = set()
        told: set[tuple[int, int]] = set()
        while left := self._live_now():
            seen.update(left)
            for key in set(left) - told:
                try:
                    self.signal(*key, Wish.PAUSE)
                    told.add(key)
                except AgentFaultError as error:
                    log.warning("pause job %d attempt %d: %s", *key, error)  # still launching: told the next time
            if time.monotonic() > deadline:
                break
            time.sleep(TICK_SECONDS)
        self._starts_nothing = not left or self._ended  # with jobs left it goes on, and is asked again or works on
        return StopAnswer(ended=sorted(seen - set(left)), still_running=left)

    def shutdown(self) -> None:
        """Ends waiting polls, puts back what GPUs were before where that was asked, lets go of NVML. Jobs go on."""
        if self._ended:
            return
        self._starts_nothing = self._ended = True
        self._announce_change()
        self._sampler.stop()
        with self._power:
            self._originals.restore()
        self._monitor.close()
        self._gate.close()

    # --- Reports ---

    def poll(self, cursors: Sequence[Cursor], wait_seconds: float, samples_after: float | None = None) -> PollAnswer:
        """What lies behind each cursor. Stateless: the caller keeps the offsets.

        Returns as soon as there is news (whole new lines, or an attempt that has ended and is drained), when a job
        was launched or a limit set, or else after `wait_seconds` (at most 30) with nothing new. With it comes the last
        reading, which a thread takes every second, and the samples after `samples_after` (`SampleStore.after`).
        """
        deadline = time.monotonic() + min(max(wait_seconds, 0.0), MAX_WAIT_SECONDS)
        seen = self._changes
        while True:
            attempts, is_news = news_of_all(self.home, cursors)
            rest = deadline - time.monotonic()
            if is_news or rest <= 0 or self._changes != seen or self._ended:
                break
            with self._changed:
                if self._changes == seen:
                    self._changed.wait(min(TICK_SECONDS, rest) if cursors else rest)
        return PollAnswer(
            attempts=attempts,
            live=self._live_now(),
            reading=self._monitor.reading(),
            samples=self._samples.after(samples_after),
            now=time.time(),
        )

    def read_log(
        self, job_id: int, attempt: int, *, lines: int = 200, start: int | None = None, limit_bytes: int = 1 << 18
    ) -> LogSlice:
        """The last `lines` lines of an attempt's log or, with `start`, whole lines from that byte on."""
        folder = AttemptFolder(self.home, job_id, attempt)
        if start is None:
            return read_tail(folder.log, lines, limit_bytes)
        return read_from(folder.log, start, limit_bytes, ended=not folder.is_held())

    def page_log(
        self, job_id: int, attempt: int, *, before: int | None = None, after: int | None = None,
        number: int | None = None, lines: int = 200, level: str = "", search: str = "",
    ) -> LogPage:  # fmt: skip
        """A page of an attempt's log (`monitoring.log_pages`): of a level at least, with a text in it."""
        folder = AttemptFolder(self.home, job_id, attempt)
        wanted, ended = Wanted(lines, level, search), not folder.is_held()
        return read_page(folder.log, wanted, before=before, after=after, number=number, ended=ended)

    def copy_log(self, job_id: int, attempt: int, *, start: int = 0, limit_bytes: int = MAX_BYTES) -> LogBytes:
        """A piece of an attempt's log as it lies on the disk."""
        return read_bytes(AttemptFolder(self.home, job_id, attempt).log, start, limit_bytes)

    def read_agent_log(self, lines: int = 200) -> LogSlice:
        """The last lines of the agent's own log."""
        return read_tail(self.home / AGENT_LOG, lines)

    # --- The host ---

    def set_power(
        self, gpu_uuid: str, watts: float, strict: bool = False, restore_at_stop: bool = False
    ) -> PowerAnswer:
        """Sets a GPU's power limit. Raises AgentFaultError (`unknown_gpu`, `out_of_range`, `bad_call`).

        `restore_at_stop`: this agent, or one that follows it, puts the limit before the first change back at its end.
        """
        with self._power:
            self._originals.remember(gpu_uuid, "power_limit_watts", restore=restore_at_stop)
            answer = set_power(self._gate, gpu_uuid, watts, strict=strict)
        log.info("power of %s: asked %g W, now %s W (%s)", gpu_uuid, watts, answer["applied_watts"], answer["reason"])
        self._note_host_change()
        return answer

    def set_persistence(self, gpu_uuid: str, enabled: bool, restore_at_stop: bool = False) -> PersistenceAnswer:
        """Sets a GPU's persistence mode. Raises AgentFaultError (`unknown_gpu`, `bad_call`)."""
        with self._power:
            self._originals.remember(gpu_uuid, "persistence_mode", restore=restore_at_stop)
            answer = set_persistence(self._gate, gpu_uuid, enabled)
        log.info("persistence of %s: asked %s, now %s (%s)", gpu_uuid, enabled, answer["enabled"], answer["reason"])
        self._note_host_change()
        return answer

    def end_process(self, pid: int, start_ticks: int, boot_id: str, others: bool = False) -> EndAnswer:
        """Ends a process that holds GPU memory and that no live job owns; answers within ten seconds.

        Raises AgentFaultError: `bad_call`, `other_process`, `not_on_gpu`, `belongs_to_job`, `not_ours` (unless
        `others`), `not_permitted`.
        """
        self._monitor.expire()
        identity = check_may_end(pid, start_ticks, boot_id, self._monitor.reading(), others=others)
        if identity is None:
            return EndAnswer(ended=False, reason=f"Process {pid} had ended before.")
        answer = end_process(identity)
        log.info("end of process %d: %s", pid, answer)
        self._note_host_change()
        return answer

    # --- Inside ---

    def _note_live(self, folder: AttemptFolder) -> None:
        with self._changed:
            self._live.add(folder.key)
        self._announce_change()

    def _announce_change(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def _live_now(self) -> list[tuple[int, int]]:
        """The attempts whose lock is held, in order. Only what was live is asked, not all that ever ran."""
        with self._changed:
            known = sorted(self._live)
        gone = {key for key in known if not AttemptFolder(self.home, *key).is_held()}
        with self._changed:
            self._live -= gone
        return [key for key in known if key not in gone]

    def _note_host_change(self) -> None:
        """The next poll shows it at once."""
        self._monitor.expire()
        self._announce_change()

    def _user_of(self, item: Item) -> str:
        """Which live attempt works with an item, or nothing."""
        place = f"{item.folder(self.home)}"
        for key in self._live_now():
            spec = json.dumps(AttemptFolder(self.home, *key).started_spec(), ensure_ascii=False)
            if f'"{place}"' in spec or f'"{place}/' in spec or (item.kind == "results" and item.id == str(key[0])):
                return f"job {key[0]} works with it"
        return ""

    def _leaders(self) -> dict[int, int]:
        """The jobs of the live attempts by the pid of the process that leads the job's process group."""
        folders = (AttemptFolder(self.home, *key) for key in self._live_now())
        return {job.pid: folder.job_id for folder in folders if (job := folder.job_identity()) is not None}


def _check_own(folder: AttemptFolder, job: JobSpec) -> None:
    """Raises AgentFaultError `foreign_attempt` where what was started under these numbers is another job.

    Numbers begin again with a new data base, while the home still holds the jobs of the one before.
    """
    started, asked = folder.started_spec(), job.to_json()
    if started is None or _what_it_is(started) == _what_it_is(asked):
        return
    message = f"The folder of job {folder.job_id} attempt {folder.attempt} holds another installation's attempt."
    fix = f"Move {folder.job_path.parent} away, or restore the data base that it belongs to."
    raise AgentFaultError("foreign_attempt", message, fix)


def _what_it_is(spec: dict[str, Any]) -> list[Any]:
    """What stays the same however often an attempt is asked for. The checkpoint to resume from may not: one may have
    been deleted meanwhile."""
    inputs = spec.get("inputs") or {}
    return [
        *(spec.get(name) for name in ("kind", "output_dir", "model_dir")),
        *(inputs.get(name) for name in ("dataset", "model", "base")),
    ]
