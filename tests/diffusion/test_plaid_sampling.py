"""Sampling from Plaid against the enumerable world, whose p(x_0 | z_t) is a finite sum.

Total variation of 20,000 samples from the data, by steps (chance is about 0.01), with noise from
gamma = -5 to 12 and from -3 to 6:

                     8       16      32      64      256
    -5 to 12         0.085   0.048   0.024   0.018   0.011
    -3 to 6          0.049   0.030   0.015   0.014   0.010

of the middle letter given, the two others, -5 to 12, by steps and corrections:

    steps            16      64      256
    0 corrections    0.069   0.048   0.051
    1 correction     0.045   0.036
    4 corrections    0.052   0.023
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genodiff.diffusion.gaussian import NoiseLevel
from genodiff.diffusion.plaid import PlaidModel
from genodiff.diffusion.plaid_sampling import PlaidSampler, _further
from genodiff.diffusion.reshaping import Temperature
from genodiff.errors import UserError
from tests.diffusion.test_sampling import assert_follows
from tests.toy import DATA_IDS, LENGTH, LETTERS, MASK, UNKNOWN, VOCAB_SIZE, World


class Unread(nn.Module):
    """The network of a model that does without it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, 4)

    def hidden(self, *arguments: Tensor) -> Tensor:
        raise AssertionError("the toy model reads no network")

    head = hidden


class ExactPlaid(PlaidModel):
    """p(x_0^i | z_t, the letters that are not data unknown), by enumeration. Keeps what it was
    told."""

    def __init__(self, world: World, gamma_0: float = -5.0, gamma_1: float = 12.0) -> None:
        torch.manual_seed(0)
        super().__init__(
            Unread(), VOCAB_SIZE, DATA_IDS, embed_dim=4, gamma_0=gamma_0, gamma_1=gamma_1
        )
        nn.init.eye_(self.embedding.weight)
        self.one_hot = F.one_hot(world.sequences, LETTERS).flatten(1).float()  # (27, 9)
        self.log_p = world.probabilities.log().float()
        self.told: list[tuple[Tensor, Tensor | None]] = []

    def log_x0(
        self,
        z: Tensor,
        level: NoiseLevel,
        tokens: Tensor,
        *,
        estimate: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        self.told.append((z, estimate))
        pull = (level.alpha / level.sigma.square()).float()
        evidence = (pull * z) @ self.vectors()[:LETTERS].T
        evidence = torch.where(self.is_scored(tokens)[..., None], evidence, 0.0)
        posterior = (evidence.flatten(1) @ self.one_hot.T + self.log_p).softmax(-1)
        p = (posterior @ self.one_hot).unflatten(-1, (LENGTH, LETTERS))
        return F.pad(p, (0, VOCAB_SIZE - LETTERS)).log().clamp(min=-1e6)


def sample(model: PlaidModel, sampler: PlaidSampler, x: Tensor) -> Tensor:
    return sampler(model, x, generator=torch.Generator().manual_seed(0))


def masks(rows: int) -> Tensor:
    return torch.full((rows, LENGTH), MASK)


def distance(world: World, tokens: Tensor, law: Tensor | None = None) -> float:
    found = world.frequencies(tokens) / len(tokens)
    return float((found - (world.probabilities if law is None else law)).abs().sum() / 2)


def test_samples_of_many_steps_follow_the_data(world: World) -> None:
    # 128 steps are within 0.01 of the law in total variation: 3000 samples do not see it.
    tokens = sample(ExactPlaid(world), PlaidSampler(MASK, 128), masks(3000))
    assert_follows(world.frequencies(tokens), world.probabilities)


def test_the_law_nears_the_data_with_steps(world: World) -> None:
    model = ExactPlaid(world)
    found = [
        distance(world, sample(model, PlaidSampler(MASK, n), masks(4000))) for n in (4, 12, 36)
    ]
    assert found[0] > 0.1 > found[1] > 0.04 > found[2], found


@pytest.mark.slow
def test_the_law_is_the_datas_at_256_steps(world: World) -> None:
    for ends in ((-5.0, 12.0), (-3.0, 6.0)):
        tokens = sample(ExactPlaid(world, *ends), PlaidSampler(MASK, 256), masks(10_000))
        assert_follows(world.frequencies(tokens), world.probabilities)


def test_infilling_is_approximate_and_corrections_mend_it(world: World) -> None:
    model, x = ExactPlaid(world), torch.tensor([[MASK, 1, MASK]]).expand(2500, -1)
    law = torch.where(world.sequences[:, 1] == 1, world.probabilities, 0.0)
    law = law / law.sum()
    plain, mended = (
        sample(model, PlaidSampler(MASK, 48, corrections=corrections), x) for corrections in (0, 4)
    )
    assert (plain[:, 1] == 1).all() and (mended[:, 1] == 1).all()
    assert 0.03 < distance(world, plain, law) < 0.08
    assert distance(world, mended, law) < 0.7 * distance(world, plain, law)


def test_tokens_that_are_not_data_are_told_as_they_are(world: World) -> None:
    x = torch.tensor([[MASK, UNKNOWN, MASK]]).expand(3000, -1)
    tokens = sample(ExactPlaid(world), PlaidSampler(MASK, 128), x)
    assert (tokens[:, 1] == UNKNOWN).all()
    counts = torch.bincount(tokens[:, 0] * LETTERS + tokens[:, 2], minlength=9)
    assert_follows(counts, world.probabilities.reshape(3, 3, 3).sum(1).flatten())


def test_frozen_masks_stay_and_tell_nothing(world: World) -> None:
    x = masks(3000)
    given, frozen = x.clone(), torch.tensor([[False, True, False]]).expand(3000, -1)
    sampler, generator = PlaidSampler(MASK, 128), torch.Generator().manual_seed(0)
    with torch.no_grad():
        tokens = sampler.restore(ExactPlaid(world), x, frozen, generator)
    assert torch.equal(x, given)
    assert (tokens[:, 1] == MASK).all()
    counts = torch.bincount(tokens[:, 0] * LETTERS + tokens[:, 2], minlength=9)
    assert_follows(counts, world.probabilities.reshape(3, 3, 3).sum(1).flatten())


def test_each_step_is_told_the_estimate_of_the_one_before(world: World) -> None:
    model = ExactPlaid(world)
    sample(model, PlaidSampler(MASK, 5, corrections=1), masks(4))
    told = [estimate for _, estimate in model.told]
    assert len(told) == 5 * 2 + 1
    assert told[0] is None
    generator = torch.Generator().manual_seed(0)
    assert all(estimate is not None for estimate in told[1:])
    PlaidSampler(MASK, 1)(model, masks(4), generator=generator)
    estimate = model.told[-1][1]
    first = model.told[-2][0]
    level = model.schedule(torch.ones(4, 1))
    expected = model.log_x0(first, level, torch.zeros(4, LENGTH, dtype=torch.int64)).exp()
    torch.testing.assert_close(estimate, expected @ model.vectors())


def test_given_tokens_have_their_own_noised_vectors_at_every_time(world: World) -> None:
    # At each time z_t of a given token is N(alpha e, sigma^2): means and variances of 20,000.
    model = ExactPlaid(world, -1.0, 3.0)
    x = torch.tensor([[MASK, 1, MASK]]).expand(5000, -1)
    sample(model, PlaidSampler(MASK, 3, corrections=1), x)
    times = torch.tensor([1.0, 1.0, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 0.0])
    with torch.no_grad():
        level, vector = model.schedule(times[:, None]), model.vectors()[1]
    for k, (z, _) in enumerate(model.told):
        sigma = float(level.sigma[k])
        noise = (z[:, 1] - float(level.alpha[k]) * vector) / sigma
        # 20,000 numbers in all: 5 standard errors of mean and variance.
        assert abs(float(noise.mean())) < 5 / 20_000**0.5
        assert abs(float(noise.var()) - 1) < 5 * (2 / 20_000) ** 0.5


@torch.no_grad()
def test_a_step_forward_has_the_law_of_the_process(world: World) -> None:
    model = ExactPlaid(world, -1.0, 3.0)
    s, t = (model.schedule(torch.full((1, 1), time)) for time in (0.2, 0.8))
    generator = torch.Generator().manual_seed(0)
    x = torch.ones(1, 200_000, 1)
    z_s = s.add(x, torch.randn(x.shape, generator=generator))
    noise = t.noise_in(_further(z_s, s, t, torch.randn(x.shape, generator=generator)), x)
    assert abs(float(noise.mean())) < 5 / 200_000**0.5
    assert abs(float(noise.var()) - 1) < 5 * (2 / 200_000) ** 0.5


def test_temperatures_sharpen(world: World) -> None:
    model = ExactPlaid(world, -3.0, 6.0)
    plain, scored, reshaped = (
        world.probabilities.log()[_index(sample(model, sampler, masks(3000)))].mean()
        for sampler in (
            PlaidSampler(MASK, 32),
            PlaidSampler(MASK, 32, score_temperature=0.8),
            PlaidSampler(MASK, 32, reshape=Temperature(0.8)),
        )
    )
    assert plain + 0.05 < scored
    assert plain + 0.05 < reshaped


def _index(tokens: Tensor) -> Tensor:
    return (tokens * torch.tensor([9, 3, 1])).sum(-1)


def test_a_seed_gives_the_same_samples_again(world: World) -> None:
    model, sampler = ExactPlaid(world), PlaidSampler(MASK, 4)
    assert torch.equal(sample(model, sampler, masks(50)), sample(model, sampler, masks(50)))


def test_impossible_options_are_refused() -> None:
    with pytest.raises(UserError, match="steps=0: sampling takes at least one step; use"):
        PlaidSampler(MASK, 0)
    with pytest.raises(UserError, match="corrections=-1: a step is repeated that many times; use"):
        PlaidSampler(MASK, 4, corrections=-1)
    with pytest.raises(UserError, match=r"score_temperature=0\.0 must be positive; use e\.g\."):
        PlaidSampler(MASK, 4, score_temperature=0.0)
