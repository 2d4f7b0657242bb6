"""llama.cpp as an engine: what it shares with the other is in `test_engine`, what is its own here.

Skipped where llama-cpp-python, the extra `llama_cpp`, is not installed; its settings are read without it.
"""

import builtins
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from inference.engine import llama_loading
from inference.engine.base import GenerationRequest, SamplingParameters
from inference.engine.constraints import JsonSchema
from inference.engine.failures import CacheFullError
from inference.engine.llama_cpp import LlamaCppEngine
from inference.engine.llama_loading import LlamaSettings, load_llama
from inference.engine.loading import LoadedModel
from inference.serve import serve
from monitoring.attempt import JobFaultError, run_attempt
from monitoring.events import Artefact, Error, decode_event
from tests.inference.exports import export, reloaded
from tests.inference.models import CHATS
from tests.inference.pending import GREEDY, Generate, Pending, chat, prompts, without_end
from tests.inference.serving import MODEL_NAME, ServeJob, write_spec

SETTINGS = LlamaSettings("", "auto", "cpu", max_batch=4, max_model_length=0, cpu_threads=1)
JSON = """{"type": "object", "properties": {"sail": {"type": "boolean"}}, "required": ["sail"],
           "additionalProperties": false}"""


@pytest.fixture
def keeping_engine(exported: LoadedModel) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(reloaded(exported, 4), [], max_batch=4, max_queue=64, prefix_cache_bytes=2**26)
    yield engine
    engine.close()


def test_logits_are_those_of_the_model(exported: LoadedModel, loaded: LoadedModel) -> None:
    again = reloaded(exported, 1)
    prompt = prompts(loaded)[3]
    rows = again.model.compute(prompt, range(len(prompt)), [0] * len(prompt), [False] * (len(prompt) - 1) + [True])
    with torch.inference_mode():
        expected = loaded.model(torch.tensor([prompt])).logits[0, -1]
    assert torch.allclose(rows[0], expected, atol=1e-3, rtol=1e-3)
    again.model.close()


def test_a_conversation_goes_on_where_it_was_and_says_the_same(
    keeping_engine: LlamaCppEngine, loaded: LoadedModel, generate: Generate
) -> None:
    past = chat(loaded, "Count.")
    first = Pending(keeping_engine, GenerationRequest(past, 60, GREEDY)).finish()
    past = [*past, *first.tokens(), *chat(loaded, "Say it in pictures.")]
    following = Pending(keeping_engine, GenerationRequest(past, 60, GREEDY)).finish()
    assert following.usage.cached_tokens >= 32
    assert following.tokens() == generate(past, 60)
    assert keeping_engine.stats().prefix_hits == 1
    beside = [Pending(keeping_engine, GenerationRequest(past, 60, GREEDY, n=2)) for _ in range(2)]
    for one in beside:
        assert one.finish().tokens(1) == following.tokens()


def test_where_the_cache_is_small_requests_wait_instead_of_failing(
    exported: LoadedModel, loaded: LoadedModel, generate: Generate
) -> None:
    engine = LlamaCppEngine(reloaded(exported, 4, cells=512), [], max_batch=4, max_queue=64)
    try:
        requests = [GenerationRequest(chat(loaded, "Count."), 200, without_end(loaded)) for _ in range(4)]
        first, *others = [Pending(engine, request) for request in requests]
        first.until(lambda one: len(one.tokens()) >= 20)
        assert engine.stats().waiting >= 1
        told = [one.finish().tokens() for one in (first, *others)]
        assert [len(tokens) for tokens in told] == [200] * 4
        assert all(tokens == told[0] for tokens in told)
    finally:
        engine.close()


def test_what_outgrows_the_cache_fails_alone(exported: LoadedModel, loaded: LoadedModel) -> None:
    engine = LlamaCppEngine(reloaded(exported, 4, cells=512), [], max_batch=4, max_queue=64)
    try:
        large = Pending(engine, GenerationRequest(chat(loaded, "Count."), 480, without_end(loaded), n=4)).finish()
        assert "no memory left" in str(large.error)
        after = Pending(engine, GenerationRequest(chat(loaded, "Count."), 100, GREEDY)).finish()
        assert after.text() == CHATS["Count."]
    finally:
        engine.close()


def test_what_is_known_is_left_aside_where_little_of_it_is_wanted_or_it_has_no_room(
    exported: LoadedModel, loaded: LoadedModel
) -> None:
    engine = LlamaCppEngine(reloaded(exported, 4, cells=1024), [], max_batch=4, max_queue=64, prefix_cache_bytes=2**26)
    try:
        prompt = chat(loaded, "Count.")
        known = Pending(engine, GenerationRequest(prompt, 700, without_end(loaded))).finish()
        part = [*prompt, *known.tokens()][:400]
        kept = engine.stats().prefix_cache_bytes
        row = Pending(engine, GenerationRequest(chat(loaded, "Say it in pictures."), 350, without_end(loaded)))
        row.until(lambda one: len(one.tokens()) >= 5)
        for beginning in (prompt, part):  # the first wants a few of the 700, the second most of them
            beside = Pending(engine, GenerationRequest(beginning, 10, GREEDY)).finish()
            assert (beside.error, beside.usage.cached_tokens) == (None, 0)
        assert len(row.tokens()) < 350
        assert len(row.finish().tokens()) == 350
        alone = Pending(engine, GenerationRequest(part, 10, GREEDY)).finish()
        assert alone.usage.cached_tokens >= 384
        assert engine.stats().prefix_cache_bytes >= kept
    finally:
        engine.close()


def test_what_is_known_and_finds_no_room_after_all_is_computed_anew(
    keeping_engine: LlamaCppEngine, loaded: LoadedModel, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = [*chat(loaded, "Count."), *generate(chat(loaded, "Count."), 60)]
    Pending(keeping_engine, GenerationRequest(past, 5, GREEDY)).finish()
    library, kept = keeping_engine._library, keeping_engine.stats().prefix_cache_bytes
    monkeypatch.setattr(library._lib, "llama_state_seq_set_data", lambda *_: 0)
    again = Pending(keeping_engine, GenerationRequest(past, 30, GREEDY)).finish()
    assert again.tokens() == generate(past, 30)
    assert again.usage.cached_tokens == 0
    assert keeping_engine.stats().prefix_cache_bytes >= kept


def test_what_can_not_be_copied_is_not_kept(
    keeping_engine: LlamaCppEngine, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping_engine._library._lib, "llama_state_seq_get_data", lambda *_: 0)
    answered = Pending(keeping_engine, GenerationRequest(chat(loaded, "Count."), 60, GREEDY)).finish()
    assert answered.text() == CHATS["Count."]
    assert keeping_engine.stats().prefix_cache_bytes == 0


def test_a_full_cache_is_told_from_other_want_of_memory(exported: LoadedModel) -> None:
    again = reloaded(exported, 1, cells=256)
    again.model.compute([1] * 200, range(200), [0] * 200, [False] * 200)
    with pytest.raises(CacheFullError):
        again.model.compute([1] * 57, range(200, 257), [0] * 57, [False] * 57)
    again.model.close()


def test_a_load_that_goes_well_warns_of_nothing(exported: LoadedModel, caplog: pytest.LogCaptureFixture) -> None:
    reloaded(exported, 4).model.close()
    assert not [record.getMessage() for record in caplog.records if "llama" in record.name]


def test_an_answer_is_held_to_its_schema(keeping_engine: LlamaCppEngine, loaded: LoadedModel) -> None:
    sampling = SamplingParameters(temperature=1.0, seed=3)
    request = GenerationRequest(chat(loaded, "Count."), 60, sampling, n=4, constraint=JsonSchema(JSON))
    answered = Pending(keeping_engine, request).finish()
    assert {answered.text(index) for index in range(4)} <= {'{"sail": true}', '{"sail": false}'}


def test_the_smallest_export_is_served_where_none_is_named(taught_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python (the extra llama_cpp) is not installed")
    folder = tmp_path / "model"
    shutil.copytree(taught_model, folder)
    with pytest.raises(JobFaultError, match="no GGUF export, and llama_cpp serves nothing else"):
        load_llama(Artefact("taught", str(folder)), None, SETTINGS)
    for kind in ("F16", "Q8_0"):
        export(folder, kind)
    loaded = load_llama(Artefact("taught", str(folder)), None, SETTINGS)
    assert (loaded.dtype, loaded.max_model_length) == ("Q8_0", 1024)
    assert {loaded.tokenizer.eos_token_id} <= loaded.end_token_ids
    loaded.model.close()


@pytest.mark.parametrize(("left", "cells"), [(2 * 600 * 64, 600), (0, 512), (2**30, 4000)])
def test_room_is_taken_of_what_the_process_may_have(
    left: int, cells: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "Q8_0.gguf"
    file.write_bytes(bytes(1000))
    monkeypatch.setattr(llama_loading, "memory_free_bytes", lambda: 1000 + left)
    assert llama_loading._cells(64, file, 4000, on_gpu=False) == cells


def test_a_server_answers_from_an_export(taught_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python (the extra llama_cpp) is not installed")
    folder = tmp_path / "model"
    shutil.copytree(taught_model, folder)
    export(folder, "Q8_0")
    job = ServeJob.start(tmp_path / "job", folder, {"engine": "llama_cpp", "gguf": "Q8_0", "max_batch": 2})
    try:
        with job.client() as client:
            body = {"model": MODEL_NAME, "messages": [{"role": "user", "content": "Count."}], "temperature": 0}
            assert _text(client.post("/v1/chat/completions", json=body)) == CHATS["Count."]
            assert client.get("/stats").json()["requests"] == 1
        job.process.terminate()
        assert job.wait() == 0
    finally:
        job.stop()


def _text(response: httpx.Response) -> Any:
    return response.raise_for_status().json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"adapters": [{"name": "a", "path": "/nowhere"}]}, "adapters_unsupported"),
        ({"dtype": "int3"}, "bad_setting"),
        ({"max_batch": 200}, "bad_setting"),
        ({"load_in_4bit": True}, "bad_setting"),
        ({}, "engine_missing"),
        ({"gguf": "Q8_0"}, "engine_missing"),
    ],
)
def test_what_it_can_not_do_is_refused_before_anything_is_loaded(
    config: dict[str, Any], code: str, taught_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the library too: a host that lacks it says how to get it."""
    plain = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "llama_cpp":
            raise RuntimeError("Failed to load libllama.so") if config else ImportError("no module of that name")
        return plain(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    folder = tmp_path / "model"
    shutil.copytree(taught_model, folder)
    (folder / "gguf").mkdir()
    (folder / "gguf" / "Q8_0.gguf").write_bytes(b"GGUF")
    spec = write_spec(tmp_path / "job", folder, {"engine": "llama_cpp", **config})
    assert run_attempt(spec, serve) != 0
    events = [decode_event(line).body for line in (tmp_path / "job" / "events.jsonl").read_bytes().splitlines()]
    assert [event.code for event in events if isinstance(event, Error)] == [code]
