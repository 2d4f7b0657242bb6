"""A model from the Hugging Face hub, by its id. Runs in the `fetch` job.

Safetensors, JSON and text alone come down: no pickles, no code. What the repository is and how large its files are is
asked first, so that a refusal costs nothing and the progress counts bytes.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx, tqdm

from monitoring.attempt import JobFaultError
from monitoring.files import sha256_of
from training.fetch.inspect import read_config
from training.fetch.layout import require_space, wanted_names
from training.fetch.request import Fetched, FetchRequest
from training.pacing import PacedProgress

HUB_TIMEOUT_SECONDS = 20.0
CONFIGS = ("config.json", "adapter_config.json", "tokenizer_config.json")
UNREACHABLE = "hub_unreachable"


@dataclass(frozen=True)
class HubFile:
    """`sha256` is known of the large files (LFS) alone; `bytes` is 0 where the hub does not say."""

    name: str
    bytes: int
    sha256: str | None


def fetch_hub(request: FetchRequest) -> Fetched:
    """Downloads the model `config.hub_id`. Raises JobFaultError: `hub_unreachable`, `hub_not_found`, `hub_gated`,
    `hub_token_refused`, `hub_busy`, `no_safetensors`, `remote_code`, `hash_mismatch`, `disk_full`."""
    hub_id = request.config.hub_id
    try:
        commit, files = _list(request)
        _download(request, commit, files)
    except (OfflineModeIsEnabled, HFValidationError, EntryNotFoundError, httpx.HTTPError) as error:
        raise _fault(hub_id, request.config.revision, error) from error
    shutil.rmtree(request.folder / ".cache", ignore_errors=True)
    return Fetched(source={"kind": "hub", "hub_id": hub_id, "revision": commit})


def _list(request: FetchRequest) -> tuple[str, list[HubFile]]:
    """The commit that the revision stands for, and the files to fetch."""
    hub_id = request.config.hub_id
    info = HfApi(token=request.hub_token).model_info(
        hub_id, revision=request.config.revision or None, files_metadata=True, timeout=HUB_TIMEOUT_SECONDS
    )
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    names = wanted_names(siblings)
    if not any(name.endswith(".safetensors") for name in names):
        raise JobFaultError(
            "no_safetensors",
            f"{hub_id} has no safetensors weights, and pickled ones are never loaded here.",
            "Take a repository of the same model with *.safetensors (many have a converted copy).",
        )
    return str(info.sha), [
        HubFile(name, siblings[name].size or 0, getattr(siblings[name].lfs, "sha256", None)) for name in names
    ]


def _download(request: FetchRequest, commit: str, files: list[HubFile]) -> None:
    """Fetches the files one after the other in this thread, so that a signal ends a download at once.

    Files that an earlier attempt has fetched whole are kept.
    """
    total = sum(file.bytes for file in files)
    present = sum(path.stat().st_size for path in request.folder.iterdir() if path.is_file())
    require_space(request.folder, max(0, total - present))
    progress = PacedProgress(request.events, "bytes", total or None)
    bar = bar_of(progress)
    done = 0
    # The small files first: a config that names code of its own ends the job before the weights come.
    for file in sorted(files, key=lambda file: (file.name not in CONFIGS, file.name)):
        bar.begin(done, file.name)
        path = hf_hub_download(
            request.config.hub_id,
            file.name,
            revision=commit,
            local_dir=request.folder,
            token=request.hub_token,
            tqdm_class=bar,
        )
        _check(Path(path), file)
        done += Path(path).stat().st_size
    progress.finish(done, "Downloaded")


def _check(path: Path, file: HubFile) -> None:
    if file.name in CONFIGS:
        read_config(path)
    if file.sha256 is not None and sha256_of(path) != file.sha256:
        path.unlink()
        raise JobFaultError(
            "hash_mismatch", f"{file.name} is not what the hub says it is: its SHA-256 differs.", "Fetch it again."
        )


def bar_of(progress: PacedProgress) -> Any:
    """A class of progress bars, as the hub's library wants one, that draws nothing and tells `progress` instead."""

    class Bar(tqdm):  # type: ignore[misc]
        before_bytes = 0
        file_bytes = 0
        note = ""

        @classmethod
        def begin(cls, before_bytes: int, note: str) -> None:
            cls.before_bytes, cls.file_bytes, cls.note = before_bytes, 0, note

        def __init__(self, *args: Any, **keywords: Any) -> None:
            super().__init__(*args, **{**keywords, "disable": True})

        def update(self, n: float | None = 1) -> None:
            type(self).file_bytes += int(n or 0)
            progress.update(self.before_bytes + self.file_bytes, self.note)

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes on the wire (Xet); what counts is what has been written."""

        def set_transfer_postfix_str(self, postfix: str, refresh: bool = False) -> None:
            """The speed on the wire (Xet)."""

    return Bar


def _fault(hub_id: str, revision: str, error: Exception) -> JobFaultError:
    """What the hub's library says, as a fault that names the fix."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        return JobFaultError(
            "hub_gated",
            f"{hub_id} is gated: its owner wants to know who downloads it.",
            f"Accept its terms at https://huggingface.co/{hub_id} and set HF_TOKEN to a token of that account.",
        )
    if isinstance(error, RevisionNotFoundError):
        return JobFaultError(
            "hub_not_found", f"{hub_id} has no revision {revision!r}.", "Give a branch, tag or commit that it has."
        )
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return JobFaultError(
            "hub_not_found",
            f"There is no model {hub_id} on the hub, or it is private.",
            "Check the spelling (OWNER/NAME); for a private model set HF_TOKEN to a token that may read it.",
        )
    if status in {401, 403}:
        return JobFaultError(
            "hub_token_refused", f"The hub refused the token for {hub_id}.", "Set HF_TOKEN to a valid token."
        )
    if status == 429:
        return JobFaultError("hub_busy", "The hub says: too many requests.", "Try again in some minutes.")
    reason = f"it answered {status}" if status is not None else type(error.__cause__ or error).__name__
    return JobFaultError(
        UNREACHABLE,
        f"The Hugging Face hub could not be reached for {hub_id} ({reason}).",
        "Check this host's network, proxy, HF_ENDPOINT and HF_HUB_OFFLINE; or register a local folder instead.",
    )
