"""The two APIs: the product's own under /api, and OpenAI's surface, whose errors have another shape. Web process."""

from typing import Any

from ninja import NinjaAPI, Router

from controlplane.api import (
    administration,
    alerts,
    audit,
    chains,
    conversations,
    curves,
    data_generation,
    datasets,
    doctor,
    energy,
    estimates,
    evaluations,
    exports,
    external_runs,
    files,
    generate,
    health,
    hosts,
    inbox,
    jobs,
    many,
    models,
    openai,
    power,
    queue,
    run_sweeps,
    run_table,
    run_templates,
    runs,
    search,
    storage,
    sweeps,
    uploads,
    usage,
)
from controlplane.api.errors import install, no_call_named, nothing_here, openai_answer, rest_answer
from controlplane.api.json_bodies import StrictParser
from controlplane.api.keys import KEYS
from controlplane.api.schemas.faults import OpenAIRefusal, Refusal, described
from controlplane.services.health import API_VERSION
from training.config.loader import schema as trainer_schema

DESCRIPTION = (
    "Everything that the pages do, for scripts. Send a key as `X-API-Key: KEY` or `Authorization: Bearer KEY`. "
    "Errors are `{detail}` with a sentence, under /v1 in OpenAI's form."
)
ALL_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def build_rest() -> NinjaAPI:
    """The API under /api."""
    api = NinjaAPI(
        title="Pilothouse", version=API_VERSION, description=DESCRIPTION, auth=KEYS, urls_namespace="api",
        docs_url=None, openapi_url="", parser=StrictParser(),
    )  # fmt: skip
    for noun in (
        health,
        doctor,
        hosts,
        files,
        models,
        exports,
        generate,
        jobs,
        many,
        queue,
        inbox,
        chains,
        power,
        energy,
        sweeps,
        uploads,
        datasets,
        estimates,
        external_runs,
        runs,
        curves,
        run_table,
        run_templates,
        run_sweeps,
        evaluations,
        conversations,
        data_generation,
        storage,
        alerts,
        audit,
        administration,
        search,
        usage,
    ):
        api.add_router("", noun.router)
    api.add_router("", _rest_of_the_addresses())
    install(api, rest_answer)
    return api


def build_openai(namespace: str, router: Router) -> NinjaAPI:
    """The OpenAI surface; one for each place where it is mounted."""
    api = NinjaAPI(
        title="Pilothouse, OpenAI surface", version=API_VERSION, auth=KEYS, urls_namespace=namespace, docs_url=None,
        openapi_url="",
    )  # fmt: skip
    api.add_router("", router)
    api.add_router("", _rest_of_the_addresses())
    install(api, openai_answer)
    return api


def _rest_of_the_addresses() -> Router:
    """What no other call answers: a 404 in the API's own shape instead of a page."""
    router = Router()
    router.api_operation(ALL_METHODS, "/", include_in_schema=False)(no_call_named)
    router.api_operation(ALL_METHODS, "/{path:rest}", include_in_schema=False)(nothing_here)
    return router


REST = build_rest()
OPENAI = build_openai("openai", openai.router)
OPENAI_UNDER_API = build_openai("openai-under-api", openai.router)


def whole_schema() -> dict[str, Any]:
    """The OpenAPI schema of everything, both surfaces, with TrainerConfig as training itself declares it."""
    whole = described(REST.get_openapi_schema(path_prefix="/api"), Refusal)
    other = described(OPENAI.get_openapi_schema(path_prefix="/v1"), OpenAIRefusal)
    under_api = described(OPENAI_UNDER_API.get_openapi_schema(path_prefix="/api/v1"), OpenAIRefusal)
    whole["paths"] = {**whole["paths"], **other["paths"], **under_api["paths"]}
    components = whole.setdefault("components", {})
    schemas = {**components.get("schemas", {}), **other.get("components", {}).get("schemas", {})}
    components["schemas"] = {**schemas, **_trainer_schemas()}
    components["schemas"]["CreateRun"]["properties"]["config"] = {"$ref": "#/components/schemas/TrainerConfig"}
    return whole


def _trainer_schemas() -> dict[str, Any]:
    """TrainerConfig and its sections under names of their own."""
    whole = trainer_schema()
    sections = whole.pop("$defs", {})
    moved = {f"TrainerConfig{name}": _renamed(section) for name, section in sections.items()}
    return {"TrainerConfig": _renamed(whole), **moved}


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: item.replace("#/$defs/", "#/components/schemas/TrainerConfig")
            if key == "$ref" and isinstance(item, str)
            else _renamed(item)
            for key, item in value.items()
        }
    return [_renamed(item) for item in value] if isinstance(value, list) else value
