"""Conversations over the API: an answer that streams and is kept, whoever goes away; votes, sets; who may do what.

The engine is a stand-in: what is judged here is what is asked of it and what is kept of its answer.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.http import QueryDict
from django.test import AsyncClient, Client

from controlplane.models import Turn, Vote
from controlplane.services.tables import conversations as asked
from controlplane.services.tables import keyset
from tests import factories
from tests.controlplane.contract import matches, maybe
from tests.controlplane.stand_in_engines import StandIn, running
from tests.product import wait_for

pytestmark = [pytest.mark.urls("controlplane.api.urls"), pytest.mark.usefixtures("home")]
Communicator: Any = ApplicationCommunicator  # untyped
JSON = "application/json"
TURN = {
    "id": int, "parent": maybe(int), "beside": maybe(int), "role": str, "content": str, "side": str,
    "model": maybe(str), "blind": bool, "finish": str, "asked": dict, "figures": dict, "created_at": str,
}  # fmt: skip
CONVERSATION = {"id": int, "title": str, "questions": int, "settings": dict, "created_at": str, "updated_at": str}
VOTE = {"id": int, "left_model": str, "right_model": str, "choice": str, "blind": bool, "created_at": str}


@pytest.fixture
def engine() -> Iterator[StandIn]:
    """A running engine."""
    one = StandIn("ann")
    with running(one):
        yield one


def post(client: Client, path: str, **body: Any) -> Any:
    return client.post(f"/api{path}", body, content_type=JSON)


def begin(client: Client, content: str = "What is a keel?") -> tuple[int, int]:
    """A conversation and its first question."""
    conversation = post(client, "/conversations", settings={"model": "ann"}).json()["id"]
    return conversation, post(client, f"/conversations/{conversation}/turns", content=content).json()["id"]


def answered(conversation: int, question: int, key: str, **body: Any) -> tuple[int, bytes]:
    """An answer to its end: the id of its turn, and what came."""

    async def whole() -> tuple[int, bytes]:
        response: Any = await AsyncClient().post(
            f"/api/conversations/{conversation}/answers", {"question": question, **body}, content_type=JSON,
            headers={"X-API-Key": key},
        )  # fmt: skip
        assert response.status_code == 200, response.content
        return int(response["X-Turn"]), b"".join([chunk async for chunk in response.streaming_content])

    return asyncio.run(whole())


@pytest.mark.django_db(transaction=True)
def test_an_answer_streams_through_and_is_kept(engine: StandIn) -> None:
    factories.make_deployment(factories.make_model("ann"), is_active=True, port=engine.port)
    key = factories.make_key("use", "mine")
    client = Client(headers={"X-API-Key": key})
    conversation, first = begin(client)
    sampling = {"temperature": 0.5, "top_k": 7, "stop": ["!"], "apply_profile": False, "max_tokens": 9}
    turn, came = answered(conversation, first, key, model="ann", system="Be short.", **sampling)
    assert came.endswith(b"data: [DONE]\n\n")
    (asked,) = engine.asked
    assert asked["messages"] == [
        {"role": "system", "content": "Be short."}, {"role": "user", "content": "What is a keel?"},
    ]  # fmt: skip
    assert {name: asked[name] for name in sampling} == sampling
    told = client.get(f"/api/conversations/{conversation}").json()
    matches(told, {**CONVERSATION, "turns": [TURN], "votes": list})
    kept = told["turns"][-1]
    assert (kept["id"], kept["content"], kept["finish"], kept["model"]) == (turn, "ann says so", "stop", "ann")
    assert kept["asked"] == {"system": "Be short.", **sampling}
    assert kept["figures"]["tokens"] == 3

    second = post(client, f"/conversations/{conversation}/turns", content="And then?", parent=turn).json()["id"]
    answered(conversation, second, key)  # of the model that answered before
    assert [message["content"] for message in engine.asked[-1]["messages"]] == [
        "What is a keel?", "ann says so", "And then?",
    ]  # fmt: skip


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("cut", ["closed tab", "engine died"])
def test_an_answer_that_is_cut_off_is_kept_as_far_as_it_came(engine: StandIn, cut: str) -> None:
    factories.make_deployment(factories.make_model("ann"), is_active=True, port=engine.port)
    key = factories.make_key("use")
    conversation, question = begin(Client(headers={"X-API-Key": key}))
    if cut == "engine died":
        engine.dies = "midway"
        answered(conversation, question, key, model="ann")
    else:
        engine.go_on.clear()
        asyncio.run(_go_away(conversation, question, key))
        engine.go_on.set()
    kept = wait_for("the answer's end", lambda: Turn.objects.filter(role="assistant").exclude(finish="writing").first())
    assert (kept.content, kept.finish) == ("ann ", "failed" if cut == "engine died" else "stopped")


async def _go_away(conversation: int, question: int, key: str) -> None:
    path = f"/api/conversations/{conversation}/answers"
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
        "raw_path": path.encode(), "root_path": "", "scheme": "http", "query_string": b"",
        "server": ("localhost", 80), "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"localhost"), (b"x-api-key", key.encode()), (b"content-type", b"application/json")],
    }  # fmt: skip
    communicator: Any = Communicator(get_asgi_application(), scope)
    body = json.dumps({"question": question, "model": "ann"}).encode()
    await communicator.send_input({"type": "http.request", "body": body, "more_body": False})
    assert (await communicator.receive_output(10))["status"] == 200
    came = b""
    while b'"ann "' not in came:
        came += (await communicator.receive_output(10))["body"]
    await communicator.send_input({"type": "http.disconnect"})
    await communicator.wait(10)


@pytest.mark.django_db(transaction=True)
def test_what_is_refused_leaves_no_answer(engine: StandIn) -> None:
    factories.make_deployment(factories.make_model("ann"), is_active=True, port=engine.port)
    factories.make_model("idle")
    client = factories.make_client("use")
    conversation, question = begin(client)
    path = f"/conversations/{conversation}/answers"
    for body, status, word in (
        ({"question": 999}, 404, "question"), ({"question": question, "side": "up"}, 422, "side"),
        ({"question": question, "blind": True}, 422, "blind"), ({"question": question, "model": "idle"}, 503, "idle"),
        ({"question": question, "model": "none"}, 404, "none"),
        ({"question": question, "logit_bias": {}}, 422, "logit"),
        ({"question": question, "temperature": "hot"}, 422, "temperature"),
    ):  # fmt: skip
        response = post(client, path, **body)
        assert (response.status_code, word in response.content.decode()) == (status, True), response.content
    for engines, status in ((503, 503), (429, 503), (404, 404), (400, 422), (413, 413), (500, 503)):
        engine.status = engines
        refused = post(client, path, question=question, model="ann")
        assert (refused.status_code, refused.json()["detail"]) == (status, "full"), engines
        assert refused.get("Retry-After") == ("5" if status == 503 else None)
    assert not Turn.objects.filter(role="assistant").exists()


@pytest.mark.django_db(transaction=True)
def test_two_sides_a_blind_vote_and_a_set(engine: StandIn) -> None:
    ann, bob = factories.make_model("ann"), factories.make_model("bob")
    factories.make_deployment(ann, is_active=True, port=engine.port)
    factories.make_deployment(bob, port=engine.port)
    key = factories.make_key("use", "mine")
    client = Client(headers={"X-API-Key": key})
    conversation, question = begin(client)
    left, _ = answered(conversation, question, key, side="left", model="bob", blind=True)
    right, _ = answered(conversation, question, key, side="right", model="ann", blind=True)
    hidden = client.get(f"/api/conversations/{conversation}").json()["turns"][1:]
    assert [(turn["side"], turn["model"], turn["blind"]) for turn in hidden] == [
        ("left", None, True), ("right", None, True),
    ]  # fmt: skip
    early = post(client, "/collected", conversation=conversation, answer=right, set="early").json()
    assert (early["model"], client.get("/api/collected/rows?set=early").json()["rows"][0]["model"]) == (None, None)
    voted = post(client, f"/conversations/{conversation}/votes", left=left, right=right, choice="right")
    assert voted.status_code == 201
    matches(voted.json(), VOTE)
    assert (voted.json()["left_model"], voted.json()["blind"]) == ("bob", True)
    told = factories.make_client("read").get("/api/votes?blind=true").json()
    matches(told, {"votes": [VOTE], "pairs": list})
    assert (told["pairs"][0]["first"], told["pairs"][0]["first_wins"]) == ("ann", 1)
    assert "bob,ann,right,True" in factories.make_client("read").get("/api/votes.csv").content.decode()

    row = post(client, "/collected", conversation=conversation, answer=right, set="good").json()
    assert [message["content"] for message in row["messages"]] == ["What is a keel?", "ann says so"]
    assert row["model"] == "ann"
    assert client.get("/api/collected").json()["sets"][0]["rows"] == 1
    made = post(client, "/collected/dataset", set="good", name="good chats")
    assert (made.status_code, made.json()["name"], made.json()["new"]) == (201, "good chats", True)
    again = post(client, "/collected/dataset", set="good", name="good chats")
    assert (again.status_code, again.json()) == (200, {**made.json(), "new": False})
    assert client.get("/api/collected/rows?set=good").json()["rows"][0]["dataset_id"] == made.json()["dataset_id"]
    assert client.get(f"/api/collected/rows?set=good&offset={2**63 - 1}").json() == {"rows": []}
    assert client.get(f"/api/collected/rows?set=good&offset={2**63}").status_code == 422
    assert client.delete(f"/api/collected/rows/{row['id']}").status_code == 204
    assert client.get("/api/collected/rows?set=good").status_code == 404


@pytest.mark.django_db
def test_another_ones_conversation_is_not_there_for_an_admin_either() -> None:
    client = factories.make_client("use", "notebook")
    conversation, question = begin(client)
    other = factories.make_client("admin", "notebook")  # another key, which is called alike
    path = f"/api/conversations/{conversation}"
    answers = [
        other.get(path), other.patch(path, {"title": "x"}, content_type=JSON), other.delete(path),
        post(other, f"/conversations/{conversation}/turns", content="x"),
        post(other, f"/conversations/{conversation}/votes", left=question, right=question, choice="tie"),
        post(other, "/collected", conversation=conversation, answer=question, set="x"),
    ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [404] * len(answers)
    assert other.get("/api/conversations").json()["conversations"] == []
    person = factories.make_user("admin", "key notebook").actor()
    assert keyset.page(asked.ask(person, QueryDict())).rows == []
    assert len(client.get("/api/conversations").json()["conversations"]) == 1
    assert not Vote.objects.exists()


@pytest.mark.django_db
def test_reading_is_not_enough_to_say_something() -> None:
    reader = factories.make_client("read")
    for path, body in (
        ("/conversations", {}), ("/conversations/1/turns", {"content": "x"}),
        ("/conversations/1/votes", {"left": 1, "right": 2, "choice": "tie"}),
        ("/collected", {"conversation": 1, "answer": 1, "set": "x"}), ("/collected/dataset", {"set": "x"}),
    ):  # fmt: skip
        assert post(reader, path, **body).status_code == 403, path
    assert reader.delete("/api/conversations/1").status_code == 403
    assert Client().get("/api/conversations").status_code == 401


@pytest.mark.django_db
def test_a_conversation_is_listed_renamed_and_deleted() -> None:
    client = factories.make_client("use")
    conversation, _ = begin(client)
    renamed = client.patch(f"/api/conversations/{conversation}", {"title": "Keels"}, content_type=JSON)
    matches(renamed.json(), {**CONVERSATION, "title": "Keels"})
    (found,) = client.get("/api/conversations?search=keel").json()["conversations"]
    assert (found["id"], found["questions"], found["settings"]) == (conversation, 1, {"model": "ann"})
    assert client.get("/api/conversations?search=mast").json()["conversations"] == []
    assert client.delete(f"/api/conversations/{conversation}").status_code == 204
    assert client.get(f"/api/conversations/{conversation}").status_code == 404
