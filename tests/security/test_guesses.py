"""Wrong passwords and keys: who guesses too often waits, is told how long, and can be let in again."""

import pytest
from axes.models import AccessAttempt
from django.conf import settings
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from controlplane.errors import TooManyGuessesError
from controlplane.models import AuditLine
from controlplane.services import access, guesses
from controlplane.services.wrong_keys import KNOWN_SECONDS, WITHIN_SECONDS, WRONG_KEYS, WrongKeys, network
from tests.controlplane.page_reading import read
from tests.factories import PASSWORD, client_of, make_key, make_user

pytestmark = pytest.mark.django_db
HERE, THERE = "203.0.113.7", "198.51.100.9"


def log_in(name: str, password: str, address: str = HERE) -> int:
    """The status that the login form answers with."""
    return Client().post("/login", {"username": name, "password": password}, REMOTE_ADDR=address).status_code


def guess_too_often(name: str, address: str = HERE) -> None:
    """Five wrong passwords."""
    assert [log_in(name, f"wrong {number}", address) for number in range(5)] == [422] * 4 + [429]


def test_after_five_wrong_passwords_the_right_one_waits_too_and_the_page_says_how_long() -> None:
    make_user("use", "jonas")
    guess_too_often("jonas")
    response = Client().post("/login", {"username": "jonas", "password": PASSWORD}, REMOTE_ADDR=HERE)
    assert response.status_code == 429
    assert "Try again in 15 minutes" in read(response).by_id("main").text


def test_another_name_and_another_address_go_on() -> None:
    make_user("use", "jonas")
    make_user("use", "ines")
    guess_too_often("jonas")
    assert log_in("ines", PASSWORD) == 302
    assert log_in("jonas", PASSWORD, THERE) == 302


def test_the_right_password_forgets_the_wrong_ones() -> None:
    make_user("use", "jonas")
    for _ in range(2):
        assert [log_in("jonas", "wrong") for _ in range(4)] == [422] * 4
        assert log_in("jonas", PASSWORD) == 302


def test_a_name_that_nobody_has_is_answered_alike() -> None:
    guess_too_often("nobody")


def test_an_admin_unlocks_on_the_page_of_people() -> None:
    jonas = make_user("use", "jonas")
    guess_too_often("jonas")
    admin = client_of("admin", "mara")
    assert "waits after wrong passwords" in read(admin.get("/settings/people")).source
    admin.post(f"/settings/people/{jonas.pk}", {"unlock": "yes"})
    assert "waits after wrong passwords" not in read(admin.get("/settings/people")).source
    assert log_in("jonas", PASSWORD) == 302
    line = AuditLine.objects.get(action="person.unlock")
    assert (line.actor, line.target) == ("mara", "jonas")


def test_nobody_else_unlocks() -> None:
    jonas = make_user("use", "jonas")
    assert client_of("use").post(f"/settings/people/{jonas.pk}", {"unlock": "yes"}).status_code == 403


def test_the_command_unlocks(capsys: pytest.CaptureFixture[str]) -> None:
    make_user("use", "jonas")
    guess_too_often("jonas")
    call_command("unlock", "jonas")
    assert "jonas may try" in capsys.readouterr().out
    assert log_in("jonas", PASSWORD) == 302
    with pytest.raises(CommandError, match="no person called"):
        call_command("unlock", "nobody")


def test_old_wrong_passwords_are_taken_away() -> None:
    guess_too_often("nobody")
    guesses.prune()
    assert guesses.locked_names() == {"nobody"}
    AccessAttempt.objects.update(attempt_time=timezone.now() - settings.AXES_COOLOFF_TIME * 2)
    guesses.prune()
    assert not AccessAttempt.objects.exists()


def test_no_password_is_kept_with_a_wrong_guess() -> None:
    log_in("jonas", "a secret guess")
    row = AccessAttempt.objects.get()
    assert "secret" not in f"{row.post_data} {row.get_data}"


def test_a_network_of_ipv6_counts_as_one_address() -> None:
    assert network("2001:db8:1:2:aaaa::1") == network("2001:db8:1:2:bbbb::2") != network("2001:db8:1:3::1")
    assert network("::ffff:203.0.113.7") == network("203.0.113.7") == "203.0.113.7"


def test_wrong_keys_make_their_network_wait_but_not_what_opens_there() -> None:
    keys = WrongKeys()
    keys.note(HERE, "right", True, now=0.0)
    for number in range(WRONG_KEYS):
        keys.check(HERE, f"wrong {number}", now=1.0)
        keys.note(HERE, f"wrong {number}", False, now=1.0)
    with pytest.raises(TooManyGuessesError, match="in 60 s"):
        keys.check(HERE, "another", now=1.0)
    keys.check(HERE, "right", now=1.0)
    keys.check(THERE, "another", now=1.0)
    keys.check(HERE, "another", now=1.0 + WITHIN_SECONDS)


def test_a_key_is_forgotten_after_an_hour() -> None:
    keys = WrongKeys()
    keys.note(HERE, "right", True, now=0.0)
    for _ in range(WRONG_KEYS):
        keys.note(HERE, "wrong", False, now=KNOWN_SECONDS)
    with pytest.raises(TooManyGuessesError):
        keys.check(HERE, "right", now=KNOWN_SECONDS + 1)


def test_the_api_says_when_to_send_the_right_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "wrong_keys", WrongKeys())
    right = make_key("read")
    for _ in range(WRONG_KEYS):
        assert Client(headers={"X-API-Key": "ph_wrong"}).get("/api/info").status_code == 401
    refused = Client(headers={"X-API-Key": right}).get("/api/info")
    assert refused.status_code == 429
    assert 0 < int(refused["Retry-After"]) <= WITHIN_SECONDS
    assert "wrong keys" in refused.json()["detail"]
