"""How many tokens an example costs: rendered with the model's chat template, counted with its tokenizer.

Runs in the `validate` job. Uses `tokenizers` and `jinja2` alone: torch and transformers stay out of that process.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from training.data.specs import Example, is_chat, texts_of
from training.fetch.inspect import ModelFaultError, chat_template_of

BATCH_CHARACTERS = 1 << 20
BATCH_EXAMPLES = 256


class NoTokenizerError(Exception):
    """The model's folder has no tokenizer that can be used; the text says why."""


class TokenCounter:
    """Counts the tokens of examples as one model sees them; `how` says by which text."""

    def __init__(self, model_folder: Path) -> None:
        """Raises NoTokenizerError."""
        path = model_folder / "tokenizer.json"
        if not path.is_file():
            raise NoTokenizerError(f"The model has no {path.name}.")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise NoTokenizerError(f"{path.name} can't be read: {error}.") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._render: Callable[[Example], str] = render_bare
        self._way = "contents joined by newlines, without role markers (the model has no chat template)"
        self._refused = 0
        self._take_template(model_folder)

    @property
    def how(self) -> str:
        """By which text was counted: the model's template or the bare contents, and for how many it refused."""
        return f"{self._way}; it refused {self._refused}, counted by contents" if self._refused else self._way

    def counts(self, examples: Iterable[Example]) -> Iterator[int]:
        """The number of tokens of each example, in order; holds a batch of them at a time."""
        batch: list[str] = []
        characters = 0
        for example in examples:
            batch.append(self._rendered(example))
            characters += len(batch[-1])
            if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_EXAMPLES:
                yield from self._count(batch)
                batch, characters = [], 0
        yield from self._count(batch)

    def _count(self, batch: list[str]) -> list[int]:
        # The template writes the special tokens itself; the few that a tokenizer would add are not part of a turn.
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)]

    def _rendered(self, example: Example) -> str:
        try:
            return self._render(example)
        except TemplateError:
            # A template may refuse what we accept: two turns of one role, a system prompt.
            self._refused += 1
            return render_bare(example)

    def _take_template(self, model_folder: Path) -> None:
        try:
            source = chat_template_of(model_folder)
            if source is not None:
                self._render = template_renderer(source, _special_tokens(model_folder))
                self._way = "the model's chat template"
        except (TemplateError, ModelFaultError) as error:
            self._way = f"contents joined by newlines (the model's chat template can't be used: {error})"


def render_bare(example: Example) -> str:
    """The texts of an example, joined by newlines."""
    return "\n".join(texts_of(example))


def template_renderer(source: str, special_tokens: dict[str, str]) -> Callable[[Example], str]:
    """A function that renders conversations by a chat template, and gives raw text as it is.

    The template runs in the sandbox and with the names that transformers gives it. Raises TemplateError here when it
    does not parse, and in the function when it refuses an example.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    template = environment.from_string(source)

    def render(example: Example) -> str:
        if not is_chat(example):
            return texts_of(example)[0]
        try:
            return template.render(
                messages=example["messages"], tools=None, documents=None, add_generation_prompt=False, **special_tokens
            )
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
            raise TemplateError(f"{type(error).__name__}: {error}") from error

    return render


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's words for training; here it is only a block."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _special_tokens(model_folder: Path) -> dict[str, str]:
    """The names of special tokens that a template may use (`bos_token`, `eos_token`), by tokenizer_config.json."""
    path = model_folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    config = json.loads(path.read_bytes())
    named = {key: value for key, value in config.items() if key.endswith("_token")}
    texts = {key: value.get("content") if isinstance(value, dict) else value for key, value in named.items()}
    return {key: value for key, value in texts.items() if isinstance(value, str)}
