"""Where the product stands: room and writing in its home, its port. Runs in commands and in the web process."""

import os
import shutil
import socket
import tempfile
from pathlib import Path

import httpx

from controlplane.services.checks.finding import Check, Finding
from controlplane.sole import holder

SECONDS = 10.0
TOO_LITTLE_BYTES = 1 << 30
LITTLE_BYTES = 20 << 30
LITTLE_SHARE = 0.05
PROBE_SECONDS = 3.0


def disk(home: Path) -> Check:
    """The disk that holds the home."""
    return Check("disk", SECONDS, lambda: [_room(home), _writing(home)])


def _room(home: Path) -> Finding:
    usage = shutil.disk_usage(home)
    found = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB are free on the disk of {home}."
    fix = "Delete runs, checkpoints or models that nobody needs, or move the home to a larger disk."
    if usage.free < TOO_LITTLE_BYTES:
        return Finding("disk", "fail", found, fix)
    is_low = usage.free < min(LITTLE_BYTES, LITTLE_SHARE * usage.total)
    return Finding("disk", "warn" if is_low else "ok", found, fix if is_low else "")


def _writing(home: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=home) as stream:
            stream.write(b"pilothouse")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        fix = f"Give this user write access: chown -R {os.getuid()} {home}; a disk that is read-only wants an fsck."
        return Finding("writing", "fail", f"{home} can't be written: {error.strerror}.", fix)
    return Finding("writing", "ok", f"{home} can be written.")


def port(home: Path, host: str, number: int) -> Check:
    """Whether the server's port is free, or its own. Not for the web process itself, which would lose its lock."""
    return Check("port", SECONDS, lambda: [_port(home, host, number)])


def _port(home: Path, host: str, number: int) -> Finding:
    pid = holder(home)
    address = f"{f'[{host}]' if ':' in host else host}:{number}"
    if _is_pilothouse(address):
        whose = f"the web server of this home (pid {pid})" if pid else "a Pilothouse, though not of this home,"
        return Finding("port", "ok" if pid else "warn", f"On {address} {whose} answers.",
                       "" if pid else "Give this one another port: bin/up --port NUMBER.")  # fmt: skip
    if (refusal := _bind(host, number)) is not None:
        fix = f"See who has it (ss -ltnp 'sport = :{number}'), and end that, or take another: bin/up --port NUMBER."
        return Finding("port", "fail", f"{address} can't be used: {refusal}.", fix)
    if pid:
        fix = "Name the port that it serves: manage.py doctor --port NUMBER."
        return Finding("port", "warn", f"The web server runs (pid {pid}), but not on {address}.", fix)
    return Finding("port", "ok", f"{address} is free; no web server runs on this home.")


def _is_pilothouse(address: str) -> bool:
    try:
        answer = httpx.get(f"http://{address}/api/health", timeout=PROBE_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return False
    return bool(answer.headers.get("server") == "pilothouse")


def _bind(host: str, number: int) -> str | None:
    """Why the port can't be listened on; None where it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
            probe.listen(1)
        except OSError as error:
            return error.strerror or str(error)
    return None
