"""Rows and files for the control plane's tests: `make_run()` and its likes, each real down to the disk where it can be.

They need a data base (`django_db`) and, where files are written, a home of the test's own (the fixture `home`).
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from django.test import Client
from django.utils import timezone

from controlplane.models import ApiKey, Checkpoint, Dataset, Deployment, Gpu, Host, Job, LanguageModel, Run, User
from controlplane.models.access import SYSTEM
from controlplane.models.datasets import DatasetStatus
from controlplane.models.deployments import DeploymentStatus
from controlplane.models.jobs import Status
from controlplane.models.language_models import ModelState
from controlplane.services import access
from monitoring.files import write_bytes, write_json
from training.config.loader import parse_config, to_dict

PASSWORD = "a long enough password"
_numbers = itertools.count(1)


def make_user(role: str = "use", username: str = "", password: str = PASSWORD) -> User:
    """A person who may log in with `password`."""
    return User.objects.create_user(username=username or f"{role}-{next(_numbers)}", password=password, role=role)


def client_of(role: str = "use", username: str = "") -> Client:
    """A browser in which somebody new with that role is logged in."""
    client = Client()
    client.force_login(make_user(role, username))
    return client


def make_key(role: str = "use", name: str = "") -> str:
    """A key's plain text; the key acts under the name `key NAME`."""
    return access.create_key(SYSTEM, name or f"{role}-{next(_numbers)}", role)[1]


def make_key_row(role: str = "use", name: str = "") -> tuple[ApiKey, str]:
    """A key and its plain text."""
    return access.create_key(SYSTEM, name or f"{role}-{next(_numbers)}", role)


def make_client(role: str = "use", name: str = "") -> Client:
    """A client that sends a key with every request; it acts under the name `key NAME`."""
    return Client(headers={"X-API-Key": make_key(role, name)})


def make_host(name: str = "", *, online: bool = True, gpus: int = 0, **fields: Any) -> Host:
    """A host with a reading; `gpus` cards of the kind that `make_gpu` makes."""
    reading = {
        "time": 1_800_000_000.0, "cpu_percent": 12.5, "cpu_count": 2, "load_1m": 0.4,
        "memory_used_bytes": 4 << 30, "memory_total_bytes": 16 << 30,
        "swap_used_bytes": 0, "swap_total_bytes": 2 << 30,
        "disks": [{"mount": "/", "used_bytes": 50 << 30, "total_bytes": 100 << 30}],
        "networks": [{"name": "eth0", "received_bytes_per_second": 12_000.0, "sent_bytes_per_second": 3_400.0}],
        "temperatures": [{"label": "Package id 0", "celsius": 48.0}], "clock_synchronized": True,
        "gpus": [], "gpu_fault": None if gpus else "No NVIDIA driver was found.", "gpu_fault_since": None,
    }  # fmt: skip
    facts = {
        "name": name, "boot_id": "boot", "agent_pid": 2, "agent_version": "0", "started_at": 1_800_000_000.0,
        "platform": "Linux", "python_version": "3.11", "cpu_name": "a processor", "cpu_count": 2,
        "memory_total_bytes": 16 << 30, "driver_version": "550.1" if gpus else None,
        "cuda_driver_version": "12.4" if gpus else None, "home": "/nowhere",
    }  # fmt: skip
    defaults = {"reading": reading, "facts": facts, "last_seen_at": timezone.now() if online else None}
    host = Host.objects.create(name=name or f"host-{next(_numbers)}", **{**defaults, **fields})
    for index in range(gpus):
        make_gpu(host, index)
    return host


def make_gpu(host: Host | None = None, index: int = 0, name: str = "NVIDIA GeForce RTX 3090", **reading: Any) -> Gpu:
    """A GPU with a reading; `reading` overrides its figures. The host's own reading gains it too."""
    host = host or make_host()
    uuid = reading.pop("uuid", f"GPU-{next(_numbers):08d}")
    whole = {
        "index": index, "uuid": uuid, "name": name, "memory_total_bytes": 24 << 30, "memory_used_bytes": 6 << 30,
        "utilization_gpu_percent": 40, "utilization_memory_percent": 20, "temperature_celsius": 61,
        "power_draw_watts": 180.5, "power_limit_watts": 350.0, "power_limit_default_watts": 350.0,
        "power_limit_min_watts": 100.0, "power_limit_max_watts": 366.0, "fan_speed_percent": 35,
        "clock_sm_mhz": 1695, "clock_sm_max_mhz": 2100, "clock_memory_mhz": 9501, "clock_memory_max_mhz": 9751,
        "performance_state": 2, "throttle_reasons": [], "pcie_generation": 4, "pcie_generation_max": 4,
        "pcie_width": 16, "pcie_width_max": 16, "pcie_sent_bytes_per_second": 0, "pcie_received_bytes_per_second": 0,
        "ecc_enabled": None, "ecc_corrected_count": None, "ecc_uncorrected_count": None, "persistence_mode": True,
        "processes": [], "unsupported": ["ecc_enabled", "ecc_corrected_count", "ecc_uncorrected_count"],
        "fault": None, **reading,
    }  # fmt: skip
    host.reading = {**host.reading, "gpus": [*host.reading.get("gpus", []), whole], "gpu_fault": None}
    host.save(update_fields=["reading"])
    return Gpu.objects.create(host=host, uuid=uuid, index=index, name=name, reading=whole)


def gpu_process(pid: int, **fields: Any) -> dict[str, Any]:
    """A process that holds memory of a GPU, as a reading lists it: nobody's, and two hours old."""
    return {
        "pid": pid, "start_ticks": 1000 + pid, "boot_id": "boot", "memory_used_bytes": pid << 20, "command": "python",
        "utilization_sm_percent": 61, "cpu_percent": 104.2, "rss_bytes": 3 << 30,
        "user": "someone", "started_at": 1_800_000_000.0 - 7200, "job_id": None, "is_ours": False, **fields,
    }  # fmt: skip


def chat_rows(count: int = 3) -> list[dict[str, Any]]:
    """Conversations that no other call returns."""
    number = next(_numbers)
    return [
        {
            "messages": [
                {"role": "user", "content": f"Question {number}.{row}?"},
                {"role": "assistant", "content": f"Answer {number}.{row}."},
            ]
        }
        for row in range(count)
    ]


def jsonl(rows: Sequence[dict[str, Any]]) -> bytes:
    """The rows as a JSONL file."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def make_dataset(
    name: str = "", *, rows: Sequence[dict[str, Any]] | None = None, status: str = DatasetStatus.READY, **fields: Any
) -> Dataset:
    """A dataset with its files as an upload and a validation leave them (`rows.jsonl` where it is ready)."""
    given = list(rows) if rows is not None else chat_rows()
    data = jsonl(given)
    name = name or f"set {next(_numbers)}"
    defaults: dict[str, Any] = {
        "version": Dataset.objects.filter(name=name).count() + 1, "filename": "chats.jsonl", "created_by": "somebody",
        "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "status": status,
        "examples": len(given) if status == DatasetStatus.READY else None,
    }  # fmt: skip
    dataset = Dataset.objects.create(name=name, **{**defaults, **fields})
    write_bytes(dataset.folder / "source.jsonl", data)
    if status == DatasetStatus.READY:
        write_bytes(dataset.rows_path, data)
    return dataset


def make_model(
    name: str = "", *, state: str = ModelState.READY, folder: Path | None = None, **fields: Any
) -> LanguageModel:
    """A registered model; `folder` (a real model) becomes its folder by a link, else it holds `config.json` alone."""
    defaults = {
        "source": "directory", "architecture": "Qwen3ForCausalLM", "parameters": 900_000, "dtype": "float32",
        "size_bytes": 3_600_000, "created_by": "somebody",
    }  # fmt: skip
    name = name or f"model-{next(_numbers)}"
    model = LanguageModel.objects.create(name=name, state=state, **{**defaults, **fields})
    if folder is not None:
        model.folder.parent.mkdir(parents=True, exist_ok=True)
        model.folder.symlink_to(folder)
    elif state == ModelState.READY:
        write_json(model.folder / "config.json", {"architectures": ["Qwen3ForCausalLM"]})
    return model


def make_job(kind: str = "fetch", status: str = Status.PENDING, **fields: Any) -> Job:
    """A job's row alone: nothing is started."""
    nouns = {"fetch": {"source": "hub", "model": str(uuid4())}, "validate": {"dataset": 0}}
    defaults = {"title": f"{kind} {next(_numbers)}", "created_by": "somebody", "config": nouns.get(kind, {})}
    return Job.objects.create(kind=kind, status=status, **{**defaults, **fields})


def make_run(name: str = "", *, status: str = Status.PENDING, **fields: Any) -> Run:
    """A run with its job, dataset and model, and the whole default configuration."""
    created_by = fields.pop("created_by", "somebody")
    dataset = fields.pop("dataset", None) or make_dataset()
    model = fields.pop("model", None) or make_model()
    job = fields.pop("job", None) or make_job("train", status, created_by=created_by)
    config = fields.pop("config", None) or to_dict(parse_config({}))
    return Run.objects.create(
        name=name or f"run {next(_numbers)}", job=job, dataset=dataset, model=model, config=config,
        created_by=created_by, **fields,
    )  # fmt: skip


def make_checkpoint(run: Run, step: int, **fields: Any) -> Checkpoint:
    """A checkpoint with a folder that holds a file of weights (no real one); the later, the smaller its loss."""
    defaults: dict[str, Any] = {"path": f"checkpoints/step-{step}", "bytes": 7, "loss": 10.0 / step}
    row = Checkpoint.objects.create(run=run, step=step, created_at=timezone.now(), **{**defaults, **fields})
    write_bytes(run.folder / row.path / "model.safetensors", b"weights")
    return row


def make_deployment(
    model: LanguageModel | None = None, *, status: str = DeploymentStatus.READY, **fields: Any
) -> Deployment:
    """A deployment's row and its job's alone: no engine runs."""
    model = model or make_model()
    job = fields.pop("job", None) or make_job("serve", Status.RUNNING)
    return Deployment.objects.create(model=model, job=job, status=status, created_by="somebody", **fields)


def make_external_run(name: str = "", *, status: str = Status.RUNNING, **fields: Any) -> Run:
    """A run of a script elsewhere: its rows alone, without dataset, model and settings of training."""
    created_by = fields.pop("created_by", "somebody")
    job = fields.pop("job", None) or make_job("external", status, created_by=created_by, started_at=timezone.now())
    defaults: dict[str, Any] = {"profile": "", "heard_at": timezone.now(), "own_config": {"optimizer": "lion"}}
    return Run.objects.create(
        name=name or f"run {next(_numbers)}", job=job, created_by=created_by, **{**defaults, **fields}
    )  # fmt: skip
