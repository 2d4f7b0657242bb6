"""What the calls about keys, settings, deployments and the audit log take and answer."""

from datetime import datetime
from typing import Any

from ninja import Schema

from controlplane.api.schemas.energy import ServedEnergy


class CreateKey(Schema):
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


class NewKey(Key):
    """`key` is shown this once and stored nowhere."""

    key: str


class KeyList(Schema):
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


class Deployment(Schema):
    """An engine. `status`: starting, checking, ready, draining, stopped or failed. `energy`: since it became ready."""

    id: int
    model: str
    status: str
    is_active: bool
    host: str | None
    job_id: int
    error: str
    check_text: str
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


class AuditLog(Schema):
    """Lines, newest first; ask with `before_id` for older ones."""

    lines: list[AuditLine]
