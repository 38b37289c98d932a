from collections import Counter
from itertools import islice, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from genodiff.errors import UserError
from genodiff.evaluation.markov import MarkovModel, fit_markov
from genodiff.evaluation.shuffles import markov_control, markov_sequences, shuffled


def pairs(sequence: str) -> Counter[str]:
    return Counter(sequence[i : i + 2] for i in range(len(sequence) - 1))


@given(st.lists(st.text("ACGTN", max_size=60), max_size=4), st.integers(0, 9))
@settings(deadline=None)
def test_a_shuffle_keeps_every_pair_of_neighbours(sequences: list[str], seed: int) -> None:
    for before, after in zip(sequences, shuffled(sequences, seed=seed), strict=True):
        assert pairs(after) == pairs(before)
        assert [i for i, x in enumerate(after) if x == "N"] == [
            i for i, x in enumerate(before) if x == "N"
        ]
        assert after[:1] == before[:1] and after[-1:] == before[-1:]


@pytest.mark.parametrize("sequence", ["ACACGAGTAC", "AACCAGGAAC", "GATTACATAG"])
def test_every_order_is_as_likely_as_any_other(sequence: str) -> None:
    middles = {"".join(letters) for letters in permutations(sequence[1:-1])}
    orders = {sequence[0] + middle + sequence[-1] for middle in middles}
    orders = sorted(order for order in orders if pairs(order) == pairs(sequence))
    assert len(orders) >= 6
    found = Counter(shuffled([sequence] * 50 * len(orders), seed=1))
    assert sorted(found) == orders
    # False alarm 1e-4 for each of the three sequences.
    assert chisquare([found[order] for order in orders]).pvalue > 1e-4


def test_a_shuffle_depends_on_the_seed_and_the_number_alone() -> None:
    sequences = ["ACGTTGCAACGGTTAAGC" * 3] * 3
    first = list(shuffled(sequences))
    assert list(shuffled(iter(sequences))) == first and len(set(first)) == 3
    assert list(islice(shuffled(sequences), 2)) == first[:2]
    assert list(shuffled(sequences, seed=1)) != first


def test_runs_of_one_letter_with_a_single_way_out_are_shuffled_too() -> None:
    """Where drawing last edges until they are a tree would take 100,000 draws."""
    sequence = "CA" + "A" * 100_000 + "T"
    assert list(shuffled([sequence])) == [sequence]


def test_lower_case_is_upper_case_and_strange_letters_stay() -> None:
    (found,) = shuffled(["acgtRaacca"])
    assert found[4] == "R" and found.isupper() and pairs(found) == pairs("ACGTRAACCA")


def chain(order: int, seed: int) -> MarkovModel:
    """A model of known probabilities: its counts, that lean on nothing."""
    law = np.random.default_rng(seed).dirichlet(np.ones(4), size=4**order)
    counts = np.round(law * 1_000_000).astype(np.int32)
    levels = [
        counts.reshape(-1, 4**k, 4).sum(0, dtype=np.int32).reshape(-1) for k in range(order + 1)
    ]
    return MarkovModel((7, 8, 9, 10), tuple(levels), (1e-9,) * (order + 1))


def test_draws_have_the_chain_s_words() -> None:
    model = chain(2, seed=0)
    drawn = list(markov_sequences(model, 300, 200, seed=1))
    assert {len(text) for text in drawn} == {200} and len(drawn) == 300
    found = Counter(text[i : i + 3] for text in drawn for i in range(198))
    for context, row in enumerate(model.counts[2].reshape(16, 4)):
        letters = "ACGT"[context // 4] + "ACGT"[context % 4]
        observed = np.array([found[letters + last] for last in "ACGT"])
        expected = row / row.sum() * observed.sum()
        assert chisquare(observed, expected).pvalue > 1e-5  # false alarm 2e-4 in all


def test_a_control_has_the_reference_s_words_up_to_its_order() -> None:
    reference = list(markov_sequences(chain(3, seed=2), 400, 500))
    control = list(markov_control(reference, 400, 500, order=3, seed=3))
    models = [
        fit_markov(
            [np.frombuffer(text.encode(), np.uint8) for text in texts],
            data_ids=tuple(b"ACGT"),
            max_order=3,
        )
        for texts in (reference, control)
    ]
    ours, theirs = (model.counts[3] / model.counts[3].sum() for model in models)
    assert abs(ours - theirs).sum() < 0.06  # of 256 words in 200,000 places: noise is 0.04
    weaker = list(markov_control(reference, 400, 500, order=0, seed=3))
    flat = fit_markov(
        [np.frombuffer(text.encode(), np.uint8) for text in weaker],
        data_ids=tuple(b"ACGT"),
        max_order=3,
    )
    assert abs(flat.counts[3] / flat.counts[3].sum() - theirs).sum() > 0.3


def test_draws_go_on_where_others_began(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain(1, seed=4)
    monkeypatch.setattr("genodiff.evaluation.shuffles._DRAWN_TOGETHER", 4)
    ten = list(markov_sequences(model, 10, 30))
    assert list(markov_sequences(model, 8, 30)) == ten[:8] and len(set(ten)) == 10


def test_a_model_of_other_letters_draws_no_dna() -> None:
    model = fit_markov([np.array([0, 1, 2])], data_ids=(0, 1, 2), max_order=1)
    with pytest.raises(UserError, match="a Markov model of 3 letters draws no DNA"):
        next(markov_sequences(model, 1, 5))


def test_a_control_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="hold no letter"):
        markov_control(["NNN"], 1, 5)
