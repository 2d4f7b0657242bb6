"""Tests of what PostgreSQL alone has: collected on PostgreSQL alone (`bin/test --postgres tests/postgres`)."""

import os
from collections.abc import Iterator

import pytest
from django.db import connection

collect_ignore_glob = [] if os.environ.get("PILOTHOUSE_TEST_POSTGRES") == "yes" else ["test_*.py"]


@pytest.fixture
def committed(transactional_db: None) -> Iterator[None]:
    """Rows that other connections see; whatever a test's threads have left open is closed."""
    yield
    connection.close()
