import math
from collections import Counter

import numpy as np
import pytest
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.markov import fit_markov

IDS = (7, 8, 9, 10)
N, PAD = 11, 4
COMPLEMENT = (0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11)


def order_two_chain(n: int, length: int, seed: int) -> tuple[list[ndarray], float]:
    """Windows of a chain of order 2 in its stationary state, and its entropy rate in nats."""
    random = np.random.default_rng(seed)
    law = np.random.default_rng(0).dirichlet(np.full(4, 0.7), size=(4, 4))  # (a, b, c)
    pairs = np.full((4, 4), 1 / 16)
    for _ in range(500):
        pairs = np.einsum("ab,abc->bc", pairs, law)
    rate = -np.einsum("ab,abc,abc->", pairs, law, np.log(law))
    letters = np.empty((n, length), int)
    start = random.choice(16, size=n, p=pairs.ravel())
    letters[:, 0], letters[:, 1] = start // 4, start % 4
    cumulative = law.cumsum(-1)
    for i in range(2, length):
        u = random.random((n, 1))
        letters[:, i] = (u > cumulative[letters[:, i - 2], letters[:, i - 1]]).sum(-1).clip(max=3)
    return list((letters + 7).astype(np.uint8)), float(rate)


def test_the_fitted_chain_reaches_its_entropy_rate_at_its_order() -> None:
    train, rate = order_two_chain(40, 5000, seed=1)
    test, _ = order_two_chain(40, 5000, seed=2)
    result = fit_markov(train, data_ids=IDS, max_order=6).nats(test)
    error = result.standard_error_data
    assert error is not None
    # Within four standard errors (false alarm 1e-4) of the rate, plus 48 / 2n nats of fitting and
    # the two letters at each window's start that lack their context.
    slack = 48 / (2 * 200_000) + 2 * 1.4 / 5000
    assert rate - 4 * error[2] < result.nats_per_token[2] < rate + 4 * error[2] + slack
    assert result.nats_per_token[1] > rate + 0.02
    # Longer contexts add nothing, and the held-out choice keeps them from doing harm.
    np.testing.assert_allclose(result.nats_per_token[3:], result.nats_per_token[2], atol=5e-4)


def test_counts_are_those_of_a_loop_over_both_strands() -> None:
    random = np.random.default_rng(0)
    windows = [random.choice([7, 8, 9, 10, N], size=size) for size in (1, 2, 3, 40, 41)]
    model = fit_markov(windows, data_ids=IDS, complement=COMPLEMENT, max_order=3)
    strands = windows + [np.array(COMPLEMENT)[window[::-1]] for window in windows]
    for k, counts in enumerate(model.counts):
        expected: Counter[int] = Counter()
        for strand in strands:
            for i in range(len(strand) - k):
                word = strand[i : i + k + 1] - 7
                if (word < 4).all():
                    expected[int("".join(map(str, word)), 4)] += 1
        assert {w: c for w, c in enumerate(counts) if c} == expected


def test_the_likelihood_is_the_interpolation_written_out() -> None:
    random = np.random.default_rng(1)
    train = [random.choice([7, 8, 9, 10, N], p=[0.4, 0.2, 0.2, 0.15, 0.05], size=400)]
    model = fit_markov(train, data_ids=IDS, max_order=2)
    window = random.choice([7, 8, 9, 10, N, PAD], size=60)

    def p(letter: int, context: list[int]) -> float:
        """By the definition: the longest context has the last word."""
        below = p(letter, context[1:]) if context else 0.25
        counts = model.counts[len(context)]
        start = int("0" + "".join(map(str, context)), 4) * 4
        strength = model.concentrations[len(context)]
        return (counts[start + letter] + strength * below) / (
            counts[start : start + 4].sum() + strength
        )

    result = model.nats([window])
    for k in range(3):
        expected = 0.0
        for i, token in enumerate(window):
            if token not in IDS:
                continue
            context: list[int] = []
            for before in window[max(i - k, 0) : i][::-1]:
                if before not in IDS:
                    break
                context.insert(0, int(before) - 7)
            expected -= math.log(p(int(token) - 7, context))
        assert result.window_nats[0, k] == pytest.approx(expected)
    assert result.window_tokens.tolist() == [sum(token in IDS for token in window)]


def test_order_zero_is_the_composition() -> None:
    train = np.repeat([7, 8, 9, 10], [500_000, 250_000, 125_000, 125_000])
    train = np.random.default_rng(0).permutation(train)
    result = fit_markov([train], data_ids=IDS, max_order=0).nats([np.array([7, 8, 9, 10])])
    # The prior's weight, held below 10^4 counts, moves a million counts by at most 1 %.
    assert result.window_nats[0, 0] == pytest.approx(math.log(2 * 4 * 8 * 8), abs=0.03)


def test_contexts_never_cross_windows() -> None:
    windows = [np.array([7] * 10), np.array([8] * 10)]
    counts = fit_markov(windows, data_ids=IDS, max_order=1).counts[1]
    assert counts[1] == 0  # no A then C
    assert counts.sum() == 18


def test_contexts_never_cross_an_n() -> None:
    counts = fit_markov([np.array([7, 7, N, 8, 8])], data_ids=IDS, max_order=1).counts[1]
    assert counts.tolist() == [1, 0, 0, 0, 0, 1, *[0] * 10]


def test_a_strand_and_its_reverse_complement_are_equally_likely_to_learn_from() -> None:
    window = np.random.default_rng(0).choice(IDS, size=500)
    reverse = np.array(COMPLEMENT)[window[::-1]]
    held_out = [np.random.default_rng(1).choice(IDS, size=100)]
    one = fit_markov([window], data_ids=IDS, complement=COMPLEMENT, max_order=4, held_out=held_out)
    two = fit_markov(
        [reverse], data_ids=IDS, complement=COMPLEMENT, max_order=4, held_out=held_out
    )
    for a, b in zip(one.counts, two.counts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_held_out_windows_choose_the_lambdas() -> None:
    """On held-out windows no other lambda of the highest order does better."""
    train, _ = order_two_chain(4, 600, seed=3)
    held_out, _ = order_two_chain(4, 600, seed=4)
    model = fit_markov(train, data_ids=IDS, max_order=3, held_out=held_out)
    best = model.nats(held_out).nats_per_token[3]
    for factor in (0.5, 0.9, 1.1, 2.0):
        other = type(model)(
            model.data_ids,
            model.counts,
            (*model.concentrations[:3], model.concentrations[3] * factor),
        )
        assert other.nats(held_out).nats_per_token[3] > best - 1e-9


def test_perplexity_brackets_and_clusters() -> None:
    windows, _ = order_two_chain(12, 300, seed=5)
    model = fit_markov(windows, data_ids=IDS, max_order=2)
    alone = model.nats(windows)
    twice = model.nats(windows + windows, clusters=[*range(12), *range(12)])
    assert alone.perplexity_95 is not None
    assert twice.standard_error_data == pytest.approx(alone.standard_error_data)
    assert (alone.perplexity_95[:, 0] < alone.perplexity).all()
    assert (alone.perplexity < alone.perplexity_95[:, 1]).all()
    assert model.nats(windows[:1]).perplexity_95 is None


def test_every_window_counts_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    windows, _ = order_two_chain(7, 50, seed=6)
    whole = fit_markov(windows, data_ids=IDS, max_order=3)
    nats = whole.nats(windows)
    monkeypatch.setattr("genodiff.evaluation.markov._BLOCK_TOKENS", 100)
    np.testing.assert_allclose(whole.nats(windows).window_nats, nats.window_nats)
    pieces = fit_markov(windows, data_ids=IDS, max_order=3)
    assert pieces.concentrations == pytest.approx(whole.concentrations)
    np.testing.assert_array_equal(pieces.counts[3], whole.counts[3])


def test_windows_without_a_letter_are_refused() -> None:
    empty = [np.full(5, N)]
    with pytest.raises(UserError, match="training windows hold no letter"):
        fit_markov(empty, data_ids=IDS)
    with pytest.raises(UserError, match="training windows hold no letter"):
        fit_markov([], data_ids=IDS)
    model = fit_markov([np.array([7, 8])], data_ids=IDS, max_order=1)
    with pytest.raises(UserError, match="1 windows hold no letter to score"):
        model.nats(empty)


@pytest.mark.parametrize("order", [-1, 13])
def test_an_order_out_of_range_is_refused(order: int) -> None:
    with pytest.raises(
        UserError, match=f"max_order={order} is out of range for 4 letters; use 0 to 12"
    ):
        fit_markov([np.array([7])], data_ids=IDS, max_order=order)


def test_a_complement_outside_the_letters_is_refused() -> None:
    with pytest.raises(ValueError, match="maps a letter"):
        fit_markov([np.array([7])], data_ids=(7, 8), complement=COMPLEMENT, max_order=1)
