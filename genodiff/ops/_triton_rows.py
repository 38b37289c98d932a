"""How the Triton kernels see a channel-last tensor: as rows of channels, one for each time step.

A kernel knows no direction of time: to run in reverse it is given the last row as the first one
and a negative stride. Offsets are 64-bit, as tensors may pass 2^31 elements.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Rows(NamedTuple):
    """Pointer to the first row of time of the first sequence, and strides in elements."""

    data: Any
    batch: Any
    step: Any


def rows(x: Tensor | None, reverse: bool) -> Rows | None:
    """The rows of x (b, l, k), contiguous each, in the order in which they are scanned."""
    if x is None:
        return None
    return Rows(first_row(x, reverse), x.stride(0), -x.stride(1) if reverse else x.stride(1))


def first_row(x: Tensor, reverse: bool) -> Tensor:
    return x[:, -1] if reverse else x


def with_rows(x: Tensor) -> Tensor:
    """x with a contiguous last axis, the kernels' only wish about the layout."""
    return x if x.stride(-1) == 1 else x.contiguous()


@triton.jit
def offset(x, batch, first, k: tl.constexpr):
    """Of the row of step first + k."""
    return (
        batch.to(tl.int64) * x.batch + first.to(tl.int64) * x.step + k * tl.cast(x.step, tl.int64)
    )


@triton.jit
def load(pointers, mask):
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def only_if(valid, mask):
    """`valid & mask` of a scalar and a vector, on which Triton's interpreter trips."""
    return tl.where(valid, mask, False)


@triton.jit
def load_row(x, batch, first, k: tl.constexpr, length, columns, mask):
    """The row of step first + k, 0 past the end."""
    return load(x.data + offset(x, batch, first, k) + columns, only_if(first + k < length, mask))


@triton.jit
def store_row(x, batch, first, k: tl.constexpr, length, columns, mask, values):
    mask = only_if(first + k < length, mask)
    tl.store(x.data + offset(x, batch, first, k) + columns, values, mask=mask)


@triton.jit
def silu_slope(x, sigmoid):
    """The derivative of x sigmoid(x)."""
    return sigmoid * (1 + x * (1 - sigmoid))
