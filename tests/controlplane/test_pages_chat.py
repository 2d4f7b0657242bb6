"""The chat's pages: which models can be asked, what is offered for those that can't, what is kept and whose it is."""

from typing import Any

import pytest
from django.test import Client

from controlplane.models import Conversation, Dataset, Deployment, LanguageModel, Turn, User
from controlplane.models.access import Actor
from controlplane.services import collected, conversation_turns, conversations, votes
from tests.controlplane.page_reading import HOSTILE, Page, read
from tests.factories import client_of, make_deployment, make_host, make_model, make_run, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def jo() -> Actor:
    """Somebody who may use the product."""
    return (User.objects.filter(username="jo").first() or make_user("use", "jo")).actor()


def browser_of_jo() -> Client:
    """Theirs, logged in."""
    client = Client()
    client.force_login(User.objects.get(username="jo"))
    return client


def options(page: Page, field: str) -> set[str]:
    """What a choice of models offers."""
    source = page.source.partition(f'id="{field}"')[2].partition("</select>")[0]
    return {part.partition('"')[0] for part in source.split('<option value="')[1:]} - {""}


def exchange(question: str = HOSTILE, *, sides: bool = False) -> Conversation:
    """A conversation of jo's with an answer, or with two."""
    row = conversations.create(jo(), given={"model": "tuned", "beside": "base" if sides else ""})
    turn = conversation_turns.ask(jo(), row.pk, question)
    for side, model in (("left", "tuned"), ("right", "base")) if sides else (("", "tuned"),):
        made = conversation_turns.begin_answer(turn, side, model, {"system": HOSTILE}, is_blind=False)
        conversation_turns.keep_answer(made.pk, HOSTILE, "stop", {})
    return row


def test_models_that_answer_that_are_loaded_when_asked_and_that_are_not_served() -> None:
    base = make_model("base")
    deployment = make_deployment(base, is_active=True, port=9)
    deployment.job.config = {"adapters": ["tuned"]}
    deployment.job.save()
    make_model("sleeper", load_on_demand=True)
    make_model("idle")
    make_model("coming", state="fetching")
    page = read(client_of("use").get("/chat?model=tuned&beside=sleeper"))
    assert options(page, "chat-model") == options(page, "chat-beside") == {"base", "tuned", "sleeper", "idle"}
    assert page.by_id("chat-choice").get("data-served") == "yes"
    assert "selected>tuned" in page.source


@pytest.mark.parametrize("role", ["use", "admin"])
def test_one_that_is_not_served_is_said_and_offered(role: str) -> None:
    make_deployment(make_model("base"), is_active=True, port=9)
    make_model("tuned")
    client = client_of(role)
    page = read(client.get("/chat?model=base&beside=tuned"))
    assert page.by_id("chat-choice").get("data-served") == "no"
    assert "is not served" in page.by_id("chat-models").text
    assert (page.button("Serve it beside") is not None) == (role == "admin")
    back = "http://testserver/chat?model=base&beside=tuned"
    on_demand = {"name": "tuned", "how": "on_demand"}
    answer = client.post("/chat/serve", on_demand, headers={"Referer": back})
    assert answer["Location"] == "/chat?model=base&beside=tuned"
    assert LanguageModel.objects.get(name="tuned").load_on_demand == (role == "admin")


def test_one_that_nobody_has_and_one_that_is_starting() -> None:
    make_deployment(make_model("base"), is_active=True, port=9)
    make_deployment(make_model("tuned"), status="starting")
    text = read(client_of("use").get("/chat?model=none&beside=tuned")).by_id("chat-models").text
    assert "There is no model none" in text
    assert "tuned is starting" in text


def test_serving_beside_starts_an_engine() -> None:
    make_host("box")
    make_deployment(make_model("base"), is_active=True, port=9)
    make_model("tuned")
    client_of("admin").post("/chat/serve", {"name": "tuned"})
    assert Deployment.objects.filter(model__name="tuned", kept=True, status="starting").exists()


def test_the_base_beside_the_fine_tuned_is_one_click_away() -> None:
    base = make_model("owner/base")
    run = make_run(model=base, status="done")
    full, adapter = make_model("full", run=run, source="run"), make_model("lora", kind="adapter", base=base)
    client = client_of("use")
    for model in (full, adapter):
        page = read(client.get(f"/models/at/{model.name}"))
        assert f'href="/chat?model=owner%2Fbase&amp;beside={model.name}"' in page.source
    assert "/chat?model=owner%2Fbase&amp;beside=full" in read(client.get(f"/runs/{run.pk}/")).source
    assert "Compare with its base" not in read(client.get("/models/at/owner/base")).source


def test_conversations_are_their_owners_and_hostile_titles_are_text() -> None:
    row = exchange()
    mine = browser_of_jo()
    page = read(mine.get("/chat/conversations"))
    assert HOSTILE in page.by_id("conversation-rows").text
    opened = read(mine.get(f"/chat/{row.pk}"))
    assert opened.by_id("chat").get("data-id") == str(row.pk)
    other = client_of("admin", "al")
    assert other.get(f"/chat/{row.pk}").status_code == 404
    assert "No conversations yet" in read(other.get("/chat/conversations")).source
    assert other.post(f"/chat/{row.pk}/delete").status_code == 404
    mine.post(f"/chat/{row.pk}/rename", {"title": "Keels"})
    assert "Keels" in read(mine.get("/chat/conversations?search=keel")).by_id("conversation-rows").text
    mine.post(f"/chat/{row.pk}/delete")
    assert not Conversation.objects.exists()


def test_votes_by_pair() -> None:
    row = exchange("Which?", sides=True)
    left, right = row.turns.filter(role="assistant")
    votes.vote(jo(), row.pk, left.pk, right.pk, "right")
    text = read(client_of("read").get("/chat/votes")).by_id("main").text
    assert "1 : 0" in text, "base stands first, by its name"
    assert "No blind votes yet" in read(client_of("read").get("/chat/votes?blind=yes")).source


def test_a_set_is_shown_as_text_and_becomes_a_dataset() -> None:
    row = exchange()
    (given,) = row.turns.filter(role="assistant")
    made = collected.collect(jo(), row.pk, given.pk, HOSTILE)
    client = browser_of_jo()
    assert HOSTILE in read(client.get("/chat/collected")).by_id("main").text
    page: Any = client.get("/chat/collected/rows", {"set": HOSTILE})
    shown = read(page)
    assert shown.by_id("main").text.count(HOSTILE) >= 4
    Turn.objects.filter(pk=given.pk).update(is_blind=True)
    assert "name hidden" in read(client.get("/chat/collected/rows", {"set": HOSTILE})).by_id("main").text
    wrong = client.post("/chat/collected/dataset", {"set": HOSTILE, "name": "good", "eval_fraction": "half"})
    assert wrong.status_code == 422
    answer = client.post("/chat/collected/dataset", {"set": HOSTILE, "name": "good", "eval_fraction": "0.1"})
    dataset = Dataset.objects.get(name="good")
    assert answer["Location"] == f"/datasets/{dataset.pk}/"
    assert (dataset.eval_fraction, dataset.created_by) == (0.1, "jo")
    assert client_of("admin").get("/chat/collected/rows", {"set": HOSTILE}).status_code == 404
    assert client.post(f"/chat/collected/rows/{made.pk}/remove")["Location"] == "/chat/collected"
