"""Settings of an engine from the control plane: what is kept, refused, told to the engine, and reckoned with."""

import json
from pathlib import Path
from typing import Any

import pytest

from controlplane.errors import ForbiddenError, InvalidInputError
from controlplane.kinds.serve import ServeKind
from controlplane.models import Attempt, AuditLine, Deployment, LanguageModel
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.deployments import DeploymentStatus
from controlplane.models.exports import ModelExport
from controlplane.models.language_models import EngineName
from controlplane.services import activation, deployments, engine_room, serving_options
from inference.settings import ENGINES, settings
from monitoring import events as ev
from monitoring.events import Event
from tests.controlplane.page_reading import HOSTILE, read
from tests.factories import client_of, make_client, make_deployment, make_host, make_job, make_model
from tests.tiny import build_tiny_model

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home", "quick_pages")]
JSON = "application/json"
CHOSEN = {"dtype": "bfloat16", "max_batch": 4, "load_in_4bit": True}


def launched(model: LanguageModel, **fields: Any) -> tuple[Deployment, Attempt]:
    """An engine that is about to start."""
    row = make_deployment(model, status=DeploymentStatus.STARTING, job=make_job("serve", "running"), **fields)
    attempt = Attempt.objects.create(job=row.job, number=1, host=make_host())
    activation.launching(row.job, attempt)
    return row, attempt


def test_there_is_one_list_of_engines() -> None:
    assert tuple(EngineName.values) == ENGINES


def test_settings_are_replaced_kept_small_audited_and_told_to_the_engine() -> None:
    model, admin = make_model("m"), make_client("admin")
    given = {**CHOSEN, "max_queue": 64, "cpu_threads": None}
    answer = admin.patch("/api/models/m", {"engine_options": given}, content_type=JSON)
    assert answer.json()["engine_options"] == CHOSEN, "a default is none of them"
    assert make_client("read").get("/api/models/m").json()["engine_options"] == CHOSEN
    line = AuditLine.objects.filter(action="model.serving").latest("pk")
    assert (line.target, line.detail) == ("m", {"engine_options": CHOSEN})
    row, attempt = launched(LanguageModel.objects.get(name="m"))
    config = ServeKind().spec(row.job, attempt).config
    assert {name: config[name] for name in CHOSEN} == CHOSEN
    serving_options.put(SYSTEM, "m", load_on_demand=True)
    model.refresh_from_db()
    assert model.engine_options == CHOSEN, "what isn't named stays"
    answer = admin.patch("/api/models/m", {"engine_options": {"max_batch": 2}}, content_type=JSON)
    assert answer.json()["engine_options"] == {"max_batch": 2}
    assert admin.patch("/api/models/m", {"engine_options": {}}, content_type=JSON).json()["engine_options"] == {}


def test_what_an_engine_can_not_have_is_refused_by_its_path_and_nothing_changes() -> None:
    model, admin = make_model("m", engine_options={"max_queue": 5}), make_client("admin")
    wrong = {"max_batch": 0, "speed": 9, "load_in_8bit": True, "load_in_4bit": True}
    answer = admin.patch("/api/models/m", {"engine_options": wrong}, content_type=JSON)
    assert answer.status_code == 422
    faults = {fault["path"]: fault["message"] for fault in answer.json()["faults"]}
    assert set(faults) == {"engine_options.max_batch", "engine_options.speed", "engine_options.load_in_4bit"}
    assert (
        faults["engine_options.max_batch"] == "The setting max_batch can't be 0. Give a whole number from 1 to 1,024."
    )
    with pytest.raises(InvalidInputError, match="vllm does not know the setting max_queue"):
        serving_options.put(SYSTEM, "m", engine="vllm")
    serving_options.put(SYSTEM, "m", engine="vllm", engine_options={"load_in_4bit": True})
    model.refresh_from_db()
    assert (model.engine, model.engine_options) == ("vllm", {"load_in_4bit": True})
    with pytest.raises(ForbiddenError):
        serving_options.put(Actor("somebody", Role.USE), "m", engine_options={})


def test_an_engine_tells_what_it_runs_with_and_whether_that_is_still_wanted() -> None:
    model = make_model("m", engine_options={"max_batch": 4})
    row, attempt = launched(model)
    assert deployments.facts(deployments.get(row.pk))["runs_with"] is None
    told = {"engine": "transformers", "gguf": "", "dtype": "float32", "bits": None, "max_batch": 4,
            "chosen": {"max_batch": 4}}  # fmt: skip
    ServeKind().on_events(row.job, attempt, [Event(1, 0.0, ev.Ready(port=9, runs_with=told))])
    row = deployments.get(row.pk)
    assert (row.status, row.runs_as) == (DeploymentStatus.CHECKING, "float32 · 4 at once")
    assert make_client("read").get(f"/api/deployments/{row.pk}").json()["runs_with"] == told
    assert not serving_options.is_outdated(row)
    serving_options.put(SYSTEM, "m", engine_options={"max_batch": 4, "load_in_4bit": True})
    assert serving_options.is_outdated(deployments.get(row.pk))
    ServeKind().on_launch(row.job, attempt)
    row = deployments.get(row.pk)
    assert (row.runs_with, serving_options.is_outdated(row)) == ({}, False), "a new process tells its own"


def test_fewer_bits_and_bytes_need_less_room(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "tiny")
    size = (folder / "model.safetensors").stat().st_size
    model = make_model("m", folder=folder, size_bytes=size, parameters=size // 4)
    adapter = make_model("a", kind="adapter", base=model, size_bytes=1000)

    def weights(of: LanguageModel, **options: Any) -> float:
        of.engine_options = options
        return (engine_room.needed_bytes(of) - engine_room.PROCESS_BYTES) / engine_room.SPARE

    whole = weights(model)
    assert weights(model, dtype="bfloat16") == pytest.approx(whole / 2, rel=0.01)
    eight, four = weights(model, load_in_8bit=True), weights(model, load_in_4bit=True)
    assert four < eight < whole
    config = json.loads((folder / "config.json").read_text())
    embedding = 4 * config["vocab_size"] * config["hidden_size"] * (1 if config["tie_word_embeddings"] else 2)
    assert four - embedding == pytest.approx((whole - embedding) * 0.5625 / 4, rel=0.05)
    assert weights(adapter, load_in_4bit=True) == pytest.approx(four + 1000, abs=2)
    gone = make_model("gone", size_bytes=4000, parameters=1000)
    assert weights(gone, load_in_8bit=True) == pytest.approx(1010, abs=2), "without its files: all of them"


def test_where_room_is_short_the_page_says_with_how_many_bits_there_would_be_enough() -> None:
    host = make_host()
    make_deployment(make_model("old"), is_active=True, port=9, host=host)
    total = host.reading["memory_total_bytes"]
    host.reading["memory_used_bytes"] = total - 3_500_000_000
    host.save()
    make_model("new", size_bytes=8 * 10**9, parameters=4 * 10**9)

    def words() -> str:
        return client_of("read").get("/models/at/new").content.decode()

    assert "In 4 bits it would have room beside it" in words()
    LanguageModel.objects.filter(name="new").update(size_bytes=4 * 10**9, parameters=2 * 10**9)
    assert "In 8 bits it would have room beside it" in words()
    LanguageModel.objects.filter(name="new").update(engine="vllm")
    assert "In 4 bits it would have room beside it" in words(), "what vLLM knows"
    LanguageModel.objects.filter(name="new").update(size_bytes=80 * 10**9, parameters=40 * 10**9)
    assert "No room for two engines." in words()
    assert "it would have room" not in words()


def test_what_a_replaced_engine_gives_back_is_what_it_runs_with() -> None:
    host, model = make_host(), make_model("m", size_bytes=8 * 10**9, parameters=4 * 10**9)
    told = {"engine": "transformers", "gguf": "", "chosen": {"load_in_4bit": True}}
    row = make_deployment(model, is_active=True, port=9, host=host, runs_with=told)
    room = engine_room.room_for(model, host, [row])
    assert room is not None
    assert room.freed_bytes == engine_room.needed_bytes(model, {"load_in_4bit": True}) < room.needed_bytes
    ModelExport.objects.create(model=model, kind="Q8_0", size_bytes=10**9, sha256="1" * 64)
    row.runs_with = {"engine": "llama_cpp", "gguf": "Q8_0", "chosen": {}}
    room = engine_room.room_for(model, host, [row])
    assert room is not None
    assert room.freed_bytes == int(10**9 * engine_room.SPARE) + engine_room.PROCESS_BYTES
    row.runs_with = {}
    room = engine_room.room_for(model, host, [row])
    assert room is not None
    assert room.freed_bytes == room.needed_bytes, "it has told nothing yet"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"engine": "vllm", "dtype": "auto", "bits": 4}, "4 bits · 8 at once"),
        ({"engine": "vllm", "dtype": "auto", "bits": None}, "8 at once"),
        ({"engine": "llama_cpp", "gguf": "Q8_0", "dtype": "float16"}, "GGUF Q8_0 · cache float16 · 8 at once"),
        ({"engine": "llama_cpp", "gguf": "", "dtype": "float16"}, "the smallest GGUF · cache float16 · 8 at once"),
    ],
)
def test_what_an_engine_runs_with_in_a_few_words(told: dict[str, Any], words: str) -> None:
    assert Deployment(runs_with={**told, "max_batch": 8}).runs_as == words


# --- The model's page -------------------------------------------------------------------------------------------------


def test_the_form_has_every_setting_with_its_default_and_keeps_what_is_chosen() -> None:
    make_model("m", engine_options={"max_batch": 4, "dtype": "bfloat16"})
    page = read(client_of("admin").get("/models/at/m"))
    assert not page.refused
    for one in settings():
        assert page.one("select" if one.kind == "choice" else "input", name=one.name)
    assert page.one("input", name="max_batch").get("value") == "4"
    assert page.one("input", name="max_queue").get("placeholder") == "64"
    assert "open" in page.one("details", id="engine-settings").attributes
    posted = {"name": "m", "engine": "transformers", "max_queue": "9", "load_in_8bit": "on", "drain_seconds": "2.5"}
    client_of("admin").post("/models/serving", posted)
    assert LanguageModel.objects.get(name="m").engine_options == {
        "max_queue": 9, "load_in_8bit": True, "drain_seconds": 2.5,
    }  # fmt: skip


def test_faults_stand_beside_their_fields_and_what_was_typed_stays() -> None:
    make_model("m")
    admin = client_of("admin")
    answer = admin.post("/models/serving", {"name": "m", "engine": "transformers", "max_batch": HOSTILE})
    page = read(answer)
    assert answer.status_code == 422
    assert not page.refused
    assert page.one("input", name="max_batch").get("value") == HOSTILE
    assert "Give a whole number at least 1 and at most 1024" in page.one("span", id="id_max_batch_error").text
    answer = admin.post("/models/serving", {"name": "m", "engine": "vllm", "max_queue": "9", "load_in_8bit": "on"})
    page = read(answer)
    assert (
        "The engine vllm does not know the setting max_queue. Leave it out"
        in page.one("span", id="id_max_queue_error").text
    )
    assert "Take load_in_4bit" in page.one("span", id="id_load_in_8bit_error").text
    model = LanguageModel.objects.get(name="m")
    assert (model.engine, model.engine_options) == ("transformers", {})
    assert client_of("use").post("/models/serving", {"name": "m", "engine": "vllm"}).status_code == 403


def test_the_page_tells_what_runs_and_offers_to_start_it_anew() -> None:
    model = make_model("m", engine_options={"load_in_4bit": True})
    told: dict[str, Any] = {"engine": "transformers", "gguf": "", "dtype": "float32", "bits": None, "max_batch": 8,
                            "chosen": {}}  # fmt: skip
    row = make_deployment(model, is_active=True, port=9, runs_with=told)
    page = read(client_of("admin").get("/models/at/m"))
    assert "The active engine runs with earlier settings." in page.source
    assert "float32 · 8 at once" in page.source
    assert len([form for form in page.all("form") if form.get("action") == "/models/reload"]) == 2
    now = {**told, "bits": 4, "dtype": "bfloat16", "chosen": {"load_in_4bit": True}}
    Deployment.objects.filter(pk=row.pk).update(runs_with=now)
    page = read(client_of("admin").get("/models/at/m"))
    assert "earlier settings" not in page.source
    assert "4 bits, computed in bfloat16 · 8 at once" in page.source
    assert "4 bits, computed in bfloat16" in client_of("read").get("/models/active/").content.decode()
