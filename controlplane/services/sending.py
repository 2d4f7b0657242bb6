"""Messages on their way: one process of `services.apprise_gate` a message. Runs in the web process.

A process and not a thread, because a service that hangs can be ended with it, and Apprise's memory goes with it too.
The address, which holds secrets, goes in by its standard input. No data base here, and never inside a transaction.
"""

import json
import logging
import os
import subprocess
import sys
import time
from typing import Any

from django.conf import settings

log = logging.getLogger(__name__)
GATE = "controlplane.services.apprise_gate"
DEADLINE_SECONDS = 20.0
"""How long a service may take to take a message."""

GRACE_SECONDS = 10.0
"""How much longer its process may live: it has to start, and ends itself first."""

PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY",
    "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
"""What such a process may know of our environment: none of the product's secrets."""


class Sending:
    """One message on its way."""

    def __init__(self, url: str, title: str, body: str, kind: str, deadline_seconds: float | None = None) -> None:
        """Starts it. `kind`: info, success, warning or failure (Apprise's words). No deadline: DEADLINE_SECONDS."""
        if deadline_seconds is None:
            deadline_seconds = DEADLINE_SECONDS
        asked = {"do": "send", "url": url, "title": title, "body": body, "kind": kind, "deadline": deadline_seconds}
        self.deadline_seconds = deadline_seconds
        self._ends_at = time.monotonic() + deadline_seconds + GRACE_SECONDS
        self._process = _start(asked)

    def error(self) -> str | None:
        """None while it is on its way; then an empty text, or a sentence that says why it didn't arrive."""
        if self._process.poll() is None:
            if time.monotonic() < self._ends_at:
                return None
            self._process.kill()
        return str(_answer(self._process, self.deadline_seconds)["error"])

    def wait(self) -> str:
        """The same, waiting for it."""
        try:
            self._process.wait(max(0.1, self._ends_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
        return str(_answer(self._process, self.deadline_seconds)["error"])


def describe(url: str) -> dict[str, Any]:
    """{"service", "masked_url"} of an address, or {"refused"}: a sentence that says why it can't be a route."""
    process = _start({"do": "describe", "url": url})
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
    answer = _answer(process, GRACE_SECONDS)
    return {"refused": answer["error"]} if answer.get("error") else answer


def _start(asked: dict[str, Any]) -> "subprocess.Popen[bytes]":
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", GATE], cwd=settings.BASE_DIR, env=environment, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None  # noqa: S101 - for the type checker: it was asked for
    try:
        process.stdin.write(json.dumps(asked).encode())
        process.stdin.close()
    except BrokenPipeError:
        log.warning("the process that sends messages ended before it was told what to send")
    return process


def _answer(process: "subprocess.Popen[bytes]", deadline_seconds: float) -> dict[str, Any]:
    """What a process that has ended (or is being killed) has said."""
    assert process.stdout is not None  # noqa: S101 - for the type checker: it was asked for
    with process.stdout as stream:
        said = stream.read()
    code = process.wait()
    try:
        answer: dict[str, Any] = json.loads(said)
    except ValueError:
        if code < 0:
            return {"error": f"The service did not answer within {deadline_seconds:g} s."}
        return {"error": f"The process that sends ended with code {code}: is Apprise installed? Run bin/setup."}
    return answer
