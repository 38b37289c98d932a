import math
from collections import Counter

import numpy as np
import pytest

from genodiff.errors import UserError
from genodiff.evaluation import divergence, gc_content, kmer_spectrum, noise_floor

IDS = (7, 8, 9, 10)
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def random_sequences(n: int, length: int, p: list[float], seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return ["".join(random.choice(list("ACGT"), p=p, size=length)) for _ in range(n)]


def entropy_bits(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """By the other definition: entropy of the mixture less the mean entropy."""
    return entropy_bits((p + q) / 2) - (entropy_bits(p) + entropy_bits(q)) / 2


def test_words_are_counted_as_by_a_loop() -> None:
    sequences = [*random_sequences(5, 60, [0.4, 0.1, 0.2, 0.3], seed=0), "ACNGTRACG", "acgt", "A"]
    for k in (1, 2, 3, 6):
        spectrum = kmer_spectrum(sequences, k)
        assert spectrum.words == tuple(sorted(spectrum.words))
        assert spectrum.counts.shape == (len(sequences), 4**k)
        for sequence, counts in zip(sequences, spectrum.counts, strict=True):
            text = sequence.upper()
            windows = (text[i : i + k] for i in range(len(text) - k + 1))
            expected = Counter(word for word in windows if set(word) <= set("ACGT"))
            assert {w: c for w, c in zip(spectrum.words, counts, strict=True) if c} == expected


def test_ids_and_letters_give_the_same_spectrum() -> None:
    text = "ACGTTGCANNACG"
    ids = np.array([{"A": 7, "C": 8, "G": 9, "T": 10, "N": 11}[letter] for letter in text])
    by_ids = kmer_spectrum([ids], 2, data_ids=IDS)
    np.testing.assert_array_equal(by_ids.counts, kmer_spectrum([text], 2).counts)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_both_strands_count_a_word_and_its_reverse_complement_as_one(k: int) -> None:
    sequences = random_sequences(3, 50, [0.4, 0.1, 0.2, 0.3], seed=1)
    reverse = [sequence.translate(COMPLEMENT)[::-1] for sequence in sequences]
    merged = kmer_spectrum(sequences, k, both_strands=True)
    palindromes = 4 ** (k // 2) if k % 2 == 0 else 0
    assert len(merged.words) == (4**k + palindromes) // 2
    np.testing.assert_array_equal(
        merged.counts, kmer_spectrum(reverse, k, both_strands=True).counts
    )
    assert merged.counts.sum() == kmer_spectrum(sequences, k).counts.sum()


def test_frequencies_sum_to_one() -> None:
    assert kmer_spectrum(["ACGTA", "CC"], 2).frequencies.sum() == pytest.approx(1)


def test_the_divergence_is_its_closed_form() -> None:
    sample, reference = kmer_spectrum(["AAAC"], 1), kmer_spectrum(["AACC", "GGGG"], 1)
    expected = jensen_shannon(sample.frequencies, reference.frequencies)
    assert divergence(sample, reference).bits == pytest.approx(expected)


def test_the_divergence_is_symmetric_and_between_0_and_1() -> None:
    a, b = kmer_spectrum(["AAAA"], 1), kmer_spectrum(["CCGT"], 1)
    assert divergence(a, b).bits == pytest.approx(1)
    assert divergence(b, a).bits == pytest.approx(1)
    assert divergence(a, a) == (0, 0, (0, 0))


def test_the_interval_holds_the_divergence_of_the_laws() -> None:
    p, q = np.array([0.3, 0.2, 0.2, 0.3]), np.full(4, 0.25)
    truth = jensen_shannon(np.outer(p, p).ravel(), np.outer(q, q).ravel())
    results = [
        divergence(
            kmer_spectrum(random_sequences(40, 50, p.tolist(), 2 * seed), 2),
            kmer_spectrum(random_sequences(60, 50, q.tolist(), 2 * seed + 1), 2),
            seed=seed,
        )
        for seed in range(80)
    ]
    held = np.mean([low <= truth <= high for _, _, (low, high) in results])
    # The basic bootstrap is a little short: 91 % in 300 replicates. Standard error here 3.2 %.
    assert 0.81 <= held <= 0.99
    bias = np.mean([result.bits for result in results]) - truth
    debiased = np.mean([result.debiased for result in results]) - truth
    assert abs(debiased) < bias / 3


def test_samples_of_the_reference_s_law_score_its_noise_floor() -> None:
    p = [0.3, 0.2, 0.2, 0.3]
    reference = kmer_spectrum(random_sequences(300, 100, p, seed=0), 3)
    floor = noise_floor(reference, size=50)
    scores = [
        divergence(kmer_spectrum(random_sequences(50, 100, p, seed), 3), reference).bits
        for seed in range(1, 21)
    ]
    # The rest of the reference is 250 of 300: a floor higher by (1/50 + 1/250) / (1/50 + 1/300).
    # All scores share the one reference, whose own noise is a tenth of them.
    assert floor.range_95[0] < floor.bits < floor.range_95[1]
    assert np.mean(scores) == pytest.approx(floor.bits / 1.03, rel=0.2)
    assert noise_floor(reference).bits < floor.bits


def test_gc_content_and_its_error() -> None:
    sequences = ["GGCC", "ATAT", "GCNNat", "NNN"]
    result = gc_content(sequences)
    assert result.share == pytest.approx(6 / 12)
    np.testing.assert_allclose(result.each, [1, 0, 0.5, np.nan])
    # three sequences of four letters: the standard error of the mean of 1, 0, 1/2
    assert result.standard_error == pytest.approx(0.5 / math.sqrt(3))
    assert gc_content(["GGA"]).standard_error is None


@pytest.mark.parametrize("k", [0, 9])
def test_a_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(UserError, match=f"k={k} is out of range; use 1 to 8"):
        kmer_spectrum(["ACGT"], k)


@pytest.mark.parametrize("sequences", [[], ["AC", "NNNN"]])
def test_sequences_without_a_word_are_refused(sequences: list[str]) -> None:
    with pytest.raises(UserError, match="hold no 3 letters A, C, G, T in a row"):
        kmer_spectrum(sequences, 3)


def test_ids_without_their_letters_are_refused() -> None:
    with pytest.raises(UserError, match="must be the ids of A, C, G, T"):
        gc_content([np.array([7, 8])])


def test_spectra_of_other_words_are_refused() -> None:
    with pytest.raises(UserError, match=r"k=2\) and 64 words"):
        divergence(kmer_spectrum(["ACGT"], 2), kmer_spectrum(["ACGT"], 3))


@pytest.mark.parametrize("size", [0, 2])
def test_a_noise_floor_needs_two_sides(size: int) -> None:
    with pytest.raises(UserError, match=f"size={size} of 2 reference sequences"):
        noise_floor(kmer_spectrum(["ACGT", "CCGT", "NN"], 1), size=size)
