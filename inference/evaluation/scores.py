"""How good an answer is: one figure from 0 to 1 for each metric. Runs in the inference process of `evaluate`."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import regex

from inference.evaluation.cases import Case
from inference.evaluation.options import EvaluationOptions
from training.profiles.base import AnswerFault, Profile, ReplyChecker

EDGES = " \t\r\n.,;:!?\"'`«»“”‘’…*_"
"""What may stand around an answer without making it another one. Signs within it count: -5 isn't 5."""

PATTERN_SECONDS = 1.0
"""A pattern that backtracks for longer counts as not found."""

_WORD = regex.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Score:
    """A row's figures by metric; `bleu_counts` are the sums that corpus BLEU is made of."""

    values: Mapping[str, float]
    faults: Sequence[AnswerFault] = ()
    bleu_counts: Sequence[int] = field(default=())


class Judge:
    """Scores answers by the metrics that were asked for."""

    def __init__(self, options: EvaluationOptions, profile: Profile) -> None:
        self._profile = profile
        self._pattern = options.compiled() if "regex" in options.metrics else None
        self._measures: dict[str, Callable[[str, str], float]] = {"accuracy": accuracy}
        own: dict[str, Callable[[str, str], float]] = {"exact_match": exact_match, "contains": contains}
        self._measures |= {name: measure for name, measure in own.items() if name in options.metrics}
        if "rouge_l" in options.metrics:
            self._measures["rouge_l"] = RougeL()
        self._bleu = SentenceBleu() if "bleu" in options.metrics else None
        self._checks_profile = "profile_check" in options.metrics

    def score(self, case: Case, answer: str) -> Score:
        """The figures of an answer to a case that has an expected one."""
        expected = case.expected or ""
        values = {name: measure(answer, expected) for name, measure in self._measures.items()}
        if self._pattern is not None:
            values["regex"] = self._matches(answer)
        counts: Sequence[int] = ()
        if self._bleu is not None:
            values["bleu"], counts = self._bleu(answer, expected)
        faults: list[AnswerFault] = []
        if self._checks_profile:
            faults = self._faults(case.question, answer)
            values["profile_check"] = float(not faults)
        return Score(values, faults, counts)

    def unanswered(self, case: Case) -> Score:
        """The figures of a case that the model could not answer: whatever is asked for, it has not been done."""
        values = dict.fromkeys(self._measures, 0.0)
        values |= {"regex": 0.0} if self._pattern is not None else {}
        values |= {"profile_check": 0.0} if self._checks_profile else {}
        if self._bleu is None:
            return Score(values)
        return Score(values | {"bleu": 0.0}, bleu_counts=self._bleu("", case.expected or "")[1])

    def _matches(self, answer: str) -> float:
        assert self._pattern is not None  # noqa: S101 - asked only where there is one
        try:
            return float(self._pattern.search(answer, timeout=PATTERN_SECONDS) is not None)
        except TimeoutError:
            return 0.0

    def _faults(self, question: str, answer: str) -> list[AnswerFault]:
        if isinstance(self._profile, ReplyChecker):
            return self._profile.check_reply(question, answer)
        return self._profile.check(answer)


def normalised(text: str) -> str:
    """The text in one spelling: compatibility forms, case, white space, and what stands around it."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(EDGES)


def accuracy(answer: str, expected: str) -> float:
    """1 where both say the same but for spelling (`normalised`)."""
    return float(normalised(answer) == normalised(expected))


def exact_match(answer: str, expected: str) -> float:
    """1 where both are the same, character by character."""
    return float(answer == expected)


def contains(answer: str, expected: str) -> float:
    """1 where the expected text stands within the answer, both normalised."""
    wanted = normalised(expected)
    return float(bool(wanted) and wanted in normalised(answer))


class RougeL:
    """The F-measure of the longest common subsequence of words (rouge-score), in any script."""

    def __init__(self) -> None:
        from rouge_score.rouge_scorer import RougeScorer  # it brings nltk, for those who ask for it alone

        self._scorer = RougeScorer(["rougeL"], tokenizer=_Words())

    def __call__(self, answer: str, expected: str) -> float:
        return float(self._scorer.score(expected, answer)["rougeL"].fmeasure)


class _Words:
    """Words and signs, where the library's own tokenizer drops whatever isn't a Latin letter."""

    def tokenize(self, text: str) -> list[str]:
        words: list[str] = _WORD.findall(text.casefold())
        return words


class SentenceBleu:
    """BLEU of one row (sacrebleu, effective order), as 0 to 1, and the counts that add up to that of all rows."""

    def __init__(self) -> None:
        from sacrebleu.metrics import BLEU  # as above

        self._bleu: Any = BLEU(effective_order=True)

    def __call__(self, answer: str, expected: str) -> tuple[float, list[int]]:
        found = self._bleu.sentence_score(answer, [expected])
        return min(1.0, float(found.score) / 100), [*found.counts, *found.totals, found.sys_len, found.ref_len]


def corpus_bleu(counts: Sequence[int]) -> float:
    """BLEU of all rows together, 0 to 1, from the sum of their counts."""
    from sacrebleu.metrics import BLEU

    order = (len(counts) - 2) // 2
    found = BLEU.compute_bleu(
        correct=list(counts[:order]), total=list(counts[order : 2 * order]), sys_len=counts[-2], ref_len=counts[-1]
    )
    return min(1.0, float(found.score) / 100)
