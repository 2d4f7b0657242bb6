"""The gateway's own doing: the least busy engine, another one when one dies, waiting, what is counted, shared names.

The engines are stand-ins (`stand_in_engines`).
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import transaction

from controlplane.errors import ConflictError, ForbiddenError, RateLimitedError, UnavailableError
from controlplane.models import Deployment, Job, ServedSpan, UsageDay
from controlplane.models.access import SYSTEM, Actor, KeyLimits, Role
from controlplane.models.deployments import DeploymentStatus
from controlplane.services import deployments, finding, gateway, models, serving_options, settings, speed, splits, usage
from controlplane.services.routing import traffic, waiting_room
from tests.controlplane.stand_in_engines import StandIn, running
from tests.factories import make_deployment, make_model

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("home")]
CHAT = {"messages": [{"role": "user", "content": "Ahoy?"}]}
PATH = "/v1/chat/completions"


@pytest.fixture
def pair() -> Iterator[tuple[StandIn, StandIn]]:
    """Two engines of the model `m`, the first one active."""
    first, second = StandIn("first"), StandIn("second")
    with running(first, second):
        model = make_model("m")
        make_deployment(model, port=first.port, is_active=True)
        make_deployment(model, port=second.port)
        yield first, second


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Runs it on a loop of its own, and closes what was kept for that."""

    async def whole() -> Any:
        try:
            return await work()
        finally:
            await gateway.end_connections()

    return asyncio.run(whole())


async def ask(**options: Any) -> str:
    """One whole answer's text."""
    reply = await gateway.forward(PATH, {**CHAT, **options})
    assert reply.status_code == 200, reply.content
    return str(json.loads(reply.content)["choices"][0]["message"]["content"])


async def stream(actor: Actor | None = None, **options: Any) -> bytes:
    """A whole stream."""
    reply = await gateway.forward(PATH, {**CHAT, "stream": True, **options}, actor)
    assert reply.chunks is not None
    return b"".join([chunk async for chunk in reply.chunks])


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not what():  # noqa: ASYNC110 - what happens in other threads rings no bell of ours
            await asyncio.sleep(0.01)


def test_the_least_busy_engine_is_asked(pair: tuple[StandIn, StandIn]) -> None:
    first, second = pair
    first.go_on.clear()
    second.go_on.clear()

    async def work() -> None:
        waiting = [asyncio.create_task(ask()) for _ in range(4)]
        await until(lambda: len(first.asked) + len(second.asked) == 4)
        assert (len(first.asked), len(second.asked)) == (2, 2)
        assert sum(traffic.in_flight(row) for row in ids) == 4
        second.go_on.set()
        await until(lambda: sum(task.done() for task in waiting) == 2)
        assert await ask() == "second"
        first.go_on.set()
        assert sorted(await asyncio.gather(*waiting)) == ["first", "first", "second", "second"]

    ids = list(Deployment.objects.values_list("pk", flat=True))
    run(work)
    assert [traffic.in_flight(row) for row in ids] == [0, 0]


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_engine_that_dies_before_its_first_byte_is_replaced(pair: tuple[StandIn, StandIn], is_stream: bool) -> None:
    first, second = pair
    first.dies = "at once"

    async def work() -> list[str]:
        return [(await stream()).decode() if is_stream else await ask() for _ in range(2)]

    assert all("second" in answer for answer in run(work))
    assert first.asked
    assert len(second.asked) == 2


def test_when_all_have_died_the_client_hears_of_it_at_once(pair: tuple[StandIn, StandIn]) -> None:
    for one in pair:
        one.dies = "at once"
    with pytest.raises(UnavailableError, match="The engine of m can't be reached"):
        run(ask)


def test_a_full_engine_is_passed_over_and_its_refusal_told_when_all_are_full(pair: tuple[StandIn, StandIn]) -> None:
    first, second = pair
    first.status = 503

    async def work() -> tuple[str, int]:
        answered = await ask()
        second.status = 503
        return answered, (await gateway.forward(PATH, CHAT)).status_code

    assert run(work) == ("second", 503)


def test_an_engine_that_dies_midway_ends_the_stream_with_an_error(pair: tuple[StandIn, StandIn]) -> None:
    for one in pair:
        one.dies = "midway"
    told = run(stream).decode()
    assert '"code": "engine_lost"' in told
    assert "[DONE]" not in told
    usage.ledger.flush()
    row = UsageDay.objects.get()
    assert (row.requests, row.failures, row.completion_tokens) == (1, 1, 1)


def test_a_client_that_leaves_is_counted_with_what_it_got(pair: tuple[StandIn, StandIn]) -> None:
    for one in pair:
        one.go_on.clear()

    async def work() -> None:
        reply = await gateway.forward(PATH, {**CHAT, "stream": True})
        chunks: Any = reply.chunks
        await anext(chunks)
        chunks.close()  # as Django does, from a thread of its own
        await until(lambda: not any(traffic.in_flight(row) for row in ids))

    ids = list(Deployment.objects.values_list("pk", flat=True))
    run(work)
    usage.ledger.flush()
    row = UsageDay.objects.get()
    assert (row.requests, row.failures, row.cut_short) == (1, 0, 1)


def test_streams_are_counted_by_the_engine_and_the_client_sees_what_it_asked_for(pair: tuple[StandIn, StandIn]) -> None:
    someone = Actor("key k", Role.USE, key_id=7)

    async def work() -> tuple[bytes, bytes]:
        return await stream(someone), await stream(someone, stream_options={"include_usage": True})

    hidden, shown = run(work)
    assert b"usage" not in hidden
    assert hidden.endswith(b"data: [DONE]\n\n")
    assert b'"usage":{"prompt_tokens":5' in shown
    usage.ledger.flush()
    row = UsageDay.objects.get()
    assert (row.caller, row.key_number, row.model, row.requests) == ("key k", 7, "m", 2)
    assert (row.prompt_tokens, row.completion_tokens, row.failures, row.cut_short) == (10, 6, 0, 0)
    assert sorted(ServedSpan.objects.values_list("resolution_seconds", "requests")) == [(60, 2), (86400, 2)]
    point = speed.series("m", 1)["points"][0]
    assert (point["requests"], point["completion_tokens"]) == (2, 6)
    assert 0 < point["first_token_median"] <= point["first_token_p95"]


def test_a_limited_key_is_refused_with_the_time_to_ask_again(pair: tuple[StandIn, StandIn]) -> None:
    limited = Actor("key few", Role.USE, key_id=70_001, limits=KeyLimits(requests_per_minute=1))

    async def work() -> dict[str, str]:
        reply = await gateway.forward(PATH, CHAT, limited)
        with pytest.raises(RateLimitedError):
            await gateway.forward(PATH, CHAT, limited)
        return reply.headers

    assert run(work)["x-ratelimit-remaining-requests"] == "0"
    other = Actor("key other", Role.USE, key_id=70_002, limits=KeyLimits(models=("another",)))
    with pytest.raises(ForbiddenError, match="may not use the model m"):
        run(lambda: gateway.forward(PATH, CHAT, other))


def test_an_adapter_beside_its_base_is_asked_for_by_its_own_name(pair: tuple[StandIn, StandIn]) -> None:
    first, _second = pair
    Job.objects.filter(deployment__port=first.port).update(config={"adapters": ["polite"]})
    assert run(lambda: ask(model="polite")) == "first"
    assert first.asked[-1]["model"] == "polite"


# --- Waiting ----------------------------------------------------------------------------------------------------------


def test_requests_wait_for_an_engine_that_is_coming_a_bounded_number_of_them() -> None:
    engine = StandIn("late")
    settings.put(SYSTEM, "serving.max_waiting", 2)
    coming = make_deployment(make_model("m"), status=DeploymentStatus.STARTING, wants_active=True)

    def becomes_ready() -> None:
        with transaction.atomic():
            deployments.change(coming.pk, status=DeploymentStatus.READY, port=engine.port, is_active=True)

    async def work() -> list[str]:
        waiting = [asyncio.create_task(ask()) for _ in range(2)]
        await until(lambda: len(waiting_room) == 2)
        with pytest.raises(UnavailableError, match="2 requests wait for an engine already"):
            await ask()
        await sync_to_async(becomes_ready)()
        return await asyncio.gather(*waiting)

    with running(engine):
        assert run(work) == ["late", "late"]
    assert len(waiting_room) == 0


def test_a_request_that_a_leaving_engine_refuses_waits_for_the_one_that_comes_in_its_place() -> None:
    old, new = StandIn("old"), StandIn("new")
    old.status = 503
    old.go_on.clear()

    def change(row: Deployment, **fields: Any) -> None:
        with transaction.atomic():
            deployments.change(row.pk, **fields)

    async def work() -> str:
        asked = asyncio.create_task(ask())
        await until(lambda: bool(old.asked))
        await sync_to_async(change)(leaving, status=DeploymentStatus.DRAINING, is_active=False, wants_active=False)
        old.go_on.set()
        await until(lambda: len(waiting_room) == 1)
        await sync_to_async(change)(coming, status=DeploymentStatus.READY, port=new.port, is_active=True)
        return await asked

    with running(old, new):
        leaving = make_deployment(make_model("m"), port=old.port, is_active=True)
        coming = make_deployment(make_model("n"), status=DeploymentStatus.STARTING, wants_active=True)
        assert run(work) == "new"


def test_whoever_waits_too_long_or_for_an_engine_that_fails_is_told() -> None:
    settings.put(SYSTEM, "serving.wait_seconds", 0)
    coming = make_deployment(make_model("m"), status=DeploymentStatus.CHECKING, wants_active=True)
    with pytest.raises(UnavailableError, match="The engine of m is checking"):
        run(ask)
    settings.put(SYSTEM, "serving.wait_seconds", 60)

    def fails() -> None:
        with transaction.atomic():
            deployments.change(coming.pk, status=DeploymentStatus.FAILED, wants_active=False)

    async def work() -> None:
        waiting = asyncio.create_task(ask())
        await until(lambda: len(waiting_room) == 1)
        await sync_to_async(fails)()
        with pytest.raises(UnavailableError, match="No model is active"):
            await waiting

    run(work)


def test_a_model_is_loaded_when_somebody_names_it() -> None:
    settings.put(SYSTEM, "serving.wait_seconds", 0)
    make_model("sleeper")
    with pytest.raises(UnavailableError, match="'sleeper' is not being served"):
        run(lambda: ask(model="sleeper"))
    serving_options.put(SYSTEM, "sleeper", load_on_demand=True)
    for _ in range(2):  # the second finds the engine that the first has asked for
        with pytest.raises(UnavailableError, match="The engine of sleeper is starting"):
            run(lambda: ask(model="sleeper"))
    row = Deployment.objects.get()
    assert (row.kept, row.wants_active, row.status) == (True, False, DeploymentStatus.STARTING)


# --- Shared names -----------------------------------------------------------------------------------------------------


def test_a_shared_name_goes_to_its_models_by_weight_and_a_person_stays_with_one(pair: tuple[StandIn, StandIn]) -> None:
    other = StandIn("other")
    with running(other):
        make_deployment(make_model("n"), port=other.port)
        splits.put(SYSTEM, "both", [{"model": "m", "weight": 1}, {"model": "n", "weight": 1}])
        asked = [splits.in_order(splits.get("both"))[0] for _ in range(400)]
        assert 120 < asked.count("m") < 280  # beyond eight standard deviations
        people = [splits.in_order(splits.get("both"), f"person {number}")[0] for number in range(100)]
        assert people == [splits.in_order(splits.get("both"), f"person {number}")[0] for number in range(100)]
        assert set(people) == {"m", "n"}
        Deployment.objects.filter(model__name="n").update(status=DeploymentStatus.STOPPED)
        with pytest.raises(ConflictError, match="answers for the shared name both"):
            models.delete(SYSTEM, "n")
        Deployment.objects.filter(model__name="n").update(status=DeploymentStatus.READY)
        splits.put(SYSTEM, "both", [{"model": "m", "weight": 0}, {"model": "n", "weight": 3}])
        assert run(lambda: ask(model="both")) == "other"
        splits.put(SYSTEM, "both", [{"model": "m", "weight": 1}, {"model": "n", "weight": 1000}])
        Deployment.objects.filter(model__name="n").update(status=DeploymentStatus.FAILED)
        assert run(lambda: ask(model="both")) in ("first", "second")  # the other one stands in
        Deployment.objects.filter(model__name="n").update(status=DeploymentStatus.READY)
        held_to_m = Actor("key k", Role.USE, limits=KeyLimits(models=("m",)))
        assert {finding.find("both", held_to_m).model_name for _ in range(20)} == {"m"}
