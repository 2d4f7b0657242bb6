"""Intervals and tests, against scipy's own."""

import math

import numpy as np
import pytest
from scipy import stats

from controlplane.services import statistics
from controlplane.services.statistics import column


@pytest.fixture
def chance() -> np.random.Generator:
    """Each test has its own, so that what it draws doesn't hang on which ones ran before."""
    return np.random.default_rng(7)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("right", "total"), [(0, 1), (0, 20), (1, 3), (78, 100), (100, 100), (997, 1000)])
def test_wilsons_interval_is_scipys(right: int, total: int, confidence: float) -> None:
    ours = statistics.wilson(right, total, confidence)
    theirs = stats.binomtest(right, total).proportion_ci(confidence, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_there_is_no_share_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        statistics.wilson(0, 0)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 9), (12, 12), (40, 75), (0, 500)])
def test_mcnemars_test_is_the_exact_binomial_one(first: int, second: int) -> None:
    theirs = stats.binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert statistics.mcnemar(first, second) == pytest.approx(theirs, rel=1e-9)


def test_newcombes_interval_is_the_one_that_he_printed() -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 2635, method 10: 36, 12, 2 and 0 of 50."""
    found = statistics.newcombe(both=36, only_first=12, only_second=2, total=50)
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_all_rows_alike_leave_an_interval() -> None:
    found = statistics.compare_proportions(np.ones(40), np.zeros(40))
    assert found.interval is not None
    assert 0.8 < found.interval.low < 1
    assert found.interval.high == pytest.approx(1)


def test_the_bootstrap_of_a_mean_is_scipys_but_for_chance(chance: np.random.Generator) -> None:
    values = chance.gamma(2.0, 0.2, 300)
    ours = statistics.bootstrap_mean(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=1, n_resamples=4000).confidence_interval
    assert ours is not None
    spread = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.12 * spread
    assert abs(ours.high - theirs.high) < 0.12 * spread


def test_a_loss_a_token_is_resampled_by_row(chance: np.random.Generator) -> None:
    tokens = chance.integers(5, 200, 250).astype(float)
    nats = tokens * chance.normal(1.5, 0.3, 250)

    def ratio(parts: np.ndarray, wholes: np.ndarray, axis: int) -> np.ndarray:
        found: np.ndarray = parts.sum(axis=axis) / wholes.sum(axis=axis)
        return found

    ours = statistics.bootstrap_ratio(nats, tokens)
    theirs = stats.bootstrap(
        (nats, tokens), ratio, paired=True, method="percentile", rng=1, n_resamples=4000, vectorized=True
    ).confidence_interval
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.01)


def test_the_same_question_has_the_same_answer(chance: np.random.Generator) -> None:
    values = chance.random(40)
    assert statistics.bootstrap_mean(values) == statistics.bootstrap_mean(values)


def test_a_small_difference_is_told_from_chance_only_with_many_rows() -> None:
    right = np.tile(column([1, 1, 1, 0, 1, 1, 1, 0, 1, 1]), 3)
    other = right.copy()
    other[[0, 1]] = 0
    few = statistics.compare_proportions(right, other)
    assert (few.p_value, few.is_real()) == (0.5, False)
    assert few.size == pytest.approx(2 / 30)
    many = statistics.compare_proportions(np.tile(right, 10), np.tile(other, 10))
    assert many.p_value == pytest.approx(stats.binomtest(0, 20, 0.5).pvalue)
    assert many.is_real()
    assert many.is_real(0.999)
    assert many.interval is not None
    assert many.interval.low > 0


def by_scipy(differences: np.ndarray, resamples: float) -> float:
    """Its permutation test of paired samples: with one sample it flips signs."""
    found: float = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=resamples, vectorized=True, rng=3
    ).pvalue
    return found


@pytest.mark.parametrize("rows", [2, 5, 9, 14])
def test_few_rows_have_scipys_exact_p_value(rows: int, chance: np.random.Generator) -> None:
    differences = chance.normal(0.4, 1.0, rows)
    assert statistics.sign_flips(differences) == pytest.approx(by_scipy(differences, np.inf), rel=1e-9)


def test_many_rows_have_scipys_p_value_but_for_chance(chance: np.random.Generator) -> None:
    differences = chance.normal(0.5, 1.0, 60)
    assert statistics.sign_flips(differences, 0.999) == pytest.approx(
        by_scipy(differences, 20_000), abs=0.01
    )  # five deviations


def test_very_many_rows_have_the_z_tests_p_value(chance: np.random.Generator) -> None:
    differences = chance.normal(0.04, 1.0, statistics.MANY_ROWS + 1)
    theirs = stats.ttest_1samp(differences, 0).pvalue
    assert statistics.sign_flips(differences) == pytest.approx(theirs, rel=0.05)


@pytest.mark.parametrize("rows", [30, 20_000])
def test_the_highest_confidence_can_be_reached_and_a_real_difference_reaches_it(
    rows: int, chance: np.random.Generator
) -> None:
    first = chance.normal(1.0, 0.1, rows)
    found = statistics.compare_means(first, first - 0.2, 0.999)
    assert found.is_real(0.999)


def test_one_row_tells_nothing() -> None:
    found = statistics.compare_means(column([0.9]), column([0.1]))
    assert (found.p_value, found.is_real(), found.interval) == (1.0, False, None)
    assert statistics.bootstrap_mean(column([0.9])) is None


def test_five_rows_of_chance_are_never_called_real(chance: np.random.Generator) -> None:
    """Two equal models: the least p of five rows is 2 / 32."""
    for differences in chance.normal(0, 1, (200, 5)):
        assert statistics.sign_flips(differences) >= 2 / 32


def test_a_paired_test_agrees_with_the_t_test(chance: np.random.Generator) -> None:
    first = chance.normal(0.6, 0.2, 200)
    second = first - chance.normal(0.02, 0.1, 200)
    confidence = 0.999  # many resamples: chance moves p by 0.002
    found = statistics.compare_means(first, second, confidence)
    theirs = stats.ttest_rel(first, second)
    assert found.p_value == pytest.approx(theirs.pvalue, abs=0.01)
    interval = theirs.confidence_interval(confidence)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high), abs=0.003)


def test_equal_models_do_not_differ(chance: np.random.Generator) -> None:
    values = chance.random(30)
    for found in (
        statistics.compare_means(values, values),
        statistics.compare_ratios(values, values, np.full(30, 9.0)),
        statistics.compare_proportions(column([1, 0]), column([1, 0])),
    ):
        assert (found.size, found.p_value, found.is_real()) == (0, 1.0, False)


def test_a_difference_of_losses_is_one_a_token() -> None:
    tokens = column([10, 10, 80])
    found = statistics.compare_ratios(column([20, 20, 80]), column([10, 10, 80]), tokens)
    assert (found.first, found.second) == pytest.approx((1.2, 1.0))
    assert found.interval is not None
    assert found.interval.low >= 0


def test_very_many_rows_have_the_normal_interval(chance: np.random.Generator) -> None:
    values = chance.random(50_000)
    found = statistics.bootstrap_mean(values)
    half = 1.96 * float(values.std()) / math.sqrt(len(values))
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * half, rel=0.01)
