"""Language models: registered, fetched, listed, deleted. Runs in the web process.

A model is known by its name, which is the API's `id` and may hold slashes. Its files are brought by a `fetch` job that
checks them; only then is it `ready`.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from huggingface_hub.utils import HFValidationError, validate_repo_id

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, UnknownModelError
from controlplane.legible import is_legible
from controlplane.live.announce import publish
from controlplane.models import Chain, Checkpoint, Deployment, Job, LanguageModel, Run, Split
from controlplane.models.access import Actor, Role
from controlplane.models.deployments import LIVE
from controlplane.models.jobs import Kind
from controlplane.models.language_models import ModelState
from controlplane.services import checkpoints as checkpoint_files
from controlplane.services import jobs
from controlplane.services.access import audit
from training.profiles.base import BrokenProfileError, UnknownProfileError, load_profile

STARTER = "smollm2-135m-instruct"
SOURCES = {
    "hub": "hub", "hf": "hub", "huggingface": "hub", "directory": "directory", "local": "directory",
    "path": "directory", "smollm2": "smollm2",
}  # fmt: skip
"""What a client may call a source, and what the fetch job calls it."""

NAMES_TOLD = 20
"""How many names are told to who asks for a model that isn't there."""

RESERVED = frozenset({"active", "engine", "register", "reload", "set_active"})
"""Words that are calls of their own under /api/models/."""

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,198}[A-Za-z0-9_-])?")
REVISION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,127})?")


# --- Looking ----------------------------------------------------------------------------------------------------------


def _rows() -> "QuerySet[Any, Any]":
    """Models with `serves`: whether they are the active one."""
    active = Deployment.objects.filter(model=OuterRef("pk"), is_active=True)
    return LanguageModel.objects.select_related("base", "job").annotate(serves=Exists(active))


def listed() -> "QuerySet[Any, Any]":
    """What a run is still making is a name that is kept for it, and no model yet."""
    return _rows().exclude(source="run", state=ModelState.FETCHING)


def count() -> int:
    """How many models there are, in whatever state."""
    return listed().count()


def list_models() -> list[LanguageModel]:
    """All models in whatever state, the active one first, then the newest."""
    return list(listed().order_by("-serves", "-created_at", "name"))


def names(most: int) -> list[str]:
    """The names of the first models of the same list."""
    return list(listed().order_by("-serves", "-created_at", "name").values_list("name", flat=True)[:most])


def find(words: Sequence[str], most: int) -> list[LanguageModel]:
    """The first models of the same list that have each of the words in their name, at most `most`."""
    wanted = Q()
    for word in words:
        wanted &= Q(name__icontains=word)
    return list(listed().filter(wanted).order_by("-serves", "-created_at", "name")[:most])


def list_ready() -> list[LanguageModel]:
    """The models that can be used, the active one first, then the newest."""
    return list(_rows().filter(state=ModelState.READY).order_by("-serves", "-created_at", "name"))


def count_unready() -> int:
    """How many models are still fetched or have failed."""
    return LanguageModel.objects.exclude(state=ModelState.READY).count()


def get(name: str) -> LanguageModel:
    """The model called `name`. Raises NotFoundError."""
    model: LanguageModel | None = _rows().filter(name=name).first()
    if model is None:
        raise unknown(name)
    return model


def unknown(name: str) -> UnknownModelError:
    """The refusal of a name that no model has, with the names that there are."""
    ready = [model.name for model in list_ready()]
    more = f" and {len(ready) - NAMES_TOLD} more" if len(ready) > NAMES_TOLD else ""
    return UnknownModelError(f"There is no model {name!r}. There are: {', '.join(ready[:NAMES_TOLD]) or 'none'}{more}.")


def active() -> LanguageModel | None:
    """The model that answers when nobody names one, or None."""
    model: LanguageModel | None = _rows().filter(serves=True).first()
    return model


def facts(model: LanguageModel) -> dict[str, Any]:
    """A model as the API and the live topic tell it."""
    serves = getattr(model, "serves", None)
    if serves is None:
        serves = Deployment.objects.filter(model=model, is_active=True).exists()
    job = model.job
    return {
        "id": model.name, "family": model.family, "version": model.version, "source": model.source,
        "hub_id": model.hub_id or None, "path": str(model.folder),
        "base_model": model.base.name if model.base else model.facts.get("base_model"), "kind": model.kind,
        "size_bytes": model.size_bytes, "parameters": model.parameters, "dtype": model.dtype or None,
        "architecture": model.architecture or None, "tags": model.tags, "created_at": model.created_at.isoformat(),
        "created_by": model.created_by, "is_active": serves, "state": model.state, "error": model.error or None,
        "run_id": model.run_id, "checkpoint_step": model.checkpoint_step, "job_id": model.job_id,
        "progress": job.progress if job is not None and not job.has_ended else None,
        "engine": model.engine, "gguf": model.gguf or None, "engine_options": model.engine_options,
        "load_on_demand": model.load_on_demand, "idle_unload_seconds": model.idle_unload_seconds,
    }  # fmt: skip


def locked_facts(model: LanguageModel) -> dict[str, str]:
    """What a model says of the settings that it locks (`training.config`, section `locked`)."""
    return {
        "base_model": model.name, "model_architecture": model.architecture,
        "tokenizer_sha256": model.facts.get("tokenizer_sha256") or "",
        "chat_template_sha256": model.facts.get("chat_template_sha256") or "",
    }  # fmt: skip


# --- Registering ------------------------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """The name. Raises InvalidInputError unless it has letters, digits and . _ - / alone, and is no trick of paths."""
    parts = name.split("/")
    if not NAME.fullmatch(name) or ".." in name or "" in parts or "." in parts or name in RESERVED:
        raise InvalidInputError(
            "A model's id has up to 200 letters, digits, '.', '_', '-' and '/', starts with a letter or digit, holds "
            f"no '..' and is none of {', '.join(sorted(RESERVED))}.",
            (FieldFault("id", "up to 200 letters, digits, '.', '_', '-', '/'"),),
        )
    return name


def register(
    actor: Actor,
    name: str,
    source: str,
    *,
    path: str | None = None,
    hub_id: str | None = None,
    revision: str | None = None,
    tags: Sequence[str] = (),
) -> LanguageModel:
    """Queues the fetching of a model; it is `ready` once its files are here and have been checked.

    `source`: "hub" (needs `hub_id`), "directory" (needs `path`, and an admin), "smollm2".
    """
    actor.require(Role.USE)
    name = check_name(name)
    kind = SOURCES.get(source.strip().lower())
    if kind is None:
        raise InvalidInputError(
            f"There is no source {source!r} of models: choose hub, directory or smollm2.",
            (FieldFault("source", "hub, directory or smollm2"),),
        )
    config = {"source": kind, "hub_id": "", "revision": "", "path": ""}
    if kind == "hub":
        config["hub_id"] = _checked_hub_id(hub_id or "")
        config["revision"] = _checked_revision(revision or "")
    elif kind == "directory":
        actor.require(Role.ADMIN)
        config["path"] = _checked_path(path or "")
    return _create(actor, name, config, hub_id=config["hub_id"], tags=_checked_tags(tags))


def _checked_hub_id(hub_id: str) -> str:
    try:
        validate_repo_id(hub_id)
    except HFValidationError as error:
        raise InvalidInputError(
            f"{hub_id!r} is no id of the Hugging Face hub. Give one such as Qwen/Qwen3-0.6B.",
            (FieldFault("hub_id", "OWNER/NAME"),),
        ) from error
    return hub_id


def _checked_revision(revision: str) -> str:
    if revision and (not REVISION.fullmatch(revision) or ".." in revision):
        raise InvalidInputError(
            f"{revision!r} is no revision. Give a branch, a tag or a commit.",
            (FieldFault("revision", "a branch or tag"),),
        )
    return revision


def _checked_path(path: str) -> str:
    folder = Path(path)
    if not folder.is_absolute() or not folder.is_dir():
        raise InvalidInputError(
            f"{path!r} is not the absolute path of a folder on this host.", (FieldFault("path", "an absolute path"),)
        )
    return str(folder)


def _checked_tags(tags: Sequence[str]) -> list[str]:
    cleaned = [tag.strip() for tag in tags]
    if len(cleaned) > 20 or any(not 1 <= len(tag) <= 50 or not is_legible(tag) for tag in cleaned):
        raise InvalidInputError(
            "A model has up to 20 tags of 1 to 50 printable characters.", (FieldFault("tags", "up to 20"),)
        )
    return list(dict.fromkeys(cleaned))


def _create(actor: Actor, name: str, config: dict[str, str], **fields: Any) -> LanguageModel:
    """The row and its fetch job."""
    try:
        with transaction.atomic():
            if LanguageModel.objects.filter(name=name).exists():
                raise ConflictError(f"There is already a model {name!r}. Choose another id, or delete that one.")
            model = LanguageModel(name=name, source=config["source"], created_by=actor.name, **fields)
            what = config["hub_id"] or config["path"] or config["source"]
            model.job = jobs.create(
                actor, Kind.FETCH, f"Fetch {name} from {what}", {**config, "model": str(model.uuid)}
            )
            model.save(force_insert=True)
            audit(actor, "model.register", name, **config)
            _announce(model)
    except IntegrityError as error:
        raise ConflictError(f"Another model became {name!r} at this moment. Choose another id.") from error
    return model


def register_checkpoint(actor: Actor, run: Run, checkpoint: Checkpoint, name: str) -> LanguageModel:
    """Queues the making of a model from a run's checkpoint."""
    actor.require(Role.USE)
    name = check_name(name)
    config = {"source": "checkpoint", "hub_id": "", "revision": "", "path": str(run.folder / checkpoint.path)}
    with transaction.atomic():
        model = _create(
            actor, name, config, run=run, checkpoint_step=checkpoint.step, dataset=run.dataset,
            profile=trained_with(run), base=run.model, tags=["checkpoint"],
        )  # fmt: skip
        checkpoint_files.mark(checkpoint, str(model.uuid))
    return model


def trained_with(run: Run) -> dict[str, Any]:
    """The profile of a run with its version: the one that was installed when it was launched, where that is known,
    else the one that is installed now (empty where it is no longer). What the job itself says of it goes before.
    """
    profile: dict[str, Any] = dict(run.config.get("profile", {}))
    made = LanguageModel.objects.filter(run=run, source="run").first()
    known = (made.profile.get("version") if made else "") or profile.get("version")
    if not known and "name" in profile:
        options, prompt = profile.get("options"), profile.get("system_prompt", "")
        try:
            known = load_profile(profile["name"], system_prompt=prompt, options=options).version
        except (UnknownProfileError, BrokenProfileError):
            known = ""
    return {**profile, "version": known or ""}


def ensure_starter(actor: Actor) -> LanguageModel | None:
    """Queues SmolLM2 where there is no model at all: the first start. Returns its row, or None."""
    with transaction.atomic():
        if LanguageModel.objects.exists():
            return None
        config = {"source": "smollm2", "hub_id": "", "revision": "", "path": ""}
        return _create(actor, STARTER, config, tags=["starter"])


# --- What the fetch job says ------------------------------------------------------------------------------------------


def fetched(uuid: str, values: dict[str, Any]) -> None:
    """Stores what the job found out (`training.fetch.inspect.ModelFacts`). Inside the ingest transaction."""
    model = LanguageModel.objects.select_related("base").filter(pk=UUID(uuid)).first()
    if model is None:  # deleted meanwhile
        return
    model.kind = values["kind"]
    model.architecture = values["architecture"] or ""
    model.parameters, model.size_bytes = values["parameters"], values["size_bytes"]
    model.dtype = values["dtype"] or ""
    model.facts = values
    if trained := values.get("profile"):  # a checkpoint knows the version that it was trained with
        model.profile = {**model.profile, **trained}
    model.state, model.error = ModelState.READY, ""
    if model.kind == "full":
        model.base = None
    elif model.base is None:
        _find_base(model, values.get("base_model") or "")
    model.save()
    _announce(model)


def _find_base(model: LanguageModel, base_name: str) -> None:
    """An adapter works on its base alone: without a registered one it can't be used."""
    others = LanguageModel.objects.filter(kind="full", state=ModelState.READY).exclude(pk=model.pk)
    model.base = others.filter(name=base_name).first() or others.filter(hub_id=base_name).first()
    if model.base is None:
        model.state = ModelState.FAILED
        model.error = (
            f"This is an adapter for {base_name or 'a base that it does not name'}, which is not registered here. "
            "Register that model first, delete this one and register it again."
        )


def fetching(uuid: str) -> None:
    """Its fetching is queued once more. Inside the transaction that does so."""
    model = LanguageModel.objects.filter(pk=UUID(uuid)).first()
    if model is not None:
        model.state, model.error = ModelState.FETCHING, ""
        model.save(update_fields=["state", "error"])
        _announce(model)


def fetch_failed(uuid: str, error: dict[str, str]) -> None:
    """The files didn't come, or are no model. Inside the ingest transaction."""
    model = LanguageModel.objects.filter(pk=UUID(uuid)).first()
    if model is None:
        return
    model.state = ModelState.FAILED
    model.error = f"{error.get('message', 'The fetch job ended early.')} {error.get('fix', '')}".strip()
    model.save(update_fields=["state", "error"])
    _announce(model)


# --- Deleting ---------------------------------------------------------------------------------------------------------


def delete(actor: Actor, name: str) -> None:
    """Takes a model and its files away.

    Raises ConflictError while it is active or served, while it is being made, or while another model or a run stands
    on it.
    """
    actor.require(Role.USE)
    model = get(name)
    actor.require_owner(f"The model {name}", model.created_by)
    with transaction.atomic():
        _refuse_in_use(model)
        Deployment.objects.filter(model=model).delete()
        folder = model.folder
        _let_checkpoint_go(model)
        model.delete()
        audit(actor, "model.delete", name, uuid=folder.name)
        publish("models", "status", {"id": name, "gone": True})
    for entry in (folder, *folder.parent.glob(f".{folder.name}.*")):
        if entry.is_symlink():
            entry.unlink(missing_ok=True)
        else:
            shutil.rmtree(entry, ignore_errors=True)


def _let_checkpoint_go(model: LanguageModel) -> None:
    """The checkpoint that it was made of is no longer kept for its sake."""
    if model.run is None or model.checkpoint_step is None:
        return
    for row in model.run.checkpoints.filter(step=model.checkpoint_step):
        checkpoint_files.unmark(row, str(model.uuid))


def _refuse_in_use(model: LanguageModel) -> None:
    name = model.name
    live = Deployment.objects.filter(model=model).filter(status__in=[*LIVE, "draining"]).order_by("-is_active").first()
    if live is not None:
        word = "active" if live.is_active else f"served by deployment {live.pk}"
        raise ConflictError(f"{name} is {word}. Activate another model, or stop that deployment first.")
    making = next((row for row in model.exports.select_related("job") if row.state == "making"), None)
    if making is not None:
        raise ConflictError(f"{name} is being exported by job {making.job_id}. Cancel that first.")
    if (derived := model.derived.first()) is not None:
        raise ConflictError(f"{name} is the base of {derived.name}. Delete that one first.")
    if (chain := Chain.objects.filter(Q(base=model) | Q(current=model)).first()) is not None:
        word = "stands at" if chain.current_id == model.pk else "began with"
        raise ConflictError(f"The chain {chain.name} {word} {name}. Reset or delete that chain first.")
    if (run := model.runs_from.order_by("-id").first()) is not None:
        raise ConflictError(f"Run {run} was trained from {name}. Delete that run first.")
    if (sweep := model.run_sweeps.first()) is not None:
        raise ConflictError(f"Sweep {sweep} trains from {name}. Delete that sweep first.")
    shared = [split for split in Split.objects.all() if any(part["model"] == name for part in split.parts)]
    if shared:
        raise ConflictError(f"{name} answers for the shared name {shared[0].name}. Change or delete that one first.")
    maker: Job | None = model.job or (model.run.job if model.run else None)
    if model.state == ModelState.FETCHING and maker is not None and not maker.has_ended:
        raise ConflictError(f"{name} is being made by job {maker.pk}. Cancel that first.")


def _announce(model: LanguageModel) -> None:
    publish("models", "status", facts(model))
