"""Sampling block by block: its law on the enumerable world, and what is evaluated how often."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chi2
from torch import Tensor, nn

from genodiff.backbones.blocks import BlockCausal, Memory
from genodiff.diffusion import (
    Absorbing,
    Ancestral,
    Cached,
    Counting,
    Denoiser,
    FirstHitting,
    LogLinear,
    NetworkDenoiser,
    Sampler,
    Stepwise,
    Subs,
)
from genodiff.diffusion.block import BlockDenoiser, OneBlock
from genodiff.diffusion.block_by_block import BlockByBlock
from genodiff.diffusion.incremental import Remembered, content_of
from genodiff.errors import UserError
from tests.backbones.toys import small_caduceus, small_dimamba, small_transformer
from tests.diffusion.test_block import InBlocks, denoiser
from tests.toy import LENGTH, MASK, UNKNOWN, ExactNetwork, World

SAMPLES = 20_000
FALSE_ALARM_RATE = 1e-4  # of each chi-squared test; the seeds are fixed
MASK_ID, IDS = 4, range(7, 12)  # of the small backbones

Make = Callable[..., BlockCausal]
BACKBONES: list[Make] = [small_transformer, small_caduceus, small_dimamba]
of_backbones = pytest.mark.parametrize("make", BACKBONES, ids=lambda make: make.__name__)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masks(rows: int, length: int = LENGTH, mask: int = MASK) -> Tensor:
    return torch.full((rows, length), mask)


def assert_follows(counts: Tensor, law: Tensor) -> None:
    expected = law * counts.sum()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert chi2.sf(statistic, len(law) - 1) > FALSE_ALARM_RATE, statistic


class AnyLength(nn.Module):
    """The exact network of the world, of the beginning of a sequence too."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.exact = ExactNetwork(world.sequences, world.probabilities)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        return self.exact(F.pad(tokens, (0, LENGTH - length), value=MASK))[:, :length]


def exact(world: World, block_length: int) -> BlockDenoiser:
    return denoiser(AnyLength(world), block_length)


def of_network(network: BlockCausal) -> BlockDenoiser:
    """Told the time, if it can be."""
    process = Absorbing(LogLinear(), network.vocab_size, MASK_ID, IDS)
    subs = Subs(network.vocab_size, MASK_ID, IDS)
    return BlockDenoiser(network, process, subs, time_conditioning=network.has_time_input)


class Forgetful(InBlocks):
    """A block-causal network that remembers nothing."""

    def __init__(self, network: BlockCausal) -> None:
        super().__init__(network, network.block_length or 0)

    def hidden(
        self, tokens: Tensor, sigma: Tensor | None, condition: Tensor | None = None
    ) -> Tensor:
        assert isinstance(self.network, BlockCausal)
        return self.network.hidden(tokens, sigma, condition)

    def head(self, hidden: Tensor) -> Tensor:
        assert isinstance(self.network, BlockCausal)
        return self.network.head(hidden)


@pytest.mark.parametrize(
    ("sampler", "wrap"),
    [
        (FirstHitting(), lambda denoiser: denoiser),
        (FirstHitting(), lambda denoiser: Cached(Counting(denoiser))),
        (Ancestral(400), Counting),
    ],
    ids=["first_hitting", "wrapped", "ancestral"],
)
@pytest.mark.parametrize("block_length", [1, 2, 3])
def test_samples_follow_the_data(
    sampler: Sampler, wrap: Callable[[Denoiser], Denoiser], block_length: int, world: World
) -> None:
    """400 steps are within 1e-3 of the law in total variation: 20 000 samples do not see it."""
    model = wrap(exact(world, block_length))
    samples = BlockByBlock(sampler)(model, masks(SAMPLES), generator=generator())
    assert_follows(world.frequencies(samples), world.probabilities)


def test_one_step_a_block_is_independent_within_blocks_alone(world: World) -> None:
    """So that the law is of the blocks: p(a) p(b) p(c | a, b)."""
    samples = BlockByBlock(Ancestral(1))(exact(world, 2), masks(SAMPLES), generator=generator())
    joint = world.probabilities.reshape(3, 3, 3)
    pair = joint.sum((1, 2))[:, None] * joint.sum((0, 2))[None]
    law = (pair[..., None] * joint / joint.sum(-1, keepdim=True)).flatten()
    assert_follows(world.frequencies(samples), law)
    assert float((law - world.probabilities).abs().sum()) > 0.1


def test_given_tokens_are_kept_and_condition_what_comes_after(world: World) -> None:
    x = masks(SAMPLES)
    x[:, 1] = 1
    samples = BlockByBlock(FirstHitting())(exact(world, 2), x, generator=generator())
    given = world.sequences[:, 1] == 1
    counts = world.frequencies(samples)
    assert_follows(counts[given], world.probabilities[given] / world.probabilities[given].sum())


def test_nothing_given_changes_and_frozen_masks_stay(world: World) -> None:
    x = torch.tensor([[MASK, UNKNOWN, 2], [0, 1, 2], [MASK, MASK, MASK]])
    given, frozen = x.clone(), torch.tensor([[False, False, False]] * 2 + [[True, False, False]])
    samples = BlockByBlock(FirstHitting()).restore(exact(world, 2), x, frozen, generator())
    assert torch.equal(x, given)
    assert torch.equal(samples[x != MASK], x[x != MASK])
    assert int(samples[2, 0]) == MASK
    assert bool((samples[2, 1:] < MASK).all()) and int(samples[0, 0]) < MASK


@of_backbones
@pytest.mark.parametrize("sampler", [FirstHitting(), Ancestral(3), Stepwise(4)], ids=repr)
def test_what_is_remembered_changes_no_sample(make: Make, sampler: Sampler) -> None:
    """Token for token, with rows that fall behind others, and a prompt. 16 is 5 + 5 + 5 + 1."""
    network = make(block_length=5)
    remembering = of_network(network)
    rereading = BlockDenoiser(
        Forgetful(network),
        remembering.process,
        remembering.parameterization,
        remembering.time_conditioning,
    )
    x = masks(6, 16, MASK_ID)
    x[0, :7], x[1, 3:9], x[2, 12] = 7, 8, 9
    one, other = (
        BlockByBlock(sampler)(model, x, generator=generator())
        for model in (remembering, rereading)
    )
    assert torch.equal(one, other)
    assert bool((one[x == MASK_ID] >= 7).all())


@of_backbones
def test_one_block_is_what_is_said_of_the_whole_sequence(make: Make) -> None:
    """In the block, of rows in any order and number, by each question that can be asked."""
    model = of_network(make(block_length=5))
    clean = torch.randint(7, 12, (4, 16), generator=generator(1))
    t = torch.tensor([[0.2], [0.5], [0.9], [0.4]], dtype=torch.float64)
    for start in range(0, 16, 5):
        own = slice(start, min(start + 5, 16))
        x_t = clean.clone()
        x_t[:, own.stop :] = MASK_ID
        x_t[:3, own] = torch.where(torch.arange(16)[own] % 2 == start % 2, MASK_ID, x_t[:3, own])
        where = (x_t == MASK_ID) & (torch.arange(16) < own.stop)
        whole = model.log_x0(x_t[:, : own.stop], t)
        score = model.log_score(x_t[:, : own.stop], t)
        with model.block_by_block() as block:
            assert isinstance(block, OneBlock)
            block.move_to(own.start, own.stop)
            for rows in (torch.arange(4), torch.tensor([3, 0, 0]), torch.tensor([1])):
                asked = x_t[rows], t[rows]
                log_x0 = model.log_x0(*asked)
                assert_equal(log_x0[:, own], whole[rows][:, own])
                assert_equal(
                    model.log_x0_at(*asked, where[rows]), whole[rows][where[rows][:, : own.stop]]
                )
                assert_equal(model.log_score(*asked)[:, own], score[rows][:, own])
                later = log_x0[:, own.stop :, 7:12].exp()
                torch.testing.assert_close(later, torch.full_like(later, 1 / 5))
                earlier = log_x0[:, :start].argmax(-1)
                assert torch.equal(earlier, clean[rows, :start])
                everywhere = x_t[rows] == MASK_ID
                assert_equal(model.log_x0_at(*asked, everywhere), log_x0[everywhere])


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


class Heard:
    """The network's `extend`, with a record of (rows, tokens) kept and not kept."""

    def __init__(self, network: BlockCausal, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kept: list[tuple[int, int]] = []
        self.evaluated: list[tuple[int, int]] = []
        extend = network.extend

        def heard(
            tokens: Tensor, memory: Memory, *others: Tensor | None, keep: bool = True
        ) -> Tensor:
            (self.kept if keep else self.evaluated).append((tokens.shape[0], tokens.shape[1]))
            return extend(tokens, memory, *others, keep=keep)

        monkeypatch.setattr(network, "extend", heard)


def test_a_finished_block_is_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_caduceus(block_length=5)
    heard = Heard(network, monkeypatch)
    x = masks(6, 16, MASK_ID)
    x[0, 5:8] = 7  # this row is through with its second block when others are not
    model = of_network(network)
    BlockByBlock(FirstHitting())(model, x, generator=generator())
    assert heard.kept == [(6, 5), (6, 5), (6, 5)]
    second = [(6, 5)] * 2 + [(5, 5)] * 3
    assert heard.evaluated == [(6, 5)] * 5 + second + [(6, 5)] * 5 + [(6, 1)]


def test_prompts_are_read_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_transformer(block_length=5)
    heard = Heard(network, monkeypatch)
    x = masks(2, 16, MASK_ID)
    x[:, :11] = 7
    BlockByBlock(FirstHitting())(of_network(network), x, generator=generator())
    assert heard.kept[0] == (2, 10)
    assert heard.evaluated == [(2, 5)] * 4 + [(2, 1)]


def test_classes_have_memories_of_their_own() -> None:
    model = of_network(small_transformer(block_length=5, n_classes=3))
    x_t = torch.randint(7, 12, (2, 10), generator=generator())
    x_t[:, 5:] = MASK_ID
    t, classes = torch.full((2, 1), 0.5).double(), torch.tensor([0, 2])
    questions = [None, classes, classes.flip(0), None, classes]
    expected = [model.log_x0(x_t, t, condition)[:, 5:] for condition in questions]
    with model.block_by_block() as block:
        block.move_to(5, 10)
        for condition, said in zip(questions, expected, strict=True):
            assert_equal(model.log_x0(x_t, t, condition)[:, 5:], said)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3


def test_rows_are_known_by_content_alone() -> None:
    remembered = Remembered()
    tokens = torch.tensor([[0, 1], [2, 2], [0, 2]])
    memory = Memory()
    memory.length, memory.layers[nn.Identity()] = 2, (tokens,)
    remembered.add(content_of(tokens, None), memory)
    assert remembered.find(content_of(tokens, None)) is memory
    longer = tokens[[2, 0, 2]].repeat(1, 2)
    for asked in (tokens[[2, 0, 2]], longer):
        part = remembered.find(content_of(asked, None))
        assert isinstance(part, Memory) and part.length == 2
        ((held,),) = part.layers.values()
        assert torch.equal(held, tokens[[2, 0, 2]])
    assert remembered.find(content_of(torch.tensor([[0, 1], [1, 1]]), None)) is None
    assert remembered.find(content_of(tokens, torch.tensor([0, 0, 0]))) is None
    assert remembered.find(content_of(tokens[:, :1], None)) is None


def test_sequences_can_be_longer_than_any_before() -> None:
    model = of_network(small_caduceus(block_length=8))
    samples = BlockByBlock(Ancestral(2))(model, masks(2, 83, MASK_ID), generator=generator())
    assert samples.shape == (2, 83)
    assert bool((samples >= 7).all())


def test_the_model_is_given_back_as_it_was() -> None:
    model = of_network(small_transformer(block_length=5))
    x, t = masks(2, 8, MASK_ID), torch.ones(2, 1).double() / 2
    before, keys = model.log_x0(x, t), list(model.state_dict())
    BlockByBlock(FirstHitting())(model, x, generator=generator())
    with pytest.raises(ZeroDivisionError), model.block_by_block():
        raise ZeroDivisionError
    assert torch.equal(model.log_x0(x, t), before)
    assert list(model.state_dict()) == keys


def test_a_model_without_blocks_is_refused() -> None:
    plain = NetworkDenoiser(
        small_caduceus(), Absorbing(LogLinear(), 16, MASK_ID, IDS), Subs(16, MASK_ID, IDS)
    )
    with pytest.raises(UserError, match=r"BlockByBlock with a NetworkDenoiser.*BlockDenoiser"):
        BlockByBlock(FirstHitting())(plain, masks(1, 4, MASK_ID))
