"""The tries of a strategy, many at once, through an engine whose batch stays full. Runs in the process of the verb
`generate_data`.

The next question of a try is asked as soon as its last one is answered; where none waits a new try begins. An answer
that ran into `max_tokens` is dropped as unreadable, whatever its profile says: half an answer teaches to stop in the
middle. So is one that holds nothing.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

from inference.datagen.options import GenerationOptions
from inference.datagen.similarity import KnownPrompts
from inference.datagen.tries import Drop, End, Outcome, Question, Row, Steps, Try
from inference.engine.base import EngineError, SamplingParameters
from inference.offline import Asked, OfflineAnswer, OfflineModel, answered

AT_ONCE = 200
"""So many tries that need no answer are begun before what became of them is handed out."""


@dataclass
class _Open:
    """A try that is under way."""

    number: int
    steps: Steps
    new_prompt: str = ""
    asked: int = 0
    tokens: int = 0


class Asking:
    """`tries` from the number `first` on. `wanted` says how many may be under way at this moment; those that begin and
    are then not needed are given up."""

    def __init__(
        self, model: OfflineModel, tries: Iterator[Try], first: int, *, options: GenerationOptions,
        known: KnownPrompts | None, wanted: Callable[[], int],
    ) -> None:  # fmt: skip
        self._model = model
        self._tries = tries
        self._first = first
        self._options = options
        self._known = known
        self._wanted = wanted
        self._begun = self._given = 0
        self._ready: deque[tuple[_Open, Question]] = deque()
        self._waiting: deque[_Open] = deque()
        self._finished: dict[int, Outcome] = {}

    def outcomes(self) -> Generator[Outcome, None, None]:
        """One for each try, in the order of their numbers. Raises EngineClosedError."""
        is_more = True
        while is_more:
            with closing(answered(self._model.engine, self._requests(), in_flight=self._model.in_flight)) as answers:
                for answer in answers:
                    self._take(self._waiting.popleft(), answer)
                    yield from self._in_order()
            before = self._given
            yield from self._in_order()
            is_more = self._given > before

    def _in_order(self) -> Iterator[Outcome]:
        while (outcome := self._finished.pop(self._first + self._given, None)) is not None:
            self._given += 1
            yield outcome

    def _requests(self) -> Iterator[Asked]:
        while True:
            if self._ready:
                one, question = self._ready.popleft()
                self._waiting.append(one)
                yield self._request(one, question)
            elif self._begin():
                continue
            elif self._waiting:
                yield None
            else:
                return

    def _begin(self) -> bool:
        """Begins one more try, where there is one and it is wanted, or nothing else would go on: then a few more, since
        many may end at once."""
        most = self._wanted() if self._waiting else max(self._wanted(), AT_ONCE)
        is_enough = self._begun - self._given >= most
        if is_enough or (found := next(self._tries, None)) is None:
            return False
        number = self._first + self._begun
        self._begun += 1
        if isinstance(found, Row | Drop):
            self._finished[number] = Outcome(number, found)
        else:
            self._go_on(_Open(number, found), None)
        return True

    def _go_on(self, one: _Open, said: str | None) -> None:
        """Has the try ask its next question, or end."""
        try:
            question = next(one.steps) if said is None else one.steps.send(said)
        except StopIteration as stop:
            end: End = stop.value
            if isinstance(end, Row):
                one.new_prompt = end.new_prompt
            self._end(one, end)
            return
        one.new_prompt = question.new_prompt or one.new_prompt
        if self._known is not None and question.new_prompt and self._known.has_like(question.new_prompt):
            self._end(one, Drop("similar"))
            return
        self._ready.append((one, question))

    def _take(self, one: _Open, answer: OfflineAnswer) -> None:
        one.tokens += answer.usage.completion_tokens if answer.usage is not None else 0
        text = answer.text.strip()
        if answer.error is not None:
            self._end(one, Drop("failed", answer.error.message))
        elif answer.finish_reasons[0] == "length":
            self._end(one, Drop("unreadable", f"Cut at {self._options.max_tokens:,} tokens: {text[-80:]!r}"))
        elif not text:
            self._end(one, Drop("unreadable", "The model says nothing."))
        else:
            self._go_on(one, text)

    def _end(self, one: _Open, end: End) -> None:
        one.steps.close()
        self._finished[one.number] = Outcome(one.number, end, one.new_prompt, one.tokens)

    def _request(self, one: _Open, question: Question) -> Asked:
        seed = _sampling_seed(self._options.seed, one.number, one.asked)
        one.asked += 1
        sampling = SamplingParameters(temperature=self._options.temperature, top_p=self._options.top_p, seed=seed)
        turns = [dict(turn) for turn in question.messages]
        try:
            return self._model.request(
                turns, max_tokens=self._options.max_tokens, sampling=sampling, apply_profile=question.apply_profile
            )
        except EngineError as error:
            return error


def _sampling_seed(seed: int, number: int, step: int) -> int:
    """Its own for each question, and the same in every attempt."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {number} {step}".encode(), digest_size=6).digest(), "big")
