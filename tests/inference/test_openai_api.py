"""The OpenAI surface of a real serve job, through the official client and through plain HTTP."""

import asyncio
import json
import threading
from typing import Any

import httpx
import openai
import pytest

from inference.engine.loading import LoadedModel
from inference.engine.schema_limits import MOST_ALTERNATIVES
from inference.engine.text import REPLACEMENT
from tests.inference.models import CHATS
from tests.inference.serving import TOKEN, ServeJob, wait_for

PICTURES = "Say it in pictures."
COUNT = "Count."
CHAT = "/v1/chat/completions"


def body(question: str = COUNT, **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": "house/taught", "messages": messages, "temperature": 0, **options}


def endless(loaded: LoadedModel, **options: Any) -> dict[str, Any]:
    """A request that runs until the context is full."""
    return body(logit_bias={str(token): -100 for token in loaded.end_token_ids}, **options)


def stats(http: httpx.Client) -> dict[str, Any]:
    answer: dict[str, Any] = http.get("/stats").json()
    return answer


def is_idle(http: httpx.Client) -> bool | None:
    figures = stats(http)
    return True if (figures["running"], figures["waiting"]) == (0, 0) else None


def error_of(answer: httpx.Response) -> dict[str, Any]:
    whole = answer.json()
    assert set(whole) == {"error"}
    assert set(whole["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = whole["error"]
    return error


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def made_call(arguments: str) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "steer", "arguments": arguments}}


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


# --- Chats, through the official client -------------------------------------------------------------------------------


@pytest.mark.parametrize("question", CHATS)
def test_a_chat_is_answered(client: openai.OpenAI, loaded: LoadedModel, model_name: str, question: str) -> None:
    answer = client.chat.completions.create(
        model=model_name, messages=[{"role": "user", "content": question}], temperature=0, user="somebody"
    )
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", CHATS[question], "stop")
    assert (answer.object, answer.model) == ("chat.completion", model_name)
    usage = answer.usage
    assert usage is not None
    ids = loaded.encoder.encode(CHATS[question], add_special_tokens=False)
    assert usage.completion_tokens == len(ids) + 1  # the end of the turn was generated too
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_content_may_come_in_parts_and_developer_is_system(client: openai.OpenAI, model_name: str) -> None:
    parts: Any = [{"type": "text", "text": "Cou"}, {"type": "text", "text": "nt."}]
    whole = client.chat.completions.create(
        model=model_name, messages=[{"role": "user", "content": parts}], temperature=0, n=1,
        response_format={"type": "text"},
    )  # fmt: skip
    assert whole.choices[0].message.content == CHATS[COUNT]
    usages = []
    for role in ("developer", "system"):
        messages: Any = [{"role": role, "content": "Be brief."}, {"role": "user", "content": COUNT}]
        answer = client.chat.completions.create(model=model_name, messages=messages, max_tokens=3, temperature=0)
        assert answer.usage is not None
        usages.append((answer.usage.prompt_tokens, answer.choices[0].message.content))
    assert usages[0] == usages[1]


def test_an_answer_can_be_sent_back(client: openai.OpenAI, model_name: str) -> None:
    first = client.chat.completions.create(
        model=model_name, messages=[{"role": "user", "content": COUNT}], temperature=0
    )
    said: Any = first.choices[0].message.model_dump()
    turns: Any = [{"role": "user", "content": COUNT}, said, {"role": "user", "content": "Go on."}]
    second = client.chat.completions.create(model=model_name, messages=turns, max_tokens=2)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.prompt_tokens > first.usage.total_tokens


def test_a_stream_adds_up_and_breaks_no_character(client: openai.OpenAI, model_name: str) -> None:
    chunks = list(
        client.chat.completions.create(
            model=model_name, messages=[{"role": "user", "content": PICTURES}], temperature=0, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == CHATS[PICTURES]
    assert len([piece for piece in pieces if piece]) > 10
    assert not any(REPLACEMENT in piece for piece in pieces)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == "stop"
    assert not any(reasons[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_events_of_a_stream(http: httpx.Client) -> None:
    with http.stream("POST", CHAT, json=body(max_tokens=3, stream=True)) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events[-1] == "[DONE]"
    last = json.loads(events[-2])
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["pilothouse"]["time_to_first_token_ms"] > 0
    assert "usage" not in last


@pytest.mark.parametrize("is_streamed", [True, False])
def test_stop_strings_count_across_tokens(client: openai.OpenAI, model_name: str, is_streamed: bool) -> None:
    messages: Any = [{"role": "user", "content": COUNT}]
    options: Any = {"model": model_name, "messages": messages, "temperature": 0, "stop": ["no", " 10 11 1"]}
    if is_streamed:
        chunks = list(client.chat.completions.create(stream=True, **options))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        choice = client.chat.completions.create(**options).choices[0]
        text, reason = choice.message.content, choice.finish_reason
    assert (text, reason) == ("1 2 3 4 5 6 7 8 9", "stop")


def test_n_choices_differ_and_a_seed_repeats_them(client: openai.OpenAI, model_name: str) -> None:
    def texts(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model=model_name, messages=[{"role": "user", "content": "Sing."}], temperature=1.8, seed=seed, n=3,
            max_completion_tokens=12,
        )  # fmt: skip
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = texts(5)
    assert first == texts(5)
    assert first != texts(6)
    assert len(set(first)) == 3


def test_streamed_choices_keep_apart(client: openai.OpenAI, model_name: str) -> None:
    texts = {0: "", 1: ""}
    for chunk in client.chat.completions.create(
        model=model_name, messages=[{"role": "user", "content": PICTURES}], temperature=0, n=2, stream=True
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: CHATS[PICTURES], 1: CHATS[PICTURES]}


def test_log_probabilities(client: openai.OpenAI, model_name: str) -> None:
    options: Any = {"model": model_name, "messages": [{"role": "user", "content": PICTURES}], "temperature": 0}
    choice = client.chat.completions.create(logprobs=True, top_logprobs=2, **options).choices[0]
    assert choice.logprobs is not None
    entries = choice.logprobs.content or []
    assert bytes(byte for entry in entries for byte in entry.bytes or []).decode() == choice.message.content
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in entries)
    assert all(entry.top_logprobs[0].logprob == entry.logprob for entry in entries)
    streamed = [
        entry
        for chunk in client.chat.completions.create(logprobs=True, stream=True, **options)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or []
    ]
    assert [entry.bytes for entry in streamed] == [entry.bytes for entry in entries]


def test_penalties_change_the_answer(http: httpx.Client) -> None:
    def answer(**options: Any) -> str:
        return str(http.post(CHAT, json=body(max_tokens=30, **options)).json()["choices"][0]["message"]["content"])

    plain = answer()
    assert answer(presence_penalty=0, frequency_penalty=0, repetition_penalty=1.0, top_k=0, min_p=0) == plain
    assert answer(repetition_penalty=10.0) != plain
    assert answer(logit_bias={"20": 100}) != plain


# --- JSON and tools ---------------------------------------------------------------------------------------------------

DEGREES: dict[str, Any] = {
    "type": "object", "properties": {"degrees": {"type": "integer", "minimum": 0, "maximum": 359}},
    "required": ["degrees"], "additionalProperties": False,
}  # fmt: skip


def test_json_by_a_schema_and_any_object(client: openai.OpenAI, model_name: str) -> None:
    messages: Any = [{"role": "user", "content": COUNT}]
    formats: Any = [schema_format(DEGREES), {"type": "json_object"}]
    held, free = (
        client.chat.completions.create(
            model=model_name, messages=messages, temperature=1, seed=1, max_tokens=60, response_format=form
        ).choices[0]
        for form in formats
    )
    assert 0 <= json.loads(held.message.content or "")["degrees"] <= 359
    assert held.finish_reason == "stop"
    assert (free.message.content or "").startswith("{")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "steer"}}])
def test_calls_of_tools_whole_and_streamed(client: openai.OpenAI, model_name: str, choice: Any) -> None:
    options: Any = {
        "model": model_name, "messages": [{"role": "user", "content": COUNT}], "temperature": 1, "seed": 3,
        "tools": [tool("steer", DEGREES)], "tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 200,
    }  # fmt: skip
    whole = client.chat.completions.create(**options).choices[0]
    assert (whole.finish_reason, whole.message.content) == ("tool_calls", None)
    assert whole.message.tool_calls is not None
    (call,) = whole.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "steer"
    assert 0 <= json.loads(call.function.arguments)["degrees"] <= 359
    chunks = list(client.chat.completions.create(stream=True, **options))
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or ()]
    assert [piece.function.name for piece in pieces if piece.function and piece.function.name] == ["steer"]
    assert [bool(piece.id) for piece in pieces] == [True, *[False] * (len(pieces) - 1)]
    assert "".join(piece.function.arguments or "" for piece in pieces if piece.function) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert not any(chunk.choices[0].delta.content for chunk in chunks)


def test_tools_that_are_not_called_change_nothing_but_the_prompt(client: openai.OpenAI, model_name: str) -> None:
    options: Any = {"model": model_name, "messages": [{"role": "user", "content": COUNT}], "temperature": 0}
    tools: Any = [tool("steer")]
    unused = client.chat.completions.create(tools=tools, tool_choice="none", **options).choices[0]
    assert (unused.message.content, unused.message.tool_calls) == (CHATS[COUNT], None)
    told = client.chat.completions.create(tools=tools, max_tokens=5, **options)
    assert told.choices[0].message.content
    plain = client.chat.completions.create(max_tokens=5, **options)
    assert told.usage is not None
    assert plain.usage is not None
    assert told.usage.prompt_tokens > plain.usage.prompt_tokens + 20


def test_a_tools_answer_is_part_of_the_conversation(client: openai.OpenAI, model_name: str) -> None:
    turns: Any = [
        {"role": "user", "content": "West!"},
        {"role": "assistant", "content": None, "tool_calls": [made_call('{"degrees": 270}')]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "The ship has turned."}]},
    ]
    options: Any = {"model": model_name, "max_tokens": 2, "tools": [tool("steer")]}
    answer = client.chat.completions.create(messages=turns, **options)
    shorter = client.chat.completions.create(messages=turns[:1], **options)
    assert answer.usage is not None
    assert shorter.usage is not None
    assert answer.usage.prompt_tokens > shorter.usage.prompt_tokens + 30


# --- Completions and models -------------------------------------------------------------------------------------------


def test_plain_completions(client: openai.OpenAI, model_name: str) -> None:
    start = f"<|im_start|>user\n{COUNT}<|im_end|>\n<|im_start|>assistant\n"
    answer = client.completions.create(
        model=model_name, prompt=[start, f"{start}1 2"], temperature=0, max_tokens=60, logprobs=1
    )
    assert [choice.text for choice in answer.choices] == [CHATS[COUNT], CHATS[COUNT].removeprefix("1 2")]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == CHATS[COUNT]
    default = client.completions.create(model=model_name, prompt=start, temperature=0)
    assert default.usage is not None
    assert default.usage.completion_tokens == 16
    streamed = client.completions.create(model=model_name, prompt=start, temperature=0, max_tokens=60, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == CHATS[COUNT]


def test_models(client: openai.OpenAI, model_name: str) -> None:
    assert [model.id for model in client.models.list()] == [model_name]
    assert client.models.retrieve(model_name).id == model_name
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("house/other")
    assert caught.value.code == "model_not_found"


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f f"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [tool("f"), tool("f")]}, "tools"),
        ({"tools": [tool("f", {"type": "ship"})]}, "tools.0.function.parameters"),
        ({"tools": [tool("f", {"enum": list(range(MOST_ALTERNATIVES + 1))})]}, "tools.0.function.parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [tool("f")], "tool_choice": {"type": "function", "function": 3}}, "tool_choice.function"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": schema_format(None)}, "response_format.json_schema.schema"),
        ({"response_format": schema_format({"type": "ship"})}, "response_format.json_schema.schema"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"store": True}, "store"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"wheel": 1}, "wheel"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 100}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"stop": 3}, "stop"),
        ({"stop": ["a", ""]}, "stop.1"),
        ({"stop": ""}, "stop"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"chat_template_kwargs": {"enable_flying": True}}, "chat_template_kwargs.enable_flying"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "messages.0.name"),
        ({"messages": [{"role": "pirate", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "messages.0.content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [made_call("{}")]}]}, "messages.0.tool_calls"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [made_call("{")]}]},
            "messages.0.tool_calls.0.function.arguments",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [made_call('{"a":' * 9000 + "1" + "}" * 9000)]}]},
            "messages.0.tool_calls.0.function.arguments",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": "long " * 2000}]}, "messages"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(http: httpx.Client, options: dict[str, Any], param: str) -> None:
    before = stats(http)["requests"]
    answer = http.post(CHAT, json=body(**options))
    error = error_of(answer)
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert stats(http)["requests"] == before


def test_options_at_rest_are_as_good_as_not_given(http: httpx.Client) -> None:
    at_rest: dict[str, Any] = {
        "tools": None,
        "store": False,
        "functions": [],
        "stop": None,
        "seed": None,
        "service_tier": "auto",
    }
    assert http.post(CHAT, json={**body(max_tokens=1), **at_rest}).status_code == 200


def test_a_prompt_longer_than_the_context(http: httpx.Client) -> None:
    error = error_of(http.post(CHAT, json=body("long " * 2000)))
    assert error["code"] == "context_length_exceeded"
    plain = http.post("/v1/completions", json={"model": "house/taught", "prompt": "long " * 2000})
    assert error_of(plain)["param"] == "prompt"


def test_other_refusals(http: httpx.Client) -> None:
    echo = http.post("/v1/completions", json={"model": "house/taught", "prompt": "x", "echo": True})
    assert (echo.status_code, error_of(echo)["param"]) == (400, "echo")
    assert http.post("/v1/completions", json={"model": "house/taught"}).status_code == 400
    torn = http.post(CHAT, content=b'{"model": ', headers={"content-type": "application/json"})
    assert (torn.status_code, error_of(torn)["type"]) == (400, "invalid_request_error")
    other = http.post(CHAT, json={**body(), "model": "other"})
    assert (other.status_code, error_of(other)["code"]) == (404, "model_not_found")
    assert error_of(http.get("/v1/files"))["type"] == "invalid_request_error"
    assert http.get("/v1/files").status_code == 404
    assert http.get(CHAT).status_code == 405


def test_nobody_comes_in_without_the_token(job: ServeJob) -> None:
    with httpx.Client(base_url=job.url()) as stranger:
        assert stranger.get("/health").json() == {"status": "ok"}
        for call in (("GET", "/stats"), ("GET", "/v1/models"), ("POST", CHAT), ("POST", "/health")):
            for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}):
                answer = stranger.request(*call, json=body(), headers=headers)
                assert answer.status_code == 401
                assert error_of(answer)["code"] == "invalid_api_key"


def test_the_token_stands_in_no_log_event_or_argument(job: ServeJob) -> None:
    job.url()
    said = [
        path.read_text() for path in (job.folder / "events.jsonl", job.folder / "log.txt", job.folder / "spec.json")
    ]
    assert not any(TOKEN in text for text in [*said, *map(str, job.process.args)])  # type: ignore[arg-type]


# --- Many at once -----------------------------------------------------------------------------------------------------


def test_clients_at_once_get_what_each_gets_alone(http: httpx.Client, job: ServeJob) -> None:
    answers: dict[str, str] = {}

    def ask(question: str) -> None:
        with job.client() as own:
            answers[question] = own.post(CHAT, json=body(question)).json()["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=ask, args=(question,)) for question in CHATS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == CHATS


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_leaves_frees_its_rows(job: ServeJob, loaded: LoadedModel, is_streamed: bool) -> None:
    with job.client() as watcher:
        wait_for(lambda: is_idle(watcher), "the engine to be idle")
        with job.client() as leaver:
            if is_streamed:
                with leaver.stream("POST", CHAT, json=endless(loaded, n=4, stream=True)) as answer:
                    next(answer.iter_lines())
                    wait_for(lambda: stats(watcher)["running"] == 4, "its rows to be at work")
            else:
                with pytest.raises(httpx.ReadTimeout):
                    leaver.post(CHAT, json=endless(loaded, n=4), timeout=0.5)
        wait_for(lambda: is_idle(watcher), "the rows to be free", 10)


async def _fill_and_ask(job: ServeJob, request: dict[str, Any]) -> httpx.Response:
    """Fills the rows with one request and the queue with three; returns what the next one is answered."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=job.url(), headers=headers, timeout=60) as client:
        tasks: list[asyncio.Task[httpx.Response]] = []
        try:
            for running, waiting in ((4, 0), (4, 1), (4, 2), (4, 3)):
                tasks.append(asyncio.create_task(client.post(CHAT, json=request)))
                async with asyncio.timeout(60):
                    while True:
                        figures = (await client.get("/stats")).json()
                        if (figures["running"], figures["waiting"]) == (running, waiting):
                            break
            return await client.post(CHAT, json=body(max_tokens=1))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def test_a_full_queue_says_when_to_come_again(http: httpx.Client, job: ServeJob, loaded: LoadedModel) -> None:
    wait_for(lambda: is_idle(http), "the engine to be idle")
    answer = asyncio.run(_fill_and_ask(job, endless(loaded, n=4)))
    assert (answer.status_code, error_of(answer)["code"]) == (503, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    wait_for(lambda: is_idle(http), "those who left to be forgotten", 10)


def test_figures(http: httpx.Client) -> None:
    before = stats(http)
    usage = http.post(CHAT, json=body(max_tokens=7)).json()["usage"]
    after = stats(http)
    assert after["requests"] == before["requests"] + 1
    assert after["tokens"] == before["tokens"] + usage["completion_tokens"] == before["tokens"] + 7
    assert after["prompt_tokens"] == before["prompt_tokens"] + usage["prompt_tokens"]
    assert after["tokens_per_second"] > 0
    assert after["time_to_first_token_ms_last"] > 0
    assert after["time_to_first_token_ms_mean"] > 0
