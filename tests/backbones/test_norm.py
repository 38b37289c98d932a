import pytest
import torch
import torch.nn.functional as F

from genodiff.backbones.norm import RMSNorm


@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 3, 5)])
def test_rms_norm_and_its_gradients_are_torchs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(5, eps=1e-3).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    g = torch.randn(shape, dtype=torch.float64)
    y, expected = norm(x), F.rms_norm(x, (5,), norm.weight, 1e-3)
    torch.testing.assert_close(y, expected, atol=1e-14, rtol=1e-14)
    for actual, wanted in zip(
        torch.autograd.grad(y, (x, norm.weight), g),
        torch.autograd.grad(expected, (x, norm.weight), g),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted, atol=1e-13, rtol=1e-13)


def test_a_row_of_zeros_stays_zero() -> None:
    norm = RMSNorm(4, eps=1e-5)
    x = torch.zeros(2, 4, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_half_precision_is_left_to_torch() -> None:
    norm = RMSNorm(4, eps=1e-5)
    x = torch.randn(2, 4)
    y = norm.bfloat16()(x.bfloat16())
    torch.testing.assert_close(y.float(), F.rms_norm(x, (4,)), atol=0.02, rtol=0.02)
