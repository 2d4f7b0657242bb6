"""The codec of `regime3`: infix to canonical form and back, and values that are Python's own."""

import time
from fractions import Fraction
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.profiles.regime3.decode import decode
from training.profiles.regime3.encode import encode, parse_infix
from training.profiles.regime3.evaluate import (
    DivisionByZeroError,
    EvaluationError,
    InexactError,
    TooLargeError,
    WrongKindError,
    evaluate,
)
from training.profiles.regime3.expression import ARGUMENTS, Call, Expression, NotationError, Number, Text, canonical
from training.profiles.regime3.infix import infix

Source = tuple[str, str]
"""One expression as we write it and as Python does."""


@pytest.mark.parametrize(
    ("text", "form", "value"),
    [
        ("2 + 3", "(add 2 3)", Fraction(5)),
        ("1+2+3*4", "(add 1 2 (mul 3 4))", Fraction(15)),
        ("10 - 2 - 3", "(sub (sub 10 2) 3)", Fraction(5)),
        ("(1 + 2) * 3", "(mul (add 1 2) 3)", Fraction(9)),
        ("-2 ^ 2", "(neg (pow 2 2))", Fraction(-4)),
        ("2 ^ 3 ^ 2", "(pow 2 (pow 3 2))", Fraction(512)),
        ("2 ** -1", "(pow 2 -1)", Fraction(1, 2)),
        ("7 % -3", "(mod 7 -3)", Fraction(-2)),
        ("2.5 × 2 ÷ 5", "(div (mul 5/2 2) 5)", Fraction(1)),
        ("1 / 3 + 1 / 6", "(add (div 1 3) (div 1 6))", Fraction(1, 2)),
        ("1 < 2 <= 2", "(and (lt 1 2) (le 2 2))", True),
        ("not 1 = 2 and TRUE or false", "(or (and (not (eq 1 2)) (true)) (false))", True),
        ('"ebb" != "flood"', '(ne "ebb" "flood")', True),
        (r'"say \"hi\"" = "a"', r'(eq "say \"hi\"" "a")', False),
        ("true or 1 / 0 > 1", "(or (true) (gt (div 1 0) 1))", True),
        ("3 - -5", "(sub 3 -5)", Fraction(8)),
        ("\u00a07\u00a0", "7", Fraction(7)),
    ],
)
def test_infix_becomes_the_canonical_form(text: str, form: str, value: object) -> None:
    assert encode(text) == form
    assert evaluate(decode(form)) == value


def _arithmetic() -> st.SearchStrategy[Source]:
    """Without parentheses but where drawn: which operator binds tighter is left to the two readers."""
    whole = st.integers(0, 30).map(lambda number: (str(number), f"F({number})"))
    decimal = st.decimals(0, 9, places=2).map(lambda number: (str(number), f"F('{number}')"))

    def larger(part: st.SearchStrategy[Source]) -> st.SearchStrategy[Source]:
        joined = st.tuples(part, st.sampled_from("+-*/%"), part).map(lambda drawn: _both(drawn[0], drawn[1], drawn[2]))
        negated = part.map(lambda source: (f"-{source[0]}", f"-{source[1]}"))
        enclosed = part.map(lambda source: (f"({source[0]})", f"({source[1]})"))
        powers = st.tuples(part, st.integers(-3, 3), st.booleans()).map(lambda drawn: _power(*drawn))
        return st.one_of(joined, negated, enclosed, powers)

    return st.recursive(st.one_of(whole, decimal), larger, max_leaves=8)


def _both(left: Source, sign: str, right: Source) -> Source:
    return f"{left[0]} {sign} {right[0]}", f"{left[1]} {sign} {right[1]}"


def _power(base: Source, exponent: int, encloses: bool) -> Source:
    # A chain of powers without parentheses would keep Python busy for ever.
    if encloses or "^" in base[0]:
        base = f"({base[0]})", f"({base[1]})"
    return f"{base[0]}^{exponent}", f"{base[1]} ** {exponent}"


def _logic() -> st.SearchStrategy[Source]:
    signs = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    comparison = st.tuples(_arithmetic(), signs, _arithmetic()).map(lambda drawn: _both(*drawn))
    chain = st.tuples(comparison, signs, _arithmetic()).map(lambda drawn: _both(*drawn))
    truth = st.sampled_from([("true", "True"), ("false", "False")])

    def larger(part: st.SearchStrategy[Source]) -> st.SearchStrategy[Source]:
        joined = st.tuples(part, st.sampled_from(["and", "or"]), part).map(lambda drawn: _both(*drawn))
        negated = part.map(lambda source: (f"not {source[0]}", f"not {source[1]}"))
        enclosed = part.map(lambda source: (f"({source[0]})", f"({source[1]})"))
        return st.one_of(joined, negated, enclosed)

    return st.recursive(st.one_of(comparison, chain, truth), larger, max_leaves=4)


@given(st.one_of(_arithmetic(), _logic()))
def test_the_value_of_the_canonical_form_is_pythons_own(source: Source) -> None:
    expression = decode(encode(source[0]))
    try:
        value = evaluate(expression)
    except TooLargeError:
        return  # Python has no such bound
    except DivisionByZeroError:
        with pytest.raises(ZeroDivisionError):
            eval(source[1], {"F": Fraction})  # noqa: S307 - a text that this test has written
        return
    expected = eval(source[1], {"F": Fraction})  # noqa: S307
    assert value == expected
    assert type(value) is type(expected)


def _expressions() -> st.SearchStrategy[Expression]:
    numbers = st.fractions(max_denominator=50).map(Number)
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(Text)
    truths = st.sampled_from(["true", "false"]).map(lambda name: Call(name, ()))

    def larger(part: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        def calls(name: str) -> st.SearchStrategy[Expression]:
            least, most = ARGUMENTS[name]
            arguments = st.lists(part, min_size=least, max_size=most or least + 2).map(tuple)
            return arguments.map(lambda drawn: Call(name, drawn))

        return st.one_of([calls(name) for name in ARGUMENTS if name not in ("true", "false")])

    leaves: st.SearchStrategy[Expression] = st.one_of(numbers, texts, truths)
    return st.recursive(leaves, larger, max_leaves=10)


@given(_expressions())
def test_what_is_spelled_is_read_back(expression: Expression) -> None:
    text = canonical(expression)
    assert decode(text) == expression
    assert expression.length == len(text)


@given(_expressions())
def test_what_is_written_for_people_has_the_same_value(expression: Expression) -> None:
    def outcome(one: Expression) -> object:
        try:
            value = evaluate(one)
        except EvaluationError:
            return "no value"
        return type(value), value

    assert outcome(parse_infix(infix(expression))) == outcome(expression)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_with_a_position_in_it(text: str) -> None:
    for read in (encode, decode):
        try:
            read(text)
        except NotationError as error:
            assert 1 <= error.position <= len(text) + 1
            assert str(error).startswith(f"At character {error.position}: ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("2 +", "At character 4: the expression ends where a value is expected."),
        ("2 * / 3", "At character 5: '/' stands where a value is expected."),
        ("(2 + 3", "At character 1: this parenthesis is never closed."),
        ("2 + 3)", "At character 6: ')' stands where an operator or the end is expected."),
        ("2x", "At character 2: 'x' stands where an operator or the end is expected."),
        ('1 + "ab', "At character 5: this quote is never closed."),
        ("2 $ 3", "At character 3: '$' has no meaning here."),
        ("1 + not true", "At character 5: not binds loosely: put it and what it negates in parentheses."),
        (r'"\q"', "At character 1: the quoted text has an escape that JSON doesn't know"),
        ("(" * 200, "At character 101: the expression nests deeper than 100."),
        ("1-" * 150 + "1", "the expression nests deeper than 100."),
        ("1" * 1500, "At character 1: a number has at most 1,000 characters."),
        ("1+" * 6000 + "1", "At character 10001: the expression has more than 10,000 characters."),
    ],
)
def test_malformed_infix_is_refused_at_its_place(text: str, sentence: str) -> None:
    with pytest.raises(NotationError) as refused:
        encode(text)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("(add 2  3)", "At character 8: ' 3)' begins neither a number nor a quoted text nor an expression."),
        ("(add 2 3", "At character 1: this parenthesis is never closed."),
        ("(add 2 3) 4", "At character 10: the expression is over, and ' 4' follows."),
        ("(plus 2 3)", "At character 1: there is no operator 'plus'. Known are add, sub"),
        ("(add 2)", "At character 1: add takes 2 or more arguments, not 1."),
        ("(mul 2 (neg 3 4))", "At character 8: neg takes 1 arguments, not 2."),
        ("(2 add 3)", "At character 2: an operator's name is expected behind the parenthesis."),
        ("(add 2,3)", "At character 7: one space or a closing parenthesis is expected."),
        ("(add 1/0 2)", "At character 6: 1/0 divides by zero."),
        ('(eq "a 2)', "At character 5: this quote is never closed."),
        ("", "At character 1: the text ends where an expression is expected."),
        ("(neg " * 200 + "1" + ")" * 200, "the expression nests deeper than 100."),
    ],
)
def test_malformed_canonical_text_is_refused_at_its_place(text: str, sentence: str) -> None:
    with pytest.raises(NotationError) as refused:
        decode(text)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("1 / (2 - 2)", DivisionByZeroError, "div divides 1 by zero."),
        ("5 % 0", DivisionByZeroError, "mod divides 5 by zero."),
        ("0 ^ -1", DivisionByZeroError, "pow raises 0 to -1, which divides by zero."),
        ("2 ^ (1 / 2)", InexactError, "only whole exponents are exact"),
        ("9 ^ 9 ^ 9 ^ 9", TooLargeError, "pow comes to a number of more than 8192 bits"),
        ("2 ^ 8000 * 2 ^ 8000", TooLargeError, "mul comes to a number of more than 8192 bits"),
        ('"a" + 1', WrongKindError, "add needs numbers, not a text."),
        ("1 and true", WrongKindError, "and needs true or false, not a number. Compare it with something."),
        ('1 = "1"', WrongKindError, "eq compares a number with a text."),
        ("true < false", WrongKindError, "truth values are only equal or not"),
    ],
)
def test_what_has_no_value_is_a_typed_error(text: str, kind: type[EvaluationError], sentence: str) -> None:
    with pytest.raises(kind, match=sentence.replace("(", r"\(")):
        evaluate(parse_infix(text))


def test_nothing_keeps_the_machine_busy() -> None:
    began = time.process_time()
    for base in ("1", "-1", "0", "(-1)"):
        evaluate(parse_infix(f"{base} ^ (7 ^ 2000 * 10 + 1)"))
    with pytest.raises(TooLargeError):
        evaluate(parse_infix("3 ^ 10 ^ 900"))
    with pytest.raises(TooLargeError):
        evaluate(parse_infix("*".join(["9" * 900] * 10)))
    doubling = "1==(" * 90 + "1==1==1" + ")==1" * 90
    with pytest.raises(NotationError, match=r"more than 50,000 characters|nests deeper"):
        encode(doubling)
    assert len(cast(Call, parse_infix("+".join(["1"] * 5000))).arguments) == 5000
    assert time.process_time() - began < 2
