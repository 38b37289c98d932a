from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from genodiff.errors import UserError
from genodiff.evaluation import divergence, kmer_spectra, kmer_spectrum, noise_floors

IDS = (7, 8, 9, 10)
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def random_sequences(n: int, length: int, p: Sequence[float], seed: int) -> list[str]:
    letters = np.random.default_rng(seed).choice(list("ACGT"), p=p, size=(n, length))
    return ["".join(row) for row in letters]


def uneven_sequences(n: int, length: int, seed: int) -> list[str]:
    """Each with a GC content of its own: letters of one sequence go together."""
    random = np.random.default_rng(seed)
    gc = random.beta(8, 12, (n, 1))
    is_gc, second = random.random((n, length)) < gc, random.random((n, length)) < 0.5
    codes = np.where(is_gc, 1 + second, 3 * second)
    return ["".join(row) for row in np.array(list("ACGT"))[codes]]


def entropy_bits(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """By the other definition: entropy of the mixture less the mean entropy."""
    return entropy_bits((p + q) / 2) - (entropy_bits(p) + entropy_bits(q)) / 2


def counted(sequences: list[str], k: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for text in map(str.upper, sequences):
        windows = (text[i : i + k] for i in range(len(text) - k + 1))
        found.update(word for word in windows if set(word) <= set("ACGT"))
    return found


def test_words_are_counted_as_by_a_loop() -> None:
    sequences = [*random_sequences(5, 60, [0.4, 0.1, 0.2, 0.3], seed=0), "ACNGTRACG", "acgt", "A"]
    spectra = kmer_spectra(sequences)
    assert list(spectra) == [1, 2, 3, 4, 5, 6, 7, 8]
    for k, spectrum in spectra.items():
        assert spectrum.words == tuple(sorted(spectrum.words)) and len(spectrum.words) == 4**k
        found = {w: c for w, c in zip(spectrum.words, spectrum.counts, strict=True) if c}
        assert found == counted(sequences, k)
        assert spectrum.n_units == 8


def test_resamples_are_sums_over_whole_units() -> None:
    """Of two units of two sequences each, every resample is a mixture of two spectra."""
    pairs = [["ACGTNAAC", "CCC"], ["GATTACA", "ACG"]]
    spectra = kmer_spectra([*pairs[0], *pairs[1]], (1, 3), units=[5, 5, 2, 2], resamples=20)
    for k, spectrum in spectra.items():
        parts = np.array([[counted(pair, k)[w] for w in spectrum.words] for pair in pairs])
        weights, residue, *_ = np.linalg.lstsq(
            parts.T.astype(float), spectrum.resampled.T, rcond=None
        )
        assert residue == pytest.approx(0, abs=1e-8) and (weights > 0).all()
        assert len(np.unique(weights.round(6))) == 40
        assert spectrum.n_units == 2


def test_spectra_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = random_sequences(40, 50, [0.25] * 4, seed=3)
    whole = kmer_spectra(sequences, (2, 5), resamples=10)
    monkeypatch.setattr("genodiff.evaluation.words._BLOCK_LETTERS", 200)
    for k, spectrum in kmer_spectra(iter(sequences), (2, 5), resamples=10).items():
        np.testing.assert_array_equal(spectrum.counts, whole[k].counts)
        np.testing.assert_allclose(spectrum.resampled, whole[k].resampled, rtol=1e-5)


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
    other = kmer_spectrum(reverse, k, both_strands=True)
    np.testing.assert_array_equal(merged.counts, other.counts)
    np.testing.assert_allclose(merged.resampled, other.resampled, rtol=1e-5)
    assert merged.counts.sum() == kmer_spectrum(sequences, k).counts.sum()


def test_frequencies_sum_to_one() -> None:
    assert kmer_spectrum(["ACGTA", "CC"], 2).frequencies.sum() == pytest.approx(1)


def test_the_divergence_is_its_closed_form() -> None:
    sample = kmer_spectrum(["AAAC", "AC"], 1)
    reference = kmer_spectrum(["AACC", "GGGG"], 1)
    expected = jensen_shannon(sample.frequencies, reference.frequencies)
    assert divergence(sample, reference).bits == pytest.approx(expected)


def test_the_divergence_is_symmetric_and_between_0_and_1() -> None:
    a, b = kmer_spectrum(["AAAA", "A"], 1), kmer_spectrum(["CCGT", "CCGT"], 1)
    assert divergence(a, b).bits == pytest.approx(1)
    assert divergence(b, a).bits == pytest.approx(1)
    same = divergence(b, b)
    assert (same.bits, same.debiased) == (0, 0) and same.p_value == 1


def test_the_interval_holds_the_divergence_of_the_laws() -> None:
    p, q = np.array([0.3, 0.2, 0.2, 0.3]), np.full(4, 0.25)
    truth = jensen_shannon(np.outer(p, p).ravel(), np.outer(q, q).ravel())
    results = [
        divergence(
            kmer_spectrum(random_sequences(40, 50, p.tolist(), 2 * seed), 2),
            kmer_spectrum(random_sequences(60, 50, q.tolist(), 2 * seed + 1), 2),
        )
        for seed in range(40)
    ]
    held = np.mean([low <= truth <= high for _, _, (low, high), _ in results])
    assert held >= 0.82  # 95 %, standard error 3.4 %: false alarm 1e-3
    bias = np.mean([result.bits for result in results]) - truth
    debiased = np.mean([result.debiased for result in results]) - truth
    assert abs(debiased) < bias / 3
    assert np.mean([result.p_value < 0.05 for result in results]) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "length"), [((60, 60), 300), ((12, 40), 300)])
def test_samples_of_one_law_are_told_apart_as_often_as_the_level_says(
    sizes: tuple[int, int], length: int
) -> None:
    """200 pairs; a rate of 5 % of them is between 1 % and 9.5 % (false alarm 4e-3 each side)."""
    told: dict[int, list[bool]] = {k: [] for k in (1, 2, 4)}
    excluded: dict[int, list[bool]] = {k: [] for k in (1, 2, 4)}
    for seed in range(200):
        ours, theirs = (
            kmer_spectra(uneven_sequences(n, length, 2 * seed + i), (1, 2, 4))
            for i, n in enumerate(sizes)
        )
        for k in told:
            found = divergence(ours[k], theirs[k])
            told[k].append(found.p_value < 0.05)
            excluded[k].append(found.confidence_95[0] > 0)
    for k in told:
        assert np.mean(told[k]) <= 0.095, k
        assert np.mean(excluded[k]) <= 0.095, k
    assert np.mean(told[1]) >= 0.01 and np.mean(excluded[1]) >= 0.01


def test_rare_words_are_no_difference() -> None:
    """4^8 words, 20,000 places: most words are on one side only, whatever the law."""
    ours, theirs = (
        kmer_spectrum(random_sequences(200, 107, [0.25] * 4, seed), 8, resamples=50)
        for seed in (1, 2)
    )
    found = divergence(ours, theirs)
    assert found.bits > 0.5
    assert found.confidence_95[0] == 0 and found.debiased < 0.03 and found.p_value > 0.05


def test_records_are_units_where_they_are_what_repeats() -> None:
    """Pieces of one record of its own GC: as many sequences, but only six records each."""
    records = uneven_sequences(12, 2000, seed=4)
    pieces = [record[i : i + 50] for record in records for i in range(0, 2000, 50)]
    units = np.repeat(np.arange(12), 40)
    first = units < 6

    def compared(units: list[int] | None) -> float:
        ours = [pieces[i] for i in np.flatnonzero(first)]
        theirs = [pieces[i] for i in np.flatnonzero(~first)]
        return divergence(
            kmer_spectrum(ours, 1, units=None if units is None else units[:240]),
            kmer_spectrum(theirs, 1, units=None if units is None else units[240:]),
        ).p_value

    assert compared(None) < 1e-4
    assert compared(units.tolist()) > 0.01


def test_samples_of_the_reference_s_law_score_its_noise_floor() -> None:
    p = [0.3, 0.2, 0.2, 0.3]
    sequences = random_sequences(300, 100, p, seed=0)
    reference, floor = kmer_spectrum(sequences, 3), noise_floors(sequences, (3,), size=50)[3]
    scores = [
        divergence(kmer_spectrum(random_sequences(50, 100, p, seed), 3), reference).bits
        for seed in range(1, 21)
    ]
    # The rest of the reference is 250 of 300: a floor higher by (1/50 + 1/250) / (1/50 + 1/300).
    # All scores share the one reference, whose own noise is a tenth of them.
    assert floor.range_95[0] < floor.bits < floor.range_95[1]
    assert np.mean(scores) == pytest.approx(floor.bits / 1.03, rel=0.2)
    assert noise_floors(sequences, (3,))[3].bits < floor.bits


def test_a_noise_floor_is_the_divergence_of_two_parts() -> None:
    """Of two sequences there is one split."""
    floors = noise_floors(["AAAC", "CCGN"], (1,), both_strands=True, splits=3)
    expected = jensen_shannon(np.array([3 / 4, 1 / 4]), np.array([0, 1]))
    assert floors[1].bits == pytest.approx(expected)
    assert floors[1].range_95 == pytest.approx((expected, expected))


@pytest.mark.parametrize("k", [0, 9])
def test_a_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(UserError, match=f"k={k} is out of range; use 1 to 8"):
        kmer_spectrum(["ACGT"], k)
    with pytest.raises(UserError, match=f"k={k} is out of range; use 1 to 8"):
        noise_floors(["ACGT", "ACGT"], (2, k))


@pytest.mark.parametrize("sequences", [[], ["AC", "NNNN"]])
def test_sequences_without_a_word_are_refused(sequences: list[str]) -> None:
    with pytest.raises(UserError, match="hold no 3 letters A, C, G, T in a row"):
        kmer_spectrum(sequences, 3)


def test_spectra_of_other_words_are_refused() -> None:
    with pytest.raises(UserError, match=r"k=2\) and 64 words"):
        divergence(kmer_spectrum(["ACGT"], 2), kmer_spectrum(["ACGT"], 3))


def test_a_single_sequence_has_no_interval() -> None:
    with pytest.raises(UserError, match="give two or more"):
        divergence(kmer_spectrum(["ACGT"], 2), kmer_spectrum(["ACGT", "A"], 2))


@pytest.mark.parametrize("size", [0, 3])
def test_a_noise_floor_needs_two_sides(size: int) -> None:
    with pytest.raises(UserError, match=f"size={size} of 3 reference sequences"):
        noise_floors(["ACGT", "CCGT", "NN"], (1,), size=size)


def test_a_noise_floor_needs_words_on_both_sides() -> None:
    with pytest.raises(UserError, match="hold too few 2 letters"):
        noise_floors(["ACGT", "CC", "NN"], (2,), size=1)
