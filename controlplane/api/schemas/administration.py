"""What the calls about keys, settings, deployments and the audit log take and answer."""

from datetime import datetime
from typing import Any

from ninja import Schema

from controlplane.api.schemas.energy import ServedEnergy
from controlplane.api.schemas.tables import Listed


class KeyLimits(Schema):
    """What a key may ask of engines: requests and tokens a minute (0: as many as it likes), and of which models (none
    named: of all).
    """

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    models: list[str] = []


class CreateKey(KeyLimits):
    """`role`: read, use or admin. Without `expires_at` it never expires."""

    name: str
    role: str
    expires_at: datetime | None = None


class Key(Schema):
    """A key, known by its first characters."""

    id: int
    name: str
    role: str
    prefix: str
    created_by: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    requests_per_minute: int
    tokens_per_minute: int
    models: list[str]

    @staticmethod
    def resolve_models(row: Any) -> list[str]:
        """The models that it may use; empty: all."""
        return list(row.allowed_models) if hasattr(row, "allowed_models") else list(row["models"])


class NewKey(Key):
    """`key` is shown this once and stored nowhere."""

    key: str


class KeyList(Listed):
    """All keys, newest first."""

    keys: list[Key]


class Setting(Schema):
    """A setting, its default and its bounds."""

    key: str
    value: bool | int | float | str
    default: bool | int | float | str
    description: str
    unit: str
    minimum: float | None
    maximum: float | None


class SettingList(Schema):
    """All settings."""

    settings: list[Setting]


class PutSetting(Schema):
    """The new value."""

    value: bool | int | float | str


class AddEngine(Schema):
    """The model that one more engine is started for, and adapters of it that answer by their names beside it.

    `host`: where it is to run; "": where there is room.
    """

    model: str
    adapters: list[str] = []
    host: str = ""


class Restart(Schema):
    """An engine that ended by itself is started again `at` a time; after `most_failures` it has failed."""

    reason: str
    failures: int
    most_failures: int
    at: str | None


class Deployment(Schema):
    """An engine. `status`: starting, checking, ready, draining, stopped or failed. `energy`: since it became ready.

    `kept`: it serves its model by name whatever model is active. `swaps`: it starts when the engines before it have
    ended. `activated_at`: when it took the active place. `in_flight`: requests that it is answering. `runs_with`: the
    settings that its process has (`dtype`, `bits`, `max_batch` and the others, `chosen` those asked for); null before
    it is ready.
    """

    id: int
    model: str
    status: str
    is_active: bool
    adapters: list[str]
    kept: bool
    swaps: bool
    attempt: int
    restart: Restart | None
    in_flight: int
    activated_at: str | None
    host: str | None
    job_id: int
    error: str
    check_text: str
    runs_with: dict[str, Any] | None
    statistics: dict[str, Any]
    energy: ServedEnergy | None
    created_by: str
    created_at: str
    ready_at: str | None
    ended_at: str | None


class DeploymentList(Schema):
    """Deployments, newest first."""

    deployments: list[Deployment]


class AuditLine(Schema):
    """Who did what to what, from where."""

    id: int
    time: datetime
    actor: str
    address: str
    action: str
    target: str
    detail: dict[str, Any]


class AuditLog(Listed):
    """Lines, newest first; ask with `before_id` for older ones."""

    lines: list[AuditLine]
