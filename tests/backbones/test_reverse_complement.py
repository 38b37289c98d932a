import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genodiff.backbones import (
    Backbone,
    Caduceus,
    ReverseComplementEquivariant,
    StrandAveraged,
    exchange_strands,
)
from genodiff.errors import UserError
from tests.backbones.toys import (
    COMPLEMENT,
    randomized,
    rc_logits,
    rc_tokens,
    small_caduceus,
    small_dimamba,
    small_transformer,
    some_tokens,
)

DATA_IDS = (7, 8, 9, 10)
TRUNKS: dict[str, Callable[[], Backbone]] = {
    "caduceus": small_caduceus,
    "multiplied": lambda: small_caduceus(bidirectional_strategy="ew_multiply"),
    "left to right": lambda: small_caduceus(bidirectional=False),
    "exchanging": lambda: exchange_strands(small_caduceus()),
    "transformer": small_transformer,
    "told the time": small_dimamba,
}


def as_published(trunk: Caduceus, tokens: Tensor, fused: bool) -> Tensor:
    """Caduceus-PS as in its code: strands are halves of the channels, the second one reversed in
    length and channels, and every layer is applied to each half."""
    order = torch.tensor([*COMPLEMENT, 12, 13, 14, 15])

    def turned(x: Tensor) -> Tensor:
        return x.flip(1, 2)

    def strand_wise(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([f(first), turned(f(turned(second)))], dim=-1)

    x = torch.cat(
        [trunk.embedding(tokens), turned(trunk.embedding(order[tokens].flip(1)))], dim=-1
    )
    residual = torch.zeros_like(x)
    for block in trunk.blocks:
        residual = residual + x
        if fused:
            residual = torch.cat(residual.chunk(2, dim=-1)[::-1], dim=-1)
        x = strand_wise(block.get_submodule("norm"), residual)
        x = strand_wise(block.get_submodule("mixer"), x)
    x = strand_wise(trunk.norm, residual + x)
    first, second = x.chunk(2, dim=-1)
    weight = trunk.embedding.weight
    return F.linear(first, weight) + F.linear(second.flip(-1), weight[order])


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("length", [1, 17])
def test_the_wrapper_is_equivariant_whatever_the_trunk(trunk: str, length: int) -> None:
    network = ReverseComplementEquivariant(TRUNKS[trunk](), COMPLEMENT)
    tokens = some_tokens(l=length)
    logits = network(tokens)
    assert float(logits.std()) > 0.1
    torch.testing.assert_close(
        network(rc_tokens(tokens)), rc_logits(logits), atol=1e-12, rtol=1e-12
    )


@pytest.mark.parametrize("trunk", ["caduceus", "left to right", "transformer"])
def test_the_trunk_alone_is_not(trunk: str) -> None:
    network, tokens = TRUNKS[trunk](), some_tokens()
    assert float((network(rc_tokens(tokens)) - rc_logits(network(tokens))).abs().max()) > 0.1


def test_the_time_of_each_token_is_turned_with_it() -> None:
    network = ReverseComplementEquivariant(small_transformer(), COMPLEMENT)
    tokens, sigma = some_tokens(), torch.rand(3, 17, dtype=torch.float64)
    torch.testing.assert_close(
        network(rc_tokens(tokens), sigma.flip(1)),
        rc_logits(network(tokens, sigma)),
        atol=1e-12,
        rtol=1e-12,
    )


@pytest.mark.parametrize("fused", [False, True])
def test_it_equals_the_published_structure(fused: bool) -> None:
    tokens = some_tokens()
    expected = as_published(small_caduceus(), tokens, fused)
    trunk = exchange_strands(small_caduceus()) if fused else small_caduceus()
    network = ReverseComplementEquivariant(trunk, COMPLEMENT)
    torch.testing.assert_close(network(tokens), expected, atol=1e-12, rtol=1e-12)


def test_exchanging_the_strands_is_another_function() -> None:
    tokens = some_tokens()
    plain = ReverseComplementEquivariant(small_caduceus(), COMPLEMENT)
    exchanged = ReverseComplementEquivariant(exchange_strands(small_caduceus()), COMPLEMENT)
    assert float((plain(tokens) - exchanged(tokens)).abs().max()) > 0.1


def test_it_adds_no_parameter_and_no_entry_to_the_state() -> None:
    trunk = small_caduceus()
    network = ReverseComplementEquivariant(trunk, COMPLEMENT)
    assert list(network.state_dict()) == [f"trunk.{name}" for name in trunk.state_dict()]


@pytest.mark.parametrize("wrapper", [ReverseComplementEquivariant, StrandAveraged])
def test_the_head_acts_on_each_position_alone(
    wrapper: Callable[[Backbone, Sequence[int]], Backbone],
) -> None:
    network, tokens = wrapper(small_caduceus(), COMPLEMENT), some_tokens()
    hidden, chosen = network.hidden(tokens), tokens > 6
    assert hidden.shape[-1] == network.d_model
    torch.testing.assert_close(
        network.head(hidden[chosen]), network(tokens)[chosen], atol=1e-12, rtol=1e-12
    )


def test_averaging_gives_the_mean_probability_of_the_strands() -> None:
    network, tokens = small_caduceus(), some_tokens()
    averaged = StrandAveraged(network, COMPLEMENT, DATA_IDS)
    strands = network(tokens), rc_logits(network(rc_tokens(tokens)))
    expected = sum(logits[..., DATA_IDS].softmax(-1) for logits in strands) / 2
    actual = averaged(tokens).exp()
    torch.testing.assert_close(actual[..., DATA_IDS], expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(actual.sum(-1), torch.ones(3, 17, dtype=torch.float64))
    torch.testing.assert_close(
        averaged(rc_tokens(tokens)), rc_logits(averaged(tokens)), atol=1e-12, rtol=1e-12
    )


def test_averaging_never_costs_more_nats_than_a_random_strand() -> None:
    # Jensen: -log of a mean is at most the mean of -log.
    network, tokens = randomized(Caduceus(12, 12, 1), scale=1.0), some_tokens()
    truth = some_tokens(seed=5) % 4 + 7
    averaged = F.nll_loss(StrandAveraged(network, COMPLEMENT)(tokens).transpose(1, 2), truth)
    strands = network(tokens), rc_logits(network(rc_tokens(tokens)))
    apart = [float(F.cross_entropy(logits.transpose(1, 2), truth)) for logits in strands]
    assert float(averaged) < sum(apart) / 2


def test_averaging_has_finite_gradients() -> None:
    network = small_caduceus().requires_grad_()
    log_p = StrandAveraged(network, COMPLEMENT, DATA_IDS)(some_tokens())
    assert bool((log_p == -math.inf).any())
    log_p[..., DATA_IDS].sum().backward()
    assert all(bool(p.grad is not None and p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize("complement", [(1, 2, 0), (0, 1, 3), (0, -2), tuple(range(17))], ids=str)
def test_complementing_twice_must_change_nothing(complement: Sequence[int]) -> None:
    for wrapper in (ReverseComplementEquivariant, StrandAveraged):
        with pytest.raises(UserError, match=r"complement=.* must send each of at most 16 tokens"):
            wrapper(small_caduceus(), complement)


@pytest.mark.parametrize("data_ids", [(7, 8, 9), ()], ids=str)
def test_data_tokens_must_include_their_complements(data_ids: Sequence[int]) -> None:
    with pytest.raises(UserError, match=r"data_ids=.* must be tokens with the complement of each"):
        StrandAveraged(small_caduceus(), COMPLEMENT, data_ids)
