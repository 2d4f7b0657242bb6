"""vLLM's command line, which needs no GPU; its run, which does, is marked."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine.vllm import VllmCommand, sum_of
from inference.options import ServeOptions
from monitoring.attempt import JobFaultError, run_attempt
from monitoring.events import Artefact, Error, Inputs, JobSpec, decode_event
from tests.inference.serving import ServeJob, write_spec
from training import quantization

HERMES = "{% for tool in tools %}<tool_call>{{ tool.arguments }}{% endfor %}"


def model_in(folder: Path, template: str = "") -> Path:
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


def adapter_in(folder: Path, rank: int) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "rank_pattern": {"q_proj": rank + 5}}))
    return folder


def line(model: Path, base: Path | None = None, gpus: tuple[str, ...] = (), **config: Any) -> list[str]:
    inputs = Inputs(model=Artefact("m", str(model)), base=Artefact("b", str(base)) if base else None)
    spec = JobSpec(1, 1, "serve", "serve", "here", "/out", inputs=inputs, gpus=gpus)
    options = ServeOptions.from_config({"engine": "vllm", "model_name": "house/m", **config}, "m")
    return VllmCommand.of(spec, options).arguments(options, 4000)


def test_a_full_model(tmp_path: Path) -> None:
    folder = model_in(tmp_path / "model")
    assert line(folder) == [
        "serve", str(folder), "--host", "127.0.0.1", "--port", "4000", "--served-model-name", "house/m",
        "--dtype", "auto", "--max-num-seqs", "8", "--tensor-parallel-size", "1",
    ]  # fmt: skip


def test_settings_become_options(tmp_path: Path) -> None:
    folder = model_in(tmp_path / "model", HERMES)
    told = line(
        folder, gpus=("GPU-1", "GPU-2"), dtype="bfloat16", max_batch=64, max_model_length=900, prefix_cache_mib=0
    )
    assert told[8:] == [
        "--dtype", "bfloat16", "--max-num-seqs", "64", "--tensor-parallel-size", "2", "--max-model-len", "900",
        "--no-enable-prefix-caching", "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
    ]  # fmt: skip


def test_weights_of_four_bits_are_bitsandbytes(tmp_path: Path) -> None:
    told = line(model_in(tmp_path / "model"), load_in_4bit=True)
    assert told[-2:] == ["--quantization", "bitsandbytes"]


def test_adapters_stand_beside_their_base(tmp_path: Path) -> None:
    base, first, second = model_in(tmp_path / "base"), adapter_in(tmp_path / "one", 8), adapter_in(tmp_path / "two", 12)
    beside = [{"name": "house/two", "path": str(second)}]
    assert line(base, adapters=beside)[-6:] == [
        "--max-loras", "1", "--max-lora-rank", "32", "--lora-modules", f"house/two={second}",
    ]  # fmt: skip
    told = line(first, base, adapters=beside)
    assert told[1] == str(base)
    assert told[told.index("--served-model-name") + 1] == "b"
    assert told[told.index("--lora-modules") + 1 :] == [f"house/m={first}", f"house/two={second}"]
    with pytest.raises(JobFaultError) as caught:
        line(first)
    assert caught.value.code == "base_missing"


def test_metrics_are_summed_over_their_labels() -> None:
    text = '# HELP a x\na{engine="0"} 2.0\na{engine="1"} 1.5\nab{engine="0"} 7\nb 4\n'
    assert sum_of(text, ["a"]) == 3.5
    assert sum_of(text, ["a", "b"]) == 7.5
    assert sum_of(text, ["c"]) is None


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({}, "engine_missing"),
        ({"profile": {"name": "emoji_think"}}, "profile_unsupported"),
        ({"max_queue": 3}, "bad_setting"),
        ({"cpu_threads": 3}, "bad_setting"),
        ({"load_in_8bit": True}, "bad_setting"),
        ({"device": "cuda:1"}, "bad_setting"),
    ],
)
def test_where_it_can_not_run_it_says_why(
    taught_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], code: str
) -> None:
    from inference.serve import serve

    monkeypatch.setenv("PATH", str(tmp_path))
    spec = write_spec(tmp_path, taught_model, {"engine": "vllm", "cpu_threads": 0, **config})
    assert run_attempt(spec, serve) == 1
    body = decode_event((tmp_path / "events.jsonl").read_bytes().splitlines()[-1]).body
    assert isinstance(body, Error)
    assert (body.code, bool(body.fix)) == (code, True)


def test_four_bits_without_their_package_are_refused_before_it_starts(
    taught_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference.serve import serve

    monkeypatch.setattr(quantization, "find_spec", lambda _name: None)
    spec = write_spec(tmp_path, taught_model, {"engine": "vllm", "cpu_threads": 0, "load_in_4bit": True})
    assert run_attempt(spec, serve) == 1
    body = decode_event((tmp_path / "events.jsonl").read_bytes().splitlines()[-1]).body
    assert isinstance(body, Error)
    assert body.code == "package_missing"
    assert "bitsandbytes" in body.message
    assert "--extras quant" in body.fix


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or shutil.which("vllm") is None, reason="vLLM and a GPU are needed")
def test_it_serves(taught_model: Path, tmp_path: Path) -> None:
    job = ServeJob.start(tmp_path, taught_model, {"engine": "vllm", "dtype": "float32", "cpu_threads": 0})
    try:
        with job.client() as client:
            body = {"model": "house/taught", "messages": [{"role": "user", "content": "Count."}], "temperature": 0}
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.json()["choices"][0]["message"]["content"].startswith("1 2 3")
        job.process.terminate()
        assert job.wait() == 0
    finally:
        job.stop()
    assert job.event("result").values["requests"] == 1
