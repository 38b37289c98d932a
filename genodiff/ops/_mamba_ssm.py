"""mamba-ssm's CUDA scan and causal-conv1d's CUDA convolution: never required.

Both are channel-first and run forwards only, so inputs are transposed, and flipped to reverse.
What counts is that the compiled extensions import: the Python package `mamba_ssm` is no proof of
that, as its releases leave the kernel of Mamba-1 out unless asked for it.
"""

import functools
import importlib
from types import ModuleType

import torch
from torch import Tensor

_MAX_STATES = 256
_WIDTHS = (2, 3, 4)

_PIP = "pip install --no-build-isolation --no-deps"
_INSTALL_SCAN = f"MAMBA_FORCE_BUILD=TRUE MAMBA_KEEP_CUDA_BUILD=TRUE {_PIP} mamba-ssm"
_INSTALL_CONV = f"CAUSAL_CONV1D_FORCE_BUILD=TRUE {_PIP} causal-conv1d"


def scan_obstacle(dtype: torch.dtype, device: torch.device, states: int) -> str | None:
    """Why the scan cannot run on such inputs and what to do about it, or None."""
    if states > _MAX_STATES:
        return f"A has {states} states and it takes {_MAX_STATES} at most; use 'chunked'"
    return _obstacle(dtype, device) or _missing("selective_scan_cuda", _INSTALL_SCAN)


def conv_obstacle(dtype: torch.dtype, device: torch.device, width: int) -> str | None:
    """Why the convolution cannot run on such inputs and what to do about it, or None."""
    if width not in _WIDTHS:
        return f"the weight has {width} taps and it takes 2, 3 or 4; use 'chunked'"
    return _obstacle(dtype, device) or _missing("causal_conv1d_cuda", _INSTALL_CONV)


def _obstacle(dtype: torch.dtype, device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"it needs CUDA and the tensors are on {device}; move them, or use 'native'"
    if dtype == torch.float64:
        return "it has no float64; convert the tensors with .float(), or use 'chunked'"
    return None


@functools.cache
def _missing(extension: str, install: str) -> str | None:
    # An extension built for another torch or CUDA fails in more ways than by ImportError.
    try:
        importlib.import_module(extension)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return f"{extension} does not import ({reason}); install it with `{install}`"
    return None


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
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in (u, delta, B, C)))

    def channel_first(x: Tensor) -> Tensor:
        x = x.to(dtype).transpose(1, 2)
        return x.flip(2) if reverse else x

    y = _module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn(
        channel_first(u),
        channel_first(delta),
        A.float(),
        channel_first(B),
        channel_first(C),
        None if D is None else D.float(),
        None if z is None else channel_first(z),
        None if delta_bias is None else delta_bias.float(),
        delta_softplus,
    )
    return (y.flip(2) if reverse else y).transpose(1, 2)


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    # Channel-first in memory too: its channel-last path wants a multiple of 8 channels.
    x_first = x.transpose(1, 2).contiguous()
    s = _module("causal_conv1d").causal_conv1d_fn(
        x_first.flip(2) if reverse else x_first,
        weight.to(x.dtype),
        None if bias is None else bias.to(x.dtype),
        activation="silu" if silu else None,
    )
    return (s.flip(2) if reverse else s).transpose(1, 2)


def _module(name: str) -> ModuleType:
    return importlib.import_module(name)
