"""The engine of large models: `vllm serve`, started, watched and drained. Runs in the inference process.

vLLM speaks OpenAI's API itself, so requests go straight to it: it has its own JSON schemas, tools, prefix reuse and
adapters. What it lacks are the logits processors of a data profile; a profile that has some is refused.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from inference.engine.tool_prompts import knows_tools
from inference.options import ServeOptions
from monitoring.attempt import JobFaultError
from monitoring.events import Artefact, JobSpec

ADAPTER_FILE = "adapter_config.json"
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM makes room for."""

START_TIMEOUT_SECONDS = 1800
ASK_TIMEOUT_SECONDS = 5
COUNTED = {"requests": "vllm:request_success_total", "tokens": "vllm:generation_tokens_total"}
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
"""It fetches nothing and reports to nobody."""
IN_FLIGHT = ("vllm:num_requests_running", "vllm:num_requests_waiting")


@dataclass(frozen=True)
class VllmCommand:
    """What is served: the folder of whole weights, the name it goes by, and adapters (name, folder) beside it."""

    weights: str
    name: str
    adapters: tuple[tuple[str, str], ...] = ()
    chat_template: str = ""
    gpus: int = 1

    @classmethod
    def of(cls, spec: JobSpec, options: ServeOptions, chat_template: str = "") -> "VllmCommand":
        """From a serve job's spec; `chat_template` is a file, "" for the model's own. Raises JobFaultError."""
        model, base = spec.inputs.model, spec.inputs.base
        assert model is not None  # noqa: S101 - `serve` has looked
        beside = tuple((adapter.name, adapter.path) for adapter in options.adapters)
        gpus = max(1, len(spec.gpus))
        if not (Path(model.path) / ADAPTER_FILE).is_file():
            return cls(model.path, options.model_name, beside, chat_template, gpus)
        return cls(_base_of(model, base).path, _base_of(model, base).id, ((options.model_name, model.path), *beside),
                   chat_template, gpus)  # fmt: skip

    def arguments(self, options: ServeOptions, port: int) -> list[str]:
        """The command line. The token is not on it: that goes by the environment."""
        line = [
            "serve",
            self.weights,
            "--host",
            options.listen_address,
            "--port",
            str(port),
            "--served-model-name",
            self.name,
        ]
        line += ["--dtype", options.dtype, "--max-num-seqs", str(options.max_batch)]
        line += ["--tensor-parallel-size", str(self.gpus)]
        if options.load_in_4bit:
            line += ["--quantization", "bitsandbytes"]
        if options.max_model_length:
            line += ["--max-model-len", str(options.max_model_length)]
        if not options.prefix_cache_mib:
            line.append("--no-enable-prefix-caching")
        if self.chat_template:
            line += ["--chat-template", self.chat_template]
        elif knows_tools(_own_template(Path(self.weights))):
            line += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
        if self.adapters:
            rank = max(_rank(Path(folder)) for _, folder in self.adapters)
            room = next((known for known in LORA_RANKS if known >= rank), rank)
            line += ["--enable-lora", "--max-loras", str(len(self.adapters)), "--max-lora-rank", str(room)]
            line += ["--lora-modules", *(f"{name}={folder}" for name, folder in self.adapters)]
        return line


class VllmServer:
    """A running `vllm serve`."""

    def __init__(self, command: VllmCommand, options: ServeOptions, token: str) -> None:
        """Starts it; it is not ready yet. Raises JobFaultError where vLLM is not installed."""
        program = shutil.which("vllm")
        if program is None:
            raise JobFaultError(
                "engine_missing", "The engine vllm is not installed on this host.", "Run bin/up --extras vllm."
            )
        self.port = _free_port()
        self._client = httpx.Client(
            base_url=f"http://{options.listen_address}:{self.port}", timeout=ASK_TIMEOUT_SECONDS, trust_env=False
        )
        environment = {**os.environ, "VLLM_API_KEY": token, **QUIET}
        self._process = subprocess.Popen([program, *command.arguments(options, self.port)], env=environment)

    def wait_until_ready(self) -> None:
        """Until it answers. Raises JobFaultError where it ends before, or takes half an hour."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            self.check()
            try:
                if self._client.get("/health").is_success:
                    return
            except httpx.HTTPError:
                pass  # it does not listen yet
            time.sleep(1)
        raise JobFaultError(
            "engine_slow", f"vLLM wasn't ready after {START_TIMEOUT_SECONDS} s.", "Look into the engine's log."
        )

    def check(self) -> None:
        """Raises JobFaultError where it has ended."""
        if (status := self._process.poll()) is not None:
            raise JobFaultError("engine_ended", f"vLLM ended with status {status}.", "Look into the engine's log.")

    def serve_until(self, is_stop_asked: Callable[[float], bool]) -> None:
        """Watches it while `is_stop_asked` (which waits the seconds it is given) says no."""
        while not is_stop_asked(1.0):
            self.check()

    def drain(self, seconds: float) -> None:
        """Waits for what is in flight, at most so long. While it can't be asked, something may be."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._sum_of(IN_FLIGHT) == 0:
                return
            time.sleep(0.2)

    def figures(self) -> dict[str, int]:
        """What it has done, as far as it says: {"requests", "tokens"}."""
        counted = {name: self._sum_of([metric]) for name, metric in COUNTED.items()}
        return {name: round(value) for name, value in counted.items() if value is not None}

    def stop(self) -> None:
        """Ends it."""
        self._client.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _sum_of(self, names: Sequence[str]) -> float | None:
        try:
            return sum_of(self._client.get("/metrics").raise_for_status().text, names)
        except httpx.HTTPError:
            return None


def sum_of(exposition: str, names: Sequence[str]) -> float | None:
    """The sum of some metrics over all their labels, in Prometheus's text form; None where none of them is there."""
    lines = [line for line in exposition.splitlines() if line.partition("{")[0].partition(" ")[0] in names]
    return None if not lines else sum(float(line.rpartition(" ")[2]) for line in lines)


def _base_of(model: Artefact, base: Artefact | None) -> Artefact:
    if base is None:
        raise JobFaultError(
            "base_missing",
            f"The model {model.id} is an adapter, and its base is not given.",
            "Register its base model.",
        )
    return base


def _rank(folder: Path) -> int:
    settings: dict[str, Any] = json.loads((folder / ADAPTER_FILE).read_text())
    return int(max([settings.get("r") or 1, *(settings.get("rank_pattern") or {}).values()]))


def _own_template(folder: Path) -> str:
    """The chat template of a model, "" where it has none."""
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text()
    template = json.loads(settings.read_text()).get("chat_template") if settings.is_file() else ""
    return template if isinstance(template, str) else ""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
