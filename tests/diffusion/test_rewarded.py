import pytest
import torch
from torch import Tensor

from genodiff.diffusion import Ancestral, Counting, LogLinear
from genodiff.diffusion.rewarded import BestOf, SequentialMonteCarlo
from genodiff.errors import UserError
from tests.diffusion.test_sampling import assert_follows
from tests.toy import LENGTH, MASK, World


def likes_rare_ends(tokens: Tensor) -> Tensor:
    """A reward between 0 and 3 that depends on two letters together."""
    return ((tokens[:, 0] + 2 * tokens[:, 2]) % 4).double()


def distance(counts: Tensor, law: Tensor) -> float:
    return float((counts / counts.sum() - law).abs().sum() / 2)


def test_one_particle_follows_the_model(world: World) -> None:
    denoiser = world.denoiser(LogLinear())
    sampler = SequentialMonteCarlo(likes_rare_ends, particles=1, steps=LENGTH)
    prior = denoiser.process.prior((5000, LENGTH))
    samples = sampler(denoiser, prior, generator=torch.Generator().manual_seed(0))
    assert_follows(world.frequencies(samples), world.probabilities)


@pytest.mark.parametrize("resample_below", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, LENGTH])
def test_many_particles_follow_the_tilted_law(
    steps: int, resample_below: float, world: World
) -> None:
    denoiser = world.denoiser(LogLinear())
    law = world.probabilities
    if steps == 1:  # all letters at once: the model's law is the product of its marginals
        first = denoiser.log_x0(torch.full((1, LENGTH), MASK), torch.ones(1, 1))[0].exp()
        law = first[torch.arange(LENGTH), world.sequences].prod(-1)
    tilted = law * (2 * likes_rare_ends(world.sequences)).exp()
    tilted = tilted / tilted.sum()
    prior = denoiser.process.prior((2500, LENGTH))
    apart = []
    for particles in (1, 4, 64):
        sampler = SequentialMonteCarlo(
            likes_rare_ends, particles, steps, temperature=0.5, resample_below=resample_below
        )
        samples = sampler(denoiser, prior, generator=torch.Generator().manual_seed(0))
        apart.append(distance(world.frequencies(samples), tilted))
    # 2,500 samples of 27 sequences are some 0.03 from their own law.
    assert apart[0] > 0.35
    assert apart[0] > apart[1] > apart[2]
    assert apart[2] < 0.06


def test_every_particle_costs_an_evaluation_a_step(world: World) -> None:
    counting = Counting(world.denoiser(LogLinear()))
    x = torch.tensor([[MASK, MASK, MASK], [0, MASK, 1], [0, 1, 2]])
    sampler = SequentialMonteCarlo(likes_rare_ends, particles=4, steps=LENGTH)
    samples = sampler(counting, x, generator=torch.Generator().manual_seed(0))
    assert counting.row_evaluations == 4 * (3 + 1)
    assert torch.equal(samples[x != MASK], x[x != MASK])
    assert (samples < MASK).all()


def test_the_best_of_n_has_the_law_of_a_maximum(world: World) -> None:
    denoiser = world.denoiser(LogLinear(eps=0.0))
    sampler = BestOf(Ancestral(500), 3, likes_rare_ends)
    prior = denoiser.process.prior((3000, LENGTH))
    samples = sampler(denoiser, prior, generator=torch.Generator().manual_seed(0))
    reward = likes_rare_ends(world.sequences)
    shares = torch.stack([world.probabilities[reward <= r].sum() for r in range(4)])
    expected = torch.diff(shares**3, prepend=torch.zeros(1))
    counts = torch.bincount(likes_rare_ends(samples).long(), minlength=4)
    possible = expected > 0
    assert_follows(counts[possible], expected[possible])


def test_frozen_masks_stay(world: World) -> None:
    x = torch.full((6, LENGTH), MASK)
    frozen = torch.tensor([[True, False, False]]).expand(6, -1)

    def reward(tokens: Tensor) -> Tensor:
        return tokens[:, 1].double()

    for sampler in (
        BestOf(Ancestral(4), 2, reward),
        SequentialMonteCarlo(reward, particles=3, steps=2),
    ):
        samples = sampler.restore(world.denoiser(LogLinear()), x, frozen, torch.Generator())
        assert (samples[:, 0] == MASK).all() and (samples[:, 1:] < MASK).all()


def test_impossible_settings_and_rewards_are_refused(world: World) -> None:
    with pytest.raises(UserError, match="n=0: the best is taken of at least one sample; use"):
        BestOf(Ancestral(4), 0, likes_rare_ends)
    with pytest.raises(UserError, match="particles=0 must be at least 1; use"):
        SequentialMonteCarlo(likes_rare_ends, 0, 4)
    with pytest.raises(UserError, match="steps=0: sampling takes at least one step"):
        SequentialMonteCarlo(likes_rare_ends, 4, 0)
    with pytest.raises(UserError, match=r"temperature=0\.0: rewards are divided by it; use more"):
        SequentialMonteCarlo(likes_rare_ends, 4, 4, temperature=0.0)
    with pytest.raises(UserError, match=r"resample_below=2\.0 is a share of the particles"):
        SequentialMonteCarlo(likes_rare_ends, 4, 4, resample_below=2.0)
    prior = torch.full((2, LENGTH), MASK)
    for reward, message in (
        (lambda tokens: tokens.double(), r"shape \(2, 3\) for 2 sequences, or"),
        (lambda tokens: torch.full((len(tokens),), torch.nan), "numbers that are not finite"),
    ):
        with pytest.raises(UserError, match=message):
            BestOf(Ancestral(2), 1, reward)(world.denoiser(LogLinear()), prior)
