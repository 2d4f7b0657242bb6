"""What every answer tells the browser, and how cookies go."""

import os
import subprocess
import sys

import pytest
from django.test import Client
from pytest_django import Settings

from tests.factories import PASSWORD, client_of, make_user

pytestmark = pytest.mark.django_db


def test_a_page_is_framed_by_nobody_and_runs_no_foreign_script() -> None:
    for response in (Client().get("/login"), client_of("read").get("/runs/")):
        assert response["X-Frame-Options"] == "DENY"
        assert response["X-Content-Type-Options"] == "nosniff"
        assert response["Referrer-Policy"] == "same-origin"
        assert response["Cross-Origin-Opener-Policy"] == "same-origin"
        policy = response["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy


def test_the_session_is_no_matter_of_scripts_or_other_sites() -> None:
    make_user("use", "jonas")
    client = Client()
    client.post("/login", {"username": "jonas", "password": PASSWORD})
    cookie = client.cookies["sessionid"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"


def test_logging_in_makes_another_session() -> None:
    make_user("use", "jonas")
    client = Client()
    client.get("/login")
    before = client.session.session_key
    client.post("/login", {"username": "jonas", "password": PASSWORD})
    assert client.session.session_key != before


def test_a_host_that_is_not_ours_is_refused() -> None:
    assert Client().get("/login", HTTP_HOST="evil.example").status_code == 400


def test_tls_alone_from_then_on_where_it_came_by_tls(settings: Settings) -> None:
    settings.SECURE_HSTS_SECONDS = 60
    assert Client().get("/login", secure=True)["Strict-Transport-Security"] == "max-age=60"
    assert "Strict-Transport-Security" not in Client().get("/login").headers


def test_behind_a_proxy_cookies_and_pages_are_for_tls() -> None:
    code = (
        "from controlplane import settings as s;"
        "print(s.SECURE_HSTS_SECONDS, s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE)"
    )
    told = {}
    for word in ("yes", "no"):
        answer = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PILOTHOUSE_BEHIND_PROXY": word}, capture_output=True,
            text=True, check=True, timeout=60,
        )  # fmt: skip
        told[word] = answer.stdout.split()
    assert told == {"yes": ["31536000", "True", "True"], "no": ["0", "False", "False"]}
