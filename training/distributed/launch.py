"""Several training processes for one attempt, started and watched by torchrun's agent. Runs in the job's own process.

Of a run on several hosts each host has such a process; they meet at an address of the first one, where torchrun's
agents number the processes in the order of the hosts. The first host's process tells what the run does, the others how
they end.

The job's process is the one that the supervisor signals. It passes wishes on through a file, which the first rank reads
at each step: a signal could reach a process that doesn't listen yet, and torchrun itself takes SIGTERM for the end.
"""

import json
import os
import signal
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitoring.attempt import RANK_DIED, JobFaultError, JobPausedError
from monitoring.events import EventWriter, JobSpec, Meeting
from training.config.schema import TrainerConfig
from training.distributed.worker import RENDEZVOUS_FILE, Outcome, outcome_file
from training.wishes import WISH_FILE, Wishes

END_SECONDS = 10
"""When one process has failed, the others have so long to end before they are killed."""

MEET_SECONDS = 300
"""How long a host waits for the others of its run: they load torch first, and may be slower."""


@dataclass(frozen=True)
class Party:
    """The processes of one host: `count` of them, on host `number` (from 0) of `hosts`."""

    count: int
    number: int = 0
    hosts: int = 1

    @property
    def first(self) -> int:
        """The rank of this host's first process."""
        return self.number * self.count

    @property
    def total(self) -> int:
        """All processes, on all hosts."""
        return self.hosts * self.count


def process_count(spec: JobSpec, config: TrainerConfig) -> int:
    """How many processes the run takes: one a GPU, or without GPUs as many as `environment.gpus` says."""
    if config.environment.distributed == "none":
        return 1
    return max(1, len(spec.gpus) or config.environment.gpus)


def launch(spec_path: Path, resume: Path | None, count: int, *, events: EventWriter, wishes: Wishes) -> dict[str, Any]:
    """Trains in `count` processes on this host; returns the values of the `result` event.

    Raises JobPausedError, or JobFaultError with the code of the process that failed first, or RANK_DIED.
    """
    from torch.distributed import DistNetworkError, DistStoreError
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    folder, meeting = spec_path.parent, JobSpec.read(spec_path).meeting
    party = Party(count, meeting.number if meeting else 0, meeting.hosts if meeting else 1)
    on = f" on {party.hosts} hosts" if meeting else ""
    events.log(f"The run is trained by {party.total} processes{on}.")
    wishes.leave_in(folder)
    _share_threads(count, meeting is None or meeting.is_local)
    _clear(folder)
    died: dict[int, int] = {}
    try:
        rank = ("-m", "training", "rank", str(spec_path), str(os.getpid()), str(resume or ""))
        elastic_launch(_agreement(folder, count, meeting), sys.executable)(*rank)
    except ChildFailedError as error:
        died = {rank: failure.exitcode for rank, failure in error.failures.items()}
    except (DistNetworkError, DistStoreError, RendezvousError) as error:
        raise _not_met(meeting, error) from error
    finally:
        events.catch_up()
        _clear(folder)
        (folder / WISH_FILE).unlink(missing_ok=True)
    return _come_to(_outcomes(folder, party), died, party)


def _agreement(folder: Path, count: int, meeting: Meeting | None) -> Any:
    """How torchrun's agents meet: alone through a file, those of several hosts at the first one's address."""
    from torch.distributed.launcher.api import LaunchConfig

    shared: dict[str, Any] = {"nproc_per_node": count, "max_restarts": 0, "signals_to_handle": "SIGQUIT"}
    if meeting is None:
        return LaunchConfig(
            min_nodes=1, max_nodes=1, run_id=uuid.uuid4().hex, local_addr="127.0.0.1", rdzv_backend="c10d",
            rdzv_endpoint=str(folder / f".{RENDEZVOUS_FILE}"), rdzv_configs={"store_type": "file"},
            shutdown_timeout=END_SECONDS, **shared,
        )  # fmt: skip
    return LaunchConfig(
        min_nodes=meeting.hosts, max_nodes=meeting.hosts, run_id=meeting.key, local_addr=meeting.address,
        rdzv_backend="static", rdzv_endpoint=meeting.endpoint,
        rdzv_configs={"rank": meeting.number, "timeout": MEET_SECONDS}, shutdown_timeout=END_SECONDS, **shared,
    )  # fmt: skip


def _not_met(meeting: Meeting | None, error: Exception) -> JobFaultError:
    where = meeting.endpoint if meeting else "in the attempt's folder"
    return JobFaultError(
        RANK_DIED,
        f"The run's processes could not meet at {where}: {str(error).splitlines()[0][:200]}",
        "The hosts of a run must reach each other: see “A run on several hosts” in docs/fleet.md.",
    )


def _clear(folder: Path) -> None:
    """A meeting place is for one meeting."""
    for name in (RENDEZVOUS_FILE, f".{RENDEZVOUS_FILE}"):
        (folder / name).unlink(missing_ok=True)


def _share_threads(count: int, is_local: bool) -> None:
    """The processor's threads are shared out; where nothing leaves this host, nothing needs its network cards."""
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    os.environ["OMP_NUM_THREADS"] = str(max(1, threads // count))
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if is_local else ():
        os.environ.setdefault(name, "lo")


def _outcomes(folder: Path, party: Party) -> dict[int, Outcome]:
    files = {rank: outcome_file(folder, rank) for rank in range(party.first, party.first + party.count)}
    outcomes = {rank: json.loads(file.read_text()) for rank, file in files.items() if file.is_file()}
    for file in files.values():
        file.unlink(missing_ok=True)
    return outcomes


def _come_to(outcomes: dict[int, Outcome], died: dict[int, int], party: Party) -> dict[str, Any]:
    """What the processes' ends mean together; a fault that is understood says more than what followed from it.

    `died` has the exit codes of those that failed, the first one first. Once one has, torchrun ends the others by
    SIGTERM; an error that nobody foresaw may be the others' for want of the one that is gone, which on several hosts
    may be another host's. What happens to a process after its last word changes nothing.
    """
    faults = sorted((held for held in outcomes.values() if held["code"]), key=lambda held: held["time"])
    understood = [held for held in faults if held["code"] != "internal"]
    mute = [(rank, code) for rank, code in died.items() if rank not in outcomes]
    alone = [(rank, code) for rank, code in mute if code != -signal.SIGTERM]
    if alone and not understood:
        raise _death(*alone[0], party.total)
    if faults and not understood and party.hosts > 1:
        raise JobFaultError(RANK_DIED, f"Another host of the run was lost: {faults[0]['message']}", faults[0]["fix"])
    for held in [*understood, *faults]:
        raise JobFaultError(held["code"], held["message"], held["fix"], needed_bytes=held["needed_bytes"])
    if mute:
        raise _death(*mute[0], party.total)
    if party.first not in outcomes:
        raise JobFaultError(
            RANK_DIED, f"The run's {party.total} processes could not be started.", "Read the job's log."
        )
    if outcomes[party.first]["is_paused"]:
        raise JobPausedError
    return outcomes[party.first]["values"]


def _death(rank: int, code: int, count: int) -> JobFaultError:
    """The fault of a process that has left no word. `code`: its exit code, or the signal's number below 0."""
    if code >= 0:
        return JobFaultError(
            RANK_DIED, f"Process {rank + 1} of the run's {count} ended with status {code}.", "Read the job's log."
        )
    return JobFaultError(
        RANK_DIED,
        f"Process {rank + 1} of the run's {count} was ended by {signal.Signals(-code).name}.",
        "When memory ran out (see dmesg), lower hyperparams.max_length or the batch size; the run goes on from its "
        "last checkpoint.",
    )
