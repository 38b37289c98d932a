"""Content, spacing and placement of motifs: what was planted is found, and nothing where nothing
was; against scipy's tests and a count of all pairs."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ttest_ind

from genodiff.errors import UserError
from genodiff.evaluation.motif_scan import Hits, MotifScanner
from genodiff.evaluation.motifs import MotifComparison, compare_motifs
from genodiff.evaluation.scores import benjamini_hochberg
from tests.evaluation.test_motif_scan import UNIFORM, Motif, consensus, random_motif

LENGTH = 400
PLANTED = "TGACGTCATC"


def hits_of(counts: np.ndarray, units: np.ndarray | None = None, letters: int = 1000) -> Hits:
    """Hits at random places, so many of each motif in each sequence."""
    n, m = counts.shape
    random = np.random.default_rng(0)
    sequence, motif = (np.repeat(each.ravel(), counts.ravel()) for each in np.indices((n, m)))
    start = random.integers(0, letters - 10, len(sequence))
    order = np.lexsort((motif, start, sequence))
    return Hits(
        motifs=tuple((f"motif {i}", "") for i in range(m)),
        widths=np.full(m, 10),
        is_silent=np.zeros(m, bool),
        lengths=np.full(n, letters),
        letters=np.full(n, letters),
        units=np.arange(n) if units is None else units,
        sequence=sequence[order],
        motif=motif[order],
        start=start[order],
        is_reverse=random.random(len(sequence)) < 0.5,
        given=n,
    )


def drawn(random: np.random.Generator, n: int) -> list[str]:
    return ["".join(row) for row in random.choice(list("ACGT"), (n, LENGTH))]


def written_over(sequence: str, places: dict[int, str]) -> str:
    for start, word in places.items():
        sequence = sequence[:start] + word + sequence[start + len(word) :]
    return sequence


def scanner(random: np.random.Generator) -> MotifScanner:
    others = [random_motif(random, int(w), f"m{w}_{i}") for i, w in enumerate([6, 8, 9, 12] * 5)]
    return MotifScanner([*others, consensus(PLANTED, "planted")], UNIFORM, p_value=1e-3)


def compared(samples: list[str], reference: list[str], seed: int = 0) -> MotifComparison:
    scan = scanner(np.random.default_rng(99))
    return compare_motifs(scan.hits(samples), scan.hits(reference), seed=seed)


def test_p_values_are_those_of_welchs_t_test() -> None:
    # Counts that vary more than Poisson numbers do; Wallace's approximation is good to 3 %.
    random = np.random.default_rng(1)
    means = np.array([1.0, 2.0, 3.0, 4.0, 8.0])
    a = random.poisson(random.gamma(0.5, 2 * means, (60, 5)))
    b = random.poisson(random.gamma(0.5, 6 * means, (25, 5)))
    found = {each.name: each for each in compare_motifs(hits_of(a), hits_of(b)).contents}
    expected = np.array(ttest_ind(a, b, equal_var=False))[1]
    for i, p_value in enumerate(expected):
        assert found[f"motif {i}"].p_value == pytest.approx(p_value, rel=0.03)
        assert found[f"motif {i}"].samples.hits == a[:, i].sum()
        assert found[f"motif {i}"].samples.sequences_with_hit == (a[:, i] > 0).sum()
        assert found[f"motif {i}"].reference.per_10kb == pytest.approx(b[:, i].mean() * 10)
    assert expected.min() < 1e-2


def test_q_values_are_benjamini_and_hochbergs() -> None:
    p_values = np.random.default_rng(2).random(40) ** 3
    np.testing.assert_allclose(
        benjamini_hochberg(p_values.tolist()), false_discovery_control(p_values), rtol=1e-12
    )
    assert benjamini_hochberg([]) == []
    assert benjamini_hochberg([0.01, 0.9, 0.02]) == pytest.approx([0.03, 0.9, 0.03])


def test_intervals_of_rates_hold_the_rate_of_the_law() -> None:
    # 400 motifs of 0.2 hits in a sequence, and 400 whose hits come in threes: 95 % of intervals,
    # and fewer than 92 % with a probability of 0.5 %.
    random = np.random.default_rng(3)
    alone, in_threes = random.poisson(0.2, (200, 400)), 3 * random.poisson(0.07, (200, 400))
    both = np.concatenate([alone, in_threes], 1)
    for rate, half in ((2.0, both[:, :400]), (2.1, both[:, 400:])):
        again = random.permutation(half)
        contents = compare_motifs(hits_of(half[:100]), hits_of(again[:50])).contents
        inside = [
            each.samples.confidence_95[0] <= rate <= each.samples.confidence_95[1]
            for each in contents
        ]
        assert np.mean(inside) > 0.92
        ratios = [each.log2_ratio_95[0] <= 0 <= each.log2_ratio_95[1] for each in contents]
        assert np.mean(ratios) > 0.92


def test_a_motif_without_a_hit_has_the_exact_upper_bound() -> None:
    counts = np.zeros((10, 2), int)
    counts[:, 1] = 1
    found = compare_motifs(hits_of(counts), hits_of(counts[:, ::-1])).contents
    never = next(each for each in found if each.name == "motif 0")
    # P(no hit in 10,000 bases) = 2.5 % at a rate of -log 0.025 hits.
    assert never.samples.confidence_95 == pytest.approx((0, -math.log(0.025)))
    assert never.log2_ratio == pytest.approx(math.log2(0.5 / 10.5))
    # Ten hits to none, of as many bases: z = 10 / sqrt(10) of Poisson numbers, with 18 degrees of
    # freedom.
    assert never.p_value == pytest.approx(0.0054, rel=0.05)


def test_pieces_of_one_record_are_one_unit() -> None:
    # Rates of a record are its own: 20 pieces of each of 8 records tell no more than 8 do.
    random = np.random.default_rng(4)
    units = np.repeat(np.arange(8), 20)
    findings = Counter()
    for _ in range(6):
        a, b = (random.poisson(np.repeat(random.gamma(2, 0.3, (8, 10)), 20, 0)) for _ in range(2))
        for name, unit in (("alone", None), ("together", units)):
            found = compare_motifs(hits_of(a, unit), hits_of(b, unit))
            findings[name] += found.contents[0].q_value < 0.05
            assert found.units == ((160, 160) if unit is None else (8, 8))
    assert findings["alone"] >= 5
    assert findings["together"] <= 2  # at a rate of 5 %, a false alarm for 0.2 % of seeds


def test_a_planted_motif_is_the_first_finding_and_so_is_its_spacing() -> None:
    # Twice in half of the samples, 27 bases apart on one strand.
    random = np.random.default_rng(5)
    samples, reference = drawn(random, 200), drawn(random, 200)
    for i in range(0, 200, 2):
        start = int(random.integers(0, LENGTH - 50))
        samples[i] = written_over(samples[i], {start: PLANTED, start + 37: PLANTED})
    found = compared(samples, reference)
    content, spacing = found.contents[0], found.spacings[0]
    assert content.name == "planted" and content.q_value < 0.01
    assert content.log2_ratio_95[0] > 0 and content.samples.hits >= 200
    assert spacing.motifs == ("planted", "planted") and spacing.q_value < 0.01
    assert (spacing.strands, spacing.gap, spacing.more_in) == ("same", 27, "samples")
    assert spacing.samples[27] >= 95 and spacing.reference.sum() < 20
    json.dumps(found.summary(), allow_nan=False)


def test_a_spacing_of_two_motifs_on_opposite_strands_is_found() -> None:
    random = np.random.default_rng(6)
    samples, reference = drawn(random, 150), drawn(random, 150)
    scan = MotifScanner([consensus("TGACGTCAGG"), consensus("CCGATTACAA")], UNIFORM)
    for i in range(0, 150, 2):
        start = int(random.integers(0, LENGTH - 50))
        words = {start: "TGACGTCAGG", start + 22: "TTGTAATCGG"}
        samples[i] = written_over(samples[i], words)
        # The reference has as many of both, at gaps of their own.
        apart = {20: "TGACGTCAGG", int(random.integers(40, 170)): "TTGTAATCGG"}
        reference[i] = written_over(reference[i], apart)
    found = compare_motifs(scan.hits(samples), scan.hits(reference))
    first = found.spacings[0]
    assert set(first.motifs) == {"TGACGTCAGG", "CCGATTACAA"} and first.q_value < 0.01
    assert (first.strands, first.gap, first.more_in) == ("opposite", 12, "samples")
    mirrored = compare_motifs(scan.hits(reference), scan.hits(samples)).spacings[0]
    assert (mirrored.gap, mirrored.more_in) == (12, "reference")
    assert min(each.q_value for each in found.contents) > 0.05


def test_a_planted_place_is_found() -> None:
    random = np.random.default_rng(7)
    samples, reference = drawn(random, 150), drawn(random, 150)
    for i in range(100):
        samples[i] = written_over(samples[i], {int(random.integers(0, 40)): PLANTED})
        reference[i] = written_over(reference[i], {int(random.integers(0, 390)): PLANTED})
    first = compared(samples, reference).placements[0]
    assert first.name == "planted" and first.q_value < 0.01
    assert first.samples[0] >= 50 > first.reference[0]
    # 100 of about 160 hits are in the first tenth, and a tenth in the reference.
    assert 0.3 < first.distance < 0.9


def test_gaps_are_counted_of_all_pairs_that_do_not_overlap() -> None:
    random = np.random.default_rng(8)
    motifs = [consensus("ACA"), consensus("GTGCA"), Motif("weak", "", np.full((4, 4), 0.25))]
    sets = [["".join(random.choice(list("ACGT"), n)) for n in (300, 9, 700)] for _ in range(2)]
    scan = MotifScanner(motifs, UNIFORM, p_value=0.04)
    hits = [scan.hits(each) for each in sets]
    found = compare_motifs(*hits)
    expected: Counter[tuple] = Counter()
    for which, each in enumerate(hits):
        rows = list(zip(each.sequence, each.motif, each.start, each.is_reverse, strict=True))
        for i, (s, a, start, reverse) in enumerate(rows):
            for t, b, other, turned in rows[i + 1 :]:
                gap = int(other) - int(start) - int(each.widths[a])
                if s == t and 0 <= gap < 150:
                    strands = "same" if reverse == turned else "opposite"
                    expected[min(a, b), max(a, b), strands, which, gap] += 1
    names = [motif.name for motif in motifs]
    total = 0
    for spacing in found.spacings:
        a, b = (names.index(name) for name in spacing.motifs)
        for which, histogram in enumerate((spacing.samples, spacing.reference)):
            for gap, count in enumerate(histogram.tolist()):
                assert count == expected[a, b, spacing.strands, which, gap]
                total += count
    assert total == expected.total() > 500
    assert len(found.spacings) == 6 and found.silent == ("weak",)


def test_correlations_of_one_law_are_those_of_halves() -> None:
    random = np.random.default_rng(9)
    rates = random.gamma(1, 1, 30)
    a, b, other = (random.poisson(law, (150, 30)) for law in (rates, rates, rates[::-1]))
    same = compare_motifs(hits_of(a), hits_of(b)).agreement
    assert same is not None and same.sequences == 75
    assert same.pearson == pytest.approx(same.pearson_of_halves, abs=0.03)
    assert same.spearman == pytest.approx(same.spearman_of_halves, abs=0.05)
    changed = compare_motifs(hits_of(other), hits_of(b)).agreement
    assert changed is not None and changed.spearman < 0.6 < 0.9 < changed.spearman_of_halves


@pytest.mark.slow
def test_two_halves_of_one_set_differ_in_nothing() -> None:
    # Each kind of finding has a chance of at most 5 % in a seed: more than 8 of 60 is a false
    # alarm for 0.2 % of choices of seeds.
    findings = Counter()
    for seed in range(60):
        random = np.random.default_rng(seed)
        sequences = drawn(random, 160)
        for i in range(0, 160, 3):  # a repeat: many hits of one sequence
            sequences[i] = written_over(
                sequences[i], {start: PLANTED for start in range(0, 90, 15)}
            )
        order = random.permutation(160)
        halves = [[sequences[i] for i in part] for part in (order[:80], order[80:])]
        found = compared(*halves, seed=seed)
        for name in ("contents", "spacings", "placements"):
            findings[name] += getattr(found, name)[0].q_value < 0.05
    assert max(findings.values(), default=0) <= 8, findings


def test_other_motifs_or_a_single_record_are_told_in_one_line() -> None:
    counts = np.ones((4, 3), int)
    with pytest.raises(UserError, match="2 motifs of the samples and 3 of the reference are not"):
        compare_motifs(hits_of(counts[:, :2]), hits_of(counts))
    one = hits_of(counts, np.zeros(4, int))
    with pytest.raises(UserError, match="4 sequences of one record cannot tell how much rates"):
        compare_motifs(one, hits_of(counts))
