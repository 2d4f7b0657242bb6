"""What every setting says of itself, and how strictly values are taken. Runs in every process."""

from typing import Any

from pydantic import ConfigDict, Field

SETTINGS = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def about(
    description: str,
    *,
    title: str = "",
    unit: str = "",
    locked: bool = False,
    advanced: bool = False,
    **limits: Any,
) -> Any:
    """A field's description, range and what a form needs beside them."""
    extra: dict[str, Any] = {"unit": unit, "locked": locked, "advanced": advanced}
    return Field(title=title or None, description=description, json_schema_extra=extra, **limits)
