"""From an example to token ids and the targets among them: what the assistant says, found by rendering.

Runs in the training process. The conversation is rendered turn by turn with the model's own chat template; where a
turn begins and ends follows from the texts, so no template needs markers of its own. Raw text is all target.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from training.data.specs import ChatExample, Example, Message, is_chat

IGNORED = -100
"""The label of a token that is read but not learned (PyTorch's own convention)."""

Span = tuple[int, int]


class Tokenizer(Protocol):
    """The part of a fast transformers tokenizer that is used here."""

    @property
    def eos_token(self) -> str | None:
        """The text of the token that ends an answer."""

    @property
    def eos_token_id(self) -> int | None:
        """Its number."""

    def apply_chat_template(self, conversation: list[Message], **options: Any) -> Any:
        """A conversation as text."""

    @property
    def backend_tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer` inside: for short texts twice as fast as what is around it."""


@dataclass(frozen=True)
class Encoded:
    """Token ids and, for each, whether it is a target; both at most max_length long."""

    input_ids: list[int]
    is_target: list[bool]
    whole_length: int = 0
    """How many tokens the example had before it was cut; 0 where that isn't known any more."""

    @property
    def labels(self) -> list[int]:
        """The ids where they are targets, IGNORED elsewhere."""
        return [token if learned else IGNORED for token, learned in zip(self.input_ids, self.is_target, strict=True)]

    @property
    def target_count(self) -> int:
        """Targets that can be predicted: the first token has nothing before it."""
        return sum(self.is_target[1:])


class Encoder:
    """Encodes examples for one model. Pure but for `unplaced_turns`, which counts answers that were not found."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._words = tokenizer.backend_tokenizer
        self._words.no_truncation()
        self._words.no_padding()
        self.unplaced_turns = 0

    def encode(self, example: Example) -> Encoded:
        """The example as tokens. Raises jinja2.TemplateError when the template refuses the conversation."""
        if is_chat(example):
            return self._encode_chat(example)
        return self._encode_text(example["text"])

    def turn_end_ids(self) -> list[int]:
        """The token that ends an answer in the chat template, where it is one token of the vocabulary's own."""
        example = ChatExample(messages=[Message(role="user", content="Hi"), Message(role="assistant", content="Hi")])
        encoded = self._encode_chat(example)
        last = [token for token, learned in zip(encoded.input_ids, encoded.is_target, strict=True) if learned][-1:]
        added = self._words.get_added_tokens_decoder()
        return [token for token in last if token in added]

    def _encode_text(self, text: str) -> Encoded:
        ids: list[int] = self._words.encode(text).ids
        end = self._tokenizer.eos_token_id
        if end is not None and (not ids or ids[-1] != end):
            ids = [*ids, end]
        whole_length = len(ids)
        ids = ids[: self._max_length]
        return Encoded(ids, [True] * len(ids), whole_length)

    def _encode_chat(self, example: ChatExample) -> Encoded:
        text, spans = self.render(example["messages"])
        encoding = self._words.encode(text, add_special_tokens=False)
        inside = _within(encoding.offsets[: self._max_length], spans)
        return Encoded(encoding.ids[: self._max_length], inside, len(encoding.ids))

    def render(self, messages: list[Message]) -> tuple[str, list[Span]]:
        """The whole conversation as text, and the parts of it (in characters) that the assistant says."""
        whole = self._text(messages)
        spans: list[Span] = []
        position = 0
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                span = self._answer(messages, index, whole, position)
                if span is None:
                    self.unplaced_turns += 1
                    continue
                spans.append(span)
                position = span[1]
            else:
                content = message["content"].strip()
                found = whole.find(content, position)
                position = found + len(content) if found >= 0 else position
        return whole, spans

    def _answer(self, messages: list[Message], index: int, whole: str, position: int) -> Span | None:
        """Where the assistant's turn `index` stands in `whole`, its end-of-turn token included."""
        before = self._text(messages[:index], add_generation_prompt=True)
        until = whole if index == len(messages) - 1 else self._text(messages[: index + 1])
        if until.startswith(before) and whole.startswith(until):
            return len(before), len(before) + self._said(until[len(before) :])
        # A template that treats earlier turns otherwise (it leaves their thoughts out): look for the words themselves.
        content = messages[index]["content"].strip()
        if "</think>" in content:
            content = content.rsplit("</think>", 1)[1].strip()
        start = whole.find(content, position)
        if start < 0:
            return None
        end = start + len(content)
        ending = self._tokenizer.eos_token
        return start, end + len(ending) if ending and whole.startswith(ending, end) else end

    def _said(self, tail: str) -> int:
        """How much of a rendered answer the assistant says: up to its end-of-turn token, without what follows."""
        ending = self._tokenizer.eos_token
        if ending and ending in tail:
            return tail.rindex(ending) + len(ending)
        return len(tail.rstrip())

    def _text(self, messages: list[Message], **options: Any) -> str:
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, **options)
        return text


def _within(offsets: list[Span], spans: list[Span]) -> list[bool]:
    """For each token whether it begins inside one of the spans; both are in order."""
    inside: list[bool] = []
    remaining = iter(spans)
    start, end = next(remaining, (-1, -1))
    for begin, finish in offsets:
        while end >= 0 and begin >= end:
            start, end = next(remaining, (-1, -1))
        inside.append(start <= begin < end and finish > begin)
    return inside
