"""Logging in, one-time passwords, people, keys and settings on pages."""

from pathlib import Path

import pytest
from django.test import Client

from controlplane.models import ApiKey, User
from controlplane.services import access, settings
from tests.controlplane.page_reading import read
from tests.factories import PASSWORD, client_of, make_user

pytestmark = pytest.mark.django_db
NEW = {"new_password1": "quite another phrase", "new_password2": "quite another phrase"}


def test_logging_in_leads_where_one_was_going() -> None:
    make_user("use", "jonas")
    client = Client()
    client.get("/login")
    response = client.post("/login?next=/runs/", {"username": "jonas", "password": PASSWORD, "next": "/runs/"})
    assert (response.status_code, response["Location"]) == (302, "/runs/")


def test_a_wrong_password_is_told_and_the_name_stays() -> None:
    make_user("use", "jonas")
    response = Client().post("/login", {"username": "jonas", "password": "wrong"})
    assert response.status_code == 422
    page = read(response)
    assert "don't belong together" in page.by_id("main").text
    assert page.by_id("id_username").get("value") == "jonas"
    assert page.by_id("id_password").get("value") == ""


def test_logging_in_never_leads_to_another_site() -> None:
    make_user("use", "jonas")
    response = Client().post("/login", {"username": "jonas", "password": PASSWORD, "next": "https://evil.example/"})
    assert response["Location"] == "/"


def test_a_one_time_password_opens_one_form_alone(home: Path) -> None:
    path = access.ensure_first_admin(home)
    assert path is not None
    password = path.read_text().splitlines()[1].removeprefix("password: ")
    client = Client()
    client.post("/login", {"username": "admin", "password": password})
    for place in ("/", "/runs/", "/settings/keys"):
        assert client.get(place)["Location"] == "/password"
    refused = client.get("/api/models")
    assert refused.status_code == 403
    assert "one-time password" in refused.json()["detail"]
    same = client.post("/password", {"new_password1": password, "new_password2": password})
    assert same.status_code == 422
    assert client.post("/password", NEW)["Location"] == "/"
    assert client.get("/").status_code == 200
    assert not path.exists()


def test_changing_ones_password_wants_the_old_one(home: Path) -> None:
    client = client_of("use", "jonas")
    page = read(client.post("/password", {**NEW, "old_password": "guessed"}))
    assert "isn't your present password" in page.by_id("id_old_password_error").text
    short = client.post("/password", {"old_password": PASSWORD, "new_password1": "short", "new_password2": "short"})
    assert "too short" in read(short).source
    assert client.post("/password", {**NEW, "old_password": PASSWORD}).status_code == 302
    assert User.objects.get(username="jonas").check_password(NEW["new_password1"])
    assert client.get("/").status_code == 200


def test_logging_out_is_a_post() -> None:
    client = client_of("read")
    assert client.get("/logout").status_code == 405
    assert client.post("/logout")["Location"] == "/login"
    assert client.get("/").status_code == 302


def test_a_key_is_shown_once_and_can_be_revoked() -> None:
    client = client_of("admin")
    page = read(client.post("/settings/keys", {"name": "notebook", "role": "read", "days": "30"}))
    plain = page.by_id("new-key").text
    actor = access.authenticate_key(plain)
    assert actor is not None
    assert actor.role.word == "read"
    again = client.get("/settings/keys")
    assert plain not in again.content.decode()
    assert "no-store" in again["Cache-Control"]
    key = ApiKey.objects.get()
    assert key.expires_at is not None
    client.post(f"/settings/keys/{key.pk}/revoke")
    assert access.authenticate_key(plain) is None


def test_a_person_is_not_called_as_a_key() -> None:
    page = read(client_of("admin").post("/settings/people", {"username": "Key notebook", "role": "use"}))
    assert "begin with" in page.source
    assert not User.objects.filter(username__istartswith="key ").exists()


def test_a_key_without_a_name_is_refused_beside_the_field() -> None:
    page = read(client_of("admin").post("/settings/keys", {"name": " ", "role": "read", "days": "0"}))
    assert page.by_id("id_name_error").text
    assert page.by_id("id_days_error").text
    assert page.by_id("id_days").get("value") == "0"
    assert not ApiKey.objects.exists()


def test_somebody_new_gets_a_one_time_password() -> None:
    client = client_of("admin")
    page = read(client.post("/settings/people", {"username": "ines", "role": "use"}))
    password = page.by_id("one-time-password").text
    ines = User.objects.get(username="ines")
    assert ines.check_password(password)
    assert ines.must_change_password
    twice = read(client.post("/settings/people", {"username": "ines", "role": "use"}))
    assert "already" in twice.by_id("id_username_error").text


def test_roles_change_and_the_last_admin_stays() -> None:
    admin = make_user("admin", "mara")
    client = Client()
    client.force_login(admin)
    other = make_user("read", "guest")
    client.post(f"/settings/people/{other.pk}", {"role": "use"})
    other.refresh_from_db()
    assert other.role == "use"
    client.post(f"/settings/people/{other.pk}", {"active": "no"})
    other.refresh_from_db()
    assert not other.is_active
    response = client.post(
        f"/settings/people/{admin.pk}", {"role": "read"}, headers={"Referer": "http://testserver/settings/people"}
    )
    assert "last admin" in read(client.get(response["Location"])).by_id("messages").text
    admin.refresh_from_db()
    assert admin.role == "admin"


def test_a_value_is_changed_by_an_admin_within_its_range() -> None:
    client = client_of("admin")
    client.post("/settings/values", {"key": "jobs.max_failures", "value": "5"})
    assert settings.get("jobs.max_failures") == 5
    response = client.post("/settings/values", {"key": "jobs.max_failures", "value": "many"})
    assert response.status_code == 422
    page = read(response)
    assert page.by_id("setting-jobs-max_failures").get("value") == "many"
    assert "must be" in page.by_id("main").text
    assert settings.get("jobs.max_failures") == 5
    assert client_of("use").post("/settings/values", {"key": "jobs.max_failures", "value": "9"}).status_code == 403


def test_a_model_form_asks_for_what_its_source_needs(home: Path) -> None:
    client = client_of("use")
    page = read(client.post("/models/add", {"source": "hub", "name": "mine"}))
    assert "id of a model" in page.by_id("id_hub_id_error").text
    assert page.by_id("id_name").get("value") == "mine"
    assert "directory" not in [option.get("value") for option in page.all("option")]
    assert client.post("/models/add", {"source": "directory", "path": "/"}).status_code == 422
    assert client.post("/models/add", {"source": "hub", "hub_id": "a b c"}).status_code == 422
    added = client.post("/models/add", {"source": "hub", "hub_id": "Qwen/Qwen3-0.6B"})
    assert added["Location"] == "/models/at/Qwen/Qwen3-0.6B"
    twice = read(client.post("/models/add", {"source": "hub", "hub_id": "Qwen/Qwen3-0.6B"}))
    assert "already" in twice.by_id("id_name_error").text
