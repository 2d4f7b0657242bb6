"""Pages of energy and power sweeps: figures, the reason where there are none, the form, the buttons, hostile names."""

from typing import Any

import pytest
from django.utils import timezone

from controlplane.models import Attempt, Deployment, EnergyAccount, Gpu, Job, LanguageModel, PowerSweep, Run
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Status
from controlplane.models.telemetry import SweepStatus
from controlplane.services import power_agent, settings
from tests import factories
from tests.controlplane.hosts import AbsentHost
from tests.controlplane.page_reading import HOSTILE, read
from tests.factories import client_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def measured_run(**account: float) -> Run:
    host = factories.make_host(gpus=1)
    run = factories.make_run(status=Status.RUNNING, last={"tokens": 3600.0})
    Job.objects.filter(pk=run.job_id).update(gpus=[host.gpus.get().uuid], host=host, started_at=timezone.now())
    Attempt.objects.create(job=run.job, number=1, host=host)
    figures = {"joules": 7200.0, "covered_seconds": 40.0, **account}
    EnergyAccount.objects.create(job=run.job, gpu_uuid=host.gpus.get().uuid, **figures)
    return run


@pytest.mark.parametrize("address", ["/runs/{}/", "/runs/{}/parts/energy"])
def test_a_run_shows_its_energy_and_its_cost_once_there_is_a_price(address: str) -> None:
    run = measured_run()
    text = client_of("read").get(address.format(run.pk)).content.decode()
    assert '<span class="big">2</span><span class="unit">Wh</span>' in text
    assert "180 W" in text
    assert "2 J/token" in text
    assert "EUR" not in text
    assert "aren't counted" not in text
    settings.put(SYSTEM, "energy.price_per_kwh", 30)
    assert "0.06 EUR" in client_of("read").get(address.format(run.pk)).content.decode()


def test_gaps_are_said_and_much_is_kilowatt_hours() -> None:
    run = measured_run(joules=7_200_000.0, gap_seconds=180.0)
    page = read(client_of("read").get(f"/runs/{run.pk}/"))
    card = page.by_id("energy")
    assert "3 min 0 s without a reading aren't counted." in card.text
    assert "2kWh" in card.text.replace(" ", "")
    assert card.get("data-refresh") == f"run:{run.pk}:energy run:{run.pk}:status"


def test_without_a_gpu_the_page_says_so_and_shows_no_figure() -> None:
    run = factories.make_run(status=Status.RUNNING)
    Job.objects.filter(pk=run.job_id).update(started_at=timezone.now())
    card = read(client_of("read").get(f"/runs/{run.pk}/")).by_id("energy")
    assert "No power can be read on this host: no GPU." in card.text
    assert "Wh" not in card.text


def test_a_models_page_has_its_engines_energy() -> None:
    deployment = served()
    EnergyAccount.objects.create(job=deployment.job, gpu_uuid="GPU-x", joules=7300.0, covered_seconds=50)
    Deployment.objects.update(served={"before": [100.0, 1.0, 0.0], "requests": 4, "tokens": 3600})
    text = client_of("read").get(f"/models/at/{deployment.model.name}").content.decode()
    assert "2 Wh since it was ready · 1,800 J a request · 2 J a token" in text


# --- Sweeps -----------------------------------------------------------------------------------------------------------


def served(model: LanguageModel | None = None) -> Deployment:
    host = factories.make_host("tower", gpus=1)
    job = factories.make_job("serve", Status.RUNNING, host=host, gpus=[host.gpus.get().uuid])
    return factories.make_deployment(
        model or factories.make_model("talker"), job=job, host=host, port=1, ready_at=timezone.now()
    )


def sweep_row(deployment: Deployment, status: str = SweepStatus.DONE, **fields: Any) -> PowerSweep:
    card = Gpu.objects.get()
    measured = {
        "profile": "quiet", "watts": 220.0, "tokens_per_second": 100.0, "joules_per_token": 2.0, "error": None,
        "mean_draw_watts": 200.0, "seconds": 30.0, "tokens": 3000.0,
    }  # fmt: skip
    refused = dict.fromkeys(measured) | {"profile": "max", "error": HOSTILE}
    config = {
        "seconds_per_profile": 30, "concurrency": 4, "max_tokens": 128, "gpu_index": 0, "gpu_name": HOSTILE,
        "progress": {"profile": "max", "phase": "measuring", "seconds": 30},
    }  # fmt: skip
    return PowerSweep.objects.create(
        model_name=HOSTILE, host=card.host, gpu_uuid=card.uuid, status=status, config=config, created_by=HOSTILE,
        results=[measured, refused], **fields,
    )  # fmt: skip


def test_the_list_explains_itself_where_there_is_no_gpu_and_no_engine() -> None:
    assert "no host has a GPU" in read(client_of("use").get("/power/sweeps/")).source
    factories.make_host(gpus=1)
    assert "No model is served on a GPU" in read(client_of("use").get("/power/sweeps/")).source


def test_the_form_starts_a_sweep_and_says_faults_in_their_place() -> None:
    served()
    client = client_of("admin")
    typed = {"model": "talker", "seconds_per_profile": "2", "concurrency": "4", "max_tokens": "64"}
    page = read(client.post("/power/sweeps/", typed))
    assert "greater than or equal to 5" in page.by_id("id_seconds_per_profile_error").text
    answer = client.post("/power/sweeps/", {**typed, "seconds_per_profile": "20"})
    sweep = PowerSweep.objects.get()
    assert answer["Location"] == f"/power/sweeps/{sweep.pk}/"
    assert (sweep.config["seconds_per_profile"], sweep.config["max_tokens"]) == (20, 64)
    again = client.post("/power/sweeps/", {**typed, "seconds_per_profile": "20"})
    assert (again.status_code, "open already" in again.content.decode()) == (422, True)


def test_who_may_only_look_sees_why_and_is_refused() -> None:
    sweep = sweep_row(served(), SweepStatus.RUNNING)
    client = client_of("use")
    start = read(client.get("/power/sweeps/")).button("Start it")
    assert start is not None
    assert "needs the role admin" in start.get("title")
    for address, name in ((f"/power/sweeps/{sweep.pk}/", "Cancel"),):
        button = read(client.get(address)).button(name)
        assert button is not None
        assert "disabled" in button.attributes
    typed = {"model": "talker", "seconds_per_profile": "20", "concurrency": "4", "max_tokens": "64"}
    assert client.post("/power/sweeps/", typed).status_code == 403
    assert client.post(f"/power/sweeps/{sweep.pk}/cancel").status_code == 403
    assert client.post(f"/power/sweeps/{sweep.pk}/use").status_code == 403


@pytest.mark.parametrize("status", SweepStatus.values)
@pytest.mark.parametrize("part", [False, True])
def test_a_sweep_in_every_state_with_hostile_names(status: str, part: bool) -> None:
    ended = None if status in ("waiting", "running", "cancelling") else timezone.now()
    sweep = sweep_row(served(), status, recommended="quiet", reason=HOSTILE, error=HOSTILE, ended_at=ended)
    client = client_of("admin")
    for address in (f"/power/sweeps/{sweep.pk}/", "/power/sweeps/"):
        answer = client.get(address, headers={"HX-Request": "true"} if part else {})
        assert answer.status_code == 200
        page = read(answer)
        assert (page.by_id("sweep-bar") if ended is None and address != "/power/sweeps/" else page) is not None
    assert client.get("/power/sweeps/999/").status_code == 404


def test_the_buttons_of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = AbsentHost()
    monkeypatch.setattr(power_agent, "carrier", lambda _host: agent)
    sweep = sweep_row(served(), SweepStatus.RUNNING)
    client = client_of("admin")
    answer = client.post(f"/power/sweeps/{sweep.pk}/cancel", follow=True)
    assert "put back" in answer.content.decode()
    assert PowerSweep.objects.get().status == SweepStatus.CANCELLING
    PowerSweep.objects.update(status=SweepStatus.DONE, recommended="quiet")
    assert read(client.get(f"/power/sweeps/{sweep.pk}/")).button("Use quiet") is not None
    used = client.post(f"/power/sweeps/{sweep.pk}/use", follow=True).content.decode()
    assert "quiet, 220 W, set and read back" in used
    assert "in force" in used
    agent.card(Gpu.objects.get().uuid).refuse = "Insufficient permissions."
    refused = client.post(f"/power/sweeps/{sweep.pk}/use", follow=True).content.decode()
    assert "Insufficient permissions." in refused
