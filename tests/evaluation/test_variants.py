"""Scores of variants against the enumerable world, where log p of every sequence is known."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genodiff.diffusion import (
    Absorbing,
    CausalModel,
    LogLinear,
    Mean,
    NetworkDenoiser,
    Subs,
    Uniform,
)
from genodiff.errors import UserError
from genodiff.evaluation import VariantPair, score_variants
from genodiff.evaluation.variants import Method
from tests.toy import (
    DATA_IDS,
    LENGTH,
    MASK,
    UNKNOWN,
    VOCAB_SIZE,
    ExactNetwork,
    TableNetwork,
    World,
)

COMPLEMENT = (2, 1, 0, 3, 4)
"""a and c of the world are each other's."""


def pair(reference: tuple[int, ...], alternative: tuple[int, ...], *partner: int) -> VariantPair:
    places = partner or range(len(reference))
    return VariantPair(np.array(reference), np.array(alternative), np.array(places))


def log_p(world: World, sequence: tuple[int, ...]) -> float:
    return float(world.probabilities.reshape([3] * LENGTH)[sequence].log())


def reversed_complement(of: VariantPair) -> VariantPair:
    table, last = np.array(COMPLEMENT), len(of.partner) - 1
    reference, alternative = (table[x][::-1].copy() for x in (of.reference, of.alternative))
    return VariantPair(reference, alternative, last - of.partner[::-1])


def exact_model(world: World) -> NetworkDenoiser:
    return world.denoiser(LogLinear())


def table_model(drift: float = 0.5) -> NetworkDenoiser:
    process = Absorbing(LogLinear(), VOCAB_SIZE, MASK, DATA_IDS)
    return NetworkDenoiser(TableNetwork(drift=drift), process, Subs(VOCAB_SIZE, MASK, DATA_IDS))


SUBSTITUTIONS = [
    pair(a, b)
    for a, b in itertools.product(itertools.product(range(3), repeat=LENGTH), repeat=2)
    if a != b
]


def test_every_substitution_has_the_known_ratio_at_its_masked_sites(world: World) -> None:
    scores = score_variants(exact_model(world), SUBSTITUTIONS, method="llr", batch_size=50)
    for one, score in zip(SUBSTITUTIONS, scores, strict=True):
        known = log_p(world, tuple(one.alternative)) - log_p(world, tuple(one.reference))
        # The network's head is float32 in nothing here; sums of up to 14 logarithms.
        assert score.nats == pytest.approx(known, abs=1e-9)
        assert score.standard_error == 0.0 and score.method == "llr"
    assert len(scores) == 27 * 26


def test_a_bound_is_exact_where_the_denoiser_is_and_its_error_is_calibrated(world: World) -> None:
    """Shifted by one, as after a deletion, and not; 60 estimates each. Of 120 standard normal
    numbers fewer than 1 in 1,000 sets leave these limits."""
    shifted = pair((0, 1, 2), (1, 2, 2), 1, 2, 0)
    z = []
    for seed in range(60):
        for one in (shifted, pair((2, 0, 1), (2, 1, 1))):
            (score,) = score_variants(
                exact_model(world), [one], method="bound", samples=32, seed=seed, batch_size=99
            )
            known = log_p(world, tuple(one.alternative)) - log_p(world, tuple(one.reference))
            z.append((score.nats - known) / score.standard_error)
    assert abs(np.mean(z)) < 4 / math.sqrt(len(z))
    assert 0.8 < np.std(z) < 1.25
    assert np.mean(np.abs(z) > 1.96) < 0.13


def test_a_bound_is_the_difference_of_the_any_order_bounds_of_any_network() -> None:
    """The mean of many draws against the sum over all masks, k and S uniform."""
    model = table_model()
    one = pair((0, 1, 2), (1, 2, 0), 1, 2, 0)

    def bound(sequence: tuple[int, ...]) -> float:
        x, total = torch.tensor([sequence]), 0.0
        for k in range(1, LENGTH + 1):
            for subset in itertools.combinations(range(LENGTH), k):
                masked = torch.tensor([[i in subset for i in range(LENGTH)]])
                t = torch.tensor([[k / LENGTH]], dtype=torch.float64)
                x_t = torch.where(masked, MASK, x)
                log_x0 = model.log_likelihood_at(x, x_t, t, masked)
                total += float(log_x0.sum()) / (k * math.comb(LENGTH, k))
        return total

    (score,) = score_variants(model, [one], method="bound", samples=1024, batch_size=4096)
    with torch.no_grad():
        known = bound((1, 2, 0)) - bound((0, 1, 2))
    assert score.standard_error < 0.1 < abs(known)
    assert score.nats == pytest.approx(known, abs=4 * score.standard_error)


@pytest.mark.parametrize("method", ["llr", "bound"])
def test_a_variant_scores_the_same_on_the_other_strand(method: Method) -> None:
    model = table_model()
    some = SUBSTITUTIONS[::37]
    others = [reversed_complement(one) for one in some]
    settings: dict[str, Any] = {"method": method, "samples": 128, "batch_size": 4096}
    given = score_variants(model, some, complement=COMPLEMENT, **settings)
    other = score_variants(model, others, complement=COMPLEMENT, **settings)
    alone = score_variants(model, others, **settings)
    for a, b in zip(given, other, strict=True):
        error = math.hypot(a.standard_error, b.standard_error)
        assert a.nats == pytest.approx(b.nats, abs=4 * error + 1e-9)
    # And the network is not equivariant, so that there was something to average.
    assert max(abs(a.nats - b.nats) for a, b in zip(given, alone, strict=True)) > 0.1


def test_neither_company_nor_order_nor_batches_change_a_score() -> None:
    model, some = table_model(), SUBSTITUTIONS[::50]
    together = score_variants(model, some, method="bound", samples=4, complement=COMPLEMENT)
    backwards = score_variants(
        model, some[::-1], method="bound", samples=4, complement=COMPLEMENT, batch_size=3
    )
    for a, b in zip(together, backwards[::-1], strict=True):
        assert a.nats == pytest.approx(b.nats, abs=1e-12)
    again = score_variants(model, some, method="bound", samples=4, complement=COMPLEMENT, seed=1)
    assert any(a.nats != b.nats for a, b in zip(together, again, strict=True))


def test_orders_are_drawn_where_there_are_too_many_of_them() -> None:
    """Three sites have 7 subsets: with samples=7 the mean over them, with 6 an estimate of it."""
    model, one = table_model(), pair((0, 1, 2), (1, 2, 0))
    (known,) = score_variants(model, [one], method="llr", samples=7)
    (drawn,) = score_variants(model, [one], method="llr", samples=6)
    assert known.standard_error == 0 < drawn.standard_error
    many = [
        score_variants(model, [one], method="llr", samples=6, seed=seed)[0].nats
        for seed in range(100)
    ]
    error = float(np.std(many)) / math.sqrt(len(many))
    assert np.mean(many) == pytest.approx(known.nats, abs=4 * error)
    # The bound of the whole is the same thing where all sites differ.
    (whole,) = score_variants(model, [one], method="bound", samples=6)
    assert whole.nats == drawn.nats


class Asked(nn.Module):
    """Counts the rows that the network inside is asked for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.rows = network, 0

    def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        self.rows += len(tokens)
        return self.network(tokens, sigma)


def test_all_alternatives_of_a_site_share_one_evaluation(world: World) -> None:
    network = Asked(ExactNetwork(world.sequences, world.probabilities))
    process = Absorbing(LogLinear(), VOCAB_SIZE, MASK, DATA_IDS)
    model = NetworkDenoiser(network, process, Subs(VOCAB_SIZE, MASK, DATA_IDS))
    score_variants(model, [pair((0, 0, 0), (0, b, 0)) for b in (1, 2)], method="llr")
    assert network.rows == 1
    score_variants(model, [pair((0, 0, 0), (0, 1, 0))], method="llr", complement=COMPLEMENT)
    assert network.rows == 3


def test_sequences_of_several_lengths_and_unknown_letters_are_scored(world: World) -> None:
    """The exact network does not see the unknown letter, so the ratio is that of the rest."""
    one = pair((0, UNKNOWN, 2), (1, UNKNOWN, 2))
    table = world.probabilities.reshape([3] * LENGTH).sum(1)
    known = float((table[1, 2] / table[0, 2]).log())
    (llr,) = score_variants(exact_model(world), [one], method="llr")
    assert llr.nats == pytest.approx(known, abs=1e-9)
    (bound,) = score_variants(exact_model(world), [one], method="bound", samples=512)
    assert bound.nats == pytest.approx(known, abs=4 * bound.standard_error)
    with pytest.raises(UserError, match="only a substitution of tokens that the model predicts"):
        score_variants(exact_model(world), [pair((0, 1, 2), (UNKNOWN, 1, 2))], method="llr")
    with pytest.raises(UserError, match="use the bound for insertions and deletions"):
        score_variants(exact_model(world), [pair((0, 1, 2), (1, 2, 2), 1, 2, 0)], method="llr")


class LastLetter(nn.Module):
    """Logits by the last token that is seen."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=generator))

    def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        return self.table[tokens]


def test_a_left_to_right_model_gives_log_p_itself() -> None:
    network = LastLetter()
    model = CausalModel(network, VOCAB_SIZE, MASK, DATA_IDS)
    law = network.table[:, :3].log_softmax(-1).detach()

    def known(sequence: tuple[int, ...]) -> float:
        return float(sum(law[a, b] for a, b in itertools.pairwise((MASK, *sequence))))

    one = pair((0, 1, 2, 0), (0, 2, 0, 0), 0, 2, 3, 1)
    (score,) = score_variants(model, [one], method="exact")
    assert score.nats == pytest.approx(known((0, 2, 0, 0)) - known((0, 1, 2, 0)), abs=1e-6)
    assert score.standard_error == 0.0 and score.method == "exact"
    (both,) = score_variants(model, [one], method="exact", complement=COMPLEMENT)
    other = known((2, 2, 0, 2)) - known((2, 0, 1, 2))
    assert both.nats == pytest.approx((score.nats + other) / 2, abs=1e-6)


def test_models_and_methods_that_do_not_fit_are_refused(world: World) -> None:
    causal = CausalModel(LastLetter(), VOCAB_SIZE, MASK, DATA_IDS)
    with pytest.raises(UserError, match=r"score=llr masks tokens.*use score=auto"):
        score_variants(causal, [], method="llr")
    with pytest.raises(UserError, match="gives no exact log p; use the method llr or bound"):
        score_variants(exact_model(world), [], method="exact")
    uniform = Uniform(LogLinear(), VOCAB_SIZE, DATA_IDS)
    by_letters = NetworkDenoiser(TableNetwork(), uniform, Mean(VOCAB_SIZE, MASK, DATA_IDS))
    with pytest.raises(UserError, match="this model is a NetworkDenoiser of Uniform, and"):
        score_variants(by_letters, [], method="bound")
    with pytest.raises(UserError, match="samples=1 gives no standard error"):
        score_variants(exact_model(world), [], method="bound", samples=1)
