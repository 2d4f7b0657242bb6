"""Several training processes for one attempt, started and watched by torchrun's agent. Runs in the job's own process.

The job's process is the one that the supervisor signals. It passes wishes on through a file, which the first rank reads
at each step: a signal could reach a process that doesn't listen yet, and torchrun itself takes SIGTERM for the end.
"""

import json
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

from monitoring.attempt import RANK_DIED, JobFaultError, JobPausedError
from monitoring.events import EventWriter, JobSpec
from training.config.schema import TrainerConfig
from training.distributed.worker import RENDEZVOUS_FILE, Outcome, outcome_file
from training.wishes import WISH_FILE, Wishes

END_SECONDS = 10
"""When one process has failed, the others have so long to end before they are killed."""


def process_count(spec: JobSpec, config: TrainerConfig) -> int:
    """How many processes the run takes: one a GPU, or without GPUs as many as `environment.gpus` says."""
    if config.environment.distributed == "none":
        return 1
    return max(1, len(spec.gpus) or config.environment.gpus)


def launch(spec_path: Path, resume: Path | None, count: int, *, events: EventWriter, wishes: Wishes) -> dict[str, Any]:
    """Trains in `count` processes; returns the values of the `result` event.

    Raises JobPausedError, or JobFaultError with the code of the process that failed first, or RANK_DIED.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    folder = spec_path.parent
    events.log(f"The run is trained by {count} processes.")
    wishes.leave_in(folder)
    _share_threads(count)
    _clear(folder)
    agreement = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, max_restarts=0, local_addr="127.0.0.1",
        rdzv_backend="c10d", rdzv_endpoint=str(folder / f".{RENDEZVOUS_FILE}"), rdzv_configs={"store_type": "file"},
        signals_to_handle="SIGQUIT", shutdown_timeout=END_SECONDS,
    )  # fmt: skip
    died: dict[int, int] = {}
    try:
        rank = ("-m", "training", "rank", str(spec_path), str(os.getpid()), str(resume or ""))
        elastic_launch(agreement, sys.executable)(*rank)
    except ChildFailedError as error:
        died = {rank: failure.exitcode for rank, failure in error.failures.items()}
    finally:
        events.catch_up()
        _clear(folder)
        (folder / WISH_FILE).unlink(missing_ok=True)
    return _come_to(_outcomes(folder, count), died, count)


def _clear(folder: Path) -> None:
    """A meeting place is for one meeting."""
    for name in (RENDEZVOUS_FILE, f".{RENDEZVOUS_FILE}"):
        (folder / name).unlink(missing_ok=True)


def _share_threads(count: int) -> None:
    """The processor's threads are shared out; nothing leaves this host, so nothing needs its network cards."""
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    os.environ["OMP_NUM_THREADS"] = str(max(1, threads // count))
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")


def _outcomes(folder: Path, count: int) -> dict[int, Outcome]:
    files = {rank: outcome_file(folder, rank) for rank in range(count)}
    outcomes = {rank: json.loads(file.read_text()) for rank, file in files.items() if file.is_file()}
    for file in files.values():
        file.unlink(missing_ok=True)
    return outcomes


def _come_to(outcomes: dict[int, Outcome], died: dict[int, int], count: int) -> dict[str, Any]:
    """What the processes' ends mean together; a fault that is understood says more than what followed from it.

    `died` has the exit codes of those that failed, the first one first. Once one has, torchrun ends the others by
    SIGTERM; an error that nobody foresaw may be the others' for want of the one that is gone. What happens to a process
    after its last word changes nothing.
    """
    faults = sorted((held for held in outcomes.values() if held["code"]), key=lambda held: held["time"])
    understood = [held for held in faults if held["code"] != "internal"]
    mute = [(rank, code) for rank, code in died.items() if rank not in outcomes]
    alone = [(rank, code) for rank, code in mute if code != -signal.SIGTERM]
    if alone and not understood:
        raise _death(*alone[0], count)
    for held in [*understood, *faults]:
        raise JobFaultError(held["code"], held["message"], held["fix"], needed_bytes=held["needed_bytes"])
    if mute:
        raise _death(*mute[0], count)
    if 0 not in outcomes:
        raise JobFaultError(RANK_DIED, f"The run's {count} processes could not be started.", "Read the job's log.")
    if outcomes[0]["is_paused"]:
        raise JobPausedError
    return outcomes[0]["values"]


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
