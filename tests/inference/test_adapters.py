"""Adapters beside their base: in one batch each answers as it does alone, and what does not belong is refused."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from transformers import AutoModelForCausalLM

from inference.engine.adapters import refuse_experts
from inference.engine.base import BASE_MODEL, GenerationRequest, InvalidRequestError
from inference.engine.loading import LoadedModel, load_model
from inference.engine.prefixes import BLOCK_TOKENS
from inference.engine.transformers import TransformersEngine
from inference.options import ServeOptions
from inference.serve import _service
from inference.server import create_app
from monitoring.attempt import JobFaultError
from monitoring.events import Artefact
from monitoring.files import hashes_of
from tests.inference.models import CHATS
from tests.inference.pending import GREEDY, Pending, chat
from training.profiles.base import load_profile

TOKENS = 30


def artefacts(folders: dict[str, Path]) -> list[Artefact]:
    return [Artefact(name, str(folder)) for name, folder in folders.items()]


@pytest.fixture(scope="module")
def mixed(taught_model: Path, adapter_folders: dict[str, Path]) -> LoadedModel:
    base = Artefact("taught", str(taught_model))
    return load_model(base, None, adapters=artefacts(adapter_folders), dtype="float32", cpu_threads=1)


@pytest.fixture(scope="module")
def mixed_engine(mixed: LoadedModel) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(mixed, [], max_batch=6, max_queue=64, prefix_cache_bytes=2**26)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def alone(taught_model: Path, adapter_folders: dict[str, Path], mixed: LoadedModel) -> dict[tuple[str, str], list[int]]:
    """What `generate` makes of each question under each adapter, loaded alone."""
    answers = {}
    for name in (BASE_MODEL, *adapter_folders):
        model: Any = AutoModelForCausalLM.from_pretrained(taught_model, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, adapter_folders[name]) if name else model
        for question in CHATS:
            prompt = torch.tensor([chat(mixed, question)])
            with torch.inference_mode():
                row = model.eval().generate(
                    input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=TOKENS, do_sample=False
                )[0]
            answers[name, question] = row[prompt.shape[1] :].tolist()
    assert len({tuple(answer) for answer in answers.values()}) > len(CHATS) + 2  # the adapters do say something else
    return answers


def test_in_one_batch_each_answers_as_it_does_alone(
    mixed_engine: TransformersEngine, mixed: LoadedModel, alone: dict[tuple[str, str], list[int]]
) -> None:
    for _ in range(2):  # the second time from what is kept, of each adapter its own
        pending = {
            key: Pending(mixed_engine, GenerationRequest(chat(mixed, key[1]), TOKENS, GREEDY, adapter=key[0]))
            for key in sorted(alone, key=lambda key: key[1])
        }
        assert {key: one.finish().tokens() for key, one in pending.items()} == alone
    known = [key for key in alone if len(chat(mixed, key[1])) > BLOCK_TOKENS]
    assert mixed_engine.stats().prefix_hits >= len(known) > 0


def test_each_is_asked_for_by_its_name(
    mixed_engine: TransformersEngine,
    mixed: LoadedModel,
    adapter_folders: dict[str, Path],
    alone: dict[tuple[str, str], list[int]],
) -> None:
    options = ServeOptions.from_config(
        {"adapters": [{"name": name, "path": str(folder)} for name, folder in adapter_folders.items()]}, "house/taught"
    )
    assert [(adapter.name, adapter.path) for adapter in options.adapters] == [
        (n, str(f)) for n, f in adapter_folders.items()
    ]
    profiles = {name: load_profile("plain", system_prompt="", options={}) for name in (BASE_MODEL, *adapter_folders)}
    app = create_app(_service(mixed, mixed_engine, options, profiles, "token"))
    names = ["house/taught", *adapter_folders]

    async def ask() -> None:
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": "Bearer token"}
        async with httpx.AsyncClient(transport=transport, base_url="http://engine", headers=headers) as client:
            assert [row["id"] for row in (await client.get("/v1/models")).json()["data"]] == names
            for adapter, name in zip((BASE_MODEL, *adapter_folders), names, strict=True):
                body = {"model": name, "messages": [{"role": "user", "content": "Count."}], "temperature": 0}
                answer = (await client.post("/v1/chat/completions", json={**body, "max_tokens": TOKENS})).json()
                said = mixed.tokenizer.decode(alone[adapter, "Count."], skip_special_tokens=True)
                assert answer["model"] == name
                # Half a character at the end is not told.
                assert said.startswith(answer["choices"][0]["message"]["content"].rstrip("\ufffd"))
                assert answer["choices"][0]["message"]["content"]
                assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0
            unknown = await client.get("/v1/models/house/other")
            assert unknown.status_code == 404
            assert "'house/loud', 'house/calm.v2'" in unknown.json()["error"]["message"]

    asyncio.run(ask())


def test_an_adapter_that_is_not_there_is_refused(mixed_engine: TransformersEngine) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        mixed_engine.submit(GenerationRequest([5], adapter="house/other"), lambda _: None)
    assert caught.value.parameter == "model"


@pytest.mark.parametrize(
    "fault",
    [
        ("pilothouse.json", {"base": {"id": "taught", "sha256": "0" * 64}}, "adapter_of_other_base"),
        ("adapter_config.json", {"use_dora": True}, "adapter_unmixable"),
        ("adapter_config.json", {"peft_type": "IA3"}, "adapter_unmixable"),
        ("adapter_config.json", None, "adapter_missing"),
        ("adapter_config.json", "{", "adapter_unreadable"),
        ("pilothouse.json", "[]", "adapter_unreadable"),
    ],
)
def test_what_does_not_belong_is_refused(
    taught_model: Path, adapter_folders: dict[str, Path], tmp_path: Path, fault: tuple[str, Any, str]
) -> None:
    file, change, code = fault
    folder = tmp_path / "adapter"
    shutil.copytree(adapter_folders["house/loud"], folder)
    if change is None:
        (folder / file).unlink()
    elif isinstance(change, str):
        (folder / file).write_text(change)
    else:
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **change}))
    base = Artefact("taught", str(taught_model))
    with pytest.raises(JobFaultError) as caught:
        load_model(base, None, adapters=[Artefact("house/loud", str(folder))], dtype="float32")
    assert caught.value.code == code
    assert "house/loud" in caught.value.message
    assert caught.value.fix


def test_an_adapter_of_experts_is_refused_by_its_name() -> None:
    experts = torch.nn.ModuleList([torch.nn.ModuleDict({"up": torch.nn.Linear(4, 4)})])
    model = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(4, 4), "experts": experts})
    adapters = [Artefact("house/quiet", "a"), Artefact("house/loud", "b")]
    inject_adapter_in_model(LoraConfig(r=1, target_modules=["q_proj"]), model, adapter_name="adapter_0")
    refuse_experts(model, adapters)
    inject_adapter_in_model(LoraConfig(r=1, target_modules=["up"]), model, adapter_name="adapter_1")
    with pytest.raises(JobFaultError, match=r"house/loud can't be served beside others \(LoRA on experts\)") as caught:
        refuse_experts(model, adapters)
    assert caught.value.code == "adapter_unmixable"


def test_the_registrys_note_of_a_base_spares_reading_it(
    taught_model: Path, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(taught_model, base)
    (base / "pilothouse.json").write_text(json.dumps({"hashes": hashes_of(taught_model)}))
    (base / "README.md").write_text("came later")
    beside = artefacts(adapter_folders)[:1]
    assert load_model(Artefact("taught", str(base)), None, adapters=beside).adapters.names == ("house/loud",)


def test_beside_an_adapter_there_is_no_place_for_others(taught_model: Path, adapter_folders: dict[str, Path]) -> None:
    first, second = artefacts(adapter_folders)
    with pytest.raises(JobFaultError) as caught:
        load_model(first, Artefact("taught", str(taught_model)), adapters=[second])
    assert caught.value.code == "adapters_need_base"
