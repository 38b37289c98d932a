"""The kernels in plain PyTorch, for any dtype, size and device: the fallback that is always there.

The scan walks the sequence in chunks: elementwise work and contractions run over whole chunks, only the recurrence
itself step by step. The forward pass keeps one state a chunk, the backward pass recomputes the rest, so memory is
that of a few tensors of the input's size instead of n of them.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements (t, b, n, d) of a chunk: about what a core's cache holds of the few such tensors that are alive at once.
_CHUNK_ELEMENTS = 1 << 18


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
    dt = delta if delta_bias is None else delta + delta_bias
    if delta_softplus:
        dt = F.softplus(dt)
    y: Tensor = _Scan.apply(u, dt, A, B, C, reverse)  # pyright: ignore[reportAssignmentType]
    if D is not None:
        y = torch.addcmul(y, u, D)
    return y if z is None else y * F.silu(z)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Literal["silu"] | None,
    reverse: bool,
) -> Tensor:
    width = weight.shape[1]
    kernel = weight.flip(1) if reverse else weight
    padded = F.pad(x.transpose(1, 2), (0, width - 1) if reverse else (width - 1, 0))
    s = F.conv1d(padded, kernel.unsqueeze(1), bias, groups=x.shape[2]).transpose(1, 2)
    return F.silu(s) if activation == "silu" else s


class _Scan(torch.autograd.Function):
    """y_t = C_t h_t with h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t."""

    @staticmethod
    def forward(ctx: Any, u, dt, A, B, C, reverse):
        state = u.new_zeros(u.shape[0], A.shape[1], u.shape[2])  # (b, n, d)
        y = torch.empty_like(u)
        starts = []
        for chunk in _chunks(u, A, reverse):
            u_c, dt_c, B_c, C_c = (_take(x, chunk, reverse) for x in (u, dt, B, C))
            starts.append(state)
            h = _states(u_c, dt_c, B_c, _decay(dt_c, A), state)
            state = h[-1].clone()
            _put(y, chunk, reverse, _contract_states(C_c, h[1:]))
        ctx.save_for_backward(u, dt, A, B, C, torch.stack(starts))
        ctx.reverse = reverse
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy):
        u, dt, A, B, C, starts = ctx.saved_tensors
        reverse = ctx.reverse
        du, ddt, dB, dC = (torch.empty_like(x) for x in (u, dt, B, C))
        dA, carry = torch.zeros_like(A), torch.zeros_like(starts[0])
        for chunk, start in reversed(list(zip(_chunks(u, A, reverse), starts, strict=True))):
            u_c, dt_c, B_c, C_c, dy_c = (_take(x, chunk, reverse) for x in (u, dt, B, C, dy))
            decay = _decay(dt_c, A)
            h = _states(u_c, dt_c, B_c, decay, start)
            dh = dy_c.unsqueeze(2) * C_c.unsqueeze(3)  # (t, b, n, d)
            dh[-1] += carry
            steps, decays = dh.unbind(0), decay.unbind(0)
            for i in range(len(steps) - 1, 0, -1):
                steps[i - 1].addcmul_(decays[i], steps[i])
            carry = decay[0] * dh[0]
            _put(dC, chunk, reverse, (h[1:] @ dy_c.unsqueeze(3)).squeeze(3))
            _put(dB, chunk, reverse, (dh @ (dt_c * u_c).unsqueeze(3)).squeeze(3))
            dh_B = _contract_states(B_c, dh)
            _put(du, chunk, reverse, dt_c * dh_B)
            d_dtA = dh.mul_(decay).mul_(h[:-1])
            dA += (d_dtA * dt_c.unsqueeze(2)).sum((0, 1)).t()
            _put(ddt, chunk, reverse, d_dtA.mul_(A.t()).sum(2).addcmul_(u_c, dh_B))
        return du, ddt, dA, dB, dC, None


def _chunks(u: Tensor, A: Tensor, reverse: bool) -> list[slice]:
    """The pieces of time in the order that the scan visits them."""
    b, l, d = u.shape
    size = min(l, max(8, min(256, _CHUNK_ELEMENTS // (b * d * A.shape[1]))))
    pieces = [slice(start, min(l, start + size)) for start in range(0, l, size)]
    return pieces[::-1] if reverse else pieces


def _take(x: Tensor, chunk: slice, reverse: bool) -> Tensor:
    """Time-major rows (t, b, k) of a chunk, in the order that the scan visits them."""
    rows = x[:, chunk].transpose(0, 1)
    return rows.flip(0) if reverse else rows


def _put(x: Tensor, chunk: slice, reverse: bool, rows: Tensor) -> None:
    x[:, chunk] = (rows.flip(0) if reverse else rows).transpose(0, 1)


def _decay(dt: Tensor, A: Tensor) -> Tensor:
    """exp(dt_t A) as (t, b, n, d)."""
    return (dt.unsqueeze(2) * A.t()).exp_()


def _states(u: Tensor, dt: Tensor, B: Tensor, decay: Tensor, start: Tensor) -> Tensor:
    """The state before the chunk and after each of its steps: (t + 1, b, n, d)."""
    h = torch.empty(decay.shape[0] + 1, *start.shape, dtype=decay.dtype, device=decay.device)
    h[0] = start
    torch.mul((dt * u).unsqueeze(2), B.unsqueeze(3), out=h[1:])
    states = h.unbind(0)
    for i, step in enumerate(decay.unbind(0)):
        states[i + 1].addcmul_(step, states[i])
    return h


def _contract_states(x: Tensor, h: Tensor) -> Tensor:
    """sum_n x_n h_n: (t, b, n), (t, b, n, d) -> (t, b, d)."""
    return (x.unsqueeze(2) @ h).squeeze(2)
