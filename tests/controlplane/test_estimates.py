"""Whether a run fits, asked over the API and told on the form: against what the hosts' last readings say is free."""

import json
import struct
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.errors import ForbiddenError
from controlplane.models import Dataset, LanguageModel, Run
from controlplane.models.access import Actor, Role
from controlplane.services import estimates
from tests import factories
from tests.controlplane.page_reading import read
from tests.factories import client_of
from training.config.fields import fields
from training.estimate.advice import MARGIN

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
ACTOR = Actor("somebody", Role.USE)
LLAMA = {
    "model_type": "llama", "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "dtype": "bfloat16",
    "num_hidden_layers": 30, "intermediate_size": 1536, "vocab_size": 49_152, "architectures": ["LlamaForCausalLM"],
}  # fmt: skip


def make_model(**config: Any) -> LanguageModel:
    """A model of SmolLM2's sizes: its configuration and the header of its weights."""
    model = factories.make_model()
    (model.folder / "config.json").write_text(json.dumps({**LLAMA, **config}))
    header = json.dumps({"all": {"dtype": "BF16", "shape": [134_515_008], "data_offsets": [0, 0]}}).encode()
    (model.folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return model


def make_dataset(**tokens: Any) -> Dataset:
    counted = {"max": 900, "mean": 100.0, "sampled": False, "sample_rows": 3, **tokens}
    return factories.make_dataset(examples=1000, report={"tokens": counted})


def ask(model: LanguageModel, dataset: Dataset, **hyperparams: Any) -> estimates.Estimate:
    config = {"hyperparams": hyperparams, "data": {"eval_fraction": 0.1}}
    return estimates.estimate(ACTOR, dataset=dataset.pk, model=model.name, config=config)


def test_the_emptiest_card_is_what_it_must_fit_into() -> None:
    host = factories.make_host("rig")
    factories.make_gpu(host, 0, memory_used_bytes=20 << 30)
    factories.make_gpu(host, 1, memory_used_bytes=2 << 30)
    factories.make_gpu(host, 2, memory_used_bytes=0, fault="The card has fallen off the bus.")
    found = ask(make_model(), make_dataset(), per_device_train_batch_size=4)
    assert found["verdict"] == "fits"
    assert found["free"]["gpu"] == "GPU 1 · NVIDIA GeForce RTX 3090"
    assert found["free"]["free_bytes"] == 22 << 30
    assert found["memory"] is not None
    assert found["memory"]["tokens"] == 904  # 900, in steps of 8 on a GPU
    assert found["largest_batch"] is not None
    assert found["largest_batch"] > 4
    assert found["ways"] == []


def test_what_does_not_fit_is_told_with_what_would() -> None:
    factories.make_gpu(factories.make_host("rig"), memory_used_bytes=16 << 30)
    found = ask(make_model(), make_dataset(), per_device_train_batch_size=32)
    assert found["verdict"] == "does not fit"
    first = found["ways"][0]
    batch = first["settings"]["hyperparams.per_device_train_batch_size"]
    assert batch * first["settings"]["hyperparams.gradient_accumulation_steps"] == 32
    assert first["peak_bytes"] * MARGIN <= 8 << 30
    smaller = {path.split(".")[1]: value for path, value in first["settings"].items()}
    assert ask(make_model(), make_dataset(), **smaller)["verdict"] == "fits"


def test_without_a_card_it_is_the_hosts_memory_and_without_a_host_nobody_knows() -> None:
    model, dataset = make_model(), make_dataset()
    factories.make_host("gone", online=False)
    assert ask(model, dataset)["verdict"] == "unknown"
    factories.make_host("plain")
    found = ask(model, dataset)
    assert found["free"] == {"host": "plain", "gpu": None, "free_bytes": 12 << 30, "total_bytes": 16 << 30}
    assert found["verdict"] != "unknown"


@pytest.mark.parametrize(("tokens", "longest"), [
    ({"max": 5000}, 1024), ({"max": 300}, 300), ({"max": 300, "sampled": True}, 300),
    ({"max": 700, "sampled": True}, 1024),
    ({"max": None}, 1024),
])  # fmt: skip
def test_the_longest_example_is_that_of_the_report(tokens: dict[str, Any], longest: int) -> None:
    factories.make_host("plain")
    found = ask(make_model(), make_dataset(**tokens))
    assert found["memory"] is not None
    assert found["memory"]["tokens"] == longest


def test_time_is_told_by_an_earlier_run_of_the_model_on_that_host_or_not_at_all() -> None:
    host, model, dataset = factories.make_host("plain"), make_model(), make_dataset()
    found = ask(model, dataset, per_device_train_batch_size=10)
    assert found["time"] == {"steps": 90, "seconds": None, "measured_by_run": None}
    job = factories.make_job("train", "done", host=host, result={"tokens": 5_000, "seconds": 10.0})
    run = factories.make_run(model=model, job=job)
    factories.make_run(status="done")
    found = ask(model, dataset, per_device_train_batch_size=10)
    assert found["time"] == {"steps": 90, "seconds": 180.0, "measured_by_run": run.pk}


def test_a_model_without_sizes_is_not_guessed_at() -> None:
    factories.make_host("plain")
    found = ask(make_model(num_hidden_layers=None), make_dataset())
    assert (found["verdict"], found["memory"]) == ("unknown", None)
    assert "num_hidden_layers" in found["reason"]


def test_fewer_bits_a_weight_are_reckoned_on_a_processor_too() -> None:
    factories.make_host("plain")
    model, dataset = make_model(), make_dataset()
    weights = []
    for name in ("load_in_8bit", "load_in_4bit"):
        config = {"model": {name: True}}
        found = estimates.estimate(ACTOR, dataset=dataset.pk, model=model.name, config=config)
        assert found["memory"] is not None
        weights.append(found["memory"]["weights"])
    whole = ask(model, dataset)["memory"]
    assert whole is not None
    assert whole["weights"] > 2 * weights[0] > 2 * weights[1]


def test_it_takes_the_role_use() -> None:
    with pytest.raises(ForbiddenError):
        estimates.estimate(Actor("reader", Role.READ), dataset=make_dataset().pk, model=make_model().name)


@pytest.mark.urls("controlplane.api.urls")
def test_the_api_answers_the_same_figures() -> None:
    factories.make_host("plain")
    model, dataset = make_model(), make_dataset()
    body = {"dataset": dataset.pk, "model": model.name, "config": {"hyperparams": {"max_length": 256}}}
    client = factories.make_client("use")
    answer = client.post("/api/runs/estimate", body, content_type="application/json").json()
    config = {"hyperparams": {"max_length": 256}}
    assert answer == estimates.estimate(ACTOR, dataset=dataset.pk, model=model.name, config=config)
    wrong = {**body, "config": {"hyperparams": {"max_length": 1}}}
    refused = client.post("/api/runs/estimate", wrong, content_type="application/json")
    assert refused.status_code == 422
    assert Run.objects.count() == 0


def told(client: Client, typed: dict[str, str], **changes: str) -> str:
    return read(client.post("/runs/new/beside", {**typed, **changes})).by_id("run-estimate").text


def test_the_form_tells_it_as_settings_are_typed() -> None:
    host = factories.make_host("rig", last_seen_at=timezone.now() + timedelta(hours=1))  # however slow this machine is
    factories.make_gpu(host, memory_used_bytes=16 << 30)
    model, dataset = make_model(), make_dataset()
    typed = {"dataset": str(dataset.pk), "model": model.name, "profile": "plain", "priority": "normal", "name": ""}
    size = "hyperparams.per_device_train_batch_size"
    client = client_of("use")
    page = read(client.get("/runs/new"))
    assert page.by_id("run-plan").get("hx-post") == "/runs/new/beside"
    typed |= {str(item.get("name")): str(item.get("value")) for item in page.all("input", type="text")}
    typed |= {field.path: str(field.default) for field in fields() if field.kind == "choice"}
    assert "fits" in told(client, typed, **{size: "1"})
    crowded = told(client, typed, **{size: "64"})
    assert "does not fit" in crowded
    assert "accumulation steps" in crowded
    assert "as soon as every setting" in told(client, typed, **{size: "many"})
    assert "role" in told(client_of("read"), typed, **{size: "1"})
