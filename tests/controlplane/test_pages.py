"""Every page for every role: it answers, breaks no rule of the policy, and shows hostile names as text."""

from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.models import Checkpoint, Run, Sample
from controlplane.models.jobs import Status
from controlplane.services import access, data_generation_dataset
from tests.controlplane.data_generations import line, make_generation
from tests.controlplane.evaluations import logged, make_evaluation
from tests.controlplane.page_reading import HOSTILE, read
from tests.factories import (
    client_of,
    gpu_process,
    make_dataset,
    make_deployment,
    make_gpu,
    make_host,
    make_job,
    make_model,
    make_run,
    make_user,
)

pytestmark = pytest.mark.django_db
ROLES = ("read", "use", "admin")
EVERYBODYS = (
    "/runs/columns",
    "/", "/runs/", "/runs/new", "/runs/{run}/", "/models/", "/models/add", "/models/at/{model}", "/datasets/",
    "/models/active/", "/datasets/upload", "/datasets/generators", "/datasets/{dataset}/",
    "/datasets/{dataset}/preview", "/chat", "/chat/conversations", "/chat/votes", "/chat/collected",
    "/queue/", "/queue/chains/", "/queue/inbox/", "/hosts/",
    "/hosts/{host}/", "/hosts/{host}/gpus/0", "/power/", "/power/cards", "/settings/",
    "/settings/values", "/styleguide", "/wall", "/password", "/navigation",
    "/bridge/instruments", "/bridge/running", "/bridge/work", "/bridge/lately",
    "/bridge/alerts", "/alerts/", "/alerts/rules",
    "/runs/{run}/parts/head", "/runs/{run}/parts/checkpoints", "/runs/{run}/parts/samples", "/runs/{run}/parts/result",
    "/runs/{run}/parts/energy", "/power/sweeps/", "/runs/sweeps/", "/runs/sweeps/new", "/runs/sweeps/row",
    "/runs/templates/", "/evaluate/", "/evaluate/new", "/evaluate/{evaluation}/", "/evaluate/{evaluation}/examples",
    "/evaluate/{evaluation}/promotions", "/evaluate/compare?first={evaluation}&second={evaluation}",
    "/evaluate/datasets/{dataset}/", "/runs/{run}/evaluations", "/datasets/generate/", "/datasets/generate/new",
    "/datasets/generate/{generation}/", "/datasets/generate/{generation}/review",
    "/datasets/generate/{generation}/dataset", "/datasets/generate/{generation}/became",
)  # fmt: skip
ADMINS = ("/alerts/routes", "/settings/people", "/settings/keys", "/settings/audit", "/models/usage/")


@pytest.fixture
def world(home: Path) -> dict[str, Any]:
    """One of everything, with names that no page may take for markup."""
    host = make_host("forge")
    job = make_job("train", Status.RUNNING, title=HOSTILE, host=host, started_at=timezone.now())
    process = gpu_process(7, memory_used_bytes=3 << 30, command=HOSTILE, user=HOSTILE)
    make_gpu(host, processes=[process, {**process, "pid": 8, "job_id": job.pk}])
    rows = [{"messages": [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]}] * 12
    fault = {"line": 3, "code": "empty_content", "message": HOSTILE}
    report = {"fault_count": 1, "faults": [fault], "duplicates": 0, "duplicates_complete": True, "shapes": {"text": 1}}
    dataset = make_dataset(HOSTILE, rows=rows, report=report, filename=HOSTILE)
    model = make_model("owner/model", tags=[HOSTILE])
    run = make_run(HOSTILE, job=job, dataset=dataset, model=model, last={"loss": 0.5}, last_step=3, total_steps=9)
    Checkpoint.objects.create(run=run, step=3, path="step-3", bytes=10, loss=0.5, created_at=timezone.now())
    Sample.objects.create(run=run, step=3, prompt=HOSTILE, text=HOSTILE, time=timezone.now())
    make_deployment(model, is_active=True, host=host, check_text=HOSTILE, error=HOSTILE)
    make_run("waits", status=Status.PENDING)
    failed = make_run("failed", status=Status.FAILED)
    failed.job.error = {"code": "x", "message": HOSTILE, "fix": HOSTILE}
    failed.job.save()
    asked = [logged(0, 1, question=HOSTILE, expected=HOSTILE, answer=HOSTILE), logged(1, None, error=HOSTILE)]
    whose: dict[str, Any] = {"model": model, "dataset": dataset, "run": run, "checkpoint_step": 3}
    evaluation = make_evaluation(rows=asked, name=HOSTILE, pattern=HOSTILE, **whose)
    names = {"run": run.pk, "model": model.name, "dataset": dataset.pk, "host": host.name}
    shard = [line(rows[0]["messages"])]
    generation = make_generation(shard, name=HOSTILE, options={"domain": HOSTILE}, model=model, seeds=dataset)
    data_generation_dataset.work()
    return {**names, "evaluation": evaluation.pk, "generation": generation.pk}


@pytest.mark.parametrize("role", ROLES)
def test_every_page_answers_every_role(world: dict[str, Any], role: str) -> None:
    client = client_of(role)
    for pattern in EVERYBODYS:
        response = client.get(pattern.format(**world))
        assert response.status_code == 200, pattern
        page = read(response)
        assert "<script>alert" not in page.source, pattern
        assert not [element for element in page.elements if element.get("src") == "x"], pattern


@pytest.mark.parametrize("pattern", ADMINS)
def test_what_is_the_admins_is_shown_to_them_alone(world: dict[str, Any], pattern: str) -> None:
    assert read(client_of("admin").get(pattern)).source
    refused = client_of("use").get(pattern)
    assert refused.status_code == 403
    assert "role admin" in read(refused).by_id("main").text


def test_hostile_names_are_shown_as_they_are(world: dict[str, Any]) -> None:
    page = read(client_of("use").get(f"/runs/{world['run']}/"))
    assert HOSTILE in page.one("h1").text
    assert HOSTILE in page.by_id("samples").text


@pytest.mark.parametrize("path", ["/", "/runs/", "/settings/", "/chat", "/navigation"])
def test_nobody_sees_a_page_without_logging_in(path: str) -> None:
    response = Client().get(path)
    assert response.status_code == 302
    assert response["Location"].startswith("/login")


@pytest.mark.parametrize("path", ["/nowhere", "/runs/999/", "/datasets/999/", "/models/at/none/such", "/hosts/none/"])
def test_a_wrong_address_is_a_page_that_says_so(home: Path, path: str) -> None:
    response = client_of("read").get(path)
    assert response.status_code == 404
    assert "To the bridge" in read(response).by_id("main").text


def test_pages_say_what_to_do_where_nothing_is_yet(home: Path) -> None:
    client = client_of("use")
    for path, words in (
        ("/", "Start a run"), ("/runs/", "Start the first run"), ("/models/", "Fetch the starter"),
        ("/datasets/", "Upload the first"), ("/queue/", "Nothing waits"), ("/hosts/", "No host has reported"),
        ("/chat", "No model is being served"), ("/runs/new", "No dataset is ready"),
    ):  # fmt: skip
        assert words in read(client.get(path)).by_id("main").text, path


def test_the_small_role_sees_why_a_button_is_off(world: dict[str, Any]) -> None:
    make_model("another")
    page = read(client_of("use").get("/models/"))
    button = page.button("Activate")
    assert button is not None
    assert "disabled" in button.attributes
    assert "role admin; yours is use" in button.get("title")


def test_a_refusal_becomes_a_sentence_on_the_page_that_asked(world: dict[str, Any]) -> None:
    client = client_of("read")
    response = client.post(
        "/models/activate", {"name": world["model"]}, headers={"Referer": "http://testserver/models/"}
    )
    assert (response.status_code, response["Location"]) == (302, "/models/")
    assert "This needs the role admin" in read(client.get("/models/")).by_id("messages").text


def test_a_referrer_elsewhere_leads_nowhere(world: dict[str, Any]) -> None:
    response = client_of("read").post("/models/activate", {"name": "x"}, headers={"Referer": "https://evil.example/"})
    assert response.status_code == 403


def test_a_fragment_that_is_refused_answers_plain_words(world: dict[str, Any]) -> None:
    client = client_of("use")
    response = client.post("/hosts/forge/gpus/0/power", {"profile": "quiet"}, headers={"HX-Request": "true"})
    assert response.status_code == 403
    assert response["Content-Type"].startswith("text/plain")
    assert "role admin" in response.content.decode()


def test_writing_wants_the_token(world: dict[str, Any]) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_user("admin"))
    response = client.post(f"/runs/{world['run']}/stop", {"mode": "now"})
    assert response.status_code == 403
    assert "too old" in read(response).source
    assert Run.objects.get(pk=int(str(world["run"]))).job.desired == "run"


def test_a_host_without_a_gpu_says_so_plainly(home: Path) -> None:
    make_host("dinghy")
    page = read(client_of("read").get("/"))
    assert "No GPU on this host: No NVIDIA driver was found." in page.by_id("main").text


def test_a_card_tells_owners_limits_and_refusals(world: dict[str, Any]) -> None:
    gpu = make_host("beacon", gpus=1).gpus.get()
    gpu.power_answer = {"set": False, "refused_by": "sudo nvidia-smi", "reason": "It needs root.", "fix": "sudo visudo"}
    gpu.power_set_at = timezone.now()
    gpu.save()
    page = read(client_of("admin").get("/hosts/"))
    card = page.one("section", data_host="beacon", data_gpu=gpu.uuid)
    assert "sudo nvidia-smi refused: It needs root." in card.text
    assert [b.text.split() for b in page.all("button", name="profile")][:3] == [
        ["Quiet", "220"], ["Normal", "280"], ["Max", "350"]
    ]  # fmt: skip
    assert "nobody's" in page.one("section", data_host="forge", aria_label="GPU 0, NVIDIA GeForce RTX 3090").text


def test_the_preview_pages_through_the_rows(world: dict[str, Any]) -> None:
    client = client_of("read")
    first = read(client.get(f"/datasets/{world['dataset']}/preview"))
    assert "rows 1 to 10 of 12" in first.source
    second = read(client.get(f"/datasets/{world['dataset']}/preview?offset=10"))
    assert len(second.all("div", class_="turn assistant")) == 2
    assert client.get(f"/datasets/{world['dataset']}/preview?offset=nonsense").status_code == 200


def test_the_live_topics_are_marked_where_the_page_stands(world: dict[str, Any]) -> None:
    page = read(client_of("read").get(f"/runs/{world['run']}/"))
    assert f'"run:{world["run"]}"' in page.one("meta", name="live-topics").get("content")


def test_the_log_of_what_was_done_is_for_admins(home: Path) -> None:
    admin = make_user("admin", "mara")
    access.create_key(admin.actor("10.0.0.7"), "notebook", "read")
    client = Client()
    client.force_login(admin)
    assert "key.create" in read(client.get("/settings/audit")).by_id("main").text
    assert client.get("/settings/audit?before=1").status_code == 200
