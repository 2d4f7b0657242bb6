"""Moments as the API and the live topics tell them. Runs in the web process."""

from datetime import datetime


def iso(moment: datetime | None) -> str | None:
    """A moment in ISO 8601 with its zone; None where there is none."""
    return moment.isoformat() if moment else None
