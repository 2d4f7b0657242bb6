"""What serves a model, and when its engine is loaded and unloaded by itself. Runs in the web process."""

from collections.abc import Mapping
from typing import Any

from django.db import transaction

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.live.announce import publish
from controlplane.models import Deployment, LanguageModel
from controlplane.models.access import Actor, Role
from controlplane.models.deployments import LIVE
from controlplane.models.exports import ExportKind
from controlplane.models.language_models import EngineName
from controlplane.services import exports, models
from controlplane.services.access import audit
from inference.settings import SettingsError, checked

LONGEST_IDLE_SECONDS = 7 * 86_400


def put(
    actor: Actor,
    model_name: str,
    *,
    load_on_demand: bool | None = None,
    idle_unload_seconds: int | None = None,
    engine: str | None = None,
    gguf: str | None = None,
    engine_options: Mapping[str, Any] | None = None,
) -> LanguageModel:
    """Changes what is given; an engine that runs stays as it is until it is started anew. `engine_options` takes the
    place of all that was set before (`inference.settings`); a setting that is None has its default.

    Raises NotFoundError, InvalidInputError.
    """
    actor.require(Role.ADMIN)
    if idle_unload_seconds is not None and not 0 <= idle_unload_seconds <= LONGEST_IDLE_SECONDS:
        fault = f"0 (never) to {LONGEST_IDLE_SECONDS} s"
        raise InvalidInputError(
            f"idle_unload_seconds lies between 0 (never) and {LONGEST_IDLE_SECONDS}.",
            (FieldFault("idle_unload_seconds", fault),),
        )
    wanted: dict[str, Any] = {
        "load_on_demand": load_on_demand, "idle_unload_seconds": idle_unload_seconds, "engine": engine, "gguf": gguf,
    }  # fmt: skip
    given = {name: value for name, value in wanted.items() if value is not None}
    with transaction.atomic():
        model = models.get(model_name)
        if engine is not None or gguf is not None:
            _check_engine(model, model.engine if engine is None else engine, model.gguf if gguf is None else gguf)
        if engine is not None or engine_options is not None:
            options = model.engine_options if engine_options is None else engine_options
            given["engine_options"] = _checked_options(engine or model.engine, options)
        if given:
            LanguageModel.objects.filter(pk=model.pk).update(**given)
            audit(actor, "model.serving", model.name, **given)
        model = models.get(model_name)
        publish("models", "status", models.facts(model))
    return model


def engine_config(model: LanguageModel) -> dict[str, Any]:
    """What a serve job's config says of the engine."""
    gguf = {"gguf": model.gguf} if model.engine == EngineName.LLAMA_CPP else {}
    return {"engine": model.engine, **gguf, **model.engine_options}


def is_outdated(deployment: Deployment) -> bool:
    """Whether an engine runs with other settings than its model has by now; False where it hasn't told them."""
    told, wanted = deployment.runs_with, engine_config(deployment.model)
    if not told or deployment.status not in LIVE:
        return False
    running = {"engine": told.get("engine"), **told.get("chosen", {})}
    if "gguf" in wanted:
        running["gguf"] = told.get("gguf", "")
    return running != wanted


def _checked_options(engine: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the defaults. Raises InvalidInputError with the path of each fault."""
    try:
        return checked(engine, options)
    except SettingsError as error:
        faults = [FieldFault(f"engine_options.{one.name}", f"{one.message} {one.fix}") for one in error.faults]
        raise InvalidInputError(str(error), tuple(faults)) from error


def _check_engine(model: LanguageModel, engine: str, gguf: str) -> None:
    if engine not in EngineName.values:
        known = ", ".join(EngineName.values)
        raise InvalidInputError(f"There is no engine {engine!r}: choose {known}.", (FieldFault("engine", known),))
    if gguf and gguf not in ExportKind.values:
        known = ", ".join(ExportKind.values)
        raise InvalidInputError(f"There is no export {gguf!r}: choose {known}.", (FieldFault("gguf", known),))
    if engine != EngineName.LLAMA_CPP:
        return
    ready = exports.ready_kinds(model)
    if not ready or (gguf and gguf not in ready):
        what = f"no GGUF export {gguf}" if gguf else "no GGUF export"
        raise InvalidInputError(
            f"{model.name} has {what}, and llama_cpp serves nothing else. Export it first.",
            (FieldFault("gguf" if gguf else "engine", "export the model first"),),
        )
