"""Holding an answer to a grammar: which tokens may come next. Runs in the inference process, over llguidance.

A token that the grammar does not allow has no probability, so what is generated fits, whatever the temperature; only an
answer that `max_tokens` cuts off is incomplete. JSON is written on one line: where a schema leaves it open, a model
that likes blanks could go on with them for ever.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from inference.engine.base import GenerationFailedError, InvalidRequestError
from inference.engine.constraints import (
    CALL_CLOSING,
    CALL_OPENING,
    Constraint,
    JsonSchema,
    ToolCalls,
    head_of_call,
)

KEPT_GRAMMARS = 64
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000, step_lexer_fuel=100_000, max_lexer_states=50_000, max_grammar_size=100_000
)
"""A fraction of the library's own: whoever holds a key may send a schema, and all share the processor."""


class RowGrammar:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end can come."""
        return bool(self._matcher.is_stopped())

    @property
    def may_end(self) -> bool:
        """Whether the text so far is a whole one."""
        return bool(self._matcher.is_accepting())

    def allow(self, logits: torch.Tensor) -> torch.Tensor:
        """A copy of logits [vocabulary] in which what may not come next is minus infinity."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._raise_fault()
        # A logit beyond the mask belongs to no token: `count` pads with zeros.
        allowed = np.unpackbits(mask, count=logits.shape[-1], bitorder="little")
        return logits.masked_fill(torch.from_numpy(allowed == 0).to(logits.device), -torch.inf)

    def take(self, token_id: int) -> None:
        """Goes on by a token that was allowed."""
        self._matcher.consume_token(token_id)
        self._raise_fault()

    def _raise_fault(self) -> None:
        if self._matcher.is_error():
            raise GenerationFailedError(f"the answer could not be held to its form: {self._matcher.get_error()}")


class Grammar:
    """A compiled constraint. The engine's thread alone starts answers from it."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def start(self) -> RowGrammar:
        """The constraint at its beginning, for one answer."""
        return RowGrammar(self._matcher.deep_copy())


class Grammars:
    """The grammars of one tokenizer, each compiled once. Any thread may use them."""

    def __init__(self, tokenizer: Any, vocabulary_size: int, end_token_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._end_token_ids = sorted(end_token_ids)
        self._lock = threading.Lock()
        self._words_lock = threading.Lock()
        self._words: LLTokenizer | None = None
        self._words_fault = ""
        self._grammars: OrderedDict[Constraint, Grammar] = OrderedDict()

    def prepare(self, constraint: Constraint) -> Grammar:
        """Compiles a constraint; takes as long as it is complicated, the first one a second more.

        Raises InvalidRequestError, which names the option and the fault.
        """
        with self._lock:
            if constraint in self._grammars:
                self._grammars.move_to_end(constraint)
                return self._grammars[constraint]
        grammar = Grammar(self._compiled(constraint))  # without the lock: others need not wait for it
        with self._lock:
            self._grammars[constraint] = grammar
            if len(self._grammars) > KEPT_GRAMMARS:
                self._grammars.popitem(last=False)
        return grammar

    def _compiled(self, constraint: Constraint) -> LLMatcher:
        words = self._the_words(constraint)
        matcher = LLMatcher(words, self._written(constraint), log_level=0, limits=LIMITS)
        if not matcher.is_error():
            return matcher
        for schema in _schemas(constraint):
            self._check(schema, words)
        raise InvalidRequestError(
            f"The answer can't be held to this form: {_first_line(matcher.get_error())}", parameter=_option(constraint)
        )

    def _the_words(self, constraint: Constraint) -> LLTokenizer:
        with self._words_lock:
            if self._words is None and not self._words_fault:
                self._read_words()
            if self._words is None:
                raise InvalidRequestError(
                    f"This model's answers can't be held to a form: {self._words_fault}.", parameter=_option(constraint)
                )
            return self._words

    def _read_words(self) -> None:
        """Reads the tokenizer, once; what is wrong with it stays wrong."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            self._words_fault = "its tokenizer has no tokenizer.json"
            return
        size = max(self._vocabulary_size, len(self._tokenizer))
        try:
            self._words = LLTokenizer(backend.to_str(), n_vocab=size, eos_token=self._end_token_ids or None)
        except ValueError as error:
            self._words_fault = f"its tokenizer is of a kind that llguidance can't read ({_first_line(str(error))})"

    def _check(self, schema: JsonSchema, words: LLTokenizer) -> None:
        fault = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(_styled(schema)), words, limits=LIMITS)
        if fault:
            raise InvalidRequestError(
                f"The JSON schema of {schema.parameter} can't be used: {_first_line(fault)}", parameter=schema.parameter
            )

    def _written(self, constraint: Constraint) -> str:
        if isinstance(constraint, JsonSchema):
            return LLMatcher.grammar_from_json_schema(_styled(constraint))
        return LLMatcher.grammar_from_lark(self._calls(constraint))

    def _calls(self, constraint: ToolCalls) -> str:
        """The grammar of tool calls, in llguidance's dialect of Lark."""
        call = f'{self._tag(CALL_OPENING)} "\\n" body'
        rest = f'("\\n" {call})*' if constraint.may_repeat else ""
        heads = [
            f"{json.dumps(head_of_call(tool.name))} %json {_styled(tool.parameters)} {json.dumps('}' + chr(10))}"
            for tool in constraint.tools
        ]
        bodies = " | ".join(f"body_{number}" for number in range(len(heads)))
        rules = [
            f"body: ({bodies}) {self._tag(CALL_CLOSING)}",
            *(f"body_{number}: {head}" for number, head in enumerate(heads)),
        ]
        if constraint.must_call:
            return "\n".join([f"start: {call} {rest}", *rules])
        if constraint.otherwise is not None:
            return "\n".join([f"start: {call} {rest} | words", f"words: %json {_styled(constraint.otherwise)}", *rules])
        return "\n".join(
            [f'start: words | words opening "\\n" body {rest}', *self._words_and_opening(constraint), *rules]
        )

    def _words_and_opening(self, constraint: Constraint) -> list[str]:
        """Free text, other special tokens (such as those of thinking) among it, up to the first tag of a call."""
        tags = {self._token_id(CALL_OPENING), self._token_id(CALL_CLOSING), *self._end_token_ids}
        words = self._the_words(constraint)
        specials = [i for i in sorted(self._tokenizer.get_added_vocab().values()) if words.is_special_token(i)]
        free = ",".join(str(token) for token in specials if token not in tags)
        opening = self._token_id(CALL_OPENING)
        return [
            f"words: TEXT (<[{free}]> TEXT)*" if free else "words: TEXT",
            "opening: spelled" if opening is None else f"opening: <[{opening}]> | spelled",
            f'spelled[lazy]: TEXT "{CALL_OPENING}"',
            r"TEXT: /(.|\n)*/",
        ]

    def _tag(self, tag: str) -> str:
        """A tag as its one token, where there is one, or spelled."""
        token = self._token_id(tag)
        return f'"{tag}"' if token is None else f'(<[{token}]> | "{tag}")'

    def _token_id(self, tag: str) -> int | None:
        """The token of a tag. One that decoding leaves out is no use: nobody would see the tag."""
        token = self._tokenizer.get_added_vocab().get(tag)
        return None if token is None or token in self._tokenizer.all_special_ids else int(token)


def _schemas(constraint: Constraint) -> list[JsonSchema]:
    if isinstance(constraint, JsonSchema):
        return [constraint]
    otherwise = [constraint.otherwise] if constraint.otherwise else []
    return [*(tool.parameters for tool in constraint.tools), *otherwise]


def _option(constraint: Constraint) -> str:
    """The option that a constraint as a whole was given by."""
    return constraint.parameter if isinstance(constraint, JsonSchema) else "tools"


def _styled(schema: JsonSchema) -> str:
    """The schema with the way of writing that we want, whatever it says itself."""
    value = json.loads(schema.text)
    return json.dumps({**value, "x-guidance": JSON_STYLE} if isinstance(value, dict) else value)


def _first_line(fault: str) -> str:
    """llguidance explains at length where a regular expression is at fault; its last line says what."""
    lines = [line.strip() for line in fault.splitlines() if line.strip()]
    return (lines[-1] if lines else fault).removeprefix("error: ").rstrip(".") + "."
