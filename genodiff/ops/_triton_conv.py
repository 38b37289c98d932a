"""The causal depthwise convolution in Triton, computed in float32.

One program takes a tile of time and a block of channels; each row of the tile is loaded once.
Sums over time are written as partial sums and added in torch, without atomics.
"""

# What Triton compiles is not Python: types and some idioms do not hold in it.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from genodiff.ops._triton_rows import (
    load,
    load_row,
    only_if,
    rows,
    silu_slope,
    store_row,
    with_rows,
)

CHANNELS = tl.constexpr(64)
TILE = tl.constexpr(16)


@triton.jit
def place(length, channels):
    """Sequence, number of the tile, its first step and its channels."""
    blocks, tiles = tl.cdiv(channels, CHANNELS), tl.cdiv(length, TILE)
    program = tl.program_id(0)
    tile = program // blocks % tiles
    d = program % blocks * CHANNELS + tl.arange(0, CHANNELS)
    return program // (blocks * tiles), tile, tile * TILE, d


@triton.jit
def load_rows(x, batch, first, length, d, in_d, COUNT: tl.constexpr):
    """Rows from step `first` on, 0 outside of the sequence."""
    values = ()
    for k in tl.static_range(COUNT):
        mask = only_if(first + k >= 0, in_d)
        values = values + (load_row(x, batch, first, k, length, d, mask),)
    return values


@triton.jit
def load_taps(weight, d, in_d, WIDTH: tl.constexpr):
    taps = ()
    for j in tl.static_range(WIDTH):
        taps = taps + (load(weight + d * WIDTH + j, in_d),)
    return taps


@triton.jit
def convolve(xs, taps, bias, d, in_d, k: tl.constexpr, WIDTH: tl.constexpr):
    """The sum over taps of the rows from k on."""
    s = tl.zeros((CHANNELS,), tl.float32)
    if bias is not None:
        s = load(bias + d, in_d)
    for j in tl.static_range(WIDTH):
        s += taps[j] * xs[k + j]
    return s


@triton.jit
def forward_kernel(
    x, weight, bias, out, length, channels, WIDTH: tl.constexpr, SILU: tl.constexpr
):
    batch, _, first, d = place(length, channels)
    in_d = d < channels
    taps = load_taps(weight, d, in_d, WIDTH)
    xs = load_rows(x, batch, first - (WIDTH - 1), length, d, in_d, TILE + WIDTH - 1)
    for k in tl.static_range(TILE):
        s = convolve(xs, taps, bias, d, in_d, k, WIDTH)
        if SILU:
            s = s * tl.sigmoid(s)
        store_row(out, batch, first, k, length, d, in_d, s)


@triton.jit
def backward_kernel(
    x,
    weight,
    bias,
    dout,
    dx,
    dweight,
    dbias,
    length,
    channels,
    WIDTH: tl.constexpr,
    SILU: tl.constexpr,
):
    """dx of a tile needs the gradients of the WIDTH - 1 sums after it, and they the rows of x."""
    batch, tile, first, d = place(length, channels)
    in_d = d < channels
    taps = load_taps(weight, d, in_d, WIDTH)
    xs = load_rows(x, batch, first - (WIDTH - 1), length, d, in_d, TILE + 2 * (WIDTH - 1))
    ds = load_rows(dout, batch, first, length, d, in_d, TILE + WIDTH - 1)
    if SILU:
        douts = ds
        ds = ()
        for k in tl.static_range(TILE + WIDTH - 1):
            s = convolve(xs, taps, bias, d, in_d, k, WIDTH)
            ds = ds + (douts[k] * silu_slope(s, tl.sigmoid(s)),)
    at_tile = (batch.to(tl.int64) * tl.cdiv(length, TILE) + tile) * channels
    for j in tl.static_range(WIDTH):
        sum_j = tl.zeros((CHANNELS,), tl.float32)
        for k in tl.static_range(TILE):
            sum_j += ds[k] * xs[k + j]
        tl.store(dweight + at_tile * WIDTH + j * channels + d, sum_j, mask=in_d)
    if bias is not None:
        sum_bias = tl.zeros((CHANNELS,), tl.float32)
        for k in tl.static_range(TILE):
            sum_bias += ds[k]
        tl.store(dbias + at_tile + d, sum_bias, mask=in_d)
    for k in tl.static_range(TILE):
        dx_i = tl.zeros((CHANNELS,), tl.float32)
        for j in tl.static_range(WIDTH):
            dx_i += taps[j] * ds[k + WIDTH - 1 - j]
        store_row(dx, batch, first, k, length, d, in_d, dx_i)


class Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, weight, bias, silu, reverse):
        x, weight = with_rows(x), weight.contiguous()
        bias = None if bias is None else bias.contiguous()
        out = x.new_empty(x.shape)
        ctx.save_for_backward(x, weight, bias)
        ctx.options = (silu, reverse)
        _, l, d = x.shape
        options = {"WIDTH": weight.shape[1], "SILU": silu, "num_warps": 1}
        x_rows, out_rows = rows(x, reverse), rows(out, reverse)
        with torch.cuda.device_of(x):
            forward_kernel[_grid(x)](x_rows, weight, bias, out_rows, l, d, **options)
        return out

    @staticmethod
    @once_differentiable  # its type hides the names of the parameters:
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, bias = ctx.saved_tensors
        silu, reverse = ctx.options
        dout = with_rows(*grad_outputs)
        (b, l, d), width = x.shape, weight.shape[1]
        dx = x.new_empty(b, l, d)
        tiles = b * triton.cdiv(l, TILE.value)
        dweight = x.new_empty(tiles, width, d, dtype=torch.float32)
        dbias = x.new_empty(tiles, d, dtype=torch.float32)
        with torch.cuda.device_of(x):
            backward_kernel[_grid(x)](
                rows(x, reverse),
                weight,
                bias,
                rows(dout, reverse),
                rows(dx, reverse),
                dweight,
                dbias,
                l,
                d,
                WIDTH=width,
                SILU=silu,
                num_warps=1,
            )
        return (
            dx,
            dweight.sum(0).t().to(weight.dtype),
            None if bias is None else dbias.sum(0).to(bias.dtype),
            *(None, None),
        )


def _grid(x: Tensor) -> tuple[int]:
    b, l, d = x.shape
    return (b * triton.cdiv(l, TILE.value) * triton.cdiv(d, CHANNELS.value),)
