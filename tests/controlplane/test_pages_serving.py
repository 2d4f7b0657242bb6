"""Pages of serving: the question before a swap, why an engine starts again, shared names, usage, limits of keys."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.models import ApiKey, Deployment, Split, UsageDay
from controlplane.models.deployments import DeploymentStatus
from controlplane.models.jobs import Status
from tests import factories
from tests.controlplane.page_reading import HOSTILE, read
from tests.factories import client_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home", "quick_pages")]


def full_host_with(name: str) -> Deployment:
    """An active engine on a host without room for another."""
    host = factories.make_host()
    host.reading["memory_used_bytes"] = host.reading["memory_total_bytes"] - 1
    host.save()
    return factories.make_deployment(factories.make_model(name), is_active=True, port=9, host=host)


def test_the_page_says_that_memory_is_short_and_asks_before_it_swaps() -> None:
    full_host_with("old")
    factories.make_model("new")
    admin = client_of("admin")
    page = read(admin.get("/models/at/new"))
    form = next(one for one in page.all("form") if one.get("action") == "/models/activate")
    assert "requests wait until new is ready" in form.get("data-confirm-text")
    assert page.one("input", type="hidden", name="swap").get("value") == "wait"
    assert "No room for two engines." in page.source
    asked = admin.post("/models/activate", {"name": "new"}, follow=True)  # from the list, which doesn't know
    assert asked.redirect_chain[-1][0] == "/models/at/new"
    assert "has no room beside the present engine" in asked.content.decode()
    assert Deployment.objects.count() == 1
    admin.post("/models/activate", {"name": "new", "swap": "wait"})
    assert Deployment.objects.get(model__name="new").swaps
    assert Deployment.objects.get(model__name="old").status == DeploymentStatus.DRAINING


def test_an_engine_that_is_started_again_says_why_and_when() -> None:
    error = {"code": "signal", "message": "The process ended by SIGSEGV.", "fix": ""}
    job = factories.make_job(
        "serve", Status.PENDING, failures=2, error=error, not_before=timezone.now() + timedelta(seconds=10)
    )
    model = factories.make_model("m")
    factories.make_deployment(model, status=DeploymentStatus.STARTING, is_active=True, job=job)
    text = client_of("read").get("/models/at/m").content.decode()
    assert "The process ended by SIGSEGV." in text
    assert "(failure 2 of at most 3)" in text


def test_a_replica_and_loading_by_itself_from_the_models_page() -> None:
    model = factories.make_model("m")
    factories.make_deployment(model, is_active=True, port=9)
    admin = client_of("admin")
    assert "Add a replica" in admin.get("/models/at/m").content.decode()
    admin.post("/models/engines/add", {"name": "m"})
    assert Deployment.objects.filter(model=model, kept=False).count() == 2
    admin.post("/models/serving", {"name": "m", "load_on_demand": "on", "idle_unload_minutes": "1.5"})
    model.refresh_from_db()
    assert (model.load_on_demand, model.idle_unload_seconds) == (True, 90)
    admin.post("/models/serving", {"name": "m", "idle_unload_minutes": "never"})
    model.refresh_from_db()
    assert model.idle_unload_seconds == 90, "what can't be read changes nothing"
    assert client_of("use").post("/models/engines/add", {"name": "m"}).status_code == 403


def test_a_name_is_shared_and_given_up_and_one_rolls_back() -> None:
    now = timezone.now()
    for hours, name in ((2, "one"), (1, "two")):
        factories.make_deployment(
            factories.make_model(name), is_active=name == "two", port=9, activated_at=now - timedelta(hours=hours)
        )
    admin = client_of("admin")
    both = {"name": "both", "first": "one", "second": "two", "percent": "25"}
    assert admin.post("/models/splits/put", {**both, "percent": "101"}).status_code == 422
    assert admin.post("/models/splits/put", {**both, "name": "one"}).status_code == 422
    admin.post("/models/splits/put", both)
    page = read(admin.get("/models/active/"))
    assert [part["weight"] for part in Split.objects.get().parts] == [75, 25]
    assert "25.0" in page.source
    assert "Roll back to one" in page.source
    admin.post("/models/splits/delete", {"name": "both"})
    assert not Split.objects.exists()
    admin.post("/models/rollback")
    active = Deployment.objects.get(is_active=True)
    assert active.model.name == "one", "it answers already, so it takes the place at once"


def test_usage_is_shown_summed_and_given_as_csv() -> None:
    day = timezone.localdate()
    shared = {"caller": f"key {HOSTILE}", "key_number": 5, "requests": 3, "prompt_tokens": 1200}
    for ago in (0, 1, 400):
        UsageDay.objects.create(day=day - timedelta(days=ago), model="=m", completion_tokens=30, **shared)
    page = read(client_of("admin").get("/models/usage/"))
    assert not page.refused
    assert "2.4 k" in page.source
    lines = client_of("admin").get("/models/usage.csv").content.decode().splitlines()
    assert lines[0].startswith("day,caller,key_id,model,requests")
    assert len(lines) == 3
    assert ",'=m,3,0,0,1200,30" in lines[1], "no formula"
    rows = factories.make_client("admin").get("/api/usage?days=1").json()["rows"]
    assert [(row["day"], row["requests"]) for row in rows] == [(day.isoformat(), 3)]
    for address in ("/models/usage/", "/models/usage.csv"):
        assert client_of("use").get(address).status_code == 403


def test_limits_of_a_key_are_set_and_shown() -> None:
    factories.make_model("m")
    key, _plain = factories.make_key_row("use", "few")
    admin = client_of("admin")
    address = f"/settings/keys/{key.pk}"
    assert admin.post(address, {"requests_per_minute": "-1"}).status_code == 422
    admin.post(address, {"requests_per_minute": "60", "tokens_per_minute": "", "models": ["m"]})
    key.refresh_from_db()
    assert (key.requests_per_minute, key.tokens_per_minute, key.allowed_models) == (60, 0, ["m"])
    assert "60 requests/min" in admin.get("/settings/keys").content.decode()
    assert 'value="60"' in admin.get(address).content.decode()
    assert admin.get("/settings/keys/999999").status_code == 404
    admin.post("/settings/keys", {"name": "fresh", "role": "use", "tokens_per_minute": "500"})
    assert ApiKey.objects.get(name="fresh").tokens_per_minute == 500
