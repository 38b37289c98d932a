"""Block decoding with kept keys and values: where it is exact, and how far it is off elsewhere."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genodiff.backbones import Transformer
from genodiff.backbones.blocks import Memory
from genodiff.diffusion import (
    Absorbing,
    Ancestral,
    Cached,
    Counting,
    FirstHitting,
    LogLinear,
    NetworkDenoiser,
    Sampler,
    Stepwise,
    Subs,
)
from genodiff.diffusion.block import BlockDenoiser
from genodiff.diffusion.block_by_block import in_blocks
from genodiff.diffusion.fast_dllm import CachedBlocks, Deviation, deviation
from genodiff.errors import UserError
from tests.backbones.toys import small_caduceus, small_transformer
from tests.toy import World

LENGTH, MASK, IDS = 12, 4, range(7, 12)
CACHES = pytest.mark.parametrize("cache", ["prefix", "dual"])


def denoiser(network: nn.Module | None = None, **options: Any) -> NetworkDenoiser:
    network = small_transformer() if network is None else network
    size = 16 if not isinstance(network, Transformer) else 12
    process = Absorbing(LogLinear(), size, MASK, IDS)
    return NetworkDenoiser(network, process, Subs(size, MASK, IDS), **options)


def masks(rows: int = 3) -> Tensor:
    return torch.full((rows, LENGTH), MASK)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def measured(sampler: CachedBlocks, model: NetworkDenoiser | None = None) -> Deviation:
    model = denoiser() if model is None else model
    return deviation(sampler, model, masks(), generator=generator())


@CACHES
def test_a_block_that_is_the_whole_sequence_is_exact(cache: Any) -> None:
    found = measured(CachedBlocks(FirstHitting(), LENGTH, cache))
    assert found.tokens == 3 * LENGTH * (LENGTH + 1) // 2
    assert abs(found.kl) < 1e-12 and found.total_variation < 1e-12


@CACHES
def test_a_shorter_block_is_not(cache: Any) -> None:
    found = measured(CachedBlocks(FirstHitting(), 4, cache))
    assert found.tokens == 3 * 3 * (4 * 5 // 2)
    assert found.kl > 1e-5
    assert 1e-3 < found.total_variation < 1
    # Pinsker's inequality, and Jensen's: mean TV <= sqrt(mean KL / 2).
    assert found.total_variation <= (found.kl / 2) ** 0.5


def test_less_that_is_kept_is_less_that_is_wrong() -> None:
    prefix, dual = (measured(CachedBlocks(FirstHitting(), 4, cache)) for cache in CACHES_BOTH)
    assert prefix.kl < dual.kl
    assert prefix.total_variation < dual.total_variation


CACHES_BOTH: tuple[Any, Any] = ("prefix", "dual")


@CACHES
def test_the_first_evaluation_of_a_block_is_exact(cache: Any) -> None:
    found = measured(CachedBlocks(Ancestral(1), 4, cache))
    assert found.tokens == 3 * LENGTH
    assert abs(found.kl) < 1e-12 and found.total_variation < 1e-12


@CACHES
def test_what_is_measured_is_what_is_drawn_from(cache: Any) -> None:
    """With one mask that remains in the block, by hand."""
    model, x = denoiser(), masks(1)
    x[:, :6] = torch.tensor([7, 8, 9, 10, 7, 8])
    x[:, 8:] = 10  # two masks are left, 6 and 7
    network = small_transformer()
    memory = network.begin()
    network.hidden_amid(x, memory, 0)
    recorded: list[Tensor] = []

    def draw(log_p: Tensor, _: torch.Generator | None) -> Tensor:
        recorded.append(log_p)
        return torch.full(log_p.shape[:-1], 7)

    sampler = CachedBlocks(FirstHitting(draw=draw), 4, cache)
    samples = sampler(model, x, generator=generator())
    assert torch.equal(samples[:, 8:], x[:, 8:])
    found = deviation(sampler, model, x, generator=generator())
    exact_first = model.log_x0(x, torch.ones(1, 1))[0]
    first = next(i for i in (6, 7) if torch.allclose(recorded[0][0], exact_first[i], atol=1e-9))
    second = 13 - first
    x[:, first] = 7
    stop = 8 if cache == "dual" else LENGTH
    hidden = network.hidden_amid(x[:, 4:stop], memory, 4)
    logits = network.head(hidden)[0, second - 4, 7:]
    q = logits.softmax(-1)
    torch.testing.assert_close(recorded[1][0, 7:].exp(), q, rtol=1e-8, atol=1e-8)
    p = model.log_x0(x, torch.ones(1, 1))[0, second, 7:].exp()
    kl, total_variation = (p * (p / q).log()).sum(), (p - q).abs().sum() / 2
    assert found.tokens == 3  # both, then one
    assert found.kl == pytest.approx(float(kl) / 3, rel=1e-6)
    assert found.total_variation == pytest.approx(float(total_variation) / 3, rel=1e-6)


@CACHES
@pytest.mark.parametrize("sampler", [FirstHitting(), Ancestral(3), Stepwise(4)], ids=repr)
def test_of_one_layer_nothing_is_approximate(cache: Any, sampler: Sampler) -> None:
    """Its keys and values are of tokens alone: samples are those without a cache, token for token,
    with rows that fall behind others, and a prompt."""
    network = small_transformer()
    network.blocks = network.blocks[:1]
    model, x = denoiser(network), masks(5)
    x[0, :5], x[1, 2:7], x[2, 9] = 7, 8, 9
    samples = CachedBlocks(sampler, 5, cache)(model, x, generator=generator())
    plain, drawn = x, generator()
    for _, _, others in in_blocks(x, 5, None):
        with torch.no_grad():
            plain = sampler.restore(model, plain, others, drawn)
    assert torch.equal(samples, plain)
    assert bool((samples[x == MASK] >= 7).all()) and torch.equal(samples[x != MASK], x[x != MASK])


@pytest.mark.parametrize(("cache", "again"), [("dual", [4, 4, 4]), ("prefix", [12, 8, 4])])
def test_the_whole_sequence_is_computed_once_a_block(
    cache: Any, again: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small_transformer()
    computed: list[tuple[int, int]] = []
    hidden_amid = network.hidden_amid

    def heard(tokens: Tensor, memory: Memory, start: int, *others: Tensor | None) -> Tensor:
        computed.append((tokens.shape[1], start))
        return hidden_amid(tokens, memory, start, *others)

    monkeypatch.setattr(network, "hidden_amid", heard)
    CachedBlocks(FirstHitting(), 4, cache)(denoiser(network), masks(), generator=generator())
    expected = [[(12, 0)] + [(n, 4 * i)] * 3 for i, n in enumerate(again)]
    assert computed == [call for block in expected for call in block]


def test_it_works_around_wrappers_and_with_the_time_and_puts_the_network_back() -> None:
    model = denoiser(time_conditioning=True)
    network = model.network
    wrapped = Counting(model)
    x = masks()
    samples = CachedBlocks(Ancestral(4), 5)(wrapped, x, generator=generator())
    assert bool((samples >= 7).all()) and bool((x == MASK).all())
    assert model.network is network and wrapped.row_evaluations > 0
    one, other = (
        CachedBlocks(FirstHitting(), 5)(m, x, generator=generator())
        for m in (denoiser(), Cached(denoiser()))
    )
    assert torch.equal(one, other)
    with pytest.raises(ZeroDivisionError):
        CachedBlocks(FirstHitting(draw=lambda *_: 1 / 0), 5)(model, x)  # pyright: ignore
    assert model.network is network


def test_other_networks_are_refused(world: World) -> None:
    blocks = BlockDenoiser(
        small_transformer(block_length=4),
        Absorbing(LogLinear(), 12, MASK, IDS),
        Subs(12, MASK, IDS),
    )
    for model, name in [
        (denoiser(small_caduceus()), "Caduceus"),
        (denoiser(small_transformer(causal=True)), "Transformer"),
        (denoiser(small_transformer(block_length=4)), "Transformer"),
        (world.denoiser(LogLinear()), "ExactNetwork"),
        (blocks, "BlockDenoiser"),
    ]:
        with pytest.raises(UserError, match=f"with a {name}: only a Transformer that sees every"):
            CachedBlocks(FirstHitting(), 4)(model, masks())


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match="block_length=0: a block has at least one token; use"):
        CachedBlocks(FirstHitting(), 0)
    sampler = CachedBlocks(FirstHitting(), 4)
    object.__setattr__(sampler, "cache", "suffix")  # past the type check of the test run
    with pytest.raises(UserError, match="cache='suffix' is not one of 'prefix', 'dual'"):
        sampler.__post_init__()
