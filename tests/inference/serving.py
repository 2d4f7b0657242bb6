"""A real serve job in a process of its own, and how tests talk to it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from monitoring.events import EVENTS_FILE, SECRET_FILE, SPEC_FILE, Artefact, Event, Inputs, JobSpec, decode_event

TOKEN = "token-of-this-launch"
START_TIMEOUT_SECONDS = 120.0
DEADLINE_SECONDS = 60.0
MODEL_NAME = "house/taught"

T = TypeVar("T")


def wait_for(look: Callable[[], T | None], what: str, timeout_seconds: float = DEADLINE_SECONDS) -> T:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {timeout_seconds} s in vain for {what}")


def write_spec(folder: Path, model: Path, config: Mapping[str, Any] | None = None, base: Path | None = None) -> Path:
    """A serve job's spec with its secret."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = JobSpec(
        job_id=1,
        attempt=1,
        kind="serve",
        verb="serve",
        host="here",
        output_dir=str(folder),
        inputs=Inputs(model=Artefact("taught", str(model)), base=Artefact("base", str(base)) if base else None),
        config={"model_name": MODEL_NAME, "cpu_threads": 1, **(config or {})},
    )
    (folder / SECRET_FILE).write_text(json.dumps({"engine_token": TOKEN}))
    (folder / SPEC_FILE).write_text(json.dumps(spec.to_json()))
    return folder / SPEC_FILE


@dataclass
class ServeJob:
    """A running `python -m inference serve`."""

    folder: Path
    process: "subprocess.Popen[bytes]"

    @classmethod
    def start(cls, folder: Path, model: Path, config: Mapping[str, Any] | None = None) -> "ServeJob":
        """Starts it; it is not ready yet."""
        spec = write_spec(folder, model, config)
        with (folder / "log.txt").open("wb") as log:
            command = [sys.executable, "-m", "inference", "serve", str(spec)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            return cls(folder, subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def events(self) -> list[Event]:
        """What it has said so far."""
        path = self.folder / EVENTS_FILE
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        return [decode_event(line) for line in whole.splitlines()]

    def event(self, kind: str) -> Any:
        """The body of the latest event of a kind, None where there is none."""
        return next((event.body for event in reversed(self.events()) if event.body.kind == kind), None)

    def url(self) -> str:
        """Its address, once it is ready."""

        def ready() -> Any:
            assert self.process.poll() is None, (self.folder / "log.txt").read_text()[-3000:]
            return self.event("ready")

        return f"http://127.0.0.1:{wait_for(ready, 'the engine to be ready', START_TIMEOUT_SECONDS).port}"

    def client(self, token: str = TOKEN) -> httpx.Client:
        """A client that brings the token."""
        return httpx.Client(base_url=self.url(), headers={"Authorization": f"Bearer {token}"}, timeout=DEADLINE_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to this process and no other."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(timeout=DEADLINE_SECONDS)

    def stop(self) -> None:
        """Ends it, whatever it does."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
