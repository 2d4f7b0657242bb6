"""The level DEEP: what makes a model look better than it is. Runs in the `validate` job, when somebody asks for it.

Read are the accepted rows, so a row's number is that of the preview. Looked for are answers that stand in their own
question, rows that are nearly the same (MinHash over runs of words), rows that the evaluation has too, and answers that
the profile finds wrong. Of large sets an even sample is compared, and said so.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from datasketch import MinHash

from training.data import likeness
from training.data.rows import LINE_LIMIT_BYTES, iter_lines
from training.data.specs import Example, is_chat, texts_of
from training.profiles.base import Profile

COMPARED_ROWS = 20_000
"""About a millisecond and 2 kB each."""

KEPT_ROWS = 20
LEAKED_CHARACTERS = 20
"""Shorter answers ("yes", a name) stand in their question by right."""

WORDS_A_RUN = 5
LONGEST_WORDS = 1_000
ALIKE = 0.8
"""The share of common runs from which two rows count as nearly the same (Jaccard)."""


@dataclass
class Finding:
    """How many rows something was found in, and the first of them with a sentence."""

    count: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def note(self, row: int, message: str) -> None:
        """One row more."""
        self.count += 1
        if len(self.rows) < KEPT_ROWS:
            self.rows.append({"row": row, "message": message})

    def to_report(self) -> dict[str, Any]:
        """As the report has it."""
        return {"count": self.count, "rows": self.rows}


class Signatures:
    """Finds rows that are nearly the same as one before. Holds a signature a row."""

    def __init__(self) -> None:
        self._known = likeness.Likenesses(ALIKE)

    def add(self, row: int, example: Example) -> int | None:
        """Remembers a row; returns the number of one before it that is nearly the same."""
        signature = signature_of(example)
        found = self._known.first_alike(signature)
        self._known.add(row, signature)
        return found

    def find(self, example: Example) -> int | None:
        """The number of a remembered row that is nearly the same."""
        return self._known.first_alike(signature_of(example))


def signature_of(example: Example) -> MinHash:
    """The MinHash of an example's runs of words, in small letters."""
    words = " ".join(texts_of(example)).lower().split(maxsplit=LONGEST_WORDS)[:LONGEST_WORDS]
    return likeness.signature_of(words, WORDS_A_RUN, " ")


def leaked_answer(example: Example) -> str | None:
    """The beginning of an answer that stands word for word in what was said before it; None where none does."""
    if not is_chat(example):
        return None
    before = ""
    for message in example["messages"]:
        said = " ".join(message["content"].lower().split())
        if message["role"] == "assistant" and len(said) >= LEAKED_CHARACTERS and said in before:
            return said[:60]
        before += f" {said}" if message["role"] != "assistant" else ""
    return None


class Comparison:
    """Compares rows with those before them and, where there is one, with the evaluation set."""

    def __init__(self, held: Signatures | None) -> None:
        self._signatures, self._held = Signatures(), held
        self._group_of: dict[int, int] = {}
        self.twins, self.shared = Finding(), Finding()

    @property
    def rows(self) -> int:
        """How many have been compared."""
        return len(self._group_of)

    def add(self, number: int, example: Example) -> None:
        """One row more."""
        first = self._signatures.add(number, example)
        self._group_of[number] = number if first is None else self._group_of[first]
        if first is not None:
            self.twins.note(number, f"Nearly the same as row {first}.")
        if self._held is not None and (found := self._held.find(example)) is not None:
            self.shared.note(number, f"Nearly the same as row {found} of the evaluation set.")

    def evaluation(self, fraction: float) -> dict[str, Any]:
        """The rows shared with the evaluation set, and how many a split of the set itself will share.

        A row is held out with the chance `fraction`; of a group of k alike one at least is trained on, but with the
        chance fraction^(k-1). The figure is of the compared rows.
        """
        sizes = np.array(list(Counter(self._group_of.values()).values()), dtype=np.float64)
        expected = float((sizes * fraction * (1 - fraction ** (sizes - 1))).sum())
        found = self.shared.to_report() if self._held is not None else {"count": None, "rows": []}
        return {**found, "expected_in_split": round(expected), "eval_fraction": fraction}


def deep_report(
    rows: Path, accepted: int, *, eval_fraction: float, eval_rows: Path | None, profile: Profile | None,
    on_rows: Callable[[int], None],
) -> dict[str, Any]:  # fmt: skip
    """Checks the accepted rows of a dataset; `eval_rows` are those of another one that it is to be evaluated on."""
    comparison = Comparison(_signatures_of(eval_rows) if eval_rows is not None else None)
    leaks, wrong = Finding(), Finding()
    codes: Counter[str] = Counter()
    step = max(1.0, accepted / COMPARED_ROWS)
    for number, example in _examples(rows):
        if (words := leaked_answer(example)) is not None:
            leaks.note(number, f"An answer stands in its own question: “{words}”.")
        if profile is not None:
            _check_answers(number, example, profile, wrong, codes)
        if number - 1 >= comparison.rows * step:
            comparison.add(number, example)
        on_rows(number)
    return {
        "rows": accepted,
        "compared_rows": comparison.rows,
        "leaks": leaks.to_report(),
        "near_duplicates": comparison.twins.to_report(),
        "evaluation": comparison.evaluation(eval_fraction),
        "profile": {"name": profile.name if profile else None, **wrong.to_report(), "codes": dict(codes.most_common())},
    }


def _check_answers(number: int, example: Example, profile: Profile, wrong: Finding, codes: Counter[str]) -> None:
    """Checks the answers as they are trained on: after the profile's own change."""
    if not is_chat(example):
        return
    shaped = profile.transform(example, number - 1)
    answers = (message["content"] for message in shaped["messages"] if message["role"] == "assistant")
    faults = [fault for answer in answers for fault in profile.check(answer)]
    codes.update({fault.code for fault in faults})
    if faults:
        wrong.note(number, faults[0].message)


def _signatures_of(rows: Path) -> Signatures:
    """Those of the first COMPARED_ROWS rows of a file."""
    signatures = Signatures()
    for number, example in _examples(rows):
        if number > COMPARED_ROWS:
            break
        signatures.add(number, example)
    return signatures


def _examples(rows: Path) -> Iterator[tuple[int, Example]]:
    with rows.open("rb") as stream:
        for number, line in enumerate(iter_lines(stream, 2 * LINE_LIMIT_BYTES), start=1):
            yield number, cast(Example, json.loads(cast(bytes, line.data)))
