"""Samplers against the law that they must follow: a finite sum in the enumerable world."""

import itertools
import math

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from genodiff.diffusion import (
    Absorbing,
    Analytic,
    Ancestral,
    Cosine,
    Counting,
    Denoiser,
    FirstHitting,
    Geometric,
    Linear,
    LogLinear,
    Mean,
    NetworkDenoiser,
    NoiseSchedule,
    Polynomial,
    Sampler,
    Score,
    Stepwise,
    Subs,
    reference_draw,
)
from genodiff.errors import UserError
from tests.toy import (
    DATA_IDS,
    LENGTH,
    LETTERS,
    MASK,
    UNKNOWN,
    VOCAB_SIZE,
    ExactNetwork,
    World,
)

SAMPLES = 20_000
FALSE_ALARM_RATE = 1e-4  # of each chi-squared test; the seeds are fixed


def chain_law(denoiser: Denoiser, times: Tensor) -> Tensor:
    """(27,): the law of sequences after all the given times, from all masks, by powers of
    transitions.

    What is still masked at the end is drawn from p(x_0 | x_t).
    """
    states = torch.tensor(list(itertools.product(range(MASK + 1), repeat=LENGTH)))  # (64, 3)
    law = (states == MASK).all(-1).double()
    for t, s in itertools.pairwise(times.tolist()):
        t, s = (torch.full((64, 1), value, dtype=torch.float64) for value in (t, s))
        law = law @ joint(denoiser.log_transition(states, t, s))
    t = torch.full((64, 1), float(times[-1])).double()
    law = law @ joint(denoiser.process.log_clean(states, denoiser.log_x0(states, t), t))
    return law.reshape([MASK + 1] * LENGTH)[:MASK, :MASK, :MASK].flatten()


def joint(log_p: Tensor) -> Tensor:
    """(64, 64): probability of each next state, tokens being independent."""
    p = log_p.exp()[..., : MASK + 1]
    return torch.einsum("na,nb,nc->nabc", p[:, 0], p[:, 1], p[:, 2]).flatten(1)


def assert_follows(counts: Tensor, law: Tensor) -> None:
    expected = law * counts.sum()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert chi2.sf(statistic, len(law) - 1) > FALSE_ALARM_RATE, statistic


def grid(steps: int, t_end: float = 0.0) -> Tensor:
    return torch.linspace(1, t_end, steps + 1, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 3, 16])
@pytest.mark.parametrize("schedule", [LogLinear(), Cosine(), Geometric()], ids=repr)
@pytest.mark.parametrize("make", [Ancestral, Stepwise])
def test_ancestral_sampling_follows_its_chain(
    make: type[Stepwise], steps: int, schedule: NoiseSchedule, world: World
) -> None:
    denoiser = world.denoiser(schedule)
    generator = torch.Generator().manual_seed(0)
    prior = denoiser.process.prior((SAMPLES, LENGTH))
    samples = make(steps)(denoiser, prior, generator=generator)
    assert_follows(world.frequencies(samples), chain_law(denoiser, grid(steps)))


def test_the_law_of_the_chain_tends_to_the_data(world: World) -> None:
    denoiser = world.denoiser(LogLinear(eps=0.0))
    distances = [
        float((chain_law(denoiser, grid(steps)) - world.probabilities).abs().sum() / 2)
        for steps in (1, 4, 16, 64, 256)
    ]
    assert all(4 * more < 1.5 * fewer for fewer, more in itertools.pairwise(distances[1:]))
    assert distances[-1] < 2e-3


def test_analytic_sampling_of_a_normalised_denoiser_follows_the_same_chain(world: World) -> None:
    denoiser = world.denoiser(LogLinear())
    generator = torch.Generator().manual_seed(1)
    prior = denoiser.process.prior((SAMPLES, LENGTH))
    samples = Analytic(steps=8)(denoiser, prior, generator=generator)
    assert_follows(world.frequencies(samples), chain_law(denoiser, grid(8, t_end=1e-5)))


class ScoreNetwork(ExactNetwork):
    """Exact scores; those of tokens that are not data are what they were before training."""

    def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        log_p = super().forward(tokens)[..., :LETTERS].log_softmax(-1)
        return nn.functional.pad(log_p + math.log(VOCAB_SIZE - 1), (0, VOCAB_SIZE - LETTERS))


def of_scores(world: World) -> NetworkDenoiser:
    network = ScoreNetwork(world.sequences, world.probabilities)
    process = Absorbing(LogLinear(), VOCAB_SIZE, MASK, DATA_IDS)
    return NetworkDenoiser(network, process, Score(VOCAB_SIZE, MASK, DATA_IDS))


def test_analytic_sampling_draws_no_token_that_is_not_data(world: World) -> None:
    denoiser = of_scores(world)
    prior = denoiser.process.prior((SAMPLES, LENGTH))
    samples = Analytic(steps=8)(denoiser, prior, generator=torch.Generator().manual_seed(0))
    law = chain_law(world.denoiser(LogLinear()), grid(8, t_end=1e-5))
    assert_follows(world.frequencies(samples), law)


def test_analytic_sampling_asks_again_of_rows_that_changed_alone(world: World) -> None:
    counting, plain = Counting(of_scores(world)), of_scores(world)
    prior = plain.process.prior((10, LENGTH))
    samples = Analytic(100)(counting, prior, generator=torch.Generator().manual_seed(0))
    assert counting.row_evaluations <= 10 * (LENGTH + 1)
    plain.time_conditioning = True  # so that nothing is kept; this network does not look at it
    again = Analytic(100)(plain, prior, generator=torch.Generator().manual_seed(0))
    assert torch.equal(samples, again)


@pytest.mark.parametrize("schedule", [LogLinear(), Cosine(), Linear(1e-3, 7.0)], ids=repr)
def test_first_hitting_follows_the_data(schedule: NoiseSchedule, world: World) -> None:
    denoiser = world.denoiser(schedule)
    generator = torch.Generator().manual_seed(0)
    prior = denoiser.process.prior((SAMPLES, LENGTH))
    samples = FirstHitting()(denoiser, prior, generator=generator)
    assert_follows(world.frequencies(samples), world.probabilities)


def test_the_published_draw_can_be_asked_for(world: World) -> None:
    denoiser = world.denoiser(LogLinear())
    generator = torch.Generator().manual_seed(0)
    prior = denoiser.process.prior((SAMPLES, LENGTH))
    samples = Ancestral(steps=3, draw=reference_draw)(denoiser, prior, generator=generator)
    assert_follows(world.frequencies(samples), chain_law(denoiser, grid(3)))


EVERY = [Ancestral(steps=100), Stepwise(steps=100), FirstHitting(), Analytic(steps=100)]
every_sampler = pytest.mark.parametrize("sampler", EVERY, ids=lambda s: type(s).__name__)


@every_sampler
def test_infilling_keeps_what_is_given_and_draws_the_rest_conditionally(
    sampler: Sampler, world: World
) -> None:
    denoiser = world.denoiser(LogLinear())
    x = torch.tensor([[MASK, 1, MASK]]).expand(2000, -1)
    samples = sampler(denoiser, x, frozen=x != MASK, generator=torch.Generator().manual_seed(0))
    assert (samples[:, 1] == 1).all()
    # 100 steps are within 4e-3 of the law in total variation: 2000 samples do not see it.
    conditional = torch.where(world.sequences[:, 1] == 1, world.probabilities, 0.0)
    given = conditional > 0
    counts = world.frequencies(samples)
    assert counts[~given].sum() == 0
    assert_follows(counts[given], conditional[given] / conditional.sum())


@every_sampler
def test_nothing_stays_masked_and_nothing_given_changes(sampler: Sampler, world: World) -> None:
    denoiser = world.denoiser(LogLinear())
    x = torch.tensor([[MASK, UNKNOWN, 2], [0, 1, 2], [MASK, MASK, MASK]])
    given = x.clone()
    samples = sampler(denoiser, x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, given)
    assert torch.equal(samples[x != MASK], x[x != MASK])
    assert (samples[x == MASK] < MASK).all()


@every_sampler
def test_frozen_masks_are_refused_but_of_samplers_inside_others(
    sampler: Sampler, world: World
) -> None:
    x = torch.full((16, LENGTH), MASK)
    frozen = torch.tensor([[True, False, False]]).expand(16, -1)
    generator = torch.Generator().manual_seed(0)
    denoiser = world.denoiser(LogLinear())
    with pytest.raises(UserError, match="16 of the frozen tokens are masks, and would still be m"):
        sampler(denoiser, x, frozen=frozen, generator=generator)
    samples = sampler.restore(denoiser, x, frozen, generator)
    assert (samples[:, 0] == MASK).all()
    assert (samples[:, 1:] < MASK).all()


@every_sampler
def test_a_seed_gives_the_same_samples_again(sampler: Sampler, world: World) -> None:
    denoiser = world.denoiser(LogLinear())
    prior = denoiser.process.prior((8, LENGTH))
    one, other = (
        sampler(denoiser, prior, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(one, other)


def test_first_hitting_asks_once_a_mask_and_for_unfinished_rows_only(world: World) -> None:
    counting = Counting(world.denoiser(LogLinear()))
    x = torch.tensor([[MASK, MASK, MASK], [0, MASK, 1], [0, 1, 2]])
    FirstHitting()(counting, x, generator=torch.Generator().manual_seed(0))
    assert (counting.calls, counting.row_evaluations) == (3, 4)


def test_ancestral_sampling_asks_once_a_step_that_reveals_something(world: World) -> None:
    counting = Counting(world.denoiser(LogLinear(eps=0.0)))
    prior = counting.process.prior((4000, LENGTH))
    Ancestral(steps=4)(counting, prior, generator=torch.Generator().manual_seed(0))
    # Of 4 steps, each of 3 tokens hits one: 4 (1 - (3/4)^3) are hit on average, s.d. 0.63 a row.
    assert counting.row_evaluations / 4000 == pytest.approx(4 * (1 - (3 / 4) ** 3), abs=0.04)
    assert counting.calls == 3


@pytest.mark.parametrize("share", ["alone", "together"])
def test_rows_that_are_ahead_do_not_change_the_law_of_others(share: str, world: World) -> None:
    denoiser = world.denoiser(LogLinear())
    x = torch.full((SAMPLES, LENGTH), MASK)
    if share == "together":
        x = torch.cat([x, torch.tensor([[0, MASK, 2]]).expand(100, -1)])
    generator = torch.Generator().manual_seed(7)
    samples = Ancestral(steps=3)(denoiser, x, generator=generator)[:SAMPLES]
    assert_follows(world.frequencies(samples), chain_law(denoiser, grid(3)))


def test_a_network_that_moves_the_reveals_is_sampled_step_by_step(world: World) -> None:
    # A mean parameterization leaves a share to the mask, and so delays the reveal.
    denoiser = world.denoiser(LogLinear())
    lazy = NetworkDenoiser(
        Lazy(denoiser.network), denoiser.process, Mean(VOCAB_SIZE, MASK, DATA_IDS)
    )
    assert not lazy.reveals_at_random
    prior = denoiser.process.prior((SAMPLES, LENGTH))
    samples = Ancestral(steps=4)(lazy, prior, generator=torch.Generator().manual_seed(0))
    assert_follows(world.frequencies(samples), chain_law(lazy, grid(4)))
    with pytest.raises(UserError, match="FirstHitting with a NetworkDenoiser whose network dec"):
        FirstHitting()(lazy, prior)


class Lazy(nn.Module):
    """The network, with half of the probability on the mask."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, sigma: Tensor | None) -> Tensor:
        logits = self.network(tokens, sigma).log_softmax(-1)
        return torch.where(torch.arange(VOCAB_SIZE) == MASK, 0.0, logits)


class Listener(nn.Module):
    """A network that keeps the times it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[Tensor] = []

    def forward(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        self.times.append(sigma)
        return torch.zeros(*tokens.shape, VOCAB_SIZE)


def test_first_hitting_times_are_those_of_the_last_of_n_uniform_masks() -> None:
    # From n masks at mask rate m the next goes at m u^(1/n), whose mean is m n / (n + 1).
    network = Listener()
    process = Absorbing(LogLinear(), VOCAB_SIZE, MASK, DATA_IDS)
    subs = Subs(VOCAB_SIZE, MASK, DATA_IDS)
    denoiser = NetworkDenoiser(network, process, subs, time_conditioning=True, told="time")
    generator = torch.Generator().manual_seed(0)
    FirstHitting()(denoiser, process.prior((SAMPLES, 3)), generator=generator)
    times = torch.cat(network.times, -1)  # (rows, 3)
    assert (times.diff(dim=-1) < 0).all()
    # Means of SAMPLES numbers in [0, 1], to 5 standard errors: false alarm rate 2e-6.
    expected = torch.tensor([3 / 4, 3 / 4 * 2 / 3, 3 / 4 * 2 / 3 / 2])
    assert ((times.mean(0) - expected).abs() < 5 * times.std(0) / SAMPLES**0.5).all()


def test_masks_left_by_a_schedule_that_starts_masked_are_drawn_at_the_end(world: World) -> None:
    denoiser = world.denoiser(Linear(sigma_min=1.0, sigma_max=7.0))
    prior = denoiser.process.prior((200, LENGTH))
    left, drawn = (
        Stepwise(2, final=final)(denoiser, prior, generator=torch.Generator().manual_seed(0))
        for final in ("none", "draw")
    )
    assert (left == MASK).any()
    assert (drawn < MASK).all()
    assert torch.equal(drawn[left != MASK], left[left != MASK])


def test_argmax_noise_removal_is_greedy(world: World) -> None:
    denoiser = world.denoiser(Linear(sigma_min=1.0, sigma_max=7.0))
    prior = denoiser.process.prior((200, LENGTH))
    left, greedy = (
        Stepwise(2, final=final)(denoiser, prior, generator=torch.Generator().manual_seed(0))
        for final in ("none", "argmax")
    )
    assert torch.equal(greedy, denoiser.log_x0(left, torch.zeros(200, 1)).argmax(-1))


def test_letters_depend_on_each_other_so_that_independent_draws_would_be_seen(
    world: World,
) -> None:
    independent = chain_law(world.denoiser(LogLinear()), grid(1))
    assert float((independent - world.probabilities).abs().sum()) > 0.1


@pytest.mark.parametrize("make", [Ancestral, Analytic])
def test_sampling_without_steps_is_refused(make: type) -> None:
    with pytest.raises(UserError, match="steps=0: sampling takes at least one step; use"):
        make(steps=0)


def test_impossible_ends_are_refused(world: World) -> None:
    with pytest.raises(
        UserError, match=r"t_end=1\.0: sampling goes from t=1 to t_end in \[0, 1\)"
    ):
        Ancestral(steps=4, t_end=1.0)
    with pytest.raises(UserError, match=r"t_end=0\.0: the score diverges at t=0; use"):
        Analytic(steps=4, t_end=0.0)
    sampler = Ancestral(steps=4)
    object.__setattr__(sampler, "final", "greedy")  # past the type check of the test run
    with pytest.raises(UserError, match="final='greedy' is not one of 'draw', 'none', 'argmax'"):
        sampler.__post_init__()
    denoiser = world.denoiser(Polynomial(power=2.0))
    with pytest.raises(UserError, match=r"Analytic with Polynomial.*sigma\(1\) is infinite; use"):
        Analytic(steps=4)(denoiser, denoiser.process.prior((1, LENGTH)))
