"""Constraints against enumeration: what is drawn, with which law, and what the weights mend."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from genodiff.diffusion import (
    Absorbing,
    Analytic,
    Ancestral,
    Cached,
    ClassifierGuided,
    Counting,
    Denoiser,
    EntropyBounded,
    FirstHitting,
    Hybrid,
    LogLinear,
    Mean,
    NetworkDenoiser,
    Parallel,
    Remasking,
    Sampler,
    SequentialMonteCarlo,
    Stepwise,
    Subs,
    Threshold,
    Uniform,
    reference_draw,
)
from genodiff.diffusion.automaton import Automaton, avoiding, containing, counting, product
from genodiff.diffusion.constrained import Constrained, combined, conflict
from genodiff.diffusion.remasking import Strategy
from genodiff.diffusion.reshaping import Reshaped, Temperature
from genodiff.errors import UserError
from tests.toy import (
    DATA_IDS,
    LENGTH,
    LETTERS,
    MASK,
    UNKNOWN,
    VOCAB_SIZE,
    ExactNetwork,
    TableNetwork,
    World,
    states,
)

PROCESS = Absorbing(LogLinear(), VOCAB_SIZE, MASK, DATA_IDS)
SUBS = Subs(VOCAB_SIZE, MASK, DATA_IDS)
SAMPLES = 10_000
FALSE_ALARM_RATE = 1e-4  # of each chi-squared test; the seeds are fixed
A, B, C = [0], [1], [2]

LANGUAGES = {
    "no ab": avoiding([[A, B]], VOCAB_SIZE),
    "no c": avoiding([[C]], VOCAB_SIZE),
    "b or cc": containing([[B], [C, C]], VOCAB_SIZE),
    "a(b|c)": containing([[A, [1, 2]]], VOCAB_SIZE),
    "one or two a": counting(A, 1, 2, VOCAB_SIZE),
}
every_language = pytest.mark.parametrize("language", LANGUAGES.values(), ids=list(LANGUAGES))


class Independent(nn.Module):
    """Logits of each position that do not depend on the others; `skew` makes c improbable."""

    def __init__(self, length: int = LENGTH, skew: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.logits = torch.randn(length, VOCAB_SIZE, dtype=torch.float64, generator=generator)
        self.logits[:, 2] -= skew

    def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        return self.logits.expand(*tokens.shape, -1)


class Tangled(nn.Module):
    """Sharp logits that depend on all tokens in no simple way."""

    def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        n = tokens.shape[1]
        weight = torch.randn(n * VOCAB_SIZE, n * VOCAB_SIZE, generator=generator)
        one_hot = nn.functional.one_hot(tokens, VOCAB_SIZE).float()
        return (one_hot.flatten(1) @ weight).unflatten(1, (n, VOCAB_SIZE))


def denoiser_of(network: nn.Module) -> NetworkDenoiser:
    return NetworkDenoiser(network, PROCESS, SUBS)


def at_start(x: Tensor) -> Tensor:
    return torch.ones(len(x), 1, dtype=torch.float64)


def accepted(automaton: Automaton, tokens: Tensor) -> Tensor:
    return torch.from_numpy(automaton.accepts(tokens.numpy()))


def joint(
    denoiser: Denoiser, x: Tensor, automaton: Automaton, allowed: Tensor | None = None
) -> Tensor:
    """(b, 27): the product of p_i at the masks of x, of the completions in the language, by the
    sequence's own clean letters."""
    sequences = World().sequences
    p = denoiser.log_x0(x, at_start(x)).exp()
    each = torch.stack([p[:, i, sequences[:, i]] for i in range(LENGTH)], -1)  # (b, 27, l)
    masked = (x == MASK)[:, None]
    each = torch.where(masked, each, 1.0)
    # Unknown letters of x stay what they are in its completions.
    completed = torch.where(masked, sequences, x[:, None])
    same = ((x[:, None] == sequences) | masked | (x >= LETTERS)[:, None]).all(-1)
    first = ((sequences == 0) | ~(x > MASK)[:, None]).all(-1)  # one of those that x replaces
    inside = accepted(automaton, completed.flatten(0, 1)).view(len(x), -1)
    if allowed is not None:
        inside &= allowed[torch.arange(LENGTH), completed].all(-1)
    return each.prod(-1) * (same & first & inside)


def marginals(law: Tensor) -> Tensor:
    """(b, l, 3) of laws (b, 27), not normalised."""
    one_hot = nn.functional.one_hot(World().sequences, LETTERS).double()
    return torch.einsum("bn,nlk->blk", law, one_hot)


def law_one_by_one(denoiser: Denoiser, *, weighted: bool = False) -> Tensor:
    """(27,): the law of revealing one mask after another in random order, from all masks, by all
    paths; with importance weights, a measure."""
    measure = {(MASK,) * LENGTH: 1.0}
    for left in range(LENGTH, 0, -1):
        x = torch.tensor(list(measure))
        proposal = denoiser.propose_at(x, at_start(x), x == MASK)
        row, position = (x == MASK).nonzero(as_tuple=True)
        after: dict[tuple[int, ...], float] = {}
        for token in range(LETTERS):
            q = proposal.log_p[:, token].exp()
            drawn = (q > 1e-300).nonzero()[:, 0]  # of each mask of each state
            y = x[row[drawn]]
            gain = torch.ones(len(drawn), dtype=torch.float64)
            if weighted:
                where = torch.zeros_like(y, dtype=torch.bool)
                where[torch.arange(len(y)), position[drawn]] = True
                step = denoiser.propose_at(y, at_start(y), where)
                tokens = torch.full((len(y),), token)
                gain = step.log_weight(tokens).exp()  # pyright: ignore[reportAttributeAccessIssue]
            y[torch.arange(len(y)), position[drawn]] = token
            share = torch.tensor(list(measure.values()), dtype=torch.float64)[row[drawn]] / left
            for state, mass in zip(y.tolist(), share * q[drawn] * gain, strict=True):
                after[tuple(state)] = after.get(tuple(state), 0.0) + float(mass)
        measure = after
    return torch.tensor(
        [measure.get(tuple(x), 0.0) for x in World().sequences.tolist()], dtype=torch.float64
    )


def conditional(world: World, language: Automaton) -> Tensor:
    """(27,): p(x | language)."""
    p = world.probabilities * accepted(language, world.sequences)
    return p / p.sum()


def total_variation(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum() / 2)


def assert_follows(counts: Tensor, law: Tensor) -> None:
    assert counts[law == 0].sum() == 0
    expected, counts = (law * counts.sum())[law > 0], counts[law > 0]
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert chi2.sf(statistic, len(expected) - 1) > FALSE_ALARM_RATE, statistic


def random_language(seed: int) -> tuple[Automaton, Tensor]:
    generator = np.random.default_rng(seed)
    n = int(generator.integers(1, 6))
    automaton = Automaton(
        int(generator.integers(n)),
        generator.integers(n, size=(n, VOCAB_SIZE)),
        np.append(generator.random(n - 1) < 0.5, True),
    )
    return automaton, torch.from_numpy(generator.random((LENGTH, VOCAB_SIZE)) < 0.8)


@pytest.mark.parametrize("seed", range(20))
def test_probabilities_of_random_languages_are_those_of_enumeration(seed: int) -> None:
    automaton, allowed = random_language(seed)
    denoiser = denoiser_of(TableNetwork(seed))
    x = torch.cat([states(PROCESS), torch.tensor([[MASK, UNKNOWN, MASK], [0, MASK, UNKNOWN]])])
    law = joint(denoiser, x, automaton, allowed)
    constrained = Constrained(denoiser, automaton, allowed)
    torch.testing.assert_close(constrained.log_normalizer(x, at_start(x)).exp(), law.sum(-1))
    x, law = x[law.sum(-1) > 0], law[law.sum(-1) > 0]
    if len(x):
        p = constrained.log_x0(x, at_start(x)).exp()
        expected = marginals(law / law.sum(-1, keepdim=True))
        masked = x == MASK
        torch.testing.assert_close(p[..., :LETTERS][masked], expected[masked])
        assert torch.equal(p[~masked], nn.functional.one_hot(x[~masked], VOCAB_SIZE).double())


@pytest.mark.parametrize("skew", [0.0, 6.0], ids=["probable", "improbable"])
@every_language
def test_masks_are_drawn_together_from_the_product_given_the_language(
    language: Automaton, skew: float, world: World
) -> None:
    # The improbable languages are drawn from the backward pass, the others mostly are not.
    denoiser = denoiser_of(Independent(skew=skew))
    x = torch.full((SAMPLES, LENGTH), MASK)
    proposal = Constrained(denoiser, language).propose_at(x, at_start(x), x == MASK)
    tokens = proposal.draw(None, torch.Generator().manual_seed(0)).view(-1, LENGTH)
    law = joint(denoiser, x[:1], language)[0]
    likely = law > 1e-3 * law.sum()  # chi-squared needs counts
    counts = world.frequencies(tokens)
    assert (counts[law == 0] == 0).all()
    assert_follows(counts[likely], law[likely] / law[likely].sum())


def test_an_improbable_language_is_drawn_from_the_backward_pass(world: World) -> None:
    # Three c of probability 6e-9: no independent draw would find them; and "cca" or "ccb".
    language = product([counting(C, 2, 3, VOCAB_SIZE), avoiding([[A, C], [B, C]], VOCAB_SIZE)])
    denoiser = denoiser_of(Independent(skew=6.0))
    x = torch.full((SAMPLES, LENGTH), MASK)
    constrained = Constrained(denoiser, language)
    assert float(constrained.log_normalizer(x[:1], at_start(x[:1]))) < math.log(1e-4)
    tokens = constrained.propose_at(x, at_start(x), x == MASK).draw(
        None, torch.Generator().manual_seed(0)
    )
    law = joint(denoiser, x[:1], language)[0]
    likely = law > 1e-3 * law.sum()
    counts = world.frequencies(tokens.view(-1, LENGTH))
    assert int(likely.sum()) == 2
    assert_follows(counts[likely], law[likely] / law[likely].sum())


def test_rows_are_drawn_independently_and_each_from_its_own_law(world: World) -> None:
    denoiser, language = denoiser_of(TableNetwork()), LANGUAGES["one or two a"]
    x = torch.tensor([[MASK, MASK, MASK], [1, MASK, MASK]]).repeat(SAMPLES, 1)
    proposal = Constrained(denoiser, language).propose_at(x, at_start(x), x == MASK)
    drawn = proposal.draw(None, torch.Generator().manual_seed(0))
    pair = world.sequences.shape[0] * torch.tensor([1, 0]) + torch.tensor([0, 1])
    tokens = x.masked_scatter(x == MASK, drawn)
    index = (tokens * torch.tensor([9, 3, 1])).sum(-1).view(-1, 2)
    one, other = joint(denoiser, x[:2], language).detach()
    law = torch.outer(one / one.sum(), other / other.sum()).flatten()
    counts = torch.bincount((index * pair).sum(-1), minlength=27 * 27)
    likely = law > 1e-3
    assert_follows(counts[likely], law[likely] / law[likely].sum())


@every_language
def test_with_independent_masks_samples_follow_the_conditional_law(language: Automaton) -> None:
    denoiser = denoiser_of(Independent())
    x = torch.full((1, LENGTH), MASK)
    law = joint(denoiser, x, language)[0]
    exact = law_one_by_one(Constrained(denoiser, language))
    torch.testing.assert_close(exact, law / law.sum())


@every_language
def test_the_last_mask_is_drawn_from_the_conditional_law(
    language: Automaton, world: World
) -> None:
    denoiser = world.denoiser(LogLinear())
    x = states(PROCESS)
    x = x[(x == MASK).sum(-1) == 1]
    compatible = ((x[:, None] == world.sequences) | (x == MASK)[:, None]).all(-1)
    law = conditional(world, language) * compatible
    x, law = x[law.sum(-1) > 0], law[law.sum(-1) > 0]
    assert len(x) > 5
    p = Constrained(denoiser, language).log_x0(x, at_start(x)).exp()
    expected = marginals(law / law.sum(-1, keepdim=True))
    torch.testing.assert_close(p[..., :LETTERS], expected)


# Total variation of one-by-one samples from p(x | language), in the world of seed 0.
DISTANCES = {
    "no ab": 0.0389,
    "no c": 0.0404,
    "b or cc": 0.0558,
    "a(b|c)": 0.0740,
    "one or two a": 0.0707,
}


@pytest.mark.parametrize("name", LANGUAGES)
def test_looking_ahead_as_if_masks_were_independent_costs_this_much(
    name: str, world: World
) -> None:
    law = law_one_by_one(Constrained(world.denoiser(LogLinear()), LANGUAGES[name]))
    assert float(law.sum()) == pytest.approx(1)
    distance = total_variation(law, conditional(world, LANGUAGES[name]))
    assert distance == pytest.approx(DISTANCES[name], abs=5e-4)


@every_language
def test_importance_weights_give_the_conditional_law(language: Automaton, world: World) -> None:
    constrained = Constrained(world.denoiser(LogLinear()), language)
    measure = law_one_by_one(constrained, weighted=True)
    torch.testing.assert_close(
        measure, world.probabilities * accepted(language, world.sequences), atol=1e-12, rtol=1e-9
    )


@every_language
def test_weights_of_tokens_revealed_together_are_those_of_enumeration(language: Automaton) -> None:
    denoiser = denoiser_of(TableNetwork())
    x = states(PROCESS)[27:]
    law = joint(denoiser, x, language)
    x, law = x[law.sum(-1) > 0], law[law.sum(-1) > 0]
    generator = torch.Generator().manual_seed(0)
    proposal = Constrained(denoiser, language).propose_at(x, at_start(x), x == MASK)
    chosen = torch.rand(len(proposal.log_p), generator=generator) < 0.6
    tokens = proposal.draw(chosen, generator)
    shown = x.masked_scatter((x == MASK).masked_scatter(x == MASK, chosen), tokens)
    p = denoiser.log_x0(x, at_start(x)).exp()
    p_tokens = p.gather(-1, shown[..., None])[..., 0].where(shown != x, torch.tensor(1.0)).prod(-1)
    kept = ((shown[:, None] == World().sequences) | (shown == MASK)[:, None]).all(-1)
    q_tokens = (law * kept).sum(-1) / law.sum(-1)
    torch.testing.assert_close(proposal.log_weight(tokens, chosen).exp(), p_tokens / q_tokens)


@every_language
def test_first_hitting_follows_the_enumerated_law(language: Automaton, world: World) -> None:
    constrained = Constrained(world.denoiser(LogLinear()), language)
    generator = torch.Generator().manual_seed(1)
    samples = FirstHitting()(constrained, PROCESS.prior((4000, LENGTH)), generator=generator)
    law = law_one_by_one(constrained)
    likely = law > 1e-3
    assert accepted(language, samples).all()
    counts = world.frequencies(samples)[likely]
    assert_follows(counts, law[likely] / law[likely].sum())


def long_language(length: int) -> tuple[Automaton, Tensor]:
    """No ab, no cc, abca nowhere but bab somewhere, a third of c, and a c at one place."""
    automaton = product(
        [
            avoiding([[B, C], [C, C, C]], VOCAB_SIZE),
            containing([[B, A, B], [A, C, [0, 1], C]], VOCAB_SIZE),
            counting(C, length // 4, length // 3, VOCAB_SIZE),
        ]
    )
    allowed = torch.ones(length, VOCAB_SIZE, dtype=torch.bool)
    allowed[5] = torch.tensor([False, False, True, False, False])
    return automaton, allowed


@pytest.mark.parametrize(
    "sampler",
    [
        Ancestral(steps=1),
        Ancestral(steps=5),
        Ancestral(steps=200),
        FirstHitting(),
        Parallel(3),
        Parallel(5, "cosine", "confidence"),
        Parallel(8, "uniform", "margin"),
        Threshold(0.9),
        EntropyBounded(1.0),
        *(Remasking(20, strategy=strategy) for strategy in get_args(Strategy)),
    ],
    ids=repr,
)
def test_every_sample_is_in_the_language_and_keeps_what_is_given(sampler: Sampler) -> None:
    automaton, allowed = long_language(24)
    constrained = Constrained(denoiser_of(Tangled()), automaton, allowed)
    x = torch.full((32, 24), MASK)
    x[:, 12:14], x[:, 20] = torch.tensor([1, 1]), UNKNOWN
    samples = sampler(constrained, x, generator=torch.Generator().manual_seed(0))
    assert accepted(automaton, samples).all()
    assert allowed[torch.arange(24), samples].all()
    assert torch.equal(samples[x != MASK], x[x != MASK])
    assert (samples[x == MASK] < MASK).all()
    assert len(samples.unique(dim=0)) > 1


def test_a_model_that_rules_the_language_out_is_overruled() -> None:
    greedy = Reshaped(denoiser_of(Independent(12)), Temperature(0.0))
    x = torch.full((4, 12), MASK)
    plain = FirstHitting()(greedy, x, generator=torch.Generator().manual_seed(0))
    other = avoiding([[[int(token)]] for token in plain[0, :1]], VOCAB_SIZE)
    samples = FirstHitting()(
        Constrained(greedy, other), x, generator=torch.Generator().manual_seed(0)
    )
    assert accepted(other, samples).all()
    assert not accepted(other, plain).any()


def test_the_probability_of_an_improbable_language_does_not_underflow() -> None:
    # 512 of 1,024 letters shall be c, each of probability e^-20: a binomial of about e^-9534.
    class Sure(nn.Module):
        def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
            return torch.tensor([0.0, -1e6, -20.0, 0, 0]).double().expand(*tokens.shape, -1)

    length, language = 1024, counting(C, 512, 512, VOCAB_SIZE)
    constrained = Constrained(denoiser_of(Sure()), language)
    x = torch.full((2, length), MASK)
    log_choose = math.lgamma(length + 1) - 2 * math.lgamma(length / 2 + 1)
    expected = log_choose - 512 * 20 - length * math.log1p(math.exp(-20))
    proposal = constrained.propose_at(x, at_start(x), x == MASK)
    torch.testing.assert_close(
        proposal.log_normalizer, torch.full((2,), expected, dtype=torch.float64)
    )
    tokens = proposal.draw(None, torch.Generator().manual_seed(0)).view(2, -1)
    assert accepted(language, tokens).all()
    # Uniform over the sequences of 512 c: as many in the first half as in the second, s.d. 8.
    assert ((tokens[:, :512] == 2).sum(-1) - 256).abs().max() < 5 * 8
    assert not torch.equal(tokens[0], tokens[1])


def test_the_network_is_asked_once_a_proposal() -> None:
    counting_ = Counting(denoiser_of(Independent()))
    x = torch.full((2, LENGTH), MASK)
    proposal = Constrained(counting_, LANGUAGES["no ab"]).propose_at(x, at_start(x), x == MASK)
    tokens = proposal.draw(None, torch.Generator().manual_seed(0))
    assert proposal.log_p.shape == (6, VOCAB_SIZE)
    assert (proposal.log_weight(tokens) <= 0).all()
    assert counting_.calls == 1


def test_a_seed_gives_the_same_tokens_again() -> None:
    x = torch.full((8, LENGTH), MASK)
    constrained = Constrained(denoiser_of(Independent(skew=6.0)), LANGUAGES["b or cc"])
    proposal = constrained.propose_at(x, at_start(x), x == MASK)
    one, other = (proposal.draw(None, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, other)


def test_sequences_without_masks_have_probability_one_or_zero() -> None:
    x = torch.tensor([[0, 1, 2], [2, 1, 0]])
    log_z = Constrained(denoiser_of(Independent()), LANGUAGES["no ab"]).log_normalizer(
        x, at_start(x)
    )
    assert log_z.tolist() == [-math.inf, 0.0]


def required(at: int, token: int) -> tuple[Automaton, Tensor]:
    allowed = torch.ones(LENGTH, VOCAB_SIZE, dtype=torch.bool)
    allowed[at] = torch.arange(VOCAB_SIZE) == token
    return avoiding([], VOCAB_SIZE), allowed


def test_conflicts_name_constraints_of_which_none_can_be_spared() -> None:
    constraints = {
        "at most one a": (counting(A, 0, 1, VOCAB_SIZE), None),
        "no b": (avoiding([[B]], VOCAB_SIZE), None),
        "a first": required(0, 0),
        "ca": (containing([[C, A]], VOCAB_SIZE), None),
        "c last": required(2, 2),
    }
    masks = torch.full((LENGTH,), MASK)
    # "aca" alone begins with a and holds ca: then it neither ends in c nor has one a at most.
    assert conflict(constraints, masks, PROCESS) == ["a first", "ca", "c last"]
    del constraints["c last"]
    assert conflict(constraints, masks, PROCESS) == ["at most one a", "a first", "ca"]
    del constraints["at most one a"]
    assert conflict(constraints, masks, PROCESS) is None
    assert conflict({}, masks, PROCESS) is None
    # Given tokens count as well.
    assert conflict(constraints, torch.tensor([MASK, 0, MASK]), PROCESS) == ["a first", "ca"]
    assert conflict(constraints, torch.tensor([MASK, MASK, 1]), PROCESS) == ["a first", "ca"]
    assert conflict(constraints, torch.tensor([UNKNOWN, MASK, 0]), PROCESS) == ["a first"]
    assert conflict(constraints, torch.tensor([0, 2, 1]), PROCESS) == ["ca"]
    both = {"a": required(1, 0), "b": required(1, 1), "c": required(2, 2)}
    assert conflict(both, masks, PROCESS) == ["a", "b"]


def test_combined_constraints_hold_together() -> None:
    automaton, allowed = combined(
        {"a": required(0, 0), "b": required(1, 1), "no c": (avoiding([[C]], VOCAB_SIZE), None)}
    )
    assert allowed is not None
    x = torch.full((1, LENGTH), MASK)
    law = joint(denoiser_of(Independent()), x, automaton, allowed)[0] > 0
    assert World().sequences[law].tolist() == [[0, 1, 0], [0, 1, 1]]
    assert combined({"no c": (LANGUAGES["no c"], None)})[1] is None


def test_given_tokens_that_leave_the_language_are_refused() -> None:
    constrained = Constrained(denoiser_of(Independent()), LANGUAGES["no ab"])
    x = torch.tensor([[MASK, MASK, MASK], [0, 1, MASK], [MASK, 0, 1]])
    message = r"rows \[1, 2\]: no sequence that meets the constraints has the tokens that are give"
    with pytest.raises(UserError, match=message):
        constrained.log_x0(x, at_start(x))
    proposal = constrained.propose_at(x, at_start(x), x == MASK)
    with pytest.raises(UserError, match="no sequence that meets the constraints"):
        proposal.draw(None, None)
    with pytest.raises(UserError, match="no sequence that meets the constraints"):
        FirstHitting()(constrained, x)
    automaton, allowed = required(1, 2)
    with pytest.raises(UserError, match=r"rows \[0, 1\]: no sequence that meets"):
        FirstHitting()(Constrained(denoiser_of(Independent()), automaton, allowed), x[1:])


@pytest.mark.parametrize("sampler", [Stepwise(4), Ancestral(4, final="argmax")])
def test_samplers_that_draw_tokens_apart_are_refused(sampler: Sampler) -> None:
    constrained = Constrained(denoiser_of(Independent()), LANGUAGES["no ab"])
    with pytest.raises(UserError, match="Constrained draws tokens together, and this sampler dra"):
        sampler(constrained, PROCESS.prior((1, LENGTH)))


def test_wrappers_that_would_lose_the_constraint_refuse_it() -> None:
    constrained = Constrained(denoiser_of(Independent()), LANGUAGES["no ab"])
    with pytest.raises(ValueError, match="would lose the transitions of Constrained"):
        Cached(constrained)
    with pytest.raises(
        UserError, match="steps by the score, and would lose what Constrained does"
    ):
        Analytic(4)(constrained, PROCESS.prior((1, LENGTH)))
    with pytest.raises(UserError, match="turn it round: Constrained\\(ClassifierGuided"):
        ClassifierGuided(constrained, lambda one_hot: one_hot[:, 0, 0].log())
    with pytest.raises(UserError, match="would lose the inner constraint; give the product"):
        Constrained(constrained, LANGUAGES["no c"])


def test_what_cannot_be_constrained_is_refused() -> None:
    language = LANGUAGES["no ab"]
    uniform = Uniform(LogLinear(), VOCAB_SIZE, DATA_IDS)
    network = TableNetwork()
    mean = Mean(VOCAB_SIZE, MASK, DATA_IDS)
    hybrid = Hybrid(LogLinear(), VOCAB_SIZE, MASK, DATA_IDS)
    for process in (uniform, hybrid):
        name = type(process).__name__
        with pytest.raises(UserError, match=rf"and the noise of {name}.* is not masks alone; use"):
            Constrained(NetworkDenoiser(network, process, mean), language)
    with pytest.raises(UserError, match="an automaton over 4 tokens cannot read the 5 of Absorb"):
        Constrained(denoiser_of(network), avoiding([], 4))
    x = PROCESS.prior((1, LENGTH))
    allowed = torch.ones(2, VOCAB_SIZE, dtype=torch.bool)
    with pytest.raises(UserError, match=r"allowed is of shape \(2, 5\), and the sequences are of"):
        Constrained(denoiser_of(network), language, allowed).log_x0(x, at_start(x))
    proposal = Constrained(denoiser_of(network), language).propose_at(x, at_start(x), x == MASK)
    with pytest.raises(UserError, match="not by draw=reference_draw; leave draw out"):
        proposal.draw(None, None, reference_draw)
    with pytest.raises(ValueError, match="a constrained denoiser is asked for masks only"):
        clean = torch.zeros_like(x)
        Constrained(denoiser_of(network), language).propose_at(clean, at_start(x), clean == 0)


def test_a_network_that_gives_nan_is_refused() -> None:
    broken = denoiser_of(ExactNetwork(World().sequences, torch.full((27,), math.nan)))
    x = PROCESS.prior((1, LENGTH))
    proposal = Constrained(broken, LANGUAGES["no ab"]).propose_at(x, at_start(x), x == MASK)
    with pytest.raises(ValueError, match="the log-probabilities to draw from hold NaN"):
        proposal.draw(None, None)


def test_an_automaton_can_tell_given_tokens_from_drawn_ones(world: World) -> None:
    # No ab of which a token is drawn; an ab that is given may stay.
    vocab = VOCAB_SIZE
    either = [(0, vocab), (1, vocab + 1)]
    automaton = avoiding([[(0,), either[1]], [either[0], (1,)]], 2 * vocab)
    x = torch.tensor([[0, 1, MASK]]).repeat(200, 1)
    given = x[0] != MASK
    denoiser = Constrained(world.denoiser(LogLinear()), automaton, None, given)
    samples = FirstHitting()(denoiser, x, generator=torch.Generator().manual_seed(0))
    assert (samples[:, :2] == x[:, :2]).all() and len(samples[:, 2].unique()) == 3
    reaching = torch.tensor([[0, MASK, MASK]]).repeat(200, 1)
    given = reaching[0] != MASK
    denoiser = Constrained(world.denoiser(LogLinear()), automaton, None, given)
    samples = FirstHitting()(denoiser, reaching, generator=torch.Generator().manual_seed(0))
    assert (samples[:, 1] != 1).all()
    constraints = {"no ab": (automaton, None)}
    clash = torch.tensor([0, MASK, 1]), torch.tensor([True, False, True])
    assert conflict(constraints, clash[0], denoiser.process, clash[1]) is None
    with pytest.raises(UserError, match="an automaton over 5 tokens cannot read the 10 of"):
        Constrained(world.denoiser(LogLinear()), avoiding([[(0,)]], vocab), None, given)


@pytest.mark.slow
def test_particles_make_the_law_exact(world: World) -> None:
    automaton = avoiding([[(0,), (1,)]], VOCAB_SIZE)
    denoiser = Constrained(world.denoiser(LogLinear()), automaton)
    inside = torch.from_numpy(automaton.accepts(world.sequences.numpy()))
    law = torch.where(inside, world.probabilities, 0.0)
    law = law / law.sum()
    prior, apart = denoiser.process.prior((4000, LENGTH)), []
    for particles in (1, 64):
        sampler = SequentialMonteCarlo(None, particles, LENGTH)
        samples = sampler(denoiser, prior, generator=torch.Generator().manual_seed(0))
        counts = world.frequencies(samples)
        assert counts[~inside].sum() == 0
        apart.append(float((counts / 4000 - law).abs().sum() / 2))
    # One particle is 0.039 off; 4,000 samples of their own law are 0.02 or so.
    assert apart[1] < 0.03 < apart[0]
