import math

import pytest
import torch

from genodiff.backbones.attention import SelfAttention, frequencies, rotate, rotation_table
from genodiff.errors import UserError
from tests.backbones.toys import randomized


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_frequencies_are_geometric_from_one_radian_down() -> None:
    expected = [10_000 ** (-2 * i / 8) for i in range(4)]
    torch.testing.assert_close(frequencies(8), torch.tensor(expected, dtype=torch.float64))


def test_position_zero_is_not_turned_and_lengths_are_kept() -> None:
    x = numbers(2, 9, 8)
    turned = rotate(x, rotation_table(9, 8, like=x))
    assert torch.equal(turned[:, 0], x[:, 0])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_a_query_and_a_key_only_feel_their_distance() -> None:
    q, k = numbers(8, seed=1), numbers(8, seed=2)
    cos_sin = rotation_table(30, 8, like=q)
    queries, keys = rotate(q.expand(30, 8), cos_sin), rotate(k.expand(30, 8), cos_sin)
    products = queries @ keys.T
    for distance in (-7, 0, 1, 12):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert float(products[0].std()) > 0.1


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_its_equation(causal: bool) -> None:
    attention = randomized(SelfAttention(12, 3, causal=causal))
    x = numbers(2, 7, 12)
    rotation = rotation_table(7, 4, like=x)
    q, k, v = (x @ attention.qkv.weight.T).chunk(3, dim=-1)
    heads = []
    for h in range(3):
        channels = slice(4 * h, 4 * h + 4)
        scores = rotate(q[..., channels], rotation) @ rotate(k[..., channels], rotation).mT / 2
        if causal:
            scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ v[..., channels])
    expected = torch.cat(heads, dim=-1) @ attention.out.weight.T
    torch.testing.assert_close(attention(x, rotation), expected, atol=1e-12, rtol=1e-12)


def test_half_precision_is_rotated_in_float32() -> None:
    x = numbers(1, 100, 8).bfloat16()
    table = rotation_table(100, 8, like=x)
    assert table[0].dtype == torch.float32
    turned = rotate(x, table)
    assert turned.dtype == torch.bfloat16
    exact = rotate(x.double(), rotation_table(100, 8, like=x.double()))
    torch.testing.assert_close(turned.double(), exact, atol=1e-6, rtol=2**-8)


@pytest.mark.parametrize(("d_model", "n_heads"), [(12, 5), (12, 4), (10, 10)])
def test_heads_have_an_even_width(d_model: int, n_heads: int) -> None:
    with pytest.raises(UserError, match=f"d_model={d_model} with n_heads={n_heads} must give"):
        SelfAttention(d_model, n_heads)
