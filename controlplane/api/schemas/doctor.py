"""What GET /api/doctor answers."""

from typing import Literal

from ninja import Schema


class Finding(Schema):
    """What was looked at, how it is, and what mends it."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    fix: str


class Diagnosis(Schema):
    """`state` is the worst of all findings'."""

    state: Literal["ok", "warn", "fail"]
    findings: list[Finding]
