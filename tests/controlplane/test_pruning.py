"""Many old rows go a slice at a time, in transactions that are short."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from controlplane.models import Conversation, Job
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Status
from controlplane.services import conversations, generations, pruning, settings
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def old_conversations() -> None:
    settings.put(SYSTEM, "chat.keep_days", 7)
    for _ in range(5):
        Conversation.objects.create(title="old", created_by="mara")
    Conversation.objects.update(updated_at=timezone.now() - timedelta(days=8))


def old_generations() -> None:
    for _ in range(5):
        factories.make_job("generate", Status.DONE, ended_at=timezone.now() - timedelta(days=400))


@pytest.mark.parametrize(
    ("prepare", "prune", "model"),
    [(old_conversations, conversations.prune, Conversation), (old_generations, generations.prune, Job)],
)
def test_a_slice_goes_at_a_time(
    prepare: Callable[[], None], prune: Callable[[], int], model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "AT_ONCE", 2)
    prepare()
    slices: list[int] = []

    def watch(execute: Callable[..., Any], sql: str, parameters: Any, *rest: Any) -> Any:
        if sql.startswith("DELETE") and sql.split('"')[1] == model._meta.db_table:
            slices.append(len(parameters))
        return execute(sql, parameters, *rest)

    with connection.execute_wrapper(watch):
        assert prune() == 5
    assert slices == [2, 2, 1]
    assert not model.objects.exists()
