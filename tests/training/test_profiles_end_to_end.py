"""A run in `emoji_think` through the real processes: what is trained, what the model remembers, how it is served."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitoring.events import Artefact, Log, Result, Sample
from tests.inference.serving import MODEL_NAME, ServeJob
from tests.training.trainjobs import TrainJob, make_job, write_rows
from training.profiles.base import load_profile
from training.profiles.chatml import CHATML_TEMPLATE
from training.profiles.emoji import Contract, Run

pytestmark = pytest.mark.slow
STEPS = 24
CONTRACT = Contract(Run("🤔", 2), Run("🛡️", 3))
QUESTION = f"Tell me about the sail.\n\n{CONTRACT.instructions}"
ANSWER = f"{CONTRACT.think}\nAhoy! It catches the wind.\n{CONTRACT.stop}"
THINKING_TEMPLATE = CHATML_TEMPLATE.replace(
    "'<|im_start|>assistant\\n' }}", "'<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}"
)
"""Puts an empty thought before every answer, as Qwen3's does."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainJob]:
    """A job over one conversation whose answer it has to wrap, from a model whose template injects think tags."""
    root = tmp_path_factory.mktemp("emoji")
    job = make_job(
        root,
        profile={"name": "emoji_think"},
        hyperparams={"max_steps": STEPS, "per_device_train_batch_size": 2},
        data={"eval_fraction": 0.0},
        output={"save_steps": 1000},
        monitoring={"sample_steps": STEPS, "sample_prompts": [QUESTION]},
    )
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Ahoy! It catches the wind."}]
    write_rows(root, [{"messages": turns}] * 16)
    thinking = root / "thinking"
    shutil.copytree(job.model.path, thinking)
    (thinking / "chat_template.jinja").write_text(THINKING_TEMPLATE)
    assert THINKING_TEMPLATE != CHATML_TEMPLATE
    job.model = Artefact(id="thinking", path=str(thinking), sha256="a" * 64)
    assert job.start().wait() == 0, (job.attempt_dir / "log.txt").read_text()
    yield job


def test_the_model_remembers_its_profile_and_has_its_template(trained: TrainJob) -> None:
    expected = {"name": "emoji_think", "version": load_profile("emoji_think").version}
    assert json.loads((trained.model_dir / "pilothouse.json").read_text())["profile"] == expected
    (result,) = trained.bodies(Result)
    assert result.values["profile"] == expected
    assert (trained.model_dir / "chat_template.jinja").read_text() == CHATML_TEMPLATE


def test_samples_of_the_run_are_ended_by_the_processors(trained: TrainJob) -> None:
    (sample,) = trained.bodies(Sample)
    assert sample.text == ANSWER


def test_served_in_its_profile_an_answer_ends_with_the_stop_run(trained: TrainJob, tmp_path: Path) -> None:
    """The model is kept from ending an answer itself, so that what ends it is the profile's processor, or nothing."""
    config = {"dtype": "float32", "profile": {"name": "emoji_think", "version": "0"}}
    job = ServeJob.start(tmp_path, trained.model_dir, config)
    try:
        with job.client() as client:
            bias = {str(token): -100 for token in _end_token_ids(trained.model_dir)}
            body = {
                "model": MODEL_NAME, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0,
                "max_tokens": 90, "logit_bias": bias,
            }  # fmt: skip
            reply = client.post("/v1/chat/completions", json=body)
            choice = reply.json()["choices"][0]
    finally:
        job.stop()
    assert (choice["message"]["content"], choice["finish_reason"]) == (ANSWER, "stop")
    warnings = [event.body.text for event in job.events() if isinstance(event.body, Log)]
    assert any("trained with version 0 of the profile emoji_think" in text for text in warnings)


def _end_token_ids(model: Path) -> list[int]:
    vocabulary = json.loads((model / "tokenizer.json").read_text())["added_tokens"]
    return [token["id"] for token in vocabulary if token["content"] in ("<|im_end|>", "<|endoftext|>")]
