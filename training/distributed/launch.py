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

from monitoring.attempt import JobFaultError, JobPausedError
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

    Raises JobPausedError, or JobFaultError with the code of the process that failed first, or `rank_died`.
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
        elastic_launch(agreement, sys.executable)("-m", "training", "rank", str(spec_path), str(resume or ""))
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
    """What the processes' ends mean together; a fault that is understood says more than what followed from it."""
    faults = sorted((held for held in outcomes.values() if held["code"]), key=lambda held: held["time"])
    understood = [held for held in faults if held["code"] != "internal"]
    killed = {rank: -code for rank, code in died.items() if code < 0 and rank not in outcomes}
    if not understood and killed:
        rank, number = min(killed.items())
        raise JobFaultError(
            "rank_died",
            f"Process {rank + 1} of the run's {count} was ended by {signal.Signals(number).name}.",
            "When memory ran out (see dmesg), lower hyperparams.max_length or the batch size; then resume.",
        )
    for held in [*understood, *faults]:
        raise JobFaultError(held["code"], held["message"], held["fix"], needed_bytes=held["needed_bytes"])
    if died:  # without a word of their own
        rank, code = min(died.items())
        raise JobFaultError(
            "rank_died", f"Process {rank + 1} of the run's {count} ended with status {code}.", "Read the job's log."
        )
    if 0 not in outcomes:
        raise JobFaultError("rank_died", f"The run's {count} processes could not be started.", "Read the job's log.")
    if outcomes[0]["is_paused"]:
        raise JobPausedError
    return outcomes[0]["values"]
