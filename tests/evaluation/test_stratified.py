import numpy as np
import pytest

from genodiff.evaluation.stratified import deal, fit_variance, source


def test_a_round_meets_every_sequence_and_every_stratum_once() -> None:
    plan = deal(list(range(50)), rounds=3, repeats=0, seed=1)
    for j in range(3):
        here = plan.round == j
        assert sorted(plan.sequence[here]) == list(range(50))
        assert sorted(np.floor(plan.u[here] * 50)) == list(range(50))


def test_the_last_round_repeats_a_few_in_strata_of_their_own() -> None:
    plan = deal(list(range(50)), rounds=1, repeats=8, seed=1)
    again = plan.round == 1
    assert len(set(plan.sequence[again])) == 8
    assert sorted(np.floor(plan.u[again] * 8)) == list(range(8))
    assert (deal([3, 5], rounds=1, repeats=8, seed=1).round == 1).sum() == 2


def test_what_a_sequence_is_dealt_does_not_depend_on_the_order() -> None:
    keys = [11, 5, 1 << 70, 42, 0]
    plan = deal(keys, rounds=2, repeats=0, seed=3)
    turned = deal(keys[::-1], rounds=2, repeats=0, seed=3)
    for j, i, u in zip(plan.round, plan.sequence, plan.u, strict=True):
        same = (turned.round == j) & (turned.sequence == len(keys) - 1 - i)
        assert turned.u[same] == u


def test_each_sequence_meets_every_u_alike() -> None:
    # Kolmogorov-Smirnov distance of 1,000 draws: 0.062 is the one-in-a-thousand point.
    u = np.sort([deal([7, 8, 9], rounds=1, repeats=0, seed=seed).u[0] for seed in range(1000)])
    first = [
        next(u for i, u in zip(plan.sequence, plan.u, strict=True) if i == 0)
        for plan in (deal([7, 8, 9], rounds=1, repeats=0, seed=seed) for seed in range(1000))
    ]
    u = np.sort(first)
    assert np.abs(u - (np.arange(1000) + 0.5) / 1000).max() < 0.062


def test_sources_are_independent_and_repeatable() -> None:
    draws = {
        (seed, key, round_, purpose): source(seed, key, round_, purpose).random()
        for seed in (0, 1)
        for key in (0, 1)
        for round_ in (0, 1)
        for purpose in ("deal", "mask")
    }
    assert len(set(draws.values())) == 16
    assert source(1, 0, 1, "mask").random() == draws[1, 0, 1, "mask"]


@pytest.mark.parametrize("n_evaluations", [2, 4])
def test_the_two_components_are_recovered(n_evaluations: int) -> None:
    # 4,000 differences know a variance to 2.2 %; two that overlap, to a few times that.
    random = np.random.default_rng(0)
    n, length = 4000, 200
    sequence = np.repeat(np.arange(n), n_evaluations)
    k = random.integers(1, length + 1, len(sequence))
    x, positions, ones = k / length, 1 / k - 1 / length, np.ones(len(k))
    effect = 5 * random.normal(size=n)[sequence]  # the difference between sequences must not show
    curve = 0.3 * x**2 - x
    noise = np.sqrt(0.25 * positions + 0.01) * random.normal(size=len(k))
    fit = fit_variance(sequence, effect + curve + noise, x, positions, ones)
    assert fit.positions == pytest.approx(0.25, rel=0.15)
    assert fit.interaction == pytest.approx(0.01, rel=0.15)
    assert fit.degrees_of_freedom == n * (n_evaluations - 1) - 4


def test_noiseless_evaluations_have_no_variance() -> None:
    k = np.array([1, 5, 2, 3, 4, 4])
    fit = fit_variance(
        np.array([0, 0, 1, 1, 2, 2]), np.full(6, 1.3), k / 5, 1 / k - 1 / 5, np.ones(6)
    )
    assert fit.positions == fit.interaction == 0


def test_sequences_evaluated_once_say_nothing() -> None:
    k = np.array([1.0, 2.0, 3.0])
    assert fit_variance(np.arange(3), k, k / 3, 1 / k, k).degrees_of_freedom == 0


def test_evaluations_that_all_masked_everything_have_one_component() -> None:
    # share (1 - share) is 0 for every repeated evaluation: nothing is to be said of `positions`.
    rng = np.random.default_rng(0)
    sequence, ones = np.repeat(np.arange(2000), 2), np.ones(4000)
    fit = fit_variance(sequence, 0.3 * rng.normal(size=4000), ones, 0 * ones, ones)
    assert fit.positions == 0
    assert fit.interaction == pytest.approx(0.09, rel=0.15)  # s.d. of the estimate: 3 %
