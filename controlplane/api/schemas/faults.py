"""How errors are told, under /api and under /v1, and how the OpenAPI schema says so. `api.errors` writes them."""

from typing import Any

from ninja import Schema


class Fault(Schema):
    """One value that can't be taken."""

    path: str
    message: str


class Refusal(Schema):
    """A sentence that says what to do; `faults` where single values are at fault."""

    detail: str
    faults: list[Fault] | None = None


class OpenAIFault(Schema):
    """OpenAI's own fields; `param` is the option at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIRefusal(Schema):
    """A refusal under /v1."""

    error: OpenAIFault


REFUSED = {"4XX": "Refused; nothing was changed.", "503": "Nobody can answer now; `Retry-After` says when to ask."}


def described(schema: dict[str, Any], kind: type[Schema]) -> dict[str, Any]:
    """An OpenAPI schema whose every call has its refusals, in the form `kind`."""
    reference = {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
    refusals = {status: {"description": text, "content": reference} for status, text in REFUSED.items()}
    paths = {
        path: {method: _with(call, refusals) for method, call in calls.items()}
        for path, calls in schema["paths"].items()
    }
    forms = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    known = {**schema.get("components", {}).get("schemas", {}), **forms.pop("$defs", {}), kind.__name__: forms}
    return {**schema, "paths": paths, "components": {**schema.get("components", {}), "schemas": known}}


def _with(call: dict[str, Any], refusals: dict[str, Any]) -> dict[str, Any]:
    answers = {str(status): answer for status, answer in call.get("responses", {}).items()}
    return {**call, "responses": {**refusals, **answers}}
