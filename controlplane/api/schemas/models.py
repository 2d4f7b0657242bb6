"""What the calls about models take and answer."""

from typing import Any

from ninja import Field, Schema
from pydantic import ConfigDict

from controlplane.api.schemas.tables import Listed


class Model(Schema):
    """A model. `state`: fetching, ready or failed (`error` says why). Models of one `family` are versions of it.

    `engine_options`: the settings of its engine that aren't the defaults.
    """

    id: str
    family: str
    version: int
    source: str
    hub_id: str | None
    path: str
    base_model: str | None
    kind: str
    size_bytes: int | None
    parameters: int | None
    dtype: str | None
    architecture: str | None
    tags: list[str]
    created_at: str
    created_by: str
    is_active: bool
    state: str
    error: str | None
    run_id: int | None
    checkpoint_step: int | None
    job_id: int | None
    progress: dict[str, Any] | None
    engine: str
    gguf: str | None
    engine_options: dict[str, Any]
    load_on_demand: bool
    idle_unload_seconds: int


class ModelList(Listed):
    """All models, the active one first."""

    models: list[Model]


class RegisterModel(Schema):
    """`source`: hub (with `hub_id`), directory (with `path`, an admin's), or smollm2."""

    id: str
    source: str
    path: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    tags: list[str] = Field(default_factory=list)


class ModelId(Schema):
    """A model by its id."""

    id: str


class Activate(ModelId):
    """`swap`, where memory doesn't allow two engines at once: `auto` and `wait` end the old one first and let requests
    wait, `beside` tries it all the same, `ask` refuses with 409. `host`: where its engine is to run; "": where there is
    room.
    """

    swap: str = "auto"
    host: str = ""


class ServingOptions(Schema):
    """What is to change: whether an engine is started when a request names the model, after how many seconds without a
    request it is ended (0: never), which engine it is (transformers, llama_cpp or vllm; from the next start on), and
    which export llama_cpp serves ("": the smallest there is). `engine_options` are the engine's settings by name, in
    place of all that were set before; null is a setting's default.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    load_on_demand: bool | None = None
    idle_unload_seconds: int | None = None
    engine: str | None = None
    gguf: str | None = None
    engine_options: dict[str, Any] | None = None


class EngineSuggestion(Schema):
    """The engine that suits the hosts that there are, the export for it, and why; null while no host is there."""

    engine: str | None
    gguf: str | None
    why: str | None


class Activation(Schema):
    """`active_model` is the one that answers now; `deployment` the engine that was asked for."""

    active_model: str | None
    deployment: int
    status: str
