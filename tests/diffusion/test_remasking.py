"""Remasking against its chain by matrices, and how far each strategy is from the data.

Total variation of the law of LogLinear(eps=0) from the data, exact denoiser, by steps (conf: of
200,000 samples, of which chance is 0.003):

                  16      64      256
    eta=0         0.019   0.005   0.001
    cap 0.04      0.020   0.008   0.007
    cap 0.5       0.046   0.020   0.011
    rescale 1     0.047   0.020   0.011
    loop 0.02     0.027   0.005   0.003
    loop 0.2      0.023   0.017   0.017
    conf 1        0.058   0.028   0.017

An exact denoiser has nothing to mend: what is left is what tokens drawn together do not know of
each other.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from genodiff.diffusion import (
    Absorbing,
    Ancestral,
    Cosine,
    Counting,
    Denoiser,
    Linear,
    LogLinear,
    Mean,
    NetworkDenoiser,
    NoiseSchedule,
    Uniform,
)
from genodiff.diffusion.remasking import Remasking, Strategy
from genodiff.errors import UserError
from tests.diffusion.test_sampling import SAMPLES, Lazy, assert_follows, chain_law, grid
from tests.toy import DATA_IDS, LENGTH, MASK, UNKNOWN, VOCAB_SIZE, ExactDenoiser, World

STATES = torch.tensor(list(itertools.product(range(MASK + 1), repeat=LENGTH)))  # (64, 3)


def looping(*arguments: Any, strategy: Strategy, **options: Any) -> Remasking:
    if strategy == "loop":
        options |= {"t_on": 0.6, "t_off": 0.2, "alpha_on": 0.7}
    return Remasking(*arguments, strategy=strategy, **options)


SCHEDULES = [LogLinear(eps=0.0), Cosine()]
EXACT: list[tuple[Strategy, float]] = [
    ("cap", 0.04),
    ("cap", 0.5),
    ("rescale", 0.3),
    ("rescale", 1.0),
    ("loop", 0.2),
]


def alphas(sampler: Remasking, schedule: NoiseSchedule) -> Tensor:
    """The shares of clean tokens at the steps; of a loop as published, on the clock 1 - t."""
    t = grid(sampler.steps, sampler.t_end)
    if sampler.strategy != "loop":
        return schedule.alpha(t)
    before = sampler.alpha_on * (1 - t) / (1 - sampler.t_on)
    after = 1 - t * (1 - sampler.alpha_on) / sampler.t_off
    level = torch.where(t < sampler.t_off, after, sampler.alpha_on)
    return torch.where(t > sampler.t_on, before, level)


def steps(sampler: Remasking, schedule: NoiseSchedule) -> Iterator[tuple[float, float]]:
    """(sigma, probability that a mask is revealed) of each step."""
    clock = grid(sampler.steps, sampler.t_end).tolist()
    for i, (alpha_t, alpha_s) in enumerate(itertools.pairwise(alphas(sampler, schedule).tolist())):
        sigma = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t else 1.0
        if sampler.strategy == "rescale":
            sigma = (sampler.eta or 0.0) * sigma
        elif sampler.strategy == "cap" or sampler.t_off < clock[i] <= sampler.t_on:
            sigma = min(sampler.eta or 0.0, sigma)
        else:
            sigma = 0.0
        yield sigma, (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)


def moves(p: Tensor, sigma: Tensor | float, reveal: float) -> Tensor:
    """(64, 64): transitions of one step, by the definition. p is `restored`."""
    to_mask = torch.eye(MASK + 1, dtype=torch.float64)[MASK]
    masked = (STATES == MASK)[..., None]
    of_masks = reveal * p + (1 - reveal) * to_mask
    sigma = torch.as_tensor(sigma, dtype=torch.float64).expand(64, LENGTH)[..., None]
    each = torch.where(masked, of_masks, (1 - sigma) * p + sigma * to_mask)
    return torch.einsum("na,nb,nc->nabc", *each.unbind(1)).flatten(1)


def restored(denoiser: Denoiser) -> Tensor:
    """(64, 3, 4): p(x_0 | x_t), which here is the same at all times."""
    return denoiser.log_x0(STATES, torch.zeros(64, 1)).exp()[..., : MASK + 1].double()


def remasked_law(denoiser: Denoiser, sampler: Remasking) -> Tensor:
    """(64,): the law at the sampler's end, from all masks."""
    law, p = (STATES == MASK).all(-1).double(), restored(denoiser)
    for sigma, reveal in steps(sampler, denoiser.process.schedule):
        law = law @ moves(p, sigma, reveal)
    return law


def of_letters(law: Tensor) -> Tensor:
    return law.reshape([MASK + 1] * LENGTH)[:MASK, :MASK, :MASK].flatten()


def distance(law: Tensor, world: World) -> float:
    return float((law - world.probabilities).abs().sum() / 2)


def samples(sampler: Remasking, denoiser: Denoiser, rows: int = SAMPLES, seed: int = 0) -> Tensor:
    prior = denoiser.process.prior((rows, LENGTH))
    return sampler(denoiser, prior, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize(("strategy", "eta"), EXACT)
def test_remasking_follows_its_chain(
    strategy: Strategy, eta: float, schedule: NoiseSchedule, world: World
) -> None:
    denoiser = world.denoiser(LogLinear(eps=0.0) if strategy == "loop" else schedule)
    sampler = looping(8, strategy=strategy, eta=eta)
    law = of_letters(remasked_law(denoiser, sampler))
    assert float(law.sum()) == pytest.approx(1)
    assert_follows(world.frequencies(samples(sampler, denoiser)), law)


@pytest.mark.parametrize(("strategy", "eta"), EXACT)
def test_masks_have_the_law_of_the_forward_process_at_any_time(
    strategy: Strategy, eta: float, world: World
) -> None:
    denoiser = world.denoiser(LogLinear(eps=0.0))
    for t_end in (0.65, 0.3):
        sampler = looping(7, t_end, "none", strategy=strategy, eta=eta)
        masked = samples(sampler, denoiser) == MASK
        counts = torch.bincount((masked * torch.tensor([4, 2, 1])).sum(-1), minlength=8)
        patterns = torch.tensor(list(itertools.product([False, True], repeat=LENGTH)))
        rate = 1 - float(alphas(sampler, denoiser.process.schedule)[-1])
        assert_follows(counts, torch.where(patterns, rate, 1 - rate).double().prod(-1))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_without_remasking_it_is_ancestral_sampling(schedule: NoiseSchedule, world: World) -> None:
    denoiser = world.denoiser(schedule)
    for strategy in ("cap", "rescale"):
        sampler = Remasking(5, strategy=strategy, eta=0.0)
        law = chain_law(denoiser, grid(5))
        torch.testing.assert_close(of_letters(remasked_law(denoiser, sampler)), law)
        assert_follows(world.frequencies(samples(sampler, denoiser)), law)


def test_the_law_tends_to_the_data_or_near_it(world: World) -> None:
    denoiser = world.denoiser(LogLinear(eps=0.0))

    def distances(strategy: Strategy, eta: float) -> list[float]:
        samplers = (Remasking(n, strategy=strategy, eta=eta) for n in (16, 64, 256))
        return [distance(of_letters(remasked_law(denoiser, one)), world) for one in samplers]

    # As 1 / sqrt(steps): the last steps mend and spoil in equal shares.
    for found in (distances("cap", 0.5), distances("rescale", 1.0)):
        assert all(more < 0.7 * fewer for fewer, more in itertools.pairwise(found)), found
    # A loop settles where its steps leave it: nearer for smaller ones.
    limits = [distances("loop", eta)[-1] for eta in (0.02, 0.1, 0.2)]
    assert limits == sorted(limits)
    assert limits[0] < 4e-3 and limits[2] > 0.01, limits


def test_conf_takes_back_what_was_unlikely_when_drawn(world: World) -> None:
    # Two steps, from 1 to 5/8 to 1/4, by enumeration: the first draws seeing masks only.
    denoiser = world.denoiser(LogLinear(eps=0.0))
    first = (STATES == MASK).all(-1).nonzero()[0, 0]
    p = restored(denoiser)
    confidence = p[first][torch.arange(LENGTH), STATES]
    weight = torch.where(STATES == MASK, 0.0, torch.exp(-confidence))
    sigma = (1 / 4) / (3 / 8) * weight / weight.sum(-1, keepdim=True).clamp(min=1e-9)
    law = moves(p, 0.0, 3 / 8)[first] @ moves(p, sigma, (5 - 2) / 5)
    drawn = samples(Remasking(2, 1 / 4, "none", strategy="conf", eta=1.0), denoiser)
    counts = torch.bincount((drawn * torch.tensor([16, 4, 1])).sum(-1), minlength=64)
    assert_follows(counts, law)
    assert float((STATES == MASK).double().mean(-1) @ law) > 0.3  # the schedule says 1/4


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "expected"), [(16, 0.058), (64, 0.028)])
def test_conf_is_further_from_the_data_than_ancestral_sampling(
    steps: int, expected: float, world: World
) -> None:
    denoiser = world.denoiser(LogLinear(eps=0.0))
    counts = world.frequencies(
        samples(Remasking(steps, strategy="conf", eta=1.0), denoiser, rows=200_000)
    )
    law = counts / counts.sum()
    assert distance(law, world) == pytest.approx(expected, abs=0.004)
    ancestral = chain_law(denoiser, grid(steps))
    assert distance(law, world) > 2 * distance(ancestral, world)
    # What it draws is less likely: tokens that should have known each other came together.
    assert float((law - ancestral) @ world.probabilities.log()) < -0.03


def test_infilling_draws_conditionally_and_takes_back_only_what_it_drew(world: World) -> None:
    denoiser = world.denoiser(LogLinear())
    x = torch.tensor([[MASK, 1, MASK]]).expand(2000, -1)
    sampler = Remasking(100, strategy="cap", eta=0.02)
    drawn = sampler(denoiser, x, generator=torch.Generator().manual_seed(0))
    conditional = torch.where(world.sequences[:, 1] == 1, world.probabilities, 0.0)
    given = conditional > 0
    counts = world.frequencies(drawn)
    assert counts[~given].sum() == 0
    # 100 steps are within 0.01 of the law in total variation: 2000 samples do not see it.
    assert_follows(counts[given], conditional[given] / conditional.sum())


@pytest.mark.parametrize("strategy", ["cap", "rescale", "conf", "loop"])
def test_what_is_given_or_frozen_stays_and_nothing_else_is_masked(
    strategy: Strategy, world: World
) -> None:
    denoiser = world.denoiser(LogLinear())
    x = torch.tensor([[MASK, UNKNOWN, 2], [0, 1, 2], [MASK, MASK, MASK]]).repeat(50, 1)
    frozen = torch.tensor([[False, False, True]]).expand(150, -1)
    given = x.clone()
    sampler = Remasking(20, strategy=strategy, eta=0.5)
    one, other = (
        sampler.restore(denoiser, x, frozen, torch.Generator().manual_seed(0)) for _ in range(2)
    )
    assert torch.equal(one, other)
    assert torch.equal(x, given)
    stays = frozen | (x != MASK)
    assert torch.equal(one[stays], x[stays])
    assert (one[~stays] < MASK).all()


def test_masks_left_by_a_schedule_that_starts_masked_are_drawn_at_the_end(world: World) -> None:
    denoiser = world.denoiser(Linear(sigma_min=1.0, sigma_max=7.0))
    assert (samples(Remasking(3), denoiser, rows=200) < MASK).all()
    assert (samples(Remasking(3, final="none"), denoiser, rows=200) == MASK).any()


def test_a_row_is_evaluated_only_in_steps_that_reveal_something_of_it(world: World) -> None:
    counting = Counting(world.denoiser(LogLinear(eps=0.0)))
    samples(Remasking(40, eta=0.0), counting, rows=4000)
    ancestral = Counting(world.denoiser(LogLinear(eps=0.0)))
    prior = ancestral.process.prior((4000, LENGTH))
    Ancestral(40)(ancestral, prior, generator=torch.Generator().manual_seed(0))
    # Means of 4000 rows, each 2.9 evaluations with an s.d. below 0.4: 5 standard errors.
    assert counting.row_evaluations / 4000 == pytest.approx(
        ancestral.row_evaluations / 4000, abs=0.05
    )


def test_impossible_options_are_refused() -> None:
    sampler = Remasking(4)
    object.__setattr__(sampler, "strategy", "max")  # past the type check of the test run
    with pytest.raises(UserError, match="strategy='max' is not one of 'cap', 'rescale', 'conf'"):
        sampler.__post_init__()
    with pytest.raises(UserError, match=r"t_on=0\.7 is of strategy='loop', and this is 'cap'; le"):
        Remasking(4, t_on=0.7)
    with pytest.raises(UserError, match=r"eta=1\.5 scales a probability; use a number in \[0, 1"):
        Remasking(4, eta=1.5)
    with pytest.raises(UserError, match=r"t_off=0\.6, t_on=0\.5: the loop lasts from t_on"):
        Remasking(4, strategy="loop", t_off=0.6, t_on=0.5)
    with pytest.raises(UserError, match=r"alpha_on=1\.0 is the share of clean tokens in the loop"):
        Remasking(4, strategy="loop", alpha_on=1.0)
    with pytest.raises(UserError, match="steps=0: sampling takes at least one step; use"):
        Remasking(0)


def test_denoisers_whose_masks_it_cannot_time_are_refused(world: World) -> None:
    denoiser = world.denoiser(LogLinear())
    mean = Mean(VOCAB_SIZE, MASK, DATA_IDS)
    assert isinstance(denoiser.process, Absorbing)
    lazy = NetworkDenoiser(Lazy(denoiser.network), denoiser.process, mean)
    with pytest.raises(UserError, match="Remasking with a NetworkDenoiser whose network decides"):
        samples(Remasking(4), lazy, rows=1)
    uniform = ExactDenoiser(world, Uniform(LogLinear(), VOCAB_SIZE, DATA_IDS))
    with pytest.raises(UserError, match="Remasking counts masks, and needs an Absorbing"):
        samples(Remasking(4), uniform, rows=1)
