"""Rows before and after a profile: over the API, and on the form that starts a run."""

from pathlib import Path
from typing import Any

import pytest

from controlplane.errors import ConflictError
from controlplane.services import config_faults, profile_preview
from tests import factories
from tests.controlplane.page_reading import Page, read
from tests.factories import client_of
from training.profiles.base import load_profile
from training.profiles.emoji import Contract

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
ANSWER = {"role": "assistant", "content": "Hello."}
HI = {"messages": [{"role": "user", "content": "Hi"}, ANSWER]}


def shown(home: Path, **typed: Any) -> Page:
    """The fragment for what the form holds."""
    return read(client_of("read").post("/runs/new/preview", typed))


def test_the_api_adds_what_the_profile_makes_of_each_row() -> None:
    dataset = factories.make_dataset(rows=factories.chat_rows(5))
    answer = client_of("read").get(f"/api/datasets/{dataset.pk}/preview?profile=emoji_think&offset=3&limit=1").json()
    profile = load_profile("emoji_think")
    (row,) = answer["rows"]
    assert answer["profile"] == {
        "name": "emoji_think", "version": profile.version, "description": profile.description,
    }  # fmt: skip
    assert row["after"] == profile.transform({"messages": row["messages"]}, 3)
    assert Contract.drawn(3).instructions in row["after"]["messages"][0]["content"]


def test_without_a_profile_rows_are_as_they_were() -> None:
    dataset = factories.make_dataset(rows=[HI])
    assert client_of("read").get(f"/api/datasets/{dataset.pk}/preview").json()["rows"] == [HI]


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    answer = client_of("read").get(f"/api/datasets/{factories.make_dataset().pk}/preview?profile=semaphore")
    assert answer.status_code == 422
    assert "There is no profile 'semaphore'. Known profiles: emoji_think, plain, regime3" in answer.json()["detail"]


def test_the_form_shows_three_examples_and_marks_what_is_added(home: Path) -> None:
    dataset = factories.make_dataset(rows=factories.chat_rows(4))
    page = shown(home, dataset=dataset.pk, profile="emoji_think")
    assert [item.text for item in page.all("span") if item.text.startswith("example ")] == [
        "example 1", "example 2", "example 3",
    ]  # fmt: skip
    marked = [item.text for item in page.all("mark")][1:]
    first = Contract.drawn(0)
    assert marked[:3] == [first.instructions, str(first.think), str(first.stop)]


def test_a_system_prompt_that_is_typed_is_in_the_preview(home: Path) -> None:
    dataset = factories.make_dataset(rows=[HI])
    typed = {"dataset": dataset.pk, "profile": "plain", "profile.system_prompt": "Be kind."}
    assert [item.text for item in shown(home, **typed).all("mark")][1:] == ["Be kind."]
    assert (
        "The profile leaves it as it is."
        in client_of("read").post("/runs/new/preview", {"dataset": dataset.pk, "profile": "plain"}).content.decode()
    )


def test_long_texts_and_long_conversations_are_cut(home: Path) -> None:
    turns = [{"role": role, "content": "word " * 4000} for role in ["user", "assistant"] * 10]
    dataset = factories.make_dataset(rows=[{"messages": turns}])
    content = client_of("read").post("/runs/new/preview", {"dataset": dataset.pk, "profile": "emoji_think"}).content
    assert "and 12 more turns" in content.decode()
    assert "… 19,249 characters …" in content.decode()
    assert len(content) < 40_000


def test_raw_text_is_shown_as_it_is(home: Path) -> None:
    dataset = factories.make_dataset(rows=[{"text": "Once upon a time."}])
    page = shown(home, dataset=dataset.pk, profile="regime3")
    assert len(page.all("mark")) == 1
    assert "Once upon a time." in " ".join(item.text for item in page.all("div"))


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ({"profile": "semaphore"}, "There is no profile"),
        ({"profile": "plain", "profile.options": '{"a": 1}'}, "it has no options, but a was given"),
        ({"profile": "plain", "dataset": "99999"}, "There is no dataset"),
    ],
)
def test_what_can_not_be_shown_is_a_sentence(home: Path, typed: dict[str, str], sentence: str) -> None:
    whole = {"dataset": str(factories.make_dataset().pk), **typed}
    answer = client_of("read").post("/runs/new/preview", whole)
    assert answer.status_code == 200
    assert sentence in read(answer).all("p")[0].text


def test_rows_that_are_no_more_there_are_a_sentence(home: Path) -> None:
    dataset = factories.make_dataset()
    dataset.rows_path.unlink()
    assert "no rows to show" in shown(home, dataset=dataset.pk, profile="plain").all("p")[0].text


class Faulty:
    """A profile of a package that has a mistake."""

    name, description, version, processors, chat_template = "faulty", "Fails.", "1", None, None

    def __init__(self, **_: Any) -> None: ...

    def system_prompt(self, today: Any) -> str:
        return ""

    def transform(self, example: Any, index: int) -> Any:
        raise KeyError("mood")

    def check(self, answer: str) -> list[Any]:
        return []


def test_a_profile_that_fails_on_a_row_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_faults, "load_profile", lambda name, **_: Faulty())
    with pytest.raises(ConflictError, match=r"The profile faulty can't shape row 3: 'mood'"):
        profile_preview.preview(factories.make_dataset(rows=[HI] * 4), 2, 1, "faulty")


def test_only_the_rows_that_are_shown_are_read(home: Path) -> None:
    dataset = factories.make_dataset(rows=[HI] * 3)
    with dataset.rows_path.open("ab") as stream:
        stream.write(b"this is no JSON\n")
    assert len(profile_preview.preview(dataset, 0, 3, "plain")["rows"]) == 3


def test_the_form_asks_for_the_preview_where_there_is_a_dataset(home: Path) -> None:
    assert not read(client_of("use").get("/runs/new")).all("div", id="run-preview")
    factories.make_dataset()
    box = read(client_of("use").get("/runs/new")).by_id("run-preview")
    assert box.get("hx-post") == "/runs/new/preview"
    for name in ("#id_dataset", "#id_profile", "profile.system_prompt", "profile.options"):
        assert name in box.get("hx-trigger")
