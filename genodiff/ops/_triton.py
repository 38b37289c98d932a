"""The Triton kernels, for CUDA: what keeps them from running, and their import when first used.

On a CPU they run in Triton's interpreter, for tests, where that was on before Triton was imported.
"""

import functools
import importlib

import torch
from torch import Tensor

_MAX_STATES = 256
_MAX_WIDTH = 16


def scan_obstacle(
    dtype: torch.dtype, device: torch.device, states: int, *, named: bool
) -> str | None:
    """Why the scan cannot run on such inputs and what to do about it, or None.

    `named`: it was asked for by name. The interpreter is far too slow to be chosen for anybody.
    """
    if states > _MAX_STATES:
        return f"A has {states} states and it takes {_MAX_STATES} at most; use 'chunked'"
    return _obstacle(dtype, device, named)


def conv_obstacle(
    dtype: torch.dtype, device: torch.device, width: int, *, named: bool
) -> str | None:
    """Why the convolution cannot run on such inputs and what to do about it, or None."""
    if width > _MAX_WIDTH:
        return f"the weight has {width} taps and it takes {_MAX_WIDTH} at most; use 'chunked'"
    return _obstacle(dtype, device, named)


def _obstacle(dtype: torch.dtype, device: torch.device, named: bool) -> str | None:
    if device.type != "cuda" and not (device.type == "cpu" and named and _interpreting()):
        return f"it needs CUDA and the tensors are on {device}; move them, or use 'native'"
    if dtype == torch.float64:
        return "it has no float64; convert the tensors with .float(), or use 'chunked'"
    return _missing()


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> Tensor:
    from genodiff.ops import _triton_scan

    inputs = (u, delta, A, B, C, D, z, delta_bias)
    return _triton_scan.Scan.apply(*inputs, delta_softplus, reverse, torch.is_grad_enabled())  # pyright: ignore[reportReturnType]


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    from genodiff.ops import _triton_conv

    return _triton_conv.Conv.apply(x, weight, bias, silu, reverse)  # pyright: ignore[reportReturnType]


@functools.cache
def _missing() -> str | None:
    # A Triton that does not fit its surroundings fails in more ways than by ImportError.
    try:
        importlib.import_module("genodiff.ops._triton_scan")
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return f"triton does not import ({reason}); `pip install triton`, or use 'chunked'"
    return None


def _interpreting() -> bool:
    """Whether the kernels were made for Triton's interpreter, which takes CPU tensors."""
    if _missing():
        return False
    from triton import JITFunction

    from genodiff.ops import _triton_scan

    return not isinstance(_triton_scan.forward_kernel, JITFunction)
