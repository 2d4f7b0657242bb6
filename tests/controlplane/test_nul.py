"""A NUL in an address or a form is refused with a sentence, wherever it stands; PostgreSQL would break at it."""

from typing import Any

import pytest

from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
SENTENCE = "{} holds a NUL, which no text has. Take it out."


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/api/conversations?search=a%00", "search"),
        ("/api/collected/rows?set=%00", "set"),
        ("/api/exports?model_id=x&model_id=%00", "model_id"),
        ("/api/models/engine?model_id=%00", "model_id"),
        ("/api/jobs?ty%00pe=x", "type"),
        ("/api/models/a%00", "The address"),
    ],
)
def test_the_api_names_what_holds_one(address: str, name: str) -> None:
    answer = factories.make_client().get(address)
    assert (answer.status_code, answer.json()["detail"]) == (400, SENTENCE.format(name))
    assert answer.json()["faults"] == [{"path": name, "message": "text without NUL"}]


def test_openais_api_says_it_in_its_shape() -> None:
    answer = factories.make_client().get("/v1/models/a%00")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == SENTENCE.format("The address")


@pytest.mark.parametrize(
    ("address", "form", "name"),
    [
        ("/chat?model=%00", None, "model"),
        ("/chat/collected/dataset", {"set": "a\0"}, "set"),
        ("/chat/collected/dataset?tab=%00", {"set": "a"}, "tab"),
    ],
)
def test_a_page_says_it_too(address: str, form: dict[str, Any] | None, name: str) -> None:
    browser = factories.client_of()
    for answer in (browser.post(address, form), browser.post(address, form, headers={"HX-Request": "true"})) if form \
            else (browser.get(address),):  # fmt: skip
        assert (answer.status_code, answer.content.decode()) == (400, SENTENCE.format(name))


def test_what_merely_looks_like_one_is_taken() -> None:
    assert factories.make_client().get("/api/conversations?search=%2500").status_code == 200


def test_a_body_that_is_no_form_is_left_for_its_reader() -> None:
    client = factories.make_client("admin")
    body = '{"name": "k", "role": "read"}'
    answer = client.post("/api/keys", body, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 201, "as curl sends it"
