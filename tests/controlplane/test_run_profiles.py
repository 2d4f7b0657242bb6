"""A run's profile: refused at once when it can't be used, remembered by the model, handed to the model's engine."""

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.kinds.serve import ServeKind
from controlplane.kinds.train import TrainKind, result_model
from controlplane.models import Attempt, Checkpoint, LanguageModel, Run
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Status
from controlplane.services import models
from tests import factories
from training.config.loader import parse_config, to_dict
from training.profiles.base import load_profile
from training.profiles.emoji_think import EmojiThinkProfile

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls"), pytest.mark.usefixtures("home")]


@pytest.fixture
def user() -> Client:
    """A client that may work."""
    return factories.make_client("use")


@pytest.mark.parametrize("name", ["plain", "emoji_think", "regime3"])
def test_options_that_a_profile_does_not_have_are_refused_before_the_run(user: Client, name: str) -> None:
    body = {
        "name": "first", "dataset": factories.make_dataset().pk, "model": factories.make_model().name, "profile": name,
        "config": {"profile": {"options": {"emoji": "⚓"}}},
    }  # fmt: skip
    answer = user.post("/api/runs", body, content_type="application/json")
    assert answer.status_code == 422
    assert [fault["path"] for fault in answer.json()["faults"]] == ["config.profile.options"]
    assert "it has no options, but emoji was given" in answer.json()["detail"]
    assert not Run.objects.exists()


def test_a_model_remembers_profile_and_version_and_its_engine_gets_them() -> None:
    config = to_dict(parse_config({"profile": {"name": "emoji_think", "system_prompt": "Be kind."}}))
    run = factories.make_run(status=Status.RUNNING, config=config)
    attempt = Attempt.objects.create(job=run.job, number=1, host=factories.make_host())
    model = result_model(run)
    facts = {"kind": "full", "architecture": "Qwen3ForCausalLM", "parameters": 9, "dtype": "float32", "size_bytes": 9}
    result = {"steps": 4, "model": facts, "profile": {"name": "emoji_think", "version": "7"}}
    TrainKind().on_done(run.job, attempt, result)
    remembered = LanguageModel.objects.get(pk=model.pk)
    assert remembered.profile == {
        "name": "emoji_think", "version": "7", "system_prompt": "Be kind.", "options": {},
    }  # fmt: skip
    deployment = factories.make_deployment(remembered)
    serving = Attempt.objects.create(job=deployment.job, number=1, host=attempt.host)
    assert ServeKind().spec(deployment.job, serving).config["profile"] == remembered.profile


def test_a_model_of_a_checkpoint_remembers_the_version_that_was_installed_at_the_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = to_dict(parse_config({"profile": {"name": "emoji_think", "system_prompt": "Be kind."}}))
    run = factories.make_run(status=Status.RUNNING, config=config)
    row = Checkpoint.objects.create(run=run, step=2, path="checkpoints/step-2", bytes=1, created_at=timezone.now())
    (run.folder / row.path).mkdir(parents=True)
    installed = load_profile("emoji_think").version
    assert installed
    result_model(run)  # at the launch
    monkeypatch.setattr(EmojiThinkProfile, "version", "99")
    model = models.register_checkpoint(SYSTEM, run, row, "from-step-2")
    remembered = LanguageModel.objects.get(pk=model.pk).profile
    assert remembered == {"name": "emoji_think", "version": installed, "system_prompt": "Be kind.", "options": {}}
    LanguageModel.objects.filter(source="run").delete()  # as when a run fails: the web process can only guess
    later = models.register_checkpoint(SYSTEM, run, row, "from-step-2-later")
    assert later.profile["version"] == "99"
    result = {"kind": "full", "architecture": "Qwen3ForCausalLM", "parameters": 9, "dtype": "float32", "size_bytes": 9,
              "profile": {"name": "emoji_think", "version": installed}}  # fmt: skip
    models.fetched(str(later.uuid), result)  # as the checkpoint itself has it
    assert LanguageModel.objects.get(pk=later.pk).profile == remembered
    gone = factories.make_run(config={**config, "profile": {"name": "uninstalled", "options": {}}})
    assert models.trained_with(gone) == {"name": "uninstalled", "options": {}, "version": ""}
