"""Routes: which addresses are taken, what may be shown of them, what a route may not be."""

import json
import subprocess
import sys
from datetime import time
from typing import Any

import pytest

from controlplane.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from controlplane.models import AlertRoute, AuditLine
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.services import alert_routes, apprise_gate, sending
from controlplane.services.alert_routes import RouteWish

SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/"


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("syslog://", "server's own log"), ("dbus://", "desktop"), ("kde://", "desktop"), ("gnome://", "desktop"),
        ("windows://", "desktop"), ("macosx://", "program on the server"), ("blink1://", "USB"),
        ("file:///etc/passwd", "file of the server"), ("vapid://a@b.c/", "files"), ("SYSLOG://", "server's own log"),
        ("discord://1/2?template=/etc/passwd", "'template'"), ("fcm://p@k/d?keyfile=/etc/passwd", "'keyfile'"),
        ("slack://a/b/c/?Template=x", "'template'"), ("https://hooks.example/x", "jsons://"),
        ("nothing", "begins with"), ("", "begins with"),
    ],
)  # fmt: skip
def test_addresses_that_stay_on_this_machine_are_refused_before_apprise_is_asked(url: str, word: str) -> None:
    assert word in apprise_gate.refusal(url)


@pytest.mark.parametrize("url", ["ntfy://host/topic", SLACK, "mailto://a:b@example.org", "json://10.0.0.1/x"])
def test_addresses_of_the_network_are_taken(url: str) -> None:
    assert apprise_gate.refusal(url) == ""


@pytest.mark.parametrize(
    ("url", "said", "clean"),
    [
        ("json://u:hidden@h/a/token%20one?k=value", "h said token one, token%20one, value, hidden", "h said"),
        (SLACK, "Slack: T1JJ3T3L2 A1BRTD4JD TIiajkdnlazkcOXrIdevi7FQ", "Slack"),
        ("mailto://user:hidden@mail.example?to=a@b.c", "mail.example refused hidden", "mail.example refused"),
        ("ntfy://My-hidden-topic", "ntfy: no my-hidden-topic, My-hidden-topic", "ntfy: no"),
        ("ntfy://hidden-one/hidden-two?mode=Cloud", "ntfy: no hidden-one, hidden-two", "ntfy: no"),
        ("ntfy://-hidden-one/hidden-two", "ntfy: no -hidden-one, hidden-two", "ntfy: no"),
        ("ntfy://ntfy.local:8080/hidden-one", "ntfy.local:8080 has no hidden-one", "ntfy.local:8080 has no"),
    ],
)
def test_what_a_service_says_is_cleaned_of_the_secrets_of_its_address(url: str, said: str, clean: str) -> None:
    text = apprise_gate.scrub(said, url)
    assert clean in text
    for secret in ("token one", "token%20one", "value", "hidden", "T1JJ3T3L2", "TIiajkdnlazkcOXrIdevi7FQ"):
        assert secret not in text


@pytest.mark.parametrize(
    ("url", "private", "shown"),
    [
        ("json://h:1/hook/secret", "json://h:1/hook/secret?method=POST", "json://h:1/****"),
        ("jsons://u:p@h", "jsons://u:****@h/?method=POST", "jsons://u:****@h"),
        (SLACK, "slack://T...2/A...D/T...Q//?image=yes", "slack://T...2/A...D/T...Q"),
        ("ntfy://u:p@h/secret", "ntfy://u:****@h/secret?priority=3&mode=private", "ntfy://u:****@h/****"),
        ("ntfy://my-secret-topic", "ntfys://my-secret-topic?priority=3&mode=cloud", "ntfys://****"),
        ("ntfy://one/two?mode=cloud", "ntfys://one/two?priority=3&mode=cloud", "ntfys://****"),
        ("ntfys://ntfy.sh/secret", "ntfys://secret?priority=3&mode=cloud", "ntfys://****"),
    ],
)
def test_what_may_be_shown_of_an_address(url: str, private: str, shown: str) -> None:
    assert apprise_gate.mask(url, private) == shown


def test_apprise_describes_an_address_in_a_process_of_its_own() -> None:
    described = sending.describe(SLACK)
    assert described == {"service": "Slack", "masked_url": "slack://T...2/A...D/T...Q"}


def test_what_apprise_says_of_addresses() -> None:
    """In one process for all of them: Apprise changes for good in the one that asks it."""
    urls = ["ntfy://my-secret-topic", "ntfy://h/secret", "nonsense://x", "schan://"]
    ask = f"import json; from {sending.GATE} import describe; print(json.dumps([describe(url) for url in {urls}]))"
    said = subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True, timeout=60).stdout
    topic, server, nonsense, unfinished = json.loads(said)
    assert (topic["masked_url"], server["masked_url"]) == ("ntfys://****", "ntfy://h/****")
    assert "no service called nonsense://" in nonsense["refused"]
    assert "Apprise can't use this address" in unfinished["refused"]


def test_a_process_that_dies_is_told_of_and_not_taken_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "GATE", "controlplane.nothing_here")
    assert "ended with code 1" in sending.describe(SLACK)["refused"]
    assert "ended with code 1" in sending.Sending(SLACK, "t", "b", "info").wait()


def test_such_a_process_knows_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    start = subprocess.Popen

    def telling(arguments: list[str], **options: Any) -> Any:
        seen["arguments"] = arguments
        tell = "import json, os, sys; sys.stdin.read(); print(json.dumps(dict(os.environ)))"
        return start([sys.executable, "-c", tell], **options)

    monkeypatch.setenv("HF_TOKEN", "hub-secret")
    monkeypatch.setattr(subprocess, "Popen", telling)
    seen["environment"] = sending.describe(SLACK)
    assert "PATH" in seen["environment"]
    assert "hub-secret" not in str(seen)
    assert "TIiajkdnlazkcOXrIdevi7FQ" not in str(seen)


# --- Rows -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apprise takes every address."""
    answer = {"service": "JSON", "masked_url": "json://h/****"}
    monkeypatch.setattr(sending, "describe", lambda _url: dict(answer))


@pytest.mark.django_db
@pytest.mark.usefixtures("no_process")
def test_a_route_is_made_changed_and_deleted_and_its_address_is_nowhere_else() -> None:
    wish = RouteWish("night watch", "json://h/secret-path", "info", ("disk",), time(22), time(7))
    route = alert_routes.create(SYSTEM, wish)
    assert "secret-path" not in str(alert_routes.facts(route))
    changed = alert_routes.change(SYSTEM, route.pk, RouteWish.of(route, name="day watch", rules=()))
    assert (changed.name, changed.url, changed.rules) == ("day watch", "json://h/secret-path", [])
    alert_routes.change(SYSTEM, route.pk, RouteWish.of(changed, url="json://h/another-path"))
    assert AlertRoute.objects.get().url == "json://h/another-path"
    alert_routes.delete(SYSTEM, route.pk)
    lines = list(AuditLine.objects.order_by("id").values_list("action", "detail"))
    assert [action for action, _ in lines] == ["alert_route.create", *["alert_route.change"] * 2, "alert_route.delete"]
    assert lines[1][1] == {"changed": ["name", "rules"]}
    assert "path" not in str(lines)
    with pytest.raises(NotFoundError):
        alert_routes.get(SYSTEM, route.pk)


@pytest.mark.django_db
@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"name": " "}, "name"), ({"url": ""}, "url"), ({"url": "json://h/\n"}, "url"), ({"url": "j" * 5000}, "url"),
        ({"minimum_severity": "loud"}, "minimum_severity"), ({"rules": ("nothing",)}, "rules"),
        ({"rules": ("run_finished",)}, "minimum_severity"), ({"quiet_from": time(22)}, "quiet_until"),
        ({"quiet_from": time(22), "quiet_until": time(22)}, "quiet_until"),
    ],
)  # fmt: skip
def test_a_route_that_could_never_send_is_refused_with_what_is_wrong(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        alert_routes.create(SYSTEM, RouteWish(**{"name": "x", "url": "json://h/x", **changes}))
    assert [fault.path for fault in refused.value.faults] == [path]
    assert not AlertRoute.objects.exists()


@pytest.mark.django_db
def test_an_address_that_apprise_refuses_makes_no_route() -> None:
    with pytest.raises(InvalidInputError, match="desktop"):
        alert_routes.create(SYSTEM, RouteWish("x", "dbus://"))
    assert not AlertRoute.objects.exists()


@pytest.mark.django_db
@pytest.mark.usefixtures("no_process")
def test_names_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = alert_routes.create(SYSTEM, RouteWish("x", "json://h/x"))
    other = alert_routes.create(SYSTEM, RouteWish("y", "json://h/x"))
    monkeypatch.setattr(sending, "describe", lambda _url: pytest.fail("no process is started for it"))
    with pytest.raises(ConflictError):
        alert_routes.create(SYSTEM, RouteWish("x", "json://h/x"))
    with pytest.raises(ConflictError):
        alert_routes.change(SYSTEM, other.pk, RouteWish.of(other, name="x", url="json://h/y"))
    alert_routes.change(SYSTEM, first.pk, RouteWish.of(first))


@pytest.mark.django_db
def test_routes_are_the_admins() -> None:
    for actor in (Actor("reader", Role.READ), Actor("user", Role.USE)):
        for call in (
            alert_routes.list_routes, lambda who: alert_routes.get(who, 1),
            lambda who: alert_routes.create(who, RouteWish("x", "json://h/x")),
            lambda who: alert_routes.delete(who, 1), alert_routes.deliveries,
        ):  # fmt: skip
            with pytest.raises(ForbiddenError):
                call(actor)
