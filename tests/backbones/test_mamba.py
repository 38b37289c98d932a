import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genodiff.backbones import BiMamba, Mamba
from genodiff.backbones.mamba import STRATEGIES, SelectiveSSM
from genodiff.errors import UserError
from tests.backbones.toys import randomized


def some_input(b: int = 2, l: int = 11, d: int = 6) -> Tensor:
    return torch.randn(b, l, d, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def by_the_equations(mamba: Mamba, h: Tensor) -> Tensor:
    """Mamba's mixer with one loop over time and none of its kernels."""
    ssm = mamba.ssm
    rank, n, _ = ssm.widths
    x, z = (h @ mamba.in_proj.weight.T).chunk(2, dim=-1)
    width = ssm.conv_weight.shape[1]
    padded = torch.cat([x.new_zeros(len(x), width - 1, x.shape[2]), x], dim=1)
    state = x.new_zeros(len(x), x.shape[2], n)
    outputs = []
    for t in range(x.shape[1]):
        window = padded[:, t : t + width]  # (b, width, d)
        u = F.silu((window * ssm.conv_weight.T).sum(1) + ssm.conv_bias)
        dt, B, C = (u @ ssm.x_proj.weight.T).split([rank, n, n], dim=-1)
        dt = F.softplus(ssm.dt_proj(dt))
        decay = torch.exp(-dt[..., None] * ssm.A_log.exp())
        state = decay * state + (dt * u)[..., None] * B[:, None]
        y = (state * C[:, None]).sum(-1) + ssm.D * u
        outputs.append(y * F.silu(z[:, t]))
    return torch.stack(outputs, dim=1) @ mamba.out_proj.weight.T


def one_direction(both: BiMamba, reverse: bool) -> Mamba:
    """A Mamba, never reversed, with the weights of one direction of a BiMamba."""
    mamba = Mamba(6, d_state=3).double()
    mamba.ssm.load_state_dict((both.reverse_ssm if reverse else both.forward_ssm).state_dict())
    tied = both.reverse_in_proj is None
    own = "reverse_" if reverse and not tied else ""
    for part in ("in_proj", "out_proj"):
        mamba.get_submodule(part).load_state_dict(both.get_submodule(own + part).state_dict())
    return mamba


@pytest.mark.parametrize("d_conv", [1, 3, 4])
def test_mamba_is_its_equations(d_conv: int) -> None:
    mamba = randomized(Mamba(6, d_state=3, d_conv=d_conv, dt_rank=2))
    h = some_input()
    torch.testing.assert_close(mamba(h), by_the_equations(mamba, h), atol=1e-12, rtol=1e-12)


def test_reverse_is_the_other_direction_between_two_flips() -> None:
    forward, reverse = (randomized(SelectiveSSM(6, 3, 4, 2, reverse=r)) for r in (False, True))
    x, z = some_input(), some_input().square()
    expected = forward(x.flip(1), z.flip(1)).flip(1)
    torch.testing.assert_close(reverse(x, z), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("tie_projections", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_directions_are_two_mambas_with_flips(strategy: str, tie_projections: bool) -> None:
    both = randomized(BiMamba(6, strategy=strategy, tie_projections=tie_projections, d_state=3))
    forward, reverse = one_direction(both, False), one_direction(both, True)
    h = some_input()
    parts = forward(h), reverse(h.flip(1)).flip(1)
    expected = parts[0] + parts[1] if strategy == "add" else parts[0] * parts[1]
    torch.testing.assert_close(both(h), expected, atol=1e-12, rtol=1e-12)


def test_dt_rank_is_a_sixteenth_of_the_width_rounded_up() -> None:
    assert Mamba(118).ssm.widths == [8, 16, 16]
    assert Mamba(16, dt_rank=5).ssm.widths == [5, 16, 16]


@torch.no_grad()
def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    ssm = SelectiveSSM(4096, d_state=16, d_conv=4, dt_rank=8)
    torch.testing.assert_close(ssm.A_log.exp(), torch.arange(1.0, 17).expand(4096, 16))
    assert bool((ssm.D == 1).all())
    # Uniform on +-bound: the largest of 16,384 draws is within 0.2 % of it but for exp(-16).
    for weight, bound in ((ssm.conv_weight, 4**-0.5), (ssm.dt_proj.weight, 8**-0.5)):
        assert 0.998 * bound < float(weight.abs().max()) <= bound
        assert abs(float(weight.mean())) < 5 * bound / math.sqrt(3 * weight.numel())
    dt = F.softplus(ssm.dt_proj.bias)
    assert 0.999e-3 < float(dt.min()) < 1.02e-3
    assert 0.098 < float(dt.max()) < 0.1001
    # log dt is uniform: the mean of 4,096 is within five standard errors of the middle.
    middle, width = math.log(1e-2), math.log(100)
    assert abs(float(dt.log().mean()) - middle) < 5 * width / math.sqrt(12 * 4096)


def test_only_the_state_matrix_and_the_skip_are_free_of_decay() -> None:
    free = [
        name
        for name, parameter in Mamba(16).named_parameters()
        if getattr(parameter, "_no_weight_decay", False)
    ]
    assert free == ["ssm.A_log", "ssm.D"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_autocast_rounds_but_does_not_break(strategy: str) -> None:
    torch.manual_seed(0)
    both = BiMamba(16, strategy=strategy)
    h = torch.randn(2, 50, 16)
    exact = both(h).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = both(h)
    assert rounded.dtype == torch.bfloat16
    # bfloat16 has 8 bits; a few roundings of values up to the largest.
    torch.testing.assert_close(
        rounded.float(), exact, atol=0.03 * float(exact.abs().max()), rtol=0.03
    )
    rounded.float().square().mean().backward()
    assert all(bool(p.grad is not None and p.grad.isfinite().all()) for p in both.parameters())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"d_state": 0}, "d_state=0 must be at least 1"),
        ({"d_conv": 0}, "d_conv=0 must be at least 1"),
        ({"expand": -1}, "expand=-1 must be at least 1"),
        ({"dt_rank": 0}, "dt_rank=0 must be at least 1"),
    ],
)
def test_sizes_are_positive(option: dict[str, Any], message: str) -> None:
    for mixer in (Mamba, BiMamba):
        with pytest.raises(UserError, match=message):
            mixer(8, **option)


def test_an_unknown_strategy_is_named() -> None:
    with pytest.raises(
        UserError, match="bidirectional_strategy=sum is unknown; use add or ew_mul"
    ):
        BiMamba(8, strategy="sum")
