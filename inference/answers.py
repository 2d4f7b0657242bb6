"""What the OpenAI API answers: whole bodies and the events of a stream, for chats and for plain completions.

Runs in the inference process.
"""

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.engine.base import ChosenLogprob, FinishReason, GenerationChunk, TokenLogprob, Usage
from inference.tool_calls import CallPiece, ToolCall, ToolCallReader, joined


@dataclass
class ChoiceText:
    """One choice, collected."""

    text: str = ""
    logprobs: list[ChosenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, chunk: GenerationChunk) -> None:
        """Takes what a chunk brings."""
        self.text += chunk.text
        self.logprobs.extend(chunk.logprobs)
        self.finish_reason = chunk.finish_reason or self.finish_reason


class Answer:
    """The shape of one answer; subclasses know how a choice looks. `n` choices for each of `prompts` prompts."""

    prefix = ""
    kind = ""
    stream_kind = ""

    def __init__(self, model: str, *, n: int, prompts: int = 1, has_logprobs: bool, includes_usage: bool) -> None:
        self._head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._n = n
        self._choices = [ChoiceText() for _ in range(n * prompts)]
        self._usages: list[Usage] = []
        self._has_logprobs = has_logprobs
        self._includes_usage = includes_usage

    def collect(self, position: int, chunk: GenerationChunk) -> int:
        """Takes a chunk of the prompt at `position`; returns the index of its choice in the answer."""
        index = position * self._n + chunk.index
        self._choices[index].add(chunk)
        if chunk.usage is not None:
            self._usages.append(chunk.usage)
        return index

    def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        return {
            **self._head,
            "object": self.kind,
            "choices": [self.choice(index, choice) for index, choice in enumerate(self._choices)],
            "usage": self._usage(),
            "pilothouse": self._timing(),
        }

    def opening(self) -> Iterable[dict[str, Any]]:
        """The events before the first text."""
        return ()

    def event(self, position: int, chunk: GenerationChunk) -> dict[str, Any]:
        """The event that tells one chunk. A chunk that brings no text that is certain yet has an empty delta."""
        index = self.collect(position, chunk)
        event = self._event([self.delta(index, chunk)])
        if len(self._usages) * self._n == len(self._choices) and not self._includes_usage:
            event["pilothouse"] = self._timing()
        return event

    def closing(self) -> Iterable[dict[str, Any]]:
        """The events behind the last text."""
        if self._includes_usage:
            yield {**self._event([]), "usage": self._usage(), "pilothouse": self._timing()}

    def choice(self, index: int, choice: ChoiceText) -> dict[str, Any]:
        """A choice of a whole answer."""
        raise NotImplementedError

    def delta(self, index: int, chunk: GenerationChunk) -> dict[str, Any]:
        """A choice of a streamed event."""
        raise NotImplementedError

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        event: dict[str, Any] = {**self._head, "object": self.stream_kind, "choices": choices}
        if self._includes_usage:
            event["usage"] = None
        return event

    def _usage(self) -> dict[str, Any]:
        prompt = sum(usage.prompt_tokens for usage in self._usages)
        completion = sum(usage.completion_tokens for usage in self._usages)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in self._usages)},
        }

    def _timing(self) -> dict[str, float | None]:
        first = min(usage.time_to_first_token_seconds for usage in self._usages)
        rates = [usage.tokens_per_second for usage in self._usages if usage.tokens_per_second is not None]
        return {
            "queue_ms": round(max(usage.queue_seconds for usage in self._usages) * 1000, 1),
            "time_to_first_token_ms": round(first * 1000, 1),
            "tokens_per_second": round(sum(rates), 2) if rates else None,
        }


class ChatAnswer(Answer):
    """An answer of /v1/chat/completions. `may_call`: calls of tools are looked for in the text;
    `is_either`: only at its beginning."""

    prefix = "chatcmpl"
    kind = "chat.completion"
    stream_kind = "chat.completion.chunk"

    def __init__(
        self,
        model: str,
        *,
        n: int,
        has_logprobs: bool,
        includes_usage: bool,
        may_call: bool = False,
        is_either: bool = False,
    ) -> None:
        super().__init__(model, n=n, has_logprobs=has_logprobs, includes_usage=includes_usage)
        self._readers = [ToolCallReader(is_either=is_either) for _ in range(n)] if may_call else []

    def opening(self) -> Iterable[dict[str, Any]]:
        """Each choice begins with its role."""
        for index in range(len(self._choices)):
            delta = {"role": "assistant", "content": ""}
            yield self._event([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def choice(self, index: int, choice: ChoiceText) -> dict[str, Any]:
        """`message` holds the text, and the calls where there are any."""
        words, _ = self._read(index, choice.text, is_end=True)
        calls = self._calls(index)
        message: dict[str, Any] = {"role": "assistant", "content": words or None if calls else words, "refusal": None}
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(choice.logprobs),
            "finish_reason": self._reason(index, choice.finish_reason),
        }

    def delta(self, index: int, chunk: GenerationChunk) -> dict[str, Any]:
        """`delta` holds what is new."""
        words, pieces = self._read(index, chunk.text, is_end=chunk.finish_reason is not None)
        delta: dict[str, Any] = {"content": words} if words else {}
        if pieces:
            delta["tool_calls"] = [_piece(piece) for piece in pieces]
        return {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(chunk.logprobs) if chunk.logprobs else None,
            "finish_reason": self._reason(index, chunk.finish_reason),
        }

    def _read(self, index: int, text: str, *, is_end: bool) -> tuple[str, list[CallPiece]]:
        """The words and the pieces of calls in new text of a choice."""
        if not self._readers:
            return text, []
        words, pieces = self._readers[index].push(text)
        if is_end:
            last_words, last_pieces = self._readers[index].finish()
            words, pieces = words + last_words, joined([*pieces, *last_pieces])
        return words, pieces

    def _calls(self, index: int) -> list[ToolCall]:
        return self._readers[index].calls if self._readers else []

    def _reason(self, index: int, reason: FinishReason | None) -> str | None:
        return "tool_calls" if reason == "stop" and self._calls(index) else reason

    def _logprobs(self, entries: Sequence[ChosenLogprob]) -> dict[str, Any] | None:
        if not self._has_logprobs:
            return None
        content = [{**_shown(entry.token), "top_logprobs": [_shown(token) for token in entry.top]} for entry in entries]
        return {"content": content, "refusal": None}


class CompletionAnswer(Answer):
    """An answer of /v1/completions."""

    prefix = "cmpl"
    kind = "text_completion"
    stream_kind = "text_completion"

    def choice(self, index: int, choice: ChoiceText) -> dict[str, Any]:
        """The text lies in the choice itself."""
        return self._shape(index, choice.text, choice.logprobs, choice.finish_reason)

    def delta(self, index: int, chunk: GenerationChunk) -> dict[str, Any]:
        """The same shape, with what is new."""
        return self._shape(index, chunk.text, chunk.logprobs, chunk.finish_reason)

    def _shape(
        self, index: int, text: str, entries: Sequence[ChosenLogprob], reason: FinishReason | None
    ) -> dict[str, Any]:
        logprobs = None
        if self._has_logprobs:
            logprobs = {
                "tokens": [entry.token.text for entry in entries],
                "token_logprobs": [entry.token.logprob for entry in entries],
                "top_logprobs": [{token.text: token.logprob for token in entry.top} for entry in entries],
                "text_offset": [entry.text_offset for entry in entries],
            }
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _piece(piece: CallPiece) -> dict[str, Any]:
    if piece.opened is None:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.opened.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.opened.id, "type": "function", "function": function}


def _shown(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.bytes)}
