"""The selective scan in Triton: float32 states and sums, whatever the dtypes of the inputs.

One program, a warp up to 16 states, scans a segment of time of one sequence for `CHANNELS`
channels. Each lane holds a few states of a few channels in registers, so that a step is
elementwise. Steps are unrolled by `STEPS`, with their inputs loaded first, many at a time.

Where sequences and channels are too few to fill a GPU, time is cut into segments: a first pass
finds the state that each segment ends in if it starts from zero, and its decay exp(A sum dt); a
second one goes through the segments for the states they do start from; the third gives outputs.
The backward pass does the same with the adjoints of the states, against the order of time:

    g_t = C_t dy_t + exp(dt_{t+1} A) g_{t+1}                 adjoint of h_t
    dC_t = sum_d h_t dy_t                                    dB_t = sum_d g_t dt_t u_t
    du_t = dt_t sum_n g_t B_t + D dy_t                       dA = sum_t dt_t q_t
    ddt_t = sum_n (A q_t + u_t g_t B_t)                      q_t = g_t exp(dt_t A) h_{t-1}

It recomputes states from checkpoints, one every `TILE` steps. Sums over channels and segments are
written as partial sums and added in torch, without atomics: results are bitwise reproducible.
Scratch memory is (4 / TILE + 8 / CHANNELS) n bytes per element of u, 12 for 16 states.
"""

# What Triton compiles is not Python: types and some idioms do not hold in it.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from genodiff.ops._triton_rows import (
    Rows,
    first_row,
    load,
    load_row,
    offset,
    only_if,
    rows,
    silu_slope,
    store_row,
    with_rows,
)

# The backward pass keeps the states of STEPS steps. With 16 states no kernel spills registers on
# sm_90 by Triton 3.9 (tests/ops/compile_triton.py); with twice the channels or steps it does.
CHANNELS = tl.constexpr(32)
STEPS = tl.constexpr(4)
TILE = tl.constexpr(8)
# Programs that fill a large GPU; segments shorter than this are not worth two more passes.
PROGRAMS = 2048
SHORTEST_SEGMENT = 64

LOG2_E = tl.constexpr(1.4426950408889634)
LARGE = tl.constexpr(1e38)


@triton.jit
def softplus(x):
    """max(x, 0) + log1p(exp(-|x|)), with log1p(e) = 2 atanh(e / (2 + e)) by its series.

    log(1 + e) would lose all digits of the small steps that matter; 7 terms leave 1e-8 at e = 1.
    """
    e = tl.exp(-tl.abs(x))
    s = e / (2 + e)
    q = s * s
    series = 1 / 13 * q + 1 / 11
    series = series * q + 1 / 9
    series = series * q + 1 / 7
    series = series * q + 1 / 5
    series = series * q + 1 / 3
    return tl.maximum(x, 0.0) + 2 * s * (series * q + 1)


@triton.jit
def time_step(x, valid, SOFTPLUS: tl.constexpr):
    """dt of a row of delta + delta_bias; 0 past the end, which leaves the state as it is."""
    if SOFTPLUS:
        x = softplus(x)
    return tl.where(valid, x, 0.0)


@triton.jit
def decay(dt, A):
    return tl.exp2((dt * LOG2_E)[None, :] * A)


@triton.jit
def decay_of_segment(total, A):
    # The sum of steps may overflow, and 0 A has to stay 0 then.
    return decay(tl.minimum(tl.maximum(total, -LARGE), LARGE), A)


@triton.jit
def place(channels, segments):
    """Block of channels, segment and sequence of this program; neighbours share B and C."""
    blocks = tl.cdiv(channels, CHANNELS)
    program = tl.program_id(0)
    return program % blocks, program // blocks % segments, program // (blocks * segments)


@triton.jit
def tile_of(block, channels, states, BLOCK_N: tl.constexpr):
    """Channels and states of a block, and which of them there are."""
    d = block * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.arange(0, BLOCK_N)
    in_d, in_n = d < channels, n < states
    return d, n, in_d, in_n, in_n[:, None] & in_d[None, :]


@triton.jit
def of_channels(x, d, in_d):
    """The values of a vector (d), 0 where there is none."""
    values = tl.zeros((CHANNELS,), tl.float32)
    if x is not None:
        values = load(x + d, in_d)
    return values


@triton.jit
def advance(h, u, dt, B, A):
    """The state after a step."""
    return decay(dt, A) * h + (dt * u)[None, :] * B[:, None]


@triton.jit
def state_offsets(batch, index, count, n, d, channels, states):
    """Of a tile (n, d) in a tensor (b, count, n, d)."""
    matrix = (batch.to(tl.int64) * count + index) * states * channels
    return matrix + n[:, None] * channels + d[None, :]


@triton.jit
def forward_kernel(
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    out,
    starts,
    checkpoints,
    ends,
    totals,
    length,
    channels,
    states,
    segments,
    segment_steps,
    SOFTPLUS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Outputs, and checkpoints unless None; without `out`, the state and sum of dt at the end."""
    block, segment, batch = place(channels, segments)
    d, n, in_d, in_n, in_state = tile_of(block, channels, states, BLOCK_N)
    rates = load(A.data + n[:, None] * A.step + d[None, :] * A.batch, in_state)
    bias = of_channels(delta_bias, d, in_d)
    skip = of_channels(D, d, in_d)
    h = tl.zeros((BLOCK_N, CHANNELS), tl.float32)
    if starts is not None:
        at_segment = state_offsets(batch, segment, segments, n, d, channels, states)
        h = load(starts + at_segment, in_state)
    total = tl.zeros((CHANNELS,), tl.float32)

    first = segment * segment_steps
    for part in range(tl.cdiv(tl.minimum(segment_steps, length - first), STEPS)):
        i = first + part * STEPS
        if checkpoints is not None:
            if i % TILE == 0:
                at_tile = state_offsets(
                    batch, i // TILE, tl.cdiv(length, TILE), n, d, channels, states
                )
                tl.store(checkpoints + at_tile, h, mask=in_state)
        us, xs, Bs, Cs, zs, ys = (), (), (), (), (), ()
        for k in tl.static_range(STEPS):
            us = us + (load_row(u, batch, i, k, length, d, in_d),)
            xs = xs + (load_row(delta, batch, i, k, length, d, in_d),)
            Bs = Bs + (load_row(B, batch, i, k, length, n, in_n),)
            if out is not None:
                Cs = Cs + (load_row(C, batch, i, k, length, n, in_n),)
                if z is not None:
                    zs = zs + (load_row(z, batch, i, k, length, d, in_d),)
        for k in tl.static_range(STEPS):
            dt = time_step(xs[k] + bias, i + k < length, SOFTPLUS)
            h = advance(h, us[k], dt, Bs[k], rates)
            if out is not None:
                y = tl.sum(Cs[k][:, None] * h, 0) + skip * us[k]
                if z is not None:
                    y = y * zs[k] * tl.sigmoid(zs[k])
                ys = ys + (y,)
            else:
                total += dt
        if out is not None:
            for k in tl.static_range(STEPS):
                store_row(out, batch, i, k, length, d, in_d, ys[k])

    if ends is not None:
        at_segment = state_offsets(batch, segment, segments, n, d, channels, states)
        tl.store(ends + at_segment, h, mask=in_state)
        tl.store(
            totals + (batch.to(tl.int64) * segments + segment) * channels + d, total, mask=in_d
        )


@triton.jit
def adjoint_kernel(
    delta,
    A,
    C,
    z,
    delta_bias,
    dout,
    ends,
    totals,
    length,
    channels,
    states,
    segments,
    segment_steps,
    SOFTPLUS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """What each segment passes on if it gets zero, exp(dt_t A) g_t at its start; sums of dt."""
    block, segment, batch = place(channels, segments)
    d, n, in_d, in_n, in_state = tile_of(block, channels, states, BLOCK_N)
    rates = load(A.data + n[:, None] * A.step + d[None, :] * A.batch, in_state)
    bias = of_channels(delta_bias, d, in_d)
    g = tl.zeros((BLOCK_N, CHANNELS), tl.float32)
    total = tl.zeros((CHANNELS,), tl.float32)

    first = segment * segment_steps
    parts = tl.cdiv(tl.minimum(segment_steps, length - first), STEPS)
    for part in range(parts):
        i = first + (parts - 1 - part) * STEPS
        for k in tl.static_range(STEPS - 1, -1, -1):
            valid = i + k < length
            C_t = load_row(C, batch, i, k, length, n, in_n)
            dy = load_row(dout, batch, i, k, length, d, in_d)
            if z is not None:
                gate = load_row(z, batch, i, k, length, d, in_d)
                dy = dy * gate * tl.sigmoid(gate)
            x = load_row(delta, batch, i, k, length, d, in_d) + bias
            dt = time_step(x, valid, SOFTPLUS)
            g = decay(dt, rates) * (g + C_t[:, None] * dy[None, :])
            total += dt

    at_segment = state_offsets(batch, segment, segments, n, d, channels, states)
    tl.store(ends + at_segment, g, mask=in_state)
    tl.store(totals + (batch.to(tl.int64) * segments + segment) * channels + d, total, mask=in_d)


@triton.jit
def chain_kernel(
    A,
    ends,
    totals,
    channels,
    states,
    segments,
    BACKWARD: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """What each segment starts from, in place of what it ends in if it starts from zero."""
    block, _, batch = place(channels, 1)
    d, n, in_d, _, in_state = tile_of(block, channels, states, BLOCK_N)
    rates = load(A.data + n[:, None] * A.step + d[None, :] * A.batch, in_state)
    h = tl.zeros((BLOCK_N, CHANNELS), tl.float32)
    for s in range(0, segments, STEPS):
        places, locals_, decays = (), (), ()
        for k in tl.static_range(STEPS):
            segment = segments - 1 - (s + k) if BACKWARD else s + k
            valid = s + k < segments
            at_segment = state_offsets(batch, segment, segments, n, d, channels, states)
            total = load(
                totals + (batch.to(tl.int64) * segments + segment) * channels + d,
                only_if(valid, in_d),
            )
            places = places + (at_segment,)
            locals_ = locals_ + (load(ends + at_segment, only_if(valid, in_state)),)
            decays = decays + (decay_of_segment(total, rates),)
        for k in tl.static_range(STEPS):
            tl.store(ends + places[k], h, mask=only_if(s + k < segments, in_state))
            h = decays[k] * h + locals_[k]


@triton.jit
def backward_kernel(
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    dout,
    checkpoints,
    incoming,
    du,
    ddelta,
    dz,
    dA,
    dB,
    dC,
    dD,
    ddelta_bias,
    batches,
    length,
    channels,
    states,
    segments,
    segment_steps,
    SOFTPLUS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """All gradients. ddelta and dz have the layout of the rows du, dC that of dB."""
    block, segment, batch = place(channels, segments)
    d, n, in_d, in_n, in_state = tile_of(block, channels, states, BLOCK_N)
    rates = load(A.data + n[:, None] * A.step + d[None, :] * A.batch, in_state)
    bias = of_channels(delta_bias, d, in_d)
    skip = of_channels(D, d, in_d)
    at_segment = state_offsets(batch, segment, segments, n, d, channels, states)
    g = tl.zeros((BLOCK_N, CHANNELS), tl.float32)  # exp(dt_{t+1} A) g_{t+1}, then g_t
    if incoming is not None:
        g = load(incoming + at_segment, in_state)
    sum_A = tl.zeros((BLOCK_N, CHANNELS), tl.float32)
    sum_D = tl.zeros((CHANNELS,), tl.float32)
    sum_bias = tl.zeros((CHANNELS,), tl.float32)

    first = segment * segment_steps
    parts = tl.cdiv(tl.minimum(segment_steps, length - first), STEPS)
    for part in range(parts):
        i = first + (parts - 1 - part) * STEPS
        tile = i // TILE
        at_tile = state_offsets(batch, tile, tl.cdiv(length, TILE), n, d, channels, states)
        h = load(checkpoints + at_tile, in_state)
        for earlier in range((i - tile * TILE) // STEPS):
            j = tile * TILE + earlier * STEPS
            for k in tl.static_range(STEPS):
                u_t = load_row(u, batch, j, k, length, d, in_d)
                x = load_row(delta, batch, j, k, length, d, in_d) + bias
                B_t = load_row(B, batch, j, k, length, n, in_n)
                dt = time_step(x, True, SOFTPLUS)
                h = advance(h, u_t, dt, B_t, rates)

        hs, gates, douts = (h,), (), ()
        for k in tl.static_range(STEPS):
            douts = douts + (load_row(dout, batch, i, k, length, d, in_d),)
            if z is not None:
                gates = gates + (load_row(z, batch, i, k, length, d, in_d),)
            if k < STEPS - 1:
                u_t = load_row(u, batch, i, k, length, d, in_d)
                x = load_row(delta, batch, i, k, length, d, in_d) + bias
                B_t = load_row(B, batch, i, k, length, n, in_n)
                h = advance(h, u_t, time_step(x, i + k < length, SOFTPLUS), B_t, rates)
                hs = hs + (h,)

        # Reading u, delta and B again costs less than the registers to keep all that follows.
        for k in tl.static_range(STEPS - 1, -1, -1):
            valid = i + k < length
            at_d, in_row = offset(du, batch, i, k) + d, only_if(valid, in_d)
            u_t = load_row(u, batch, i, k, length, d, in_d)
            x = load_row(delta, batch, i, k, length, d, in_d) + bias
            B_t = load_row(B, batch, i, k, length, n, in_n)
            C_t = load_row(C, batch, i, k, length, n, in_n)
            dt = time_step(x, valid, SOFTPLUS)
            a_t = decay(dt, rates)
            h = a_t * hs[k] + (dt * u_t)[None, :] * B_t[:, None]
            dy = douts[k]
            if z is not None:
                y = tl.sum(C_t[:, None] * h, 0) + skip * u_t
                sigmoid = tl.sigmoid(gates[k])
                tl.store(dz + at_d, dy * y * silu_slope(gates[k], sigmoid), mask=in_row)
                dy = dy * gates[k] * sigmoid
            g += C_t[:, None] * dy[None, :]
            at_n = offset(dB, block * batches + batch, i, k) + n
            tl.store(dC + at_n, tl.sum(h * dy[None, :], 1), mask=only_if(valid, in_n))
            dB_t = tl.sum(g * (dt * u_t)[None, :], 1)
            tl.store(dB.data + at_n, dB_t, mask=only_if(valid, in_n))
            g_B = tl.sum(g * B_t[:, None], 0)
            tl.store(du.data + at_d, dt * g_B + skip * dy, mask=in_row)
            g = a_t * g
            q = g * hs[k]
            dx = tl.sum(q * rates, 0) + u_t * g_B
            if SOFTPLUS:
                dx = dx * tl.sigmoid(x)
            tl.store(ddelta + at_d, dx, mask=in_row)
            sum_A += q * dt[None, :]
            sum_D += dy * u_t
            sum_bias += dx

    at_channels = (batch.to(tl.int64) * segments + segment) * channels + d
    tl.store(dA + at_segment, sum_A, mask=in_state)
    if D is not None:
        tl.store(dD + at_channels, sum_D, mask=in_d)
    if delta_bias is not None:
        tl.store(ddelta_bias + at_channels, sum_bias, mask=in_d)


class Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, grad_enabled
    ):
        u, delta, B, C = map(with_rows, (u, delta, B, C))
        z = None if z is None else with_rows(z)
        D, delta_bias = (None if x is None else x.contiguous() for x in (D, delta_bias))
        (b, l, d), n = u.shape, A.shape[1]
        cut = _Cut.of(b, l, d, n)
        out, starts, checkpoints = u.new_empty(b, l, d), None, None
        if grad_enabled and any(ctx.needs_input_grad):
            checkpoints = _float32(u, b, triton.cdiv(l, TILE.value), n, d)
            ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, checkpoints)
            ctx.options = (delta_softplus, reverse)
        inputs = {
            "u": rows(u, reverse),
            "delta": rows(delta, reverse),
            "A": _matrix(A),
            "B": rows(B, reverse),
            "C": rows(C, reverse),
            "D": D,
            "z": rows(z, reverse),
            "delta_bias": delta_bias,
            "SOFTPLUS": delta_softplus,
            **cut.sizes(),
        }
        with torch.cuda.device_of(u):
            if cut.segments > 1:
                starts, totals = cut.empty_states(u)
                results = {"out": None, "starts": None, "checkpoints": None}
                forward_kernel[cut.grid()](**inputs, **results, ends=starts, totals=totals)
                cut.chain(A, starts, totals, backward=False)
            results = {"out": rows(out, reverse), "starts": starts, "checkpoints": checkpoints}
            forward_kernel[cut.grid()](**inputs, **results, ends=None, totals=None)
        return out

    @staticmethod
    @once_differentiable  # its type hides the names of the parameters:
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        u, delta, A, B, C, D, z, delta_bias, checkpoints = ctx.saved_tensors
        delta_softplus, reverse = ctx.options
        dout = with_rows(*grad_outputs)
        (b, l, d), n = u.shape, A.shape[1]
        cut = _Cut.of(b, l, d, n)
        blocks = triton.cdiv(d, CHANNELS.value)
        du, ddelta = u.new_empty(b, l, d), delta.new_empty(b, l, d)
        dz = None if z is None else z.new_empty(b, l, d)
        dB, dC = _float32(u, blocks * b, l, n), _float32(u, blocks * b, l, n)
        dA, dD, ddelta_bias = (_float32(u, b, cut.segments, *x) for x in ((n, d), (d,), (d,)))
        shared = {
            "delta": rows(delta, reverse),
            "A": _matrix(A),
            "C": rows(C, reverse),
            "z": rows(z, reverse),
            "delta_bias": delta_bias,
            "dout": rows(dout, reverse),
            "SOFTPLUS": delta_softplus,
            **cut.sizes(),
        }
        with torch.cuda.device_of(u):
            incoming = None
            if cut.segments > 1:
                incoming, totals = cut.empty_states(u)
                adjoint_kernel[cut.grid()](**shared, ends=incoming, totals=totals)
                cut.chain(A, incoming, totals, backward=True)
            backward_kernel[cut.grid()](
                **shared,
                u=rows(u, reverse),
                B=rows(B, reverse),
                D=D,
                checkpoints=checkpoints,
                incoming=incoming,
                du=rows(du, reverse),
                ddelta=first_row(ddelta, reverse),
                dz=None if dz is None else first_row(dz, reverse),
                dA=dA,
                dB=rows(dB, reverse),
                dC=first_row(dC, reverse),
                dD=dD,
                ddelta_bias=ddelta_bias,
                batches=b,
            )
        return (
            du,
            ddelta,
            dA.sum((0, 1)).t().to(A.dtype),
            dB.view(blocks, b, l, n).sum(0).to(B.dtype),
            dC.view(blocks, b, l, n).sum(0).to(C.dtype),
            None if D is None else dD.sum((0, 1)).to(D.dtype),
            dz,
            None if delta_bias is None else ddelta_bias.sum((0, 1)).to(delta_bias.dtype),
            *(None, None, None),
        )


class _Cut(NamedTuple):
    """A scan cut into programs: a block of channels and a segment of time each."""

    batches: int
    length: int
    channels: int
    states: int
    segments: int
    segment_steps: int

    @staticmethod
    def of(b: int, l: int, d: int, n: int) -> "_Cut":
        programs = b * triton.cdiv(d, CHANNELS.value)
        segments = 1
        if programs < PROGRAMS // 2:
            segments = min(triton.cdiv(PROGRAMS, programs), triton.cdiv(l, SHORTEST_SEGMENT))
        steps = TILE.value * triton.cdiv(l, segments * TILE.value)
        return _Cut(b, l, d, n, triton.cdiv(l, steps), steps)

    def grid(self) -> tuple[int]:
        return (self.batches * triton.cdiv(self.channels, CHANNELS.value) * self.segments,)

    def block(self) -> dict[str, int]:
        size = triton.next_power_of_2(self.states)
        # Sums over states stay within a warp up to 16 of them, which take 16 registers a thread.
        return {"BLOCK_N": size, "num_warps": 1 if size <= 16 else size // 8}

    def sizes(self) -> dict[str, int]:
        return {
            "length": self.length,
            "channels": self.channels,
            "states": self.states,
            "segments": self.segments,
            "segment_steps": self.segment_steps,
            **self.block(),
        }

    def empty_states(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """A state and a sum of dt for each segment."""
        shape = (self.batches, self.segments)
        totals = _float32(like, *shape, self.channels)
        return _float32(like, *shape, self.states, self.channels), totals

    def chain(self, A: Tensor, ends: Tensor, totals: Tensor, *, backward: bool) -> None:
        """Replace local ends by starts, in the order of time or against it."""
        sizes = (self.channels, self.states, self.segments)
        grid = self._replace(segments=1).grid()
        chain_kernel[grid](_matrix(A), ends, totals, *sizes, BACKWARD=backward, **self.block())


def _matrix(A: Tensor) -> Rows:
    return Rows(A, A.stride(0), A.stride(1))


def _float32(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)
