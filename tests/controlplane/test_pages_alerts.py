"""The pages of alerts: what stands where, for whom, and what the buttons do."""

from collections.abc import Iterator

import pytest
from django.utils import timezone

from controlplane.models import Alert, AlertRoute
from controlplane.services import alert_rules, alerts, notifications, settings
from tests.controlplane.page_reading import HOSTILE, read
from tests.controlplane.receivers import Receiver, receiving
from tests.factories import client_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def test_the_most_urgent_stands_first_and_hostile_words_are_text() -> None:
    alerts.fire("disk", HOSTILE, "warning", HOSTILE, fix=HOSTILE, url="/hosts/tower/")
    alerts.fire("gpu_lost", "GPU 0", "critical", "Gone.")
    page = read(client_of("read").get("/alerts/"))
    first, second = page.all("article")
    assert (first.get("aria-label"), "Gone." in first.text) == ("critical: GPU lost, GPU 0", True)
    assert HOSTILE in second.text
    assert any(link.get("href") == "/hosts/tower/" for link in page.all("a"))
    button = page.button("Acknowledge")
    assert button is not None
    assert "disabled" in button.attributes, "a reader sees why they can't"


def test_the_navigation_counts_what_nobody_has_seen() -> None:
    client = client_of("use")
    alert = alerts.fire("gpu_lost", "GPU 0", "critical", "Gone.")
    alerts.fire("disk", "/", "warning", "Little room.")

    def count() -> str:
        page = read(client.get("/navigation"))
        return next(place.text for place in page.all("a", href="/alerts/")).removeprefix("Alerts")

    assert count() == "2"
    answer = client.post(f"/alerts/{alert.pk}/acknowledge", headers={"HX-Request": "true"})
    assert "seen by use" in read(answer).all("article")[0].text
    assert count() == "1"
    assert client.post(f"/alerts/{alert.pk}/acknowledge").status_code == 302
    assert client_of("read").post(f"/alerts/{alert.pk}/acknowledge").status_code == 403


def test_on_a_phone_the_count_stands_beside_more_and_under_it() -> None:
    client = client_of("read")

    def beside_more() -> tuple[str, list[bool]]:
        page = read(client.get("/queue/"))
        more = page.button("More2 alerts") or page.button("More alerts")
        assert more is not None
        return more.text, ["hidden" in place.attributes for place in page.all("span", data_count_of="alerts")]

    assert beside_more() == ("More alerts", [True, True])
    alerts.fire("gpu_lost", "GPU 0", "critical", "Gone.")
    alerts.fire("disk", "/", "warning", "Little room.")
    assert beside_more() == ("More2 alerts", [False, False])


def test_the_history_is_filtered_and_paged() -> None:
    over = {"rule": "run_finished", "severity": "info", "message": "Done.", "ended_at": timezone.now()}
    Alert.objects.bulk_create(Alert(subject=f"run {number}", **over) for number in range(53))
    alerts.fire("disk", "/", "warning", "Little room.")
    alerts.end("disk", "/")
    client = client_of("read")
    page = read(client.get("/alerts/?rule=run_finished&severity=info"))
    assert len([row for row in page.all("tr") if row.get("id")]) == 50
    older = page.one("a", rel="next").get("href")
    assert len([row for row in read(client.get(f"/alerts/{older}")).all("tr") if row.get("id")]) == 3
    page = read(client.get("/alerts/?rule=nonsense&severity=warning&before=x"))
    assert [row.text for row in page.all("tr") if row.get("id") and "Disk" not in row.text] == []


def test_the_bridge_shows_what_nobody_has_seen() -> None:
    client = client_of("read")
    assert not read(client.get("/bridge/alerts")).all("section")
    for number in range(5):
        alerts.fire("gpu_lost", f"GPU {number}", "critical", "Gone.")
    page = read(client.get("/"))
    assert len(page.all("article")) == 3
    assert "and 2 more" in page.one("section", aria_label="Open alerts").text


# --- Rules ------------------------------------------------------------------------------------------------------------


def test_rules_are_switched_and_limits_set_by_admins() -> None:
    admin = client_of("admin")
    assert read(admin.get("/alerts/rules")).button("Set") is not None
    admin.post("/alerts/rules/disk", {"on": "no"})
    assert alert_rules.switched_off() == {"disk"}
    admin.post("/alerts/rules/disk", {"on": "yes"})
    assert alert_rules.is_on("disk")
    admin.post("/alerts/rules/disk", {"limit": "alerts.disk_free_gib", "value": "25"})
    assert settings.get("alerts.disk_free_gib") == 25
    back = {"Referer": "http://testserver/alerts/rules"}
    refused = admin.post(
        "/alerts/rules/disk", {"limit": "alerts.disk_free_gib", "value": "much"}, follow=True, headers=back
    )
    assert "must be a float" in refused.content.decode()
    user = client_of("use")
    assert read(user.get("/alerts/rules")).button("Set") is None
    assert user.post("/alerts/rules/disk", {"on": "no"}).status_code == 403


# --- Routes -----------------------------------------------------------------------------------------------------------


def test_a_route_from_the_form_to_its_end(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = client_of("admin")
    typed = {
        "name": "web hook", "url": receiver.url, "minimum_severity": "warning", "rules": ["disk"],
        "quiet_from": "22:00", "quiet_until": "07:00",
    }  # fmt: skip
    assert admin.post("/alerts/routes", typed).status_code == 302
    route = AlertRoute.objects.get()
    page = read(admin.get("/alerts/routes"))
    assert "22:00 to 07:00" in page.by_id(f"route-{route.pk}").text
    assert "very-secret-path" not in page.source
    tested = admin.post(f"/alerts/routes/{route.pk}/test", headers={"HX-Request": "true"})
    assert "The message was taken" in tested.content.decode()
    assert receiver.titles == ["Pilothouse: test"]
    refusing = {"sent": False, "error": "It answered <b>403</b>.", "seconds": 0.1}
    monkeypatch.setattr(notifications, "test", lambda _actor, _route_id: refusing)
    tested = admin.post(f"/alerts/routes/{route.pk}/test", headers={"HX-Request": "true"})
    assert "It answered <b>403</b>." in "".join(item.text for item in read(tested).elements)
    form = read(admin.get(f"/alerts/routes/{route.pk}/"))
    assert form.by_id("id_url").get("value") == ""
    assert form.by_id("id_quiet_from").get("value") == "22:00"
    changed = {**typed, "url": "", "name": "hook", "quiet_from": "", "quiet_until": ""}
    assert admin.post(f"/alerts/routes/{route.pk}/", changed).status_code == 302
    route.refresh_from_db()
    assert (route.name, route.url, route.quiet_from, route.rules) == ("hook", receiver.url, None, ["disk"])
    admin.post(f"/alerts/routes/{route.pk}/switch", {"enabled": "no"})
    route.refresh_from_db()
    assert (route.is_enabled, route.rules) == (False, ["disk"])
    admin.post(f"/alerts/routes/{route.pk}/delete")
    assert not AlertRoute.objects.exists()


@pytest.mark.parametrize(
    ("typed", "where", "says"),
    [
        ({"url": "syslog://"}, "id_url", "reached by the network"),
        ({"url": ""}, "id_url", "required"),
        ({"rules": ["run_finished"]}, "id_minimum_severity", "choose info"),
        ({"quiet_from": "22:00"}, "id_quiet_until", "a beginning and an end"),
        ({"name": "taken"}, "id_name", "already a route called taken"),
    ],
)
def test_a_refusal_stands_beside_its_field_and_what_was_typed_comes_back(
    typed: dict[str, object], where: str, says: str
) -> None:
    AlertRoute.objects.create(name="taken", url="json://h/x", masked_url="json://h/****", service="JSON")
    whole = {"name": "mine", "url": "json://h/x", "minimum_severity": "warning", **typed}
    answer = client_of("admin").post("/alerts/routes", whole)
    assert answer.status_code == 422
    page = read(answer)
    assert page.by_id(where).get("aria-invalid") == "true"
    assert says in page.source
    assert page.by_id("id_name").get("value") == whole["name"]
    assert AlertRoute.objects.count() == 1


def test_routes_are_the_admins_alone_and_others_have_no_tab_for_them() -> None:
    user = client_of("use")
    assert user.get("/alerts/routes").status_code == 403
    assert "Routes" not in [link.text for link in read(user.get("/alerts/")).all("a")]
    for path in ("1/test", "1/switch", "1/delete"):
        assert user.post(f"/alerts/routes/{path}").status_code == 403, path
    assert not Alert.objects.exists()
