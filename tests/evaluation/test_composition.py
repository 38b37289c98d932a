import json
import math

import numpy as np
import pytest

from genodiff.errors import UserError
from genodiff.evaluation import composition, composition_differences, gc_distance
from genodiff.evaluation.composition import LONGEST_RUN
from tests.evaluation.test_spectra import random_sequences, uneven_sequences


def value(sequences: list[str], name: str) -> float:
    return composition(sequences).measures[name].value


def test_gc_is_a_share_of_letters_with_its_error_over_sequences() -> None:
    sequences = ["GGCC", "ATAT", "GCNNat", "NNN"]
    found = composition(sequences, resamples=4000)
    gc = found.measures["gc"]
    assert gc.value == pytest.approx(6 / 12)
    # Three sequences of four letters: the standard error of the mean of 1, 0 and 1/2, but for the
    # one without a letter, which is counted as a unit.
    assert gc.standard_error == pytest.approx(0.5 / math.sqrt(3), rel=0.15)
    assert found.n == 3 and found.n_units == 4
    assert found.measures["gc_spread"].value == pytest.approx(np.std([1, 0, 0.5]), rel=1e-6)
    assert composition(["GGA"]).measures["gc"] == (pytest.approx(2 / 3), None, None)


def test_cpg_observed_over_expected_is_its_definition() -> None:
    assert value(["ACGTCGCA"], "cpg_observed_expected") == pytest.approx(2 * 8 / (3 * 2))


def test_odds_ratios_are_those_of_both_strands() -> None:
    sequences = random_sequences(4, 70, [0.4, 0.1, 0.2, 0.3], seed=0)
    complement = str.maketrans("ACGT", "TGCA")
    both = [*sequences, *(s.translate(complement)[::-1] for s in sequences)]
    letters, pairs = "".join(both), [s[i : i + 2] for s in both for i in range(69)]
    measures = composition(sequences).measures
    named = {name: m.value for name, m in measures.items() if name.startswith("rho_")}
    assert len(named) == 10
    for name, found in named.items():
        x, y = name.removeprefix("rho_")
        share = letters.count(x) / len(letters) * letters.count(y) / len(letters)
        assert found == pytest.approx(pairs.count(x + y) / len(pairs) / share)


def test_runs_end_where_letters_change() -> None:
    found = composition(["AAAAAAACCT", "TTT", "GGGGNGGGG", "A" * 30])
    per_kb = 1000 / (10 + 3 + 8 + 30)
    at, gc = found.runs_at, found.runs_gc
    assert at.edges.tolist() == list(range(1, LONGEST_RUN + 2))
    expected = {7: 1, 1: 1, 3: 1, 20: 1}
    assert at.values == pytest.approx([per_kb * expected.get(i, 0) for i in range(1, 21)])
    assert gc.values == pytest.approx([per_kb * {2: 1, 4: 2}.get(i, 0) for i in range(1, 21)])
    # In runs of 20 or more, 20 letters count.
    assert value(["AAAAAAACCT", "TTTTT"], "homopolymers_at") == pytest.approx(7 / 15)
    assert value(["AAAAAAACCT", "GGGGGG"], "homopolymers_gc") == pytest.approx(6 / 16)
    assert value(["AAAAAAACCT", "GGGGGG"], "homopolymers") == pytest.approx(13 / 16)


def dust(stretch: str) -> float:
    triplets = [stretch[i : i + 3] for i in range(len(stretch) - 2)]
    times = [triplets.count(triplet) for triplet in set(triplets)]
    return sum(c * (c - 1) / 2 for c in times) / (len(triplets) - 1)


def test_stretches_of_low_complexity_are_those_that_dust_masks() -> None:
    random = random_sequences(1, 640, [0.25] * 4, seed=0)[0]
    mixed = [("CA" * 20 + random)[:64], (random[:30] + "AAG" * 12)[:64]]
    stretches = [random[i : i + 64] for i in range(0, 640, 64)] + ["CAG" * 21 + "C", *mixed]
    expected = [dust(stretch) > 2 for stretch in stretches]
    assert 0 < sum(expected) < len(expected)
    for stretch, is_low in zip(stretches, expected, strict=True):
        assert value([stretch], "low_complexity") == is_low
    # End to end from the start of each sequence; none over an N, nor beyond the end.
    assert value(["A" * 130, random[:63]], "low_complexity") == 1
    assert value(["A" * 64 + random[:64], "A" * 63 + "N" + random[:64]], "low_complexity") == (
        pytest.approx(1 / 3)
    )


def test_sequences_shorter_than_a_stretch_have_no_complexity() -> None:
    found = composition(["ACGT", "AACC"])
    assert "low_complexity" not in found.measures
    assert "low_complexity" not in composition_differences(found, composition(["A" * 99] * 2))


def test_the_histogram_is_of_the_sequences_own_gc() -> None:
    found = composition(["GC", "AT", "AC", "NN", "GG"]).gc_histogram
    filled = {float(found.edges[i]): v for i, v in enumerate(found.values) if v}
    assert filled == {0.0: 0.25, 0.5: 0.25, 0.98: 0.5}
    assert (found.low <= found.values).all() and (found.values <= found.high).all()


def test_ids_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = uneven_sequences(30, 150, seed=1)
    whole = composition(sequences)
    ids = [np.array(["ACGT".index(letter) + 7 for letter in s]) for s in sequences]
    monkeypatch.setattr("genodiff.evaluation.words._BLOCK_LETTERS", 300)
    pieces = composition(iter(ids), data_ids=(7, 8, 9, 10))
    np.testing.assert_allclose(pieces.sums, whole.sums)
    np.testing.assert_allclose(pieces.resampled, whole.resampled, rtol=1e-5)


def test_a_shifted_gc_is_found() -> None:
    real = composition(uneven_sequences(300, 200, seed=3))
    made = composition(random_sequences(300, 200, [0.27, 0.23, 0.23, 0.27], seed=1))
    differences = composition_differences(made, real)
    gc = differences["gc"]
    assert gc.confidence_95[0] < 0.46 - 0.4 < gc.confidence_95[1] and gc.p_value < 1e-6
    assert differences["gc_spread"].value < 0 and differences["gc_spread"].p_value < 1e-6
    assert differences["rho_CG"].p_value > 1e-3
    distance = gc_distance(made, real)
    assert distance.value > 5 * distance.noise and distance.p_value < 0.01


def test_a_distribution_of_gc_may_differ_where_its_mean_does_not() -> None:
    even = composition(random_sequences(300, 200, [0.3, 0.2, 0.2, 0.3], seed=0))
    uneven = composition(uneven_sequences(300, 200, seed=1))
    assert composition_differences(even, uneven)["gc"].p_value > 0.01
    assert gc_distance(even, uneven).p_value < 0.01


@pytest.mark.slow
def test_samples_of_one_law_are_told_apart_as_often_as_the_level_says() -> None:
    """200 pairs; 5 % of them are between 1 % and 9.5 % (false alarm 4e-3 each side), a figure."""
    told: dict[str, list[bool]] = {}
    for seed in range(200):
        ours, theirs = (
            composition(uneven_sequences(n, 200, 2 * seed + i)) for i, n in enumerate((40, 80))
        )
        for name, each in composition_differences(ours, theirs).items():
            low, high = each.confidence_95
            told.setdefault(name, []).append(not low <= 0 <= high)
        told.setdefault("gc_distance", []).append(gc_distance(ours, theirs).p_value < 0.05)
    rates = {name: np.mean(each) for name, each in told.items() if len(each) == 200}
    assert {"gc", "gc_spread", "cpg_observed_expected", "rho_CG", "gc_distance"} <= set(rates)
    assert max(rates.values()) < 0.12 and np.mean(list(rates.values())) < 0.07
    assert min(rates["gc"], rates["gc_distance"], rates["rho_CG"]) >= 0.01


def test_a_summary_is_plain() -> None:
    found = composition(uneven_sequences(5, 100, seed=0))
    assert json.loads(json.dumps(found.summary())) == found.summary()
    difference = composition_differences(found, found)["gc"].summary()
    assert json.loads(json.dumps(difference)) == difference
    assert json.dumps(gc_distance(found, found).summary())


@pytest.mark.parametrize("sequences", [[], ["NN", ""]])
def test_sequences_without_letters_are_refused(sequences: list[str]) -> None:
    with pytest.raises(UserError, match=f"{len(sequences)} sequences hold no letter"):
        composition(sequences)
