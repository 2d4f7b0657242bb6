"""The verb `fetch`: brings a model into the registry's folder, whole or not at all; or exports one that is there.

Runs as one job process. A source fills a folder beside the final one; the result is inspected, described in
`pilothouse.json` and published by one rename.
"""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monitoring.attempt import JobFaultError, JobPausedError, run_attempt
from monitoring.events import EventWriter, JobSpec, Phase, read_secrets
from monitoring.files import FACTS_FILE, publish_folder
from training.fetch.checkpoint import fetch_checkpoint
from training.fetch.directory import fetch_directory
from training.fetch.hub import UNREACHABLE, fetch_hub
from training.fetch.inspect import inspect_model, write_facts
from training.fetch.layout import disk_full
from training.fetch.request import Fetch, FetchConfig, FetchRequest, SourceName
from training.fetch.smollm2 import fetch_smollm2
from training.fetch.tokenizer import settle_tokenizer
from training.interruption import interruptible

SOURCES: dict[SourceName, Fetch] = {
    "smollm2": fetch_smollm2,
    "hub": fetch_hub,
    "directory": fetch_directory,
    "checkpoint": fetch_checkpoint,
}


def main(spec_path: Path) -> int:
    """Runs the attempt that `spec_path` describes; returns the exit code of the process."""
    return run_attempt(spec_path, _work)


def _work(spec: JobSpec, events: EventWriter, spec_path: Path) -> dict[str, Any]:
    with interruptible():
        events.emit(Phase(name="active"))
        if "export" in spec.config:
            from training.fetch.gguf_export import export_model  # numpy and gguf, which a download needs not

            return export_model(spec, events)
        return fetch_model(spec, events, read_secrets(spec_path).get("hf_token"))


def fetch_model(spec: JobSpec, events: EventWriter, hub_token: str | None) -> dict[str, Any]:
    """Publishes the model of `spec.config` at `spec.model_dir`; returns the values of the `result` event."""
    config = FetchConfig.from_json(spec.config)
    if not spec.model_dir:
        raise JobFaultError("bad_config", "The job names no model_dir.", "Fetch the model from the models page.")
    final = Path(spec.model_dir)
    if final.exists():
        if spec.attempt > 1 and (final / FACTS_FILE).is_file():
            return _published_before(final)
        raise JobFaultError(
            "already_there", f"{final} exists already, and a published model is never overwritten.", "Take a new id."
        )
    final.parent.mkdir(parents=True, exist_ok=True)
    with _workplace(final, config.source) as (partial, scratch):
        request = FetchRequest(config, partial, scratch, events, hub_token, spec.inputs.base or spec.inputs.model)
        fetched = SOURCES[config.source](request)
        if not (partial / "adapter_config.json").is_file():
            settle_tokenizer(partial)
        facts = inspect_model(partial)
        told = {"source": fetched.source, "answer": fetched.answer, "base": fetched.base}
        if fetched.profile is not None:
            told["profile"] = fetched.profile
        write_facts(partial, facts, id=final.name, **told)
        publish_folder(partial, final)
    events.log(f"Published {facts['architecture'] or facts['kind']} with {facts['parameters']:,} parameters.")
    return {**facts, **told}


def _published_before(final: Path) -> dict[str, Any]:
    """The result of an attempt that was cut off between publishing and saying so."""
    facts: dict[str, Any] = json.loads((final / FACTS_FILE).read_bytes())
    facts.pop("id", None)
    return facts


@contextmanager
def _workplace(final: Path, source: SourceName) -> Iterator[tuple[Path, Path]]:
    """Two folders beside the final one: where the model grows, and where a source may leave things.

    Both vanish when the job ends, but that a hub download which was paused or cut off goes on where it was.
    """
    partial, scratch = (final.with_name(f".{final.name}.{end}") for end in ("partial", "scratch"))
    shutil.rmtree(scratch, ignore_errors=True)
    if source != "hub":
        shutil.rmtree(partial, ignore_errors=True)
    keep = False
    try:
        partial.mkdir(exist_ok=True)
        scratch.mkdir()
        yield partial, scratch
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise disk_full(final.parent) from error
        raise
    except JobPausedError:
        keep = source == "hub"
        raise
    except JobFaultError as fault:
        keep = fault.code == UNREACHABLE
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if not keep:
            shutil.rmtree(partial, ignore_errors=True)
