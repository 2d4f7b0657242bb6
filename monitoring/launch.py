"""How a job's process is started: the command of each kind, its environment, and the hand-over to a supervisor.

Runs in the agent. Nothing of a spec becomes part of a command but the path of the spec itself.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monitoring.events import JobSpec
from monitoring.folders import AttemptFolder
from monitoring.supervisor import Plan
from monitoring.wire import AgentFaultError

CHECKOUT = Path(__file__).resolve().parent.parent
"""The folder that holds the packages: every program starts there, so that `python -m` finds them."""

COMMANDS: dict[str, tuple[str, ...]] = {
    "train": (sys.executable, "-m", "training", "train"),
    "validate": (sys.executable, "-m", "training", "validate"),
    "fetch": (sys.executable, "-m", "training", "fetch"),
    "serve": (sys.executable, "-m", "inference", "serve"),
    "eval": (sys.executable, "-m", "inference", "evaluate"),
    "data_gen": (sys.executable, "-m", "inference", "generate_data"),
}
"""The command of each kind of job; the path of `spec.json` follows it."""

WITHOUT_GPU = frozenset({"validate", "fetch"})
HAND_OVER_SECONDS = 20.0

INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "XDG_CACHE_HOME", "PILOTHOUSE_CACHE", "HF_ENDPOINT",
    "HF_HUB_OFFLINE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
"""All that a job gets of the agent's environment, beside LC_* and NCCL_*. Tokens and keys are never among it."""

INHERITED_PREFIXES = ("LC_", "NCCL_")


def start_supervisor(
    folder: AttemptFolder, spec: JobSpec, command: Sequence[str], home: Path, lock_descriptor: int
) -> None:
    """Starts a supervisor that takes the held lock over. Raises AgentFaultError when none could be started."""
    plan = Plan(
        command=[*command, str(folder.spec)],
        cwd=str(CHECKOUT),
        environment=job_environment(spec, home, os.environ),
        nice=_niceness(spec),
    )
    program = (sys.executable, "-E", "-s", "-S", "-m", "monitoring.supervisor")
    with folder.log.open("ab") as log:
        try:
            answer = subprocess.run(
                [*program, str(folder.path), str(lock_descriptor)],
                input=json.dumps(plan).encode(),
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=CHECKOUT,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                pass_fds=[lock_descriptor],
                timeout=HAND_OVER_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise AgentFaultError("launch_failed", f"The supervisor could not be started: {error}.") from error
    if answer.returncode:
        raise AgentFaultError(
            "launch_failed",
            f"The supervisor of job {spec.job_id} ended with code {answer.returncode}.",
            f"Read {folder.log}.",
        )


def job_environment(spec: JobSpec, home: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a job's process.

    GPUs: a job that was given some sees those, by UUID. Validation and fetching see none. Any other job that was
    given none sees what the agent sees: a host's only user need not say which of its GPUs to take.
    """
    kept = {
        name: value for name, value in environment.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    threads = str(_thread_count(spec, environment))
    workers = _section(spec, "data").get("workers")
    kept |= {
        "PILOTHOUSE_HOME": str(home),
        # With the home it tells what an agent has started from what merely knows the home (a shell, an editor).
        "PILOTHOUSE_JOB": str(spec.job_id),
        "HF_HOME": str(home / "tmp" / "huggingface"),
        "OMP_NUM_THREADS": threads,
        "RAYON_NUM_THREADS": threads,
        # The tokenizers library must not have threads of its own where data-loading workers are forked.
        "TOKENIZERS_PARALLELISM": "false" if workers else "true",
        "PYTHONUNBUFFERED": "1",
    }
    if spec.gpus:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(spec.gpus)
    elif spec.kind in WITHOUT_GPU:
        kept["CUDA_VISIBLE_DEVICES"] = ""
    return kept


def _thread_count(spec: JobSpec, environment: Mapping[str, str]) -> int:
    """What the config asks for (0: automatic), else the agent's own OMP_NUM_THREADS, else all usable cores."""
    for asked in (_section(spec, "environment").get("cpu_threads"), spec.config.get("cpu_threads")):
        if isinstance(asked, int) and asked > 0:
            return asked
    inherited = environment.get("OMP_NUM_THREADS", "")
    return int(inherited) if inherited.isdigit() and int(inherited) > 0 else len(os.sched_getaffinity(0))


def _niceness(spec: JobSpec) -> int:
    asked = _section(spec, "environment").get("nice", 0)
    return min(max(asked, 0), 19) if isinstance(asked, int) else 0


def _section(spec: JobSpec, name: str) -> dict[str, Any]:
    section = spec.config.get(name)
    return section if isinstance(section, dict) else {}
