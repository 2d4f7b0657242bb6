"""Rendering and counting a conversation without transformers."""

import json
from pathlib import Path

import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer, models, pre_tokenizers

from training.data.specs import ChatExample, Message, TextExample
from training.data.tokens import NoTokenizerError, TokenCounter, template_renderer

CHAT = ChatExample(messages=[Message(role="user", content="one two"), Message(role="assistant", content="three")])
CHATML = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {{ eos_token }} {% endfor %}"


def make_tokenizer(folder: Path, template: str | None = None) -> Path:
    """A tokenizer that makes one token of each word."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(2)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def test_a_chat_costs_its_role_markers_too(tmp_path: Path) -> None:
    counter = TokenCounter(make_tokenizer(tmp_path, CHATML))
    assert list(counter.counts([CHAT, TextExample(text="a b c")])) == [7, 3]
    assert counter.how == "the model's chat template"


def test_without_a_template_the_contents_are_counted_and_said_so(tmp_path: Path) -> None:
    counter = TokenCounter(make_tokenizer(tmp_path))
    assert list(counter.counts([CHAT])) == [3]
    assert "no chat template" in counter.how


def test_a_template_that_does_not_parse_is_said(tmp_path: Path) -> None:
    counter = TokenCounter(make_tokenizer(tmp_path, "{% for %}"))
    assert list(counter.counts([CHAT])) == [3]
    assert "can't be used" in counter.how


def test_a_chat_that_the_template_refuses_is_counted_by_its_contents(tmp_path: Path) -> None:
    template = "{% if messages|length > 1 %}{{ raise_exception('one at a time') }}{% endif %}" + CHATML
    single = ChatExample(messages=[Message(role="user", content="one")])
    counter = TokenCounter(make_tokenizer(tmp_path, template))
    assert list(counter.counts([single, CHAT])) == [3, 3]
    assert counter.how.endswith("it refused 1, counted by contents")


def test_batches_keep_the_order(tmp_path: Path) -> None:
    counter = TokenCounter(make_tokenizer(tmp_path))
    texts = [TextExample(text="x " * (1 + number % 7)) for number in range(1000)]
    assert list(counter.counts(texts)) == [1 + number % 7 for number in range(1000)]


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(NoTokenizerError, match=r"tokenizer\.json"):
        TokenCounter(tmp_path)


def test_the_template_has_what_transformers_gives_it() -> None:
    source = (
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}{{ strftime_now('%Y')|length }}"
    )
    assert template_renderer(source, {})(CHAT) == '{"role": "assistant", "content": "three"}4'


@pytest.mark.parametrize("source", ["{{ messages.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ none + 1 }}"])
def test_the_template_runs_in_a_sandbox_and_fails_as_one_error(source: str) -> None:
    with pytest.raises(TemplateError):
        template_renderer(source, {})(CHAT)
