"""Adapters beside a deployed base: what the engine is told of them."""

from typing import Any

import pytest

from controlplane.errors import ConflictError
from controlplane.kinds.serve import ServeKind
from controlplane.models import Attempt, LanguageModel
from controlplane.models.language_models import ModelState
from tests.factories import make_deployment, make_host, make_job, make_model

pytestmark = pytest.mark.django_db


def config_with(base: LanguageModel, *names: str) -> dict[str, Any]:
    """The config of the spec of an engine of `base` with adapters beside it."""
    job = make_job("serve", config={"adapters": list(names)} if names else {})
    make_deployment(base, job=job)
    return ServeKind().spec(job, Attempt(job=job, number=1, host=make_host())).config


def test_an_engine_is_told_the_folders_and_profiles_of_adapters() -> None:
    base = make_model()
    profile = {"name": "emoji_think"}
    adapter = make_model(kind="adapter", base=base, profile=profile)
    expected = [{"name": adapter.name, "path": str(adapter.folder), "profile": profile}]
    assert config_with(base, adapter.name)["adapters"] == expected
    assert config_with(base)["adapters"] == []


def test_what_is_no_adapter_of_the_base_or_not_ready_is_refused() -> None:
    base, other = make_model(), make_model()
    for name in (
        other.name,
        make_model(kind="adapter", base=other).name,
        make_model(kind="adapter", base=base, state=ModelState.FAILED).name,
    ):
        with pytest.raises(ConflictError, match=name):
            config_with(base, name)
