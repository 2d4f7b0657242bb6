"""Fixtures of the tests of what keeps strangers out."""

from tests.controlplane.conftest import home, no_connections_left, quick_pages

__all__ = ["home", "no_connections_left", "quick_pages"]
