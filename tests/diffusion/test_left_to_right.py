"""The left-to-right sampler: its law on the enumerable world, and what it asks of a network."""

from collections.abc import Callable

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from genodiff.backbones.blocks import BlockCausal
from genodiff.diffusion.autoregressive import CausalModel
from genodiff.diffusion.left_to_right import LeftToRight
from genodiff.diffusion.rewarded import BestOf
from genodiff.diffusion.sampling import Sampler
from genodiff.diffusion.semi_autoregressive import SemiAutoregressive
from genodiff.errors import UserError
from tests.backbones.toys import small_caduceus, small_dimamba, small_transformer
from tests.diffusion.test_autoregressive import ExactCausalNetwork, model
from tests.toy import LENGTH, LETTERS, MASK, UNKNOWN, World

SAMPLES = 20_000
FALSE_ALARM_RATE = 1e-4  # of each chi-squared test; the seeds are fixed


class Kept:
    """The tokens, as what `Remembering` remembers."""

    def __init__(self) -> None:
        self.tokens = torch.empty(1, 0, dtype=torch.int64)

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    def rows(self, index: Tensor) -> "Kept":
        raise AssertionError("the sampler keeps all rows together")


class Remembering(nn.Module):
    """The exact network, read in pieces; keeps how many tokens each piece has."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.exact = ExactCausalNetwork(world)
        self.pieces: list[int] = []

    def begin(self) -> Kept:
        return Kept()

    def extend(self, tokens: Tensor, memory: Kept, *_: Tensor | None) -> Tensor:
        self.pieces.append(tokens.shape[1])
        memory.tokens = torch.cat([memory.tokens.expand(len(tokens), -1), tokens], 1)
        return self.exact(memory.tokens)[:, -tokens.shape[1] :]

    def hidden(self, tokens: Tensor, sigma: None = None, condition: None = None) -> Tensor:
        return self.exact(tokens)

    def head(self, hidden: Tensor) -> Tensor:
        return hidden

    def forward(self, tokens: Tensor, *others: None) -> Tensor:
        return self.exact(tokens)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masks(rows: int, length: int = LENGTH) -> Tensor:
    return torch.full((rows, length), MASK)


def assert_follows(counts: Tensor, law: Tensor) -> None:
    expected = law * counts.sum()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert chi2.sf(statistic, len(law) - 1) > FALSE_ALARM_RATE, statistic


NETWORKS = pytest.mark.parametrize("make", [ExactCausalNetwork, Remembering])


@NETWORKS
def test_samples_follow_the_data(make: type[nn.Module], world: World) -> None:
    samples = LeftToRight()(model(make(world)), masks(SAMPLES), generator=generator())
    assert_follows(world.frequencies(samples), world.probabilities)


@NETWORKS
def test_after_a_prompt_samples_follow_the_law_given_it(
    make: type[nn.Module], world: World
) -> None:
    x = masks(SAMPLES)
    x[:, 0] = 1
    samples = LeftToRight()(model(make(world)), x, generator=generator())
    given = world.sequences[:, 0] == 1
    counts = world.frequencies(samples)
    assert int(counts[~given].sum()) == 0
    assert_follows(counts[given], world.probabilities[given] / world.probabilities[given].sum())


@NETWORKS
def test_a_token_further_right_is_kept_and_changes_nothing_before_it(
    make: type[nn.Module], world: World
) -> None:
    """The law is p(a) p(c | a, b), with the given b not weighed in a."""
    x = masks(SAMPLES)
    x[:, 1] = 2
    samples = LeftToRight()(model(make(world)), x, generator=generator())
    joint = world.probabilities.reshape([LETTERS] * LENGTH)
    after = joint[:, 2] / joint[:, 2].sum(-1, keepdim=True)
    law = (joint.sum((1, 2))[:, None] * after).flatten()
    given = world.sequences[:, 1] == 2
    counts = world.frequencies(samples)
    assert_follows(counts[given], law)
    conditional = world.probabilities[given] / world.probabilities[given].sum()
    assert float((law - conditional).abs().sum()) > 0.1  # and this is not that law


def test_a_row_with_a_prompt_does_not_disturb_its_neighbours(world: World) -> None:
    x = masks(SAMPLES + 2000)
    x[SAMPLES:] = torch.tensor([0, 1, 2])
    x[SAMPLES + 1000 :, 2] = MASK
    samples = LeftToRight()(model(Remembering(world)), x, generator=generator())
    assert_follows(world.frequencies(samples[:SAMPLES]), world.probabilities)
    assert torch.equal(samples[SAMPLES:, :2], x[SAMPLES:, :2])
    assert torch.equal(samples[SAMPLES : SAMPLES + 1000, 2], x[SAMPLES : SAMPLES + 1000, 2])


def test_where_the_first_is_given_the_rest_follows(world: World) -> None:
    causal = model(FirstGiven(world), first_is_given=True)
    x = masks(SAMPLES)
    x[:, 0] = 1
    samples = LeftToRight()(causal, x, generator=generator())
    given = world.sequences[:, 0] == 1
    law = world.probabilities[given] / world.probabilities[given].sum()
    assert_follows(world.frequencies(samples)[given], law)
    with pytest.raises(UserError, match=r"first token is masked.*give the first token of every"):
        LeftToRight()(causal, masks(2))


class FirstGiven(nn.Module):
    """The exact network without a start in front."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.exact = ExactCausalNetwork(world)

    def forward(self, tokens: Tensor, *others: None) -> Tensor:
        return self.exact(torch.cat([torch.full_like(tokens[:, :1], MASK), tokens], 1))[:, 1:]


def test_a_position_costs_one_call_and_every_token_is_read_once(world: World) -> None:
    network = Remembering(world)
    causal = model(network)
    LeftToRight()(causal, masks(4), generator=generator())
    assert network.pieces == [1, 1, 1]
    network.pieces.clear()
    x = torch.tensor([[0, 1, MASK], [2, 1, MASK]])
    LeftToRight()(causal, x, generator=generator())
    assert network.pieces == [3]  # the start and the prompt in one pass
    network.pieces.clear()
    LeftToRight()(causal, torch.tensor([[MASK, 1, MASK], [0, 1, 2]]), generator=generator())
    assert network.pieces == [1, 2]
    network.pieces.clear()
    LeftToRight()(causal, torch.tensor([[MASK, 1, 2], [0, 1, 2]]), generator=generator())
    assert network.pieces == [1]


def test_nothing_given_changes_and_x_is_left_alone(world: World) -> None:
    x = torch.tensor([[MASK, UNKNOWN, 2], [0, 1, 2], [MASK, MASK, MASK]])
    given = x.clone()
    samples = LeftToRight()(model(ExactCausalNetwork(world)), x, generator=generator())
    assert torch.equal(x, given)
    assert torch.equal(samples[x != MASK], x[x != MASK])
    assert bool((samples[x == MASK] < LETTERS).all())


def test_frozen_masks_stay(world: World) -> None:
    frozen = torch.tensor([[False, True, False]]).expand(16, -1)
    causal = model(ExactCausalNetwork(world))
    samples = LeftToRight().restore(causal, masks(16), frozen, generator())
    assert bool((samples[:, 1] == MASK).all())
    assert bool((samples[:, [0, 2]] < LETTERS).all())


@pytest.mark.parametrize(
    "around",
    [
        lambda sampler: BestOf(sampler, 2, lambda tokens: tokens[:, -1].double()),
        lambda sampler: SemiAutoregressive(sampler, LENGTH, 1),
    ],
    ids=["best of", "windows"],
)
def test_samplers_around_it_know_what_it_takes_for_a_mask(
    around: Callable[[Sampler], Sampler], world: World
) -> None:
    x = torch.tensor([[0, MASK, MASK]]).expand(4, -1)
    sampler, causal = around(LeftToRight()), model(ExactCausalNetwork(world))
    drawn = sampler(causal, x, frozen=x != MASK, generator=generator())
    assert bool((drawn[:, 0] == 0).all()) and bool((drawn < MASK).all())
    with pytest.raises(UserError, match="8 of the frozen tokens are masks, and would still be"):
        sampler(causal, x, frozen=x == MASK, generator=generator())


def test_probabilities_can_be_reshaped(world: World) -> None:
    """At temperature 1/2 each conditional is squared."""
    sampler = LeftToRight(reshape=lambda log_p: 2 * log_p)
    samples = sampler(model(ExactCausalNetwork(world)), masks(SAMPLES), generator=generator())
    law = torch.ones(27, dtype=torch.float64)
    joint = world.probabilities.reshape([LETTERS] * LENGTH)
    for marginal in (joint.sum((1, 2)), joint.sum(2), joint):
        squared = (marginal / marginal.sum(-1, keepdim=True)) ** 2
        squared = squared / squared.sum(-1, keepdim=True)
        law = (
            law
            * squared.reshape(*squared.shape, *[1] * (3 - squared.ndim)).expand(3, 3, 3).flatten()
        )
    assert_follows(world.frequencies(samples), law)


def test_a_seed_gives_the_same_samples_again(world: World) -> None:
    causal = model(ExactCausalNetwork(world))
    one, other = (LeftToRight()(causal, masks(8), generator=generator(5)) for _ in range(2))
    assert torch.equal(one, other)


def left_to_right_mamba() -> BlockCausal:
    return small_caduceus(bidirectional=False)


def left_to_right_dimamba() -> BlockCausal:
    return small_dimamba(bidirectional=False)


def causal_transformer() -> BlockCausal:
    return small_transformer(None, causal=True)


def causal_blocks() -> BlockCausal:
    return small_transformer(block_length=1)


@pytest.mark.parametrize("first_is_given", [False, True])
@pytest.mark.parametrize(
    "make", [left_to_right_mamba, left_to_right_dimamba, causal_transformer, causal_blocks]
)
def test_samples_of_backbones_are_those_without_memory(
    make: Callable[[], BlockCausal], first_is_given: bool
) -> None:
    """Token for token: in float64 no probability is so near a uniform that it would matter."""
    network = make()
    size, ids = network.vocab_size, range(7, 12)
    causal, plain = (
        CausalModel(n, size, 4, ids, first_is_given=first_is_given)
        for n in (network, Forgetful(network))
    )
    assert plain.begin() is None
    x = torch.full((5, 14), 4)
    x[:, 0], x[0, :6], x[1, 9], x[:, 11] = 7, torch.tensor([7, 8, 9, 7, 6, 9]), 8, 10
    one, other = (LeftToRight()(m, x, generator=generator()) for m in (causal, plain))
    assert torch.equal(one, other)
    assert bool((one[x == 4] >= 7).all())


class Forgetful(nn.Module):
    """A network of which only the call is known."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *arguments: Tensor | None) -> Tensor:
        return self.network(*arguments)


def test_the_class_of_a_sequence_is_told(world: World) -> None:
    network = small_transformer(causal=True, n_classes=2)
    causal = CausalModel(network, 12, 4, range(7, 12))
    x, classes = torch.full((400, 6), 4), torch.tensor([0, 1]).repeat_interleave(200)
    one, other = (LeftToRight(label=i)(causal, x, generator=generator()) for i in (0, 1))
    assert not torch.equal(one, other)
    log_p = torch.stack([causal.log_likelihood(one, classes * 0 + i).sum() for i in (0, 1)])
    assert log_p[0] > log_p[1]
