import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genodiff.data.randomness import Stream, hash_counters, integers_below, permute


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 1000))
def test_permute_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, seed, epoch)), np.arange(n))


def test_permute_reaches_far_without_a_table() -> None:
    n = 35_000_000_000
    index = np.array([0, 1, n - 1])
    once = permute(index, n, 7)
    assert ((once >= 0) & (once < n)).all()
    assert len(set(once.tolist())) == 3
    assert np.array_equal(once[1:], permute(index[1:], n, 7))


@pytest.mark.parametrize("n", [3, 4])
def test_permutations_of_few_are_uniform(n: int) -> None:
    # Chi-squared over all n! orders, 800 keys; false-alarm rate 1e-4 each.
    orders = [tuple(permute(np.arange(n), n, 1, key).tolist()) for key in range(800)]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == np.prod(np.arange(1, n + 1))
    assert stats.chisquare(counts).pvalue > 1e-4


def test_permutations_of_many_mix_far_and_near() -> None:
    # Under a uniform law the rank correlations below have sd 1/sqrt(n) = 0.01; 5 sd.
    n = 10_000
    order, next_epoch = permute(np.arange(n), n, 1, 0), permute(np.arange(n), n, 1, 1)
    for a, b in [(order, np.arange(n)), (order[1:], order[:-1]), (order, next_epoch)]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.05


def test_hashes_are_those_of_splitmix64() -> None:
    # The first output of the published generator seeded with 0, then a chain in Python's integers.
    assert hash_counters(0).item() == 0xE220A8397B1DCDAF

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    state = 0
    for counter in (2**63 - 1, Stream.STRAND, 5, 123_456_789_012):
        state = mix((state + 0x9E3779B97F4A7C15) % 2**64 ^ counter)
    hashed = hash_counters(2**63 - 1, Stream.STRAND, 5, np.array([0, 123_456_789_012]))
    assert hashed[1] == state


def test_the_order_never_changes() -> None:
    # A run may be resumed by a later version, so this permutation is for ever.
    assert permute(np.arange(8), 8, 3, Stream.ORDER, 0).tolist() == [4, 5, 7, 0, 6, 3, 1, 2]


def test_bits_are_fair_and_independent_over_neighbours() -> None:
    # 64 bits x 20,000 draws: a fair bit has sd 0.0035; 5 sd over 64 bits, false alarms below 1e-4.
    draws = hash_counters(0, Stream.STRAND, np.arange(4)[:, None], np.arange(5000)).ravel()
    bits = (draws[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.018
    assert np.abs((bits[1:] ^ bits[:-1]).mean(0) - 0.5).max() < 0.018


def test_integers_below_are_uniform_and_inside() -> None:
    draws = integers_below(np.full(60_000, 6), 0, Stream.JITTER, np.arange(60_000))
    counts = np.bincount(draws, minlength=6)
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-4  # its false-alarm rate
    assert (integers_below(np.ones(5, dtype=np.int64), 1, np.arange(5)) == 0).all()
