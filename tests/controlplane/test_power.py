"""Power profiles over the API: what they mean for a card, who refuses, what is read back."""

from typing import Any

import pytest
from django.test import Client

from controlplane.fleet.protocol import AgentRefusedError, HostUnreachableError, PowerAnswer
from controlplane.models import AuditLine, Gpu, LiveMessage
from controlplane.services import power
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls")]
ADDRESS = "/api/settings/power_profile"


class FakeAgent:
    """Stands for an agent that sets limits; `refuse` maps a GPU's UUID to what happens instead."""

    def __init__(self) -> None:
        self.refuse: dict[str, Any] = {}
        self.asked: list[tuple[str, float, bool]] = []

    def set_power(self, gpu_uuid: str, watts: float, *, strict: bool = False) -> PowerAnswer:
        self.asked.append((gpu_uuid, watts, strict))
        refusal = self.refuse.get(gpu_uuid)
        if isinstance(refusal, Exception):
            raise refusal
        return PowerAnswer(
            uuid=gpu_uuid, asked_watts=watts, applied_watts=350.0 if refusal else watts, clamped=False,
            set=not refusal, method=None if refusal else "nvml", refused_by="nvml" if refusal else None,
            reason=refusal, fix="Run as root." if refusal else None,
        )  # fmt: skip


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> FakeAgent:
    """The agent of every host."""
    fake = FakeAgent()
    monkeypatch.setattr(power, "carrier", lambda _host: fake)
    return fake


@pytest.fixture
def admin() -> Client:
    """A client that may rule."""
    return factories.make_client("admin")


@pytest.mark.parametrize(
    ("name", "reading", "watts"),
    [
        ("NVIDIA GeForce RTX 3090", {}, (220, 280, 350)),
        ("NVIDIA GeForce RTX 3090 Ti", {"power_limit_default_watts": 450.0, "power_limit_max_watts": 480.0},
         (283.5, 360.0, 450.0)),
        ("NVIDIA A100-SXM4-40GB", {"power_limit_default_watts": 400.0, "power_limit_max_watts": 400.0},
         (252.0, 320.0, 400.0)),
        ("small", {"power_limit_default_watts": 150.0, "power_limit_min_watts": 125.0, "power_limit_max_watts": 140.0},
         (125.0, 125.0, 140.0)),
        ("NVIDIA GeForce RTX 3090", {"power_limit_max_watts": 300.0}, (220, 280, 300)),
        ("unknown", {"power_limit_default_watts": None}, (None, None, None)),
        ("no range", {"power_limit_default_watts": 100.0, "power_limit_min_watts": None,
                      "power_limit_max_watts": None}, (63.0, 80.0, 100.0)),
    ],
)  # fmt: skip
def test_what_the_profiles_mean_for_a_card(name: str, reading: dict[str, Any], watts: tuple[float | None, ...]) -> None:
    gpu = factories.make_gpu(None, 0, name, **reading)
    assert tuple(power.profiles(gpu).values()) == watts
    assert list(power.profiles(gpu)) == ["quiet", "normal", "max"]


def test_the_overview_with_a_gpu() -> None:
    factories.make_host("one", gpus=1)
    answer = factories.make_client("read").get(ADDRESS).json()
    assert answer["current"] is None
    assert {name: item["power_limit_w"] for name, item in answer["profiles"].items()} == {
        "quiet": 220, "normal": 280, "max": 350
    }  # fmt: skip
    assert all(item["description"] and item["max_concurrent_jobs"] == 1 for item in answer["profiles"].values())
    gpu = answer["gpus"][0]
    assert (gpu["host"], gpu["index"], gpu["asked_w"], gpu["power_limit_w"]) == ("one", 0, None, 350.0)
    assert (gpu["power_limit_min_w"], gpu["power_limit_max_w"]) == (100.0, 366.0)


def test_without_a_gpu_the_overview_has_no_watts_and_setting_is_a_conflict(admin: Client) -> None:
    factories.make_host("one")
    answer = admin.get(ADDRESS).json()
    assert (answer["current"], answer["gpus"]) == (None, [])
    assert [item["power_limit_w"] for item in answer["profiles"].values()] == [None, None, None]
    response = admin.generic("POST", f"{ADDRESS}?profile=quiet")
    assert response.status_code == 409
    assert "GPU" in response.json()["detail"]


@pytest.mark.parametrize("by_body", [False, True])
def test_a_profile_is_set_and_read_back(admin: Client, agent: FakeAgent, by_body: bool) -> None:
    factories.make_host(gpus=2)
    if by_body:
        response = admin.post(ADDRESS, {"profile": "quiet"}, content_type="application/json")
    else:
        response = admin.generic("POST", f"{ADDRESS}?profile=quiet")
    assert response.status_code == 200, response.content
    assert [(gpu["set"], gpu["asked_w"], gpu["power_limit_w"]) for gpu in response.json()["gpus"]] == [
        (True, 220, 220), (True, 220, 220)
    ]  # fmt: skip
    overview = admin.get(ADDRESS).json()
    assert overview["current"] == "quiet"
    assert [(gpu["profile"], gpu["power_limit_w"]) for gpu in overview["gpus"]] == [("quiet", 220), ("quiet", 220)]
    assert AuditLine.objects.filter(action="power.set").count() == 2
    message = LiveMessage.objects.filter(topic="hosts").latest("seq")
    assert (message.kind, message.data["power"]["power_limit_w"]) == ("status", 220)


def test_a_gpu_that_refuses_is_named_and_the_others_are_set(admin: Client, agent: FakeAgent) -> None:
    host = factories.make_host("box", gpus=2)
    other = factories.make_host("other", gpus=1)
    refusing = Gpu.objects.get(host=host, index=0)
    agent.refuse = {
        refusing.uuid: "Insufficient permissions.",
        Gpu.objects.get(host=other).uuid: HostUnreachableError("connection refused"),
    }
    response = admin.generic("POST", f"{ADDRESS}?profile=normal")
    assert response.status_code == 207
    first, second, third = response.json()["gpus"]
    assert (first["set"], first["reason"], first["fix"]) == (False, "Insufficient permissions.", "Run as root.")
    assert first["power_limit_w"] == 350.0
    assert (second["set"], second["power_limit_w"]) == (True, 280)
    assert third["set"] is False
    assert "other" in third["fix"]
    told = admin.get(ADDRESS).json()
    assert told["current"] is None
    assert told["gpus"][0]["reason"] == "Insufficient permissions."
    assert (told["gpus"][0]["asked_w"], told["gpus"][0]["power_limit_w"]) == (280, 350.0)


def test_one_host_or_one_gpu_alone(admin: Client, agent: FakeAgent) -> None:
    factories.make_host("a", gpus=2)
    factories.make_host("b", gpus=1)
    assert len(admin.generic("POST", f"{ADDRESS}?profile=max&host=a").json()["gpus"]) == 2
    body = {"profile": "quiet", "host": "a", "gpu": 1}
    (only,) = admin.post(ADDRESS, body, content_type="application/json").json()["gpus"]
    assert (only["host"], only["index"]) == ("a", 1)
    assert admin.generic("POST", f"{ADDRESS}?profile=max&host=none").status_code == 404
    assert admin.generic("POST", f"{ADDRESS}?profile=max&host=a&gpu=5").status_code == 404


def test_out_of_range_is_clamped_and_said_or_refused_when_strict(admin: Client, agent: FakeAgent) -> None:
    host = factories.make_host("box")
    factories.make_gpu(host, 0)
    factories.make_gpu(host, 1, power_limit_max_watts=300.0)
    strict = admin.generic("POST", f"{ADDRESS}?profile=max&strict=true")
    assert strict.status_code == 422
    assert "GPU 1 on box" in strict.json()["detail"]
    assert "100 to 300 W, not 350 W" in strict.json()["detail"]
    assert agent.asked == []
    loose = admin.generic("POST", f"{ADDRESS}?profile=max").json()["gpus"]
    assert [(gpu["clamped"], gpu["power_limit_w"]) for gpu in loose] == [(False, 350), (True, 300.0)]


def test_a_refusal_of_the_agent_is_an_outcome(admin: Client, agent: FakeAgent) -> None:
    host = factories.make_host(gpus=1)
    agent.refuse = {Gpu.objects.get(host=host).uuid: AgentRefusedError("unknown_gpu", "No such GPU.", "Rescan.")}
    response = admin.generic("POST", f"{ADDRESS}?profile=max")
    assert response.status_code == 207
    assert response.json()["gpus"][0]["reason"] == "No such GPU."


def test_a_card_that_tells_no_default_limit_is_named(admin: Client, agent: FakeAgent) -> None:
    factories.make_gpu(None, 0, "odd", power_limit_default_watts=None)
    response = admin.generic("POST", f"{ADDRESS}?profile=max")
    assert response.status_code == 207
    assert "default power limit" in response.json()["gpus"][0]["reason"]
    assert agent.asked == []


@pytest.mark.parametrize("query", ["", "?profile=loud"])
def test_an_unknown_profile_is_refused(admin: Client, query: str) -> None:
    factories.make_host(gpus=1)
    response = admin.generic("POST", ADDRESS + query)
    assert response.status_code == 422
    assert response.json()["faults"] == [{"path": "profile", "message": "quiet, normal or max"}]
