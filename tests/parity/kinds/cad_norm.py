"""The norms of Caduceus; the residual that the published ones add is added by the block here."""

import torch
from torch import Tensor, nn

from genodiff.backbones.caduceus import NORMS
from tests.parity.cases import Case


def check(case: Case) -> None:
    arrays, eps = case.arrays, case.config["eps"]
    x, residual = arrays["x"], arrays["residual"]
    rms, layer = (NORMS[name](x.shape[-1], eps=eps) for name in ("rms", "layer"))
    for norm in (rms, layer):
        _set(norm, "weight", arrays["weight"])
    _set(layer, "bias", arrays["bias"])
    _close(x + residual, arrays["rms_residual"])
    _close(rms(x + residual), arrays["rms_out"])
    _close(rms(x), arrays["rms_out_noresidual"])
    _close(layer(x + residual), arrays["ln_out"])


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    with torch.no_grad():
        module.get_parameter(name).copy_(value)


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
