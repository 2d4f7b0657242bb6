"""Which outcomes become rows, and the reason why the others don't. Runs in the process of the verb `generate_data`.

Outcomes are judged in the order of their tries, whichever came first: so the same seed keeps the same rows, in one
attempt or in several.
"""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from inference.datagen.options import GenerationOptions
from inference.datagen.shards import Shards, Tally
from inference.datagen.similarity import KnownPrompts
from inference.datagen.tries import Drop, Outcome, Row
from inference.progress import RowProgress
from monitoring.events import EventWriter
from training.data.specs import ChatExample, Message, RowFaultError, check_no_nul
from training.profiles.base import Profile, faults_of


class Keeper:
    """Judges outcomes and writes what is kept into shards, behind those that are whole already.

    `known` are the prompts that new ones must be unlike; None: nothing is compared.
    """

    def __init__(
        self, options: GenerationOptions, profile: Profile, known: KnownPrompts | None, shards: Shards,
        events: EventWriter,
    ) -> None:  # fmt: skip
        self._options = options
        self._profile = profile
        self._known = known
        self._shards = shards
        self._kept = {_digest(row["messages"]) for row in shards.rows()}
        before = shards.tally
        self._tries, self._tokens, self._seconds = before.tries, before.generated_tokens, before.seconds
        self._dropped = Counter(before.dropped)
        self._count = shards.count
        self._rows: list[dict[str, Any]] = []
        self._prompts: list[str] = []
        self._began = time.monotonic()
        self._progress = RowProgress(events, options.num_examples, done=self._count, unit="examples")
        self.details: dict[str, str] = {}
        """By reason, what was said of the first try that was dropped for it."""

    def wanted_tries(self) -> int:
        """How many tries should be under way: as many as the rows that are lacking will take, by what tries have
        given so far."""
        return math.ceil((self._options.num_examples - self._count) * (self._tries + 1) / (self._count + 1))

    def keep(self, outcomes: Iterable[Outcome]) -> Tally:
        """Takes outcomes until there are enough rows, or no more of them."""
        for outcome in outcomes:
            self._take(outcome)
            if self._count >= self._options.num_examples:
                return self._finished("")
        used_up = self._tries < self._options.most_tries
        return self._finished("the seeds are used up" if used_up else f"{self._tries:,} tries were made")

    def _take(self, outcome: Outcome) -> None:
        self._tries = outcome.number + 1
        self._tokens += outcome.tokens
        found = self._judged(outcome)
        if isinstance(found, Drop):
            self._dropped[found.reason] += 1
            self.details.setdefault(found.reason, found.detail)
            self._progress.note = f"{self._dropped.total():,} dropped"
            self._progress.add(0)
            return
        self._kept.add(_digest(found.messages))
        if self._known is not None and found.new_prompt:
            self._known.add(found.new_prompt)
            self._prompts.append(found.new_prompt)
        self._rows.append({"messages": list(found.messages), "seed_row": found.seed_row})
        self._count += 1
        if len(self._rows) >= self._shards.rows_a_shard:
            self._write(self._tally(""))
        self._progress.add()

    def _judged(self, outcome: Outcome) -> Row | Drop:
        if self._known is not None and outcome.new_prompt and self._known.has_like(outcome.new_prompt):
            return Drop("similar", f"Like a prompt that is known: {outcome.new_prompt[:80]!r}")
        if isinstance(outcome.end, Drop):
            return outcome.end
        example = ChatExample(messages=list(outcome.end.messages))
        try:
            check_no_nul(example)
        except RowFaultError as fault:
            return Drop("unreadable", fault.message)
        if self._options.check and (faults := faults_of(self._profile, example)):
            return Drop("check", faults[0].message)
        if _digest(outcome.end.messages) in self._kept:
            return Drop("duplicate", "The same row has been kept already.")
        return outcome.end

    def _finished(self, ended: str) -> Tally:
        tally = self._tally(ended)
        if self._rows:
            self._write(tally)
        return tally

    def _write(self, tally: Tally) -> None:
        self._shards.write(self._rows, self._prompts, tally)
        self._rows, self._prompts = [], []

    def _tally(self, ended: str) -> Tally:
        seconds = self._seconds + time.monotonic() - self._began
        return Tally(self._tries, dict(self._dropped), self._tokens, round(seconds, 3), ended)


def _digest(messages: Sequence[Message]) -> bytes:
    text = json.dumps([[turn["role"], turn["content"]] for turn in messages])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
