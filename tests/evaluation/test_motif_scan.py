"""Thresholds against all words there are, and hits against a search word by word."""

from itertools import product
from typing import NamedTuple

import numpy as np
import pytest

from genodiff.errors import UserError
from genodiff.evaluation.motif_scan import (
    Hits,
    MotifScanner,
    background_of,
    scores_of,
    tail,
    threshold,
)

UNIFORM = np.full(4, 0.25)
SKEWED = np.array([0.31, 0.19, 0.19, 0.31])
PARTNER = str.maketrans("ACGT", "TGCA")


class Motif(NamedTuple):
    name: str
    alternate: str
    probabilities: np.ndarray


def random_motif(random: np.random.Generator, width: int, name: str = "motif") -> Motif:
    return Motif(name, "", random.dirichlet(np.full(4, 0.3), size=width))


def consensus(letters: str, name: str = "") -> Motif:
    return Motif(name or letters, "", np.eye(4)[["ACGT".index(x) for x in letters]])


def drawn(random: np.random.Generator, length: int, unknown: float = 0.0) -> str:
    law = [*(SKEWED * (1 - unknown)), unknown]
    return "".join(random.choice(list("ACGTN"), length, p=law))


def reverse_complement(sequence: str) -> str:
    return sequence[::-1].translate(PARTNER)


@pytest.mark.parametrize("background", [UNIFORM, SKEWED], ids=["uniform", "skewed"])
@pytest.mark.parametrize("width", [1, 2, 4, 6])
def test_thresholds_are_those_of_all_words(width: int, background: np.ndarray) -> None:
    random = np.random.default_rng(width)
    scores = scores_of(random_motif(random, width).probabilities, background)
    words = list(product(range(4), repeat=width))
    reached = np.array([sum(scores[i, x] for i, x in enumerate(word)) for word in words])
    shares = np.array([np.prod(background[list(word)]) for word in words])
    least, probabilities = tail(scores, background)
    assert least == reached.min() and least + len(probabilities) - 1 == reached.max()
    for score in range(least, reached.max() + 1):
        expected = shares[reached >= score].sum()
        assert probabilities[score - least] == pytest.approx(expected, rel=1e-9)
    for p_value in (0.3, 0.05, 1e-2, 1e-3):
        found = threshold(scores, background, p_value)
        if found is None:
            assert shares[reached == reached.max()].sum() > p_value
        else:
            # Sums of floats: exactly p_value is within it, and is told by a billionth.
            assert shares[reached >= found].sum() <= p_value * (1 + 1e-8)
            assert shares[reached >= found - 1].sum() > p_value


def test_scores_are_log_odds_in_hundredths_of_a_bit() -> None:
    scores = scores_of(np.array([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]]), UNIFORM)
    # log2(1.0025 / 1.01 / 0.25) and log2(0.0025 / 1.01 / 0.25)
    assert scores.tolist() == [[199, -666, -666, -666], [0, 0, 0, 0]]


def searched(sequences: list[str], motifs: list[Motif], p_value: float) -> set[tuple]:
    """Hits, word by word: sequence, motif, start and strand."""
    found = set()
    for m, motif in enumerate(motifs):
        scores = scores_of(motif.probabilities, SKEWED)
        least = threshold(scores, SKEWED, p_value)
        width = len(scores)
        for s, sequence in enumerate(sequences):
            for start in range(len(sequence) - width + 1):
                word = sequence[start : start + width]
                if least is None or "N" in word:
                    continue
                forward, reverse = (
                    sum(scores[i, "ACGT".index(x)] for i, x in enumerate(letters))
                    for letters in (word, reverse_complement(word))
                )
                if max(forward, reverse) >= least:
                    found.add((s, m, start, bool(reverse > forward)))
    return found


def as_set(hits: Hits) -> set[tuple]:
    columns = (hits.sequence, hits.motif, hits.start, hits.is_reverse)
    found = list(zip(*(column.tolist() for column in columns), strict=True))
    assert len(set(found)) == len(found)
    assert found == sorted(found, key=lambda hit: (hit[0], hit[2], hit[1]))
    return set(found)


def test_hits_are_those_of_a_search_word_by_word() -> None:
    random = np.random.default_rng(0)
    motifs = [random_motif(random, width) for width in (9, 3, 6, 1, 15)]
    lengths = (0, 1, 5, 14, 15, 16, 300, 700)
    sequences = [drawn(random, length, unknown=0.02) for length in lengths]
    hits = MotifScanner(motifs, SKEWED, p_value=0.01).hits(sequences)
    assert as_set(hits) == searched(sequences, motifs, 0.01)
    assert hits.is_silent.tolist() == [False, True, False, True, False]
    assert hits.lengths.tolist() == list(lengths)
    assert hits.letters.tolist() == [
        length - x.count("N") for length, x in zip(lengths, sequences, strict=True)
    ]
    expected = np.zeros((len(sequences), len(motifs)), int)
    for sequence, motif, *_ in as_set(hits):
        expected[sequence, motif] += 1
    np.testing.assert_array_equal(hits.counts, expected)


def test_hits_do_not_depend_on_how_many_bases_and_motifs_are_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(1)
    motifs = [random_motif(random, int(width)) for width in random.integers(4, 12, 20)]
    sequences = [drawn(random, length) for length in (90, 2000, 40, 333)]
    expected = as_set(MotifScanner(motifs, SKEWED, p_value=1e-3).hits(sequences))
    assert len(expected) > 30
    for name, size in (("_BASES_AT_ONCE", 64), ("_MOTIFS_AT_ONCE", 3), ("_BASES_TOGETHER", 100)):
        monkeypatch.setattr(f"genodiff.evaluation.motif_scan.{name}", size)
        assert as_set(MotifScanner(motifs, SKEWED, p_value=1e-3).hits(sequences)) == expected


def test_the_other_strand_has_the_same_hits() -> None:
    random = np.random.default_rng(2)
    motifs = [random_motif(random, 7), random_motif(random, 10)]
    sequences = [drawn(random, 400) for _ in range(5)]
    scanner = MotifScanner(motifs, SKEWED, p_value=2e-3)
    found = as_set(scanner.hits(sequences))
    turned = as_set(scanner.hits([reverse_complement(sequence) for sequence in sequences]))
    widths = [7, 10]
    assert {(s, m, 400 - start - widths[m]) for s, m, start, _ in turned} == {
        hit[:3] for hit in found
    }
    assert len(found) > 10


def test_a_palindrome_is_one_hit_and_an_unknown_base_none() -> None:
    scanner = MotifScanner([consensus("GAATTC"), consensus("GATTACA")], UNIFORM, p_value=3e-4)
    hits = scanner.hits(["AAGAATTCAA", "AAGANTTCAA", "CTGTAATCC", "GATTACA"])
    assert as_set(hits) == {(0, 0, 2, False), (2, 1, 1, True), (3, 1, 0, False)}


def test_random_bases_have_as_many_hits_as_the_p_value_says() -> None:
    # p of the two strands at 400,000 sites is 800 hits; they come together where the motif
    # overlaps itself, which this one cannot. Five standard deviations are 141.
    random = np.random.default_rng(3)
    scanner = MotifScanner([consensus("AACCGT")], UNIFORM, p_value=1e-3)
    sequences = ["".join(random.choice(list("ACGT"), 4000)) for _ in range(100)]
    scores = scores_of(consensus("AACCGT").probabilities, UNIFORM)
    least, reached = tail(scores, UNIFORM)
    exact = reached[(threshold(scores, UNIFORM, 1e-3) or 0) - least]
    assert len(scanner.hits(sequences).start) == pytest.approx(800_000 * exact, rel=0.18)


def test_a_motif_too_short_for_the_p_value_is_silent() -> None:
    scanner = MotifScanner([consensus("GAATTC"), consensus("GATTACA")], UNIFORM, p_value=1e-4)
    assert scanner.is_silent.tolist() == [True, False]
    assert as_set(scanner.hits(["GAATTCGATTACA"])) == {(0, 1, 6, False)}
    alone = MotifScanner([consensus("GAATTC")], UNIFORM, p_value=1e-4)
    assert as_set(alone.hits(["GAATTC"])) == set()


def test_of_more_sequences_a_sub_sample_is_read() -> None:
    random = np.random.default_rng(4)
    sequences = [drawn(random, length) for length in range(20, 70)]
    scanner = MotifScanner([consensus("GAATTC")], UNIFORM, p_value=1e-3)
    hits = scanner.hits(iter(sequences), units=range(50), limit=30, seed=1)
    assert (hits.given, len(hits.lengths)) == (50, 30)
    np.testing.assert_array_equal(hits.lengths, hits.units + 20)
    np.testing.assert_array_equal(hits.units, np.sort(hits.units))
    again = scanner.hits(sequences, limit=30, seed=1)
    np.testing.assert_array_equal(again.lengths, hits.lengths)
    assert (scanner.hits(sequences, limit=30, seed=2).lengths != hits.lengths).any()


def test_the_background_is_of_both_strands() -> None:
    np.testing.assert_allclose(background_of(iter(["AACNN", "AGG"])), [0.25, 0.25, 0.25, 0.25])
    np.testing.assert_allclose(background_of(["AAAC"]), [0.375, 0.125, 0.125, 0.375])


def test_what_cannot_be_scanned_is_told_in_one_line() -> None:
    motif = consensus("GAATTC")
    with pytest.raises(UserError, match="no motif is given"):
        MotifScanner([], UNIFORM)
    with pytest.raises(UserError, match=r"p_value=1\.5 is a probability"):
        MotifScanner([motif], UNIFORM, p_value=1.5)
    with pytest.raises(UserError, match="no sequence to look for motifs in"):
        MotifScanner([motif], UNIFORM).hits([])
    with pytest.raises(UserError, match=r"A, C, G and T are 0\.5, 0, 0, 0\.5 of the letters"):
        background_of(["AATN"])
    with pytest.raises(UserError, match=r"A, C, G and T are 0, 0, 0, 0 of the letters"):
        background_of([])
    with pytest.raises(ValueError, match="shorter"):
        MotifScanner([motif], UNIFORM).hits(["ACGT", "ACGT"], units=[1])
