"""The HTTP API as it was agreed upon, row by row: who may call, what comes back, what is refused and how.

`matches(value, shape)` compares an answer with its shape: a type, `maybe(type)` where it may be null, a list of one
shape, a dict of the fields that must be there (more may), or `{str: shape}` for a dict whose keys are data.
"""

from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any

ACTIVE, BASE, TUNED, COMING = "Qwen/Qwen3-0.6B", "base", "tuned", "coming"
"""The models of the scene: active, a base of another, an adapter on it, one that is still being fetched."""

PENDING, DONE, FAILED, GENERATED = "PENDING", "DONE", "FAILED", "GENERATED"
"""Stand in a path for the id of the scene's job in that state; the last for that of one that has generated data."""

Shape = Any


@dataclass(frozen=True)
class Row:
    """One call: the smallest role that may make it, its answer's status and fields."""

    method: str
    path: str
    role: str
    fields: Shape
    body: Any = None
    status: int = 200

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Refusal:
    """One call that is refused: its status, a word of its sentence, the field at fault where one is."""

    method: str
    path: str
    status: int
    word: str
    body: Any = None
    at_fault: str | None = None
    role: str = "admin"

    def __str__(self) -> str:
        return f"{self.status} {self.method} {self.path} {self.body or ''}"


def maybe(kind: type) -> UnionType | Any:
    """This type, or null."""
    return kind | NoneType


def matches(value: Any, shape: Shape, where: str = "answer") -> None:
    """Raises AssertionError, naming the place, where an answer isn't of its shape."""
    if isinstance(shape, list):
        assert isinstance(value, list), f"{where} is {value!r}, no list"
        for index, item in enumerate(value):
            matches(item, shape[0], f"{where}[{index}]")
    elif isinstance(shape, dict):
        assert isinstance(value, dict), f"{where} is {value!r}, no object"
        if list(shape) == [str]:
            for name, item in value.items():
                matches(item, shape[str], f"{where}.{name}")
            return
        assert set(shape) <= set(value), f"{where} lacks {set(shape) - set(value)}"
        for name, inner in shape.items():
            matches(value[name], inner, f"{where}.{name}")
    elif isinstance(shape, str):
        assert value == shape, f"{where} is {value!r}, not {shape!r}"
    else:
        wanted = shape | int if shape in (float, maybe(float)) else shape
        is_wrong_bool = isinstance(value, bool) and shape not in (bool, maybe(bool), Any)
        assert isinstance(value, wanted), f"{where} is {value!r}, not {shape}"
        assert not is_wrong_bool, f"{where} is {value!r}, not {shape}"


# --- The fields -------------------------------------------------------------------------------------------------------

GPU = {
    "name": maybe(str), "driver_version": maybe(str), "memory_total_mb": maybe(int), "memory_used_mb": maybe(int),
    "utilization_gpu": maybe(int), "utilization_mem": maybe(int), "temperature_gpu": maybe(int),
    "power_draw_w": maybe(float), "power_limit_w": maybe(float), "fan_speed_pct": maybe(int),
}  # fmt: skip
MODEL = {
    "id": str, "source": str, "path": str, "base_model": maybe(str), "kind": str, "size_bytes": maybe(int),
    "parameters": maybe(int), "dtype": maybe(str), "tags": [str], "created_at": str, "is_active": bool, "state": str,
    "run_id": maybe(int), "engine": str, "gguf": maybe(str), "engine_options": dict,
}  # fmt: skip
JOB = {
    "id": int, "job_id": int, "type": str, "status": str, "priority": str, "progress": maybe(dict),
    "result": maybe(dict), "error": maybe(dict), "created_at": str, "started_at": maybe(str), "ended_at": maybe(str),
}  # fmt: skip
EXPORT = {
    "id": int, "model_id": str, "kind": str, "state": str, "filename": str, "size_bytes": maybe(int),
    "sha256": maybe(str), "job_id": maybe(int), "error": maybe(str), "created_by": str, "created_at": str,
}  # fmt: skip
LOG = {"component": str, "lines": [str]}
ACTIVATION = {"active_model": maybe(str), "deployment": int, "status": str}
GENERATION = {
    "job_id": int, "status": str, "text": maybe(str), "usage": maybe(dict), "finish_reason": maybe(str),
}  # fmt: skip
POWER_GPU = {
    "host": str, "index": int, "name": str, "asked_w": maybe(float), "power_limit_w": maybe(float),
    "power_limit_min_w": maybe(float), "power_limit_max_w": maybe(float),
}  # fmt: skip
PROFILE = {"power_limit_w": maybe(float), "max_concurrent_jobs": int, "description": str}
POWER_SET = {
    "profile": str, "gpus": [{"host": str, "index": int, "asked_w": maybe(float), "power_limit_w": maybe(float),
                              "set": bool, "reason": maybe(str), "fix": maybe(str)}],
}  # fmt: skip
GENERATED_DATA = {
    "id": int, "job_id": int, "type": "data_gen", "model_id": str, "strategy": str, "status": str,
    "progress": maybe(dict), "result": maybe(dict), "shards": [{"file": str, "rows": maybe(int), "sha256": maybe(str)}],
    "examples": {"pending": int, "accepted": int, "rejected": int, "edited": int}, "dataset_id": maybe(int),
}  # fmt: skip
OPENAI_MODEL = {"id": str, "object": "model", "created": int, "owned_by": str}

ROWS = (
    Row("GET", "/api/health", "read", {
        "status": str, "active_model": maybe(str), "worker_busy": bool, "hosts": {"online": int, "total": int},
        "dispatching": bool,
        "gpu": {"available": bool, "device_count": int, "device_name": maybe(str), "memory_allocated_gb": maybe(float),
                "memory_reserved_gb": maybe(float)},
    }),
    Row("GET", "/api/info", "read", {
        "name": str, "base_paths": {"api": str, "openai": [str]}, "features": {str: bool},
        "limits": {"upload_bytes": int, "queue_length": int, "max_tokens": maybe(int)},
    }),
    Row("GET", "/api/version", "read", {
        "api_version": str, "python_version": str, "torch_version": maybe(str), "transformers_version": maybe(str),
        "cuda_available": bool, "cuda_version": maybe(str), "version": maybe(str),
    }),
    Row("GET", "/api/gpu", "read", {**GPU, "gpus": [GPU]}),
    Row("GET", "/api/gpu?host=box&index=1", "read", {**GPU, "gpus": [GPU]}),
    Row("GET", "/api/system", "read", {
        "cpu_load": float, "ram_used_gb": float, "ram_total_gb": float, "ram_percent": maybe(float),
        "disk": [{"mount": str, "used_gb": float, "total_gb": float, "percent": maybe(float)}],
    }),
    Row("GET", "/api/logs/api_server?lines=5", "read", LOG),
    Row("GET", "/api/logs/jobs", "read", LOG),
    Row("GET", "/api/logs/gpu_worker", "read", LOG),
    Row("GET", "/api/config", "read", {"settings": dict, "secret_key": "********"}),
    Row("GET", "/api/models", "read", {"models": [MODEL]}),
    Row("GET", f"/api/models/{ACTIVE}", "read", MODEL),
    Row("GET", "/api/models/active", "read", MODEL),
    Row("POST", "/api/models/register", "use", MODEL,
        {"id": "my/new", "source": "hub", "hub_id": "Qwen/Qwen3-0.6B", "tags": ["chat"]}, 201),
    Row("POST", "/api/models/set_active", "admin", ACTIVATION, {"id": ACTIVE}),
    Row("POST", "/api/models/set_active?wait=false", "admin", ACTIVATION, {"id": BASE}, 202),
    Row("POST", "/api/models/reload", "admin", ACTIVATION, {}, 202),
    Row("PATCH", f"/api/models/{ACTIVE}", "admin", MODEL, {"engine": "vllm"}),
    Row("GET", f"/api/models/engine?model_id={ACTIVE}", "read", {
        "engine": maybe(str), "gguf": maybe(str), "why": maybe(str),
    }),
    Row("GET", "/api/exports", "read", {"exports": [EXPORT]}),
    Row("POST", "/api/exports", "use", EXPORT, {"model_id": BASE, "kind": "Q8_0"}, 201),
    Row("DELETE", f"/api/models/{TUNED}", "use", None, None, 204),
    Row("POST", "/api/generate", "use", GENERATION,
        {"prompt": "Hello", "model_id": ACTIVE, "max_tokens": 5, "temperature": 0.7, "top_p": 0.9, "mode": "profile",
         "wait": False}, 202),
    Row("GET", "/v1/models", "read", {"object": "list", "data": [OPENAI_MODEL]}),
    Row("GET", f"/v1/models/{ACTIVE}", "read", OPENAI_MODEL),
    Row("GET", "/api/v1/models", "read", {"object": "list", "data": [OPENAI_MODEL]}),
    Row("GET", "/api/jobs?type=fetch&status=pending&limit=5", "read", {"jobs": [JOB]}),
    Row("GET", f"/api/jobs/{DONE}", "read", JOB),
    Row("GET", "/api/jobs/stats", "read", {
        "pending": int, "running": int, "done": int, "failed": int, "cancelled": int, "jobs_last_hour": int,
    }),
    Row("POST", f"/api/jobs/{PENDING}/cancel", "use", {**JOB, "status": "cancelled"}),
    Row("POST", f"/api/jobs/{FAILED}/retry", "use", {**JOB, "status": "pending"}),
    Row("POST", f"/api/jobs/{PENDING}/priority", "use", {**JOB, "priority": "high"}, {"priority": "high"}),
    Row("POST", "/api/data_gen/jobs", "use", {"job_id": int, "id": int, "type": str, "model_id": str, "status": str},
        {"model_id": ACTIVE, "strategy": "answer",
         "config": {"num_examples": 20, "domain": "sailing", "output_dir": "more", "dataset_ref": "seeds"}}, 201),
    Row("POST", "/api/data_gen/jobs", "use", {"job_id": int, "id": int, "type": str, "model_id": str, "status": str},
        {"model_id": "", "strategy": "regime3", "config": {"num_examples": 20}}, 201),
    Row("GET", "/api/data_gen/jobs", "read", {"generations": [GENERATED_DATA]}),
    Row("GET", f"/api/data_gen/jobs/{GENERATED}", "read", GENERATED_DATA),
    Row("GET", "/api/settings/power_profile", "read", {
        "current": maybe(str), "profiles": {"quiet": PROFILE, "normal": PROFILE, "max": PROFILE}, "gpus": [POWER_GPU],
    }),
    Row("POST", "/api/settings/power_profile?profile=quiet", "admin", POWER_SET),
    Row("POST", "/api/settings/power_profile", "admin", POWER_SET, {"profile": "max", "host": "box", "gpu": 1}),
)  # fmt: skip

KEYED = (
    *ROWS,
    Row("POST", "/v1/chat/completions", "use", None, {"messages": [{"role": "user", "content": "Hello"}]}),
    Row("POST", "/v1/completions", "use", None, {"prompt": "Hello"}),
    Row("POST", "/api/v1/chat/completions", "use", None, {"messages": [{"role": "user", "content": "Hello"}]}),
)
"""What needs a key; how an engine answers is judged on a real one."""

# --- What is refused --------------------------------------------------------------------------------------------------

HELLO = {"prompt": "Hello"}
NAN = b'{"prompt": "Hello", "temperature": NaN}'
DEEP = b"[" * 100_000

REFUSALS = (
    Refusal("GET", "/api/gpu?host=none", 404, "none"),
    Refusal("GET", "/api/gpu?index=9", 404, "9"),
    Refusal("GET", "/api/gpu?index=x", 422, "index", at_fault="index"),
    Refusal("GET", "/api/system?host=none", 404, "none"),
    Refusal("GET", "/api/logs/nothing", 404, "api_server"),
    Refusal("GET", "/api/logs/api_server?lines=0", 422, "5000"),
    Refusal("GET", "/api/logs/api_server?lines=5001", 422, "5000"),
    Refusal("GET", "/api/logs/run-999999", 404, "999999"),
    Refusal("GET", "/api/models/none/such", 404, ACTIVE),
    Refusal("POST", "/api/models/register", 409, BASE, {"id": BASE, "source": "hub", "hub_id": "a/b"}),
    Refusal("POST", "/api/models/register", 422, "id", {"source": "hub", "hub_id": "a/b"}, "id"),
    Refusal("POST", "/api/models/register", 422, "smollm2", {"id": "x", "source": "moon"}, "source"),
    Refusal("POST", "/api/models/register", 422, "folder", {"id": "x", "source": "directory", "path": "a"}, "path"),
    Refusal("POST", "/api/models/set_active", 404, "none", {"id": "none"}),
    Refusal("POST", "/api/models/set_active", 409, "fetching", {"id": COMING}),
    Refusal("POST", "/api/models/set_active", 422, "id", {}, "id"),
    Refusal("PATCH", f"/api/models/{ACTIVE}", 422, "transformers", {"engine": "steam"}, "engine"),
    Refusal(
        "PATCH",
        f"/api/models/{ACTIVE}",
        422,
        "whole number from 1 to",
        {"engine_options": {"max_batch": 0}},
        "engine_options.max_batch",
    ),
    Refusal("PATCH", f"/api/models/{ACTIVE}", 422, "Export it first", {"engine": "llama_cpp"}, "engine"),
    Refusal("POST", "/api/exports", 422, "Q4_K_M", {"model_id": BASE, "kind": "Q3"}, "kind"),
    Refusal("POST", "/api/exports", 404, ACTIVE, {"model_id": "none"}),
    Refusal("POST", "/api/exports", 409, "fetching", {"model_id": COMING}),
    Refusal("GET", "/api/exports/999999", 404, "999999"),
    Refusal("DELETE", "/api/models/none", 404, "none"),
    Refusal("DELETE", f"/api/models/{ACTIVE}", 409, "active"),
    Refusal("DELETE", f"/api/models/{BASE}", 409, TUNED),
    Refusal("DELETE", f"/api/models/{TUNED}", 403, "somebody", role="use"),
    Refusal("POST", "/api/generate", 404, ACTIVE, {**HELLO, "model_id": "none"}),
    Refusal("POST", "/api/generate", 503, "activate", {**HELLO, "model_id": COMING}),
    Refusal("POST", "/api/generate", 503, "activate", {**HELLO, "model_id": BASE}),
    Refusal("POST", "/api/generate", 422, "prompt", {}, "prompt"),
    Refusal("POST", "/api/generate", 422, "prompt", {"prompt": ""}, "prompt"),
    Refusal("POST", "/api/generate", 422, "max_tokens", {**HELLO, "max_tokens": 0}, "max_tokens"),
    Refusal("POST", "/api/generate", 422, "max_tokens", {**HELLO, "max_tokens": -5}, "max_tokens"),
    Refusal("POST", "/api/generate", 422, "max_tokens", {**HELLO, "max_tokens": 10**30}, "max_tokens"),
    Refusal("POST", "/api/generate", 422, "temperature", {**HELLO, "temperature": "hot"}, "temperature"),
    Refusal("POST", "/api/generate", 422, "temperature", NAN, "temperature"),
    Refusal("POST", "/api/generate", 422, "top_p", {**HELLO, "top_p": 0}, "top_p"),
    Refusal("POST", "/api/generate", 422, "mode", {**HELLO, "mode": "odd"}, "mode"),
    Refusal("POST", "/api/generate", 422, "half of a character", b'{"prompt": "\\ud800"}', "prompt"),
    Refusal("POST", "/api/generate", 422, "NUL", b'{"prompt": "a\\u0000b"}', "prompt"),
    Refusal("POST", "/api/generate", 422, "JSON", b'{"prompt": '),
    Refusal("POST", "/api/generate", 422, "JSON", b"\xff\xfe"),
    Refusal("POST", "/api/generate", 422, "nested", DEEP),
    Refusal("POST", "/api/generate", 413, "5 MiB", {"prompt": "x" * (6 << 20)}),
    Refusal("GET", "/api/jobs?type=dance", 422, "eval"),
    Refusal("GET", "/api/jobs?status=odd", 422, "cancelled"),
    Refusal("GET", "/api/jobs?limit=0", 422, "limit", at_fault="limit"),
    Refusal("GET", "/api/jobs/999999", 404, "999999"),
    Refusal("GET", f"/api/jobs/{10**30}", 404, "no job"),
    Refusal("POST", f"/api/jobs/{DONE}/cancel", 409, "ended"),
    Refusal("POST", f"/api/jobs/{PENDING}/retry", 409, "pending"),
    Refusal("POST", f"/api/jobs/{PENDING}/priority", 422, "normal", {"priority": "urgent"}),
    Refusal("POST", f"/api/jobs/{PENDING}/priority", 422, "priority", {}, "priority"),
    Refusal("POST", f"/api/jobs/{PENDING}/cancel", 403, "belongs", role="use"),
    Refusal("POST", "/api/data_gen/jobs", 422, "self_instruct", {"strategy": "magic"}, "strategy"),
    Refusal("POST", "/api/data_gen/jobs", 422, "model", {"strategy": "answer", "model_id": ""}, "model_id"),
    Refusal(
        "POST", "/api/data_gen/jobs", 422, "seeds", {"strategy": "answer", "model_id": ACTIVE}, "config.dataset_ref"
    ),
    Refusal("POST", "/api/data_gen/jobs", 404, ACTIVE, {"strategy": "answer", "model_id": "none"}),
    Refusal(
        "POST",
        "/api/data_gen/jobs",
        404,
        "seeds",
        {"strategy": "answer", "model_id": ACTIVE, "config": {"dataset_ref": "none"}},
    ),
    Refusal(
        "POST",
        "/api/data_gen/jobs",
        422,
        "num_examples",
        {"strategy": "regime3", "config": {"num_examples": 0}},
        "config.num_examples",
    ),
    Refusal("GET", "/api/data_gen/jobs/999999", 404, "999999"),
    Refusal("GET", f"/api/data_gen/jobs/{DONE}", 404, "data_gen"),
    Refusal("POST", "/api/settings/power_profile", 422, "quiet", {}, "profile"),
    Refusal("POST", "/api/settings/power_profile?profile=loud", 422, "quiet", at_fault="profile"),
    Refusal("POST", "/api/settings/power_profile?profile=max&host=none", 404, "none"),
)
