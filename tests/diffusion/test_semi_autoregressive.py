"""Windows that slide: exact where tokens depend on no more than windows share."""

import itertools

import pytest
import torch
from torch import Tensor

from genodiff.diffusion import Ancestral, FirstHitting, LogLinear, Sampler, Stepwise, Uniform
from genodiff.diffusion.semi_autoregressive import SemiAutoregressive
from genodiff.errors import UserError
from tests.diffusion.test_sampling import SAMPLES, assert_follows
from tests.toy import DATA_IDS, LENGTH, MASK, UNKNOWN, VOCAB_SIZE, ExactDenoiser, World

STEP = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]], dtype=torch.float64)
LONG = 5


def markov(length: int) -> Tensor:
    """(3^length,): the law of a stationary Markov chain over the letters."""
    law = torch.linalg.matrix_power(STEP, 200)[0]
    for _ in range(length - 1):
        law = (law.unsqueeze(-1) * STEP).flatten(0, -2)
        law = law.reshape(-1, 3)
    return law.flatten()


def sequences(length: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(3), repeat=length)))


def counts(tokens: Tensor) -> Tensor:
    """How often each sequence of letters occurs, in the order of `sequences`."""
    assert bool((tokens < MASK).all())
    place = 3 ** torch.arange(tokens.shape[1]).flip(0)
    return torch.bincount((tokens * place).sum(-1), minlength=3 ** tokens.shape[1])


@pytest.fixture(scope="module")
def chain() -> World:
    """Windows of three letters of the Markov chain."""
    world = World()
    world.probabilities = markov(LENGTH)
    return world


def test_the_chain_is_a_chain() -> None:
    table = markov(3).reshape(3, 3, 3)
    assert float(table.sum()) == pytest.approx(1)
    torch.testing.assert_close(table.sum(0), table.sum(2))  # stationary
    torch.testing.assert_close(table / table.sum(2, keepdim=True), STEP.expand(3, 3, 3))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_law_is_exact_where_windows_share_what_tokens_depend_on(
    stride: int, chain: World
) -> None:
    x = torch.full((SAMPLES, LONG), MASK)
    sampler = SemiAutoregressive(FirstHitting(), LENGTH, stride)
    denoiser = chain.denoiser(LogLinear())
    samples = sampler(denoiser, x, generator=torch.Generator().manual_seed(0))
    assert_follows(counts(samples), markov(LONG))


def test_windows_that_share_nothing_know_nothing_of_each_other(chain: World) -> None:
    x = torch.full((SAMPLES, 2 * LENGTH), MASK)
    sampler = SemiAutoregressive(FirstHitting(), LENGTH, LENGTH)
    denoiser = chain.denoiser(LogLinear())
    samples = sampler(denoiser, x, generator=torch.Generator().manual_seed(0))
    assert_follows(counts(samples), torch.outer(markov(3), markov(3)).flatten())


def test_given_tokens_are_kept_and_heard_in_their_window(chain: World) -> None:
    x = torch.tensor([[MASK, MASK, 1, MASK, UNKNOWN, MASK]]).expand(SAMPLES, -1)
    given = x.clone()
    denoiser = chain.denoiser(LogLinear())
    sampler = SemiAutoregressive(FirstHitting(), LENGTH, 2)
    samples = sampler(denoiser, x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, given)
    assert torch.equal(samples[:, [2, 4]], x[:, [2, 4]])
    # The chain before, and after, the given letter; the last one is told by the fourth.
    law = markov(6).reshape([3] * 6)[:, :, 1].sum(3)
    law = law / law.sum()
    assert_follows(counts(samples[:, [0, 1, 3, 5]]), law.flatten())


def test_frozen_masks_stay_masks(chain: World) -> None:
    x = torch.full((20, 7), MASK)
    frozen = torch.zeros_like(x, dtype=torch.bool)
    frozen[:, [1, 4]] = True
    sampler = SemiAutoregressive(Ancestral(5), LENGTH, 1)
    generator = torch.Generator().manual_seed(0)
    samples = sampler.restore(chain.denoiser(LogLinear()), x, frozen, generator)
    assert torch.equal(samples == MASK, frozen)


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_sequence_within_one_window_is_the_samplers_own(
    length: int, window: int, chain: World
) -> None:
    denoiser = chain.denoiser(LogLinear())
    x = torch.full((40, LENGTH), MASK)
    x[:, length:] = UNKNOWN
    samplers: list[Sampler] = [Ancestral(4), SemiAutoregressive(Ancestral(4), window, 1)]
    one, other = (s(denoiser, x, generator=torch.Generator().manual_seed(1)) for s in samplers)
    assert torch.equal(one, other)


def test_the_prefix_is_frozen_also_where_any_token_may_change(chain: World) -> None:
    # Uniform noise: a finished letter looks like noise to the next window.
    process = Uniform(LogLinear(), VOCAB_SIZE, DATA_IDS)
    denoiser = ExactDenoiser(chain, process)
    seen: list[Tensor] = []

    class Watching(Sampler):
        def restore(self, denoiser, x, frozen, generator):  # type: ignore[no-untyped-def]
            assert frozen is not None
            drawn = Stepwise(4).restore(denoiser, x, frozen, generator)
            assert torch.equal(drawn[frozen], x[frozen])
            seen.append(frozen[0])
            return drawn

    generator = torch.Generator().manual_seed(0)
    x = process.prior((50, 6), generator=generator)
    samples = SemiAutoregressive(Watching(), LENGTH, 2)(denoiser, x, generator=generator)
    assert samples.shape == x.shape
    shared = [[False, False, False], [True, False, False], [True, True, False]]
    assert [frozen.tolist() for frozen in seen] == shared


@pytest.mark.parametrize("stride", [0, 4])
def test_strides_that_leave_gaps_or_stand_still_are_refused(stride: int) -> None:
    with pytest.raises(UserError, match=f"stride={stride} with window=3: each window adds"):
        SemiAutoregressive(FirstHitting(), 3, stride)
