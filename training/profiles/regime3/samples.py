"""Makes examples for `regime3`: distinct, right, and the same again from the same seed. Runs in every process.

A level says how deep its expressions are, how large their numbers, and which operators they have. Examples come one by
one, so that any number of them needs no memory but eight bytes each.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from training.data.specs import ChatExample, Message
from training.profiles.regime3.answers import END, START
from training.profiles.regime3.encode import parse_infix
from training.profiles.regime3.evaluate import EvaluationError, evaluate
from training.profiles.regime3.expression import Call, Expression, Number, Text, Value, canonical, spell
from training.profiles.regime3.infix import infix

LARGEST_PART = 1_000_000
"""No numerator and no denominator on the way is larger: nobody should learn long multiplication from this."""

FRUITLESS_TRIES = 10_000
QUESTIONS = ("What is {}?", "Compute {}.", "Work out {}.", "Evaluate {}.")
QUESTIONS_OF_TRUTH = ("Is {} true or false?", "Does this hold: {}?", "Evaluate {}.")


@dataclass(frozen=True)
class Level:
    """`largest`: numbers are drawn from 0 to this. `logic`: the outermost calls that join or negate comparisons."""

    depth: int
    largest: int
    arithmetic: tuple[str, ...]
    compares: bool = False
    logic: int = 0

    @property
    def largest_set(self) -> int | None:
        """How many expressions there are, where they can be counted: every operator with every two numbers."""
        return len(self.arithmetic) * (self.largest + 1) ** 2 if self.depth == 1 else None


_ALL = ("add", "sub", "mul", "div", "mod", "pow", "neg")
LEVELS: Final[dict[int, Level]] = {
    1: Level(depth=1, largest=99, arithmetic=("add", "sub", "mul")),
    2: Level(depth=2, largest=99, arithmetic=("add", "sub", "mul", "div")),
    3: Level(depth=3, largest=99, arithmetic=_ALL),
    4: Level(depth=3, largest=999, arithmetic=_ALL, compares=True),
    5: Level(depth=4, largest=999, arithmetic=_ALL, compares=True, logic=1),
}


class SamplesError(ValueError):
    """A request for examples that can't be met."""


def samples(count: int, level: int, seed: int) -> Iterator[ChatExample]:
    """`count` examples of a level, no two with the same expression. Raises SamplesError, at once where it can."""
    if level not in LEVELS:
        raise SamplesError(f"There is no level {level}: choose 1 to {max(LEVELS)}.")
    if count < 0:
        raise SamplesError(f"{count} examples can't be made: give a number from 0 on.")
    most = LEVELS[level].largest_set
    if most is not None and count > most:
        raise SamplesError(f"Level {level} has {most:,} distinct examples, not {count:,}. Take a higher level.")
    return _stream(count, level, random.Random(f"regime3 {level} {seed}"))  # noqa: S311 - nothing secret is drawn


def _stream(count: int, level: int, chance: random.Random) -> Iterator[ChatExample]:
    for expression in _expressions(count, level, chance):
        yield _example(expression, chance)


def _expressions(count: int, level: int, chance: random.Random) -> Iterator[Expression]:
    """Distinct expressions that have a value of few digits at every step."""
    plan = LEVELS[level]
    if plan.largest_set is not None:  # all of them may be asked for, so they are drawn without putting back
        for number in chance.sample(range(plan.largest_set), count):
            name, pair = divmod(number, (plan.largest + 1) ** 2)
            arguments = divmod(pair, plan.largest + 1)
            yield Call(plan.arithmetic[name], tuple(Number(Fraction(one)) for one in arguments))
        return
    seen: set[bytes] = set()
    made = fruitless = 0
    while made < count:
        drawn = _drawn(plan, chance)
        mark = hashlib.blake2b(infix(drawn).encode(), digest_size=8).digest()
        if mark in seen or not _is_fit(drawn):
            fruitless += 1
            if fruitless > FRUITLESS_TRIES:
                raise SamplesError(f"Level {level} gives no more than {made:,} distinct examples. Take a higher level.")
            continue
        seen.add(mark)
        made, fruitless = made + 1, 0
        yield parse_infix(infix(drawn))  # in the spelling that `encode` gives the question


def _drawn(plan: Level, chance: random.Random, depth: int | None = None, logic: int | None = None) -> Expression:
    """An expression of just this depth."""
    depth, logic = plan.depth if depth is None else depth, plan.logic if logic is None else logic
    if logic:
        name = chance.choice(("and", "or", "not"))
        count = 1 if name == "not" else 2
        return Call(name, tuple(_drawn(plan, chance, depth - 1, logic - 1) for _ in range(count)))
    if plan.compares:
        name = chance.choice(("eq", "ne", "lt", "le", "gt", "ge"))
        sides = [_sum(plan, chance, depth - 1), _sum(plan, chance, chance.randint(0, depth - 1))]
        chance.shuffle(sides)
        return Call(name, tuple(sides))
    return _sum(plan, chance, depth)


def _sum(plan: Level, chance: random.Random, depth: int) -> Expression:
    """Arithmetic of just this depth: one argument is as deep as may be, the other at most."""
    if depth == 0:
        return Number(Fraction(chance.randint(0, plan.largest)))
    name = chance.choice([one for one in plan.arithmetic if one != "neg" or depth > 1])  # -5 is a number, no call
    deep = _sum(plan, chance, depth - 1)
    if name == "neg":
        return Call(name, (deep,))
    if name == "pow":
        return Call(name, (deep, Number(Fraction(chance.randint(2, 3)))))
    arguments = [deep, _sum(plan, chance, chance.randint(0, depth - 1))]
    chance.shuffle(arguments)
    return Call(name, tuple(arguments))


def _is_fit(expression: Expression) -> bool:
    """Whether every step has a value, and one of few digits."""
    try:
        values = [value for _, value in _steps(expression)]
    except EvaluationError:
        return False
    parts = [part for value in values if isinstance(value, Fraction) for part in (value.numerator, value.denominator)]
    return all(abs(part) <= LARGEST_PART for part in parts)


def _steps(expression: Expression) -> list[tuple[Call, Value]]:
    """The calls with their values, in the order in which one would work them out; the last is the whole."""
    steps: list[tuple[Call, Value]] = []

    def value_of(part: Expression) -> Value:
        if not isinstance(part, Call):
            return part.value
        value = evaluate(Call(part.operator, tuple(_literal(value_of(argument)) for argument in part.arguments)))
        steps.append((part, value))
        return value

    value_of(expression)
    return steps


def _literal(value: Value) -> Expression:
    if isinstance(value, bool):
        return Call("true" if value else "false", ())
    return Text(value) if isinstance(value, str) else Number(value)


def _example(expression: Expression, chance: random.Random) -> ChatExample:
    steps = _steps(expression)
    questions = QUESTIONS_OF_TRUTH if isinstance(steps[-1][1], bool) else QUESTIONS
    stated = [f"{canonical(step)} = {spell(value)}" for step, value in steps]
    answer = "\n".join([*dict.fromkeys(stated[:-1]), f"{START} {stated[-1]} {END}"])
    question = Message(role="user", content=chance.choice(questions).format(infix(expression)))
    return ChatExample(messages=[question, Message(role="assistant", content=answer)])
