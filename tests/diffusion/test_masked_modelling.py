"""Masked language modelling against an enumeration of everything that is random in it."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from genodiff.diffusion import Absorbing, LogLinear, Mean, NetworkDenoiser, Subs
from genodiff.diffusion.masked_modelling import Draws, MaskedLM, corrupt
from genodiff.diffusion.objective import ExactlyK
from genodiff.errors import UserError
from tests.toy import DATA_IDS, LETTERS, MASK, UNKNOWN, VOCAB_SIZE

PROCESS = Absorbing(LogLinear(), VOCAB_SIZE, MASK, DATA_IDS)
MEAN = Mean(VOCAB_SIZE, MASK, DATA_IDS, subs_masking=True)
X0 = torch.tensor([[0, 2, 1]])


class Network(nn.Module):
    """Every position reads every token, in its place, and the class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.output = nn.Embedding(VOCAB_SIZE, 4), nn.Linear(4, VOCAB_SIZE)
        self.double()

    def forward(
        self, tokens: Tensor, sigma: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        x = self.embedding(tokens)
        x = torch.tanh(
            2 * x + x.cumsum(1) + (0 if condition is None else condition[:, None, None])
        )
        return self.output(x)


def denoiser() -> NetworkDenoiser:
    return NetworkDenoiser(Network(), PROCESS, MEAN)


def every_outcome(probability: float) -> tuple[Tensor, Tensor, Tensor]:
    """All that can become of X0: inputs x_t, which tokens are chosen, the probability of both."""
    chosen_as = {MASK: 0.8, **{y: 0.1 / LETTERS for y in DATA_IDS}}
    fates = []
    for x in X0[0].tolist():
        token = [(x, False, 1 - probability)]
        for y, p in chosen_as.items():
            token.append((y, True, probability * (p + 0.1 * (y == x))))
        fates.append(token)
    outcomes = list(itertools.product(*fates))
    x_t, chosen, p = (torch.tensor([[f[i] for f in o] for o in outcomes]) for i in range(3))
    return x_t, chosen, p.double().prod(-1)


def test_of_the_chosen_80_percent_are_masked_10_replaced_and_10_kept() -> None:
    x0 = torch.randint(LETTERS, (200, 1000), generator=torch.Generator().manual_seed(0))
    draws = MaskedLM().draw(denoiser(), x0, generator=torch.Generator().manual_seed(1))
    x_t = corrupt(x0, draws, MASK)
    assert torch.equal(x_t[~draws.chosen], x0[~draws.chosen])
    now, before = x_t[draws.chosen], x0[draws.chosen]
    shares = [
        (draws.chosen, 0.15),
        (now == MASK, 0.8),
        ((now != MASK) & (now != before), 0.1 * 2 / 3),
        (now == before, 0.1 + 0.1 / 3),
        *((now[now != before] == y, 0.1 * 2 / 9 / (0.8 + 0.1 * 2 / 3)) for y in DATA_IDS),
    ]
    for observed, expected in shares:
        # 4.5 standard errors of seven shares: a false alarm in 2e4 seeds.
        error = math.sqrt(expected * (1 - expected) / observed.numel())
        assert abs(float(observed.double().mean()) - expected) < 4.5 * error


def test_replacements_are_drawn_from_the_given_tokens_alike() -> None:
    x0 = torch.zeros(100, 1000, dtype=torch.int64)
    ids = [1, MASK, UNKNOWN, 4]  # one of them twice as often
    draws = MaskedLM(replacements=ids).draw(
        denoiser(), x0, generator=torch.Generator().manual_seed(0)
    )
    counts = torch.bincount(draws.replacement.flatten(), minlength=VOCAB_SIZE).double()
    expected = torch.tensor([0, 1, 0, 1, 2]) * x0.numel() / 4
    assert bool((counts[[0, 2]] == 0).all())
    # Chi-squared of 2 degrees of freedom above 20: 5e-5.
    assert float(((counts - expected) ** 2 / expected.clamp(min=1)).sum()) < 20


def test_given_draws_give_the_input() -> None:
    yes, no = True, False
    draws = Draws(
        torch.tensor([[no, yes, yes, yes, yes]]),
        torch.tensor([[yes, yes, yes, no, no]]),
        torch.tensor([[yes, yes, no, yes, no]]),
        torch.tensor([[1, 1, 1, 1, 1]]),
    )
    assert corrupt(torch.tensor([[0, 0, 2, 2, 2]]), draws, MASK).tolist() == [
        [0, MASK, MASK, 1, 2]
    ]


def test_nats_are_the_cross_entropy_of_the_chosen_over_their_probability() -> None:
    model = denoiser()
    x_t, chosen = torch.tensor([[MASK, 1, 1]]), torch.tensor([[True, True, True]])
    nats = MaskedLM(0.25).at(model, X0, x_t, chosen)  # masked, replaced, kept
    log_p = model.network(x_t)[..., :LETTERS].log_softmax(-1)
    torch.testing.assert_close(nats, -4 * log_p.gather(-1, X0[..., None])[..., 0])
    none = MaskedLM().at(model, X0, x_t, ~chosen)
    assert bool((none == 0).all())


def test_random_estimates_and_gradients_are_those_of_the_enumeration() -> None:
    objective, model, rows = MaskedLM(0.3), denoiser(), 40_000
    bias = model.network.get_parameter("output.bias")
    x_t, chosen, p = every_outcome(0.3)
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-6)
    outcomes = objective.at(model, X0.expand(len(p), -1), x_t, chosen)  # (n, l)
    gradients = torch.stack(
        [torch.autograd.grad(nats, bias, retain_graph=True)[0] for nats in outcomes.sum(-1)]
    )  # (n, k)

    nats = objective(model, X0.expand(rows, -1), generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(nats.sum(), bias)
    for mean, values in ((nats.mean(0), outcomes), (gradient / rows, gradients[:, :LETTERS])):
        expected = p @ values
        error = ((p @ values.square() - expected.square()) / rows).sqrt()
        assert bool((error < 0.02).all())
        assert bool((expected.abs() > 5 * error).any())
        # 4.5 standard errors of six numbers: a false alarm in 2e4 seeds.
        assert bool(((mean[:LETTERS] - expected).abs() < 4.5 * error).all())


def test_the_mean_over_all_tokens_is_the_mean_over_the_chosen() -> None:
    # A network that says the same everywhere: every chosen token costs log 3.
    network = Network()
    nn.init.zeros_(network.output.weight)
    nn.init.zeros_(network.output.bias)
    model = NetworkDenoiser(network, PROCESS, MEAN)
    x_t, chosen, p = every_outcome(0.15)
    nats = MaskedLM().at(model, X0.expand(len(p), -1), x_t, chosen)
    expected = float((p @ nats).mean().detach())
    assert expected == pytest.approx(math.log(3), rel=1e-6)  # p is a product of float32


def test_what_is_not_data_is_context_and_costs_nothing() -> None:
    x0 = torch.full((50, 40), UNKNOWN)
    x0[:, ::2] = 1
    nats = MaskedLM()(denoiser(), x0, generator=torch.Generator().manual_seed(0))
    assert bool((nats[:, 1::2] == 0).all())
    assert bool((nats[:, ::2] > 0).any())


def test_a_seed_gives_the_same_nats_again_and_the_class_is_told() -> None:
    def nats(label: int) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        condition = torch.full((20,), label)
        return MaskedLM()(denoiser(), X0.expand(20, -1), generator=generator, condition=condition)

    assert torch.equal(nats(0), nats(0))
    assert bool((nats(0) > 0).any())
    assert not torch.equal(nats(0), nats(1))


def test_the_likelihood_of_what_it_trains_is_that_of_subs() -> None:
    # Mean with subs_masking differs from Subs at clean tokens alone, which no likelihood reads.
    network, generator = Network(), torch.Generator()
    nats = [
        ExactlyK()(
            NetworkDenoiser(network, PROCESS, parameterization),
            X0.expand(9, -1),
            generator=generator.manual_seed(0),
        )
        for parameterization in (MEAN, Subs(VOCAB_SIZE, MASK, DATA_IDS))
    ]
    assert torch.equal(nats[0], nats[1])


def test_a_model_that_keeps_clean_tokens_is_refused() -> None:
    subs = NetworkDenoiser(Network(), PROCESS, Subs(VOCAB_SIZE, MASK, DATA_IDS))
    with pytest.raises(UserError, match=r"MaskedLM with Subs .* Mean with subs_masking=true"):
        MaskedLM()(subs, X0, generator=None)
    with pytest.raises(UserError, match="MaskedLM with Network "):
        MaskedLM()(Network(), X0, generator=None)


def test_a_model_that_is_told_the_time_is_refused() -> None:
    model = NetworkDenoiser(Network(), PROCESS, MEAN, time_conditioning=True)
    with pytest.raises(UserError, match="use time_conditioning=false"):
        MaskedLM()(model, X0, generator=None)


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.5, math.nan])
def test_a_probability_out_of_range_is_refused(probability: float) -> None:
    with pytest.raises(UserError, match=r"is not in \(0, 1\]"):
        MaskedLM(probability)


def test_replacements_have_to_be_tokens() -> None:
    with pytest.raises(UserError, match="leave it out for the data tokens"):
        MaskedLM(replacements=[])
    for ids in ([0, VOCAB_SIZE], [-1]):
        with pytest.raises(UserError, match=r"are not all tokens; use 0 \.\. 4"):
            MaskedLM(replacements=ids)(denoiser(), X0, generator=None)
