"""mamba-ssm's CUDA scan and causal-conv1d's CUDA convolution, imported when first used, never required.

Both are channel-first and run forwards only: tensors are transposed here, and reversed by flips. What counts is that
the compiled extensions import: having the Python package `mamba_ssm` is no proof, as its releases skip the kernel of
Mamba-1 unless asked for it.
"""

import functools
import importlib
from typing import Literal

import torch
from torch import Tensor

MAX_STATES = 256
WIDTHS = (2, 3, 4)

_INSTALL_SCAN = "MAMBA_KEEP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation --no-deps mamba-ssm"
_INSTALL_CONV = "CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --no-build-isolation --no-deps causal-conv1d"


def scan_obstacle(dtype: torch.dtype, device: torch.device, states: int) -> str | None:
    """Why the scan cannot run on such inputs and what to do about it, or None."""
    if device.type != "cuda":
        return f"it needs CUDA tensors and these are on {device}; move them, or use implementation='native'"
    if dtype == torch.float64:
        return "it has no float64; convert the inputs with .float(), or use implementation='chunked'"
    if states > MAX_STATES:
        return f"A has {states} states and it takes {MAX_STATES} at most; use implementation='chunked'"
    if reason := _import_failure("selective_scan_cuda", "mamba_ssm.ops.selective_scan_interface"):
        return f"{reason}; install it with {_INSTALL_SCAN}, or use implementation='chunked'"
    return None


def conv_obstacle(dtype: torch.dtype, device: torch.device, width: int) -> str | None:
    """Why the convolution cannot run on such inputs and what to do about it, or None."""
    if device.type != "cuda":
        return f"it needs CUDA tensors and these are on {device}; move them, or use implementation='native'"
    if dtype == torch.float64:
        return "it has no float64; convert the inputs with .float(), or use implementation='chunked'"
    if width not in WIDTHS:
        return f"the weight has {width} taps and it takes 2 to 4; use implementation='chunked'"
    if reason := _import_failure("causal_conv1d_cuda", "causal_conv1d"):
        return f"{reason}; install it with {_INSTALL_CONV}, or use implementation='chunked'"
    return None


@functools.cache
def _import_failure(*modules: str) -> str | None:
    # Extensions built against another torch or CUDA fail in many ways, not only with ImportError.
    try:
        for module in modules:
            importlib.import_module(module)
    except Exception as error:
        lines = str(error).splitlines() or [""]
        return f"{modules[0]} does not import ({type(error).__name__}: {lines[0]})"
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
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # pyright: ignore[reportMissingImports] (optional)

    dtype = functools.reduce(torch.promote_types, (x.dtype for x in (delta, B, C)), u.dtype)

    def channel_first(x: Tensor) -> Tensor:
        x = x.to(dtype).transpose(1, 2)
        return x.flip(2) if reverse else x

    y = selective_scan_fn(
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
    return (y.flip(2) if reverse else y).transpose(1, 2).to(u.dtype)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Literal["silu"] | None,
    reverse: bool,
) -> Tensor:
    from causal_conv1d import causal_conv1d_fn  # pyright: ignore[reportMissingImports] (optional)

    # Its channel-last path only takes multiples of 8 channels, and the scan behind it is channel-first anyway.
    x_first = x.transpose(1, 2).flip(2) if reverse else x.transpose(1, 2).contiguous()
    bias = None if bias is None else bias.to(x.dtype)
    s = causal_conv1d_fn(x_first, weight.to(x.dtype), bias, activation=activation)
    return (s.flip(2) if reverse else s).transpose(1, 2)
