"""Draws against the distribution they are drawn from."""

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from genodiff.diffusion.categorical import Draw, draw, reference_draw

P = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.04, 0.01], dtype=torch.float64)


def chi_squared(counts: Tensor, p: Tensor) -> float:
    """The probability of counts at least this far from p."""
    expected = (p * counts.sum())[p > 0]
    statistic = ((counts[p > 0] - expected) ** 2 / expected).sum()
    return float(chi2.sf(float(statistic), len(expected) - 1))


@pytest.mark.parametrize("draw_tokens", [draw, reference_draw])
def test_draws_follow_the_distribution(draw_tokens: Draw) -> None:
    # False alarm rate 1e-4; the seed is fixed.
    log_p = P.log().expand(200_000, -1)
    counts = torch.bincount(draw_tokens(log_p, torch.Generator().manual_seed(0)), minlength=6)
    assert counts[1] == 0
    assert chi_squared(counts, P) > 1e-4


def test_only_ratios_count() -> None:
    log_p = P.log().expand(1000, -1)
    shifted = (log_p - 700).float()
    one, other = (draw(x, torch.Generator().manual_seed(0)) for x in (log_p, shifted))
    assert torch.equal(one, other)


def test_a_rare_token_is_drawn_at_its_rate() -> None:
    # 10 expected among 10^6: outside 1 .. 30 with probability below 10^-4.
    log_p = torch.tensor([1e-5, 1 - 1e-5], dtype=torch.float64).log().expand(1_000_000, -1)
    assert 1 <= int((draw(log_p, torch.Generator().manual_seed(0)) == 0).sum()) <= 30


def test_same_seed_same_tokens_whatever_the_global_generator() -> None:
    log_p = P.log().expand(50, 4, -1)
    one = draw(log_p, torch.Generator().manual_seed(7))
    torch.manual_seed(123)
    assert torch.equal(one, draw(log_p, torch.Generator().manual_seed(7)))
    assert one.shape == (50, 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_distribution_no_token(bad: float) -> None:
    with pytest.raises(ValueError, match="hold NaN"):
        draw(torch.tensor([[0.0, bad]]), None)
    with pytest.raises(ValueError, match="row of -inf"):
        draw(torch.tensor([[-torch.inf, -torch.inf]]), None)
