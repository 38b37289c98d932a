"""The fallback that is always there: plain PyTorch, any floating dtype, size and device.

The scan goes through time in chunks: contractions and elementwise work run over whole chunks, only
the recurrence itself step by step. The forward pass keeps the state before every chunk and the
backward pass recomputes the rest, so memory is that of a few tensors like u, instead of n of them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Of (t, b, n, d) in one chunk, so that the few such tensors in use at once fit a core's cache.
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
    keep_states = torch.is_grad_enabled() and any(x.requires_grad for x in (u, dt, A, B, C))
    y: Tensor = _Scan.apply(u, dt, A, B, C, reverse, keep_states)  # pyright: ignore[reportAssignmentType]
    if D is not None:
        y = torch.addcmul(y, u, D)
    return y if z is None else y * F.silu(z)


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    width = weight.shape[1]
    kernel = weight.flip(1) if reverse else weight
    padded = F.pad(x.transpose(1, 2), (0, width - 1) if reverse else (width - 1, 0))
    s = F.conv1d(padded, kernel.unsqueeze(1), bias, groups=x.shape[2]).transpose(1, 2)
    return F.silu(s) if silu else s


class _Scan(torch.autograd.Function):
    """y_t = C_t h_t with h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t."""

    @staticmethod
    def forward(ctx: Any, u, dt, A, B, C, reverse, keep_states):
        chunks, size = _chunks(u, A, reverse)
        scratch = _Scratch(u, A, size)
        starts = u.new_empty(len(chunks) if keep_states else 1, *scratch.h.shape[1:])
        state, y = torch.zeros_like(starts[0]), torch.empty_like(u)
        for i, chunk in enumerate(chunks):
            u_c, dt_c, B_c, C_c = (_take(x, chunk, reverse) for x in (u, dt, B, C))
            starts[i if keep_states else 0] = state
            h, _ = scratch.states(u_c, dt_c, B_c, state)
            state.copy_(h[-1])
            _put(y, chunk, reverse, _contract_states(C_c, h[1:]))
        if keep_states:
            ctx.save_for_backward(u, dt, A, B, C, starts)
            ctx.reverse = reverse
        return y

    @staticmethod
    @once_differentiable  # its type hides the names of the parameters:
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (dy,) = grad_outputs
        u, dt, A, B, C, starts = ctx.saved_tensors
        reverse = ctx.reverse
        chunks, size = _chunks(u, A, reverse)
        scratch = _Scratch(u, A, size)
        du, ddt, dB, dC = (torch.empty_like(x) for x in (u, dt, B, C))
        dA, carry = torch.zeros_like(scratch.A), torch.zeros_like(starts[0])
        dh_buffer = torch.empty_like(scratch.decay)
        for chunk, start in reversed(list(zip(chunks, starts, strict=True))):
            u_c, dt_c, B_c, C_c, dy_c = (_take(x, chunk, reverse) for x in (u, dt, B, C, dy))
            h, decay = scratch.states(u_c, dt_c, B_c, start)
            dh = torch.mul(dy_c.unsqueeze(2), C_c.unsqueeze(3), out=dh_buffer[: len(dy_c)])
            dh[-1] += carry
            steps, decays = dh.unbind(0), decay.unbind(0)
            for i in range(len(steps) - 1, 0, -1):
                steps[i - 1].addcmul_(decays[i], steps[i])
            torch.mul(decay[0], dh[0], out=carry)
            _put(dC, chunk, reverse, (h[1:] @ dy_c.unsqueeze(3)).squeeze(3))
            _put(dB, chunk, reverse, (dh @ (dt_c * u_c).unsqueeze(3)).squeeze(3))
            dh_B = _contract_states(B_c, dh)
            _put(du, chunk, reverse, dt_c * dh_B)
            d_dtA = dh.mul_(decay).mul_(h[:-1])
            dA += torch.mul(d_dtA, dt_c.unsqueeze(2), out=decay).sum((0, 1))
            _put(ddt, chunk, reverse, d_dtA.mul_(scratch.A).sum(2).addcmul_(u_c, dh_B))
        return du, ddt, dA.t(), dB, dC, None, None


class _Scratch:
    """The large tensors of a chunk, written anew for each: fresh memory would cost more time."""

    def __init__(self, u: Tensor, A: Tensor, size: int) -> None:
        self.A = A.t().contiguous()  # (n, d); broadcasting the view instead is far slower
        self.decay = u.new_empty(size, u.shape[0], *self.A.shape)  # (t, b, n, d)
        self.h = u.new_empty(size + 1, u.shape[0], *self.A.shape)

    def states(self, u: Tensor, dt: Tensor, B: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """h (t + 1, b, n, d), before the chunk and after each step; exp(dt_t A) (t, b, n, d)."""
        h, decay = self.h[: len(u) + 1], self.decay[: len(u)]
        torch.mul(dt.unsqueeze(2), self.A, out=decay).exp_()
        torch.mul((dt * u).unsqueeze(2), B.unsqueeze(3), out=h[1:])
        h[0] = start
        states = h.unbind(0)
        for i, step in enumerate(decay.unbind(0)):
            states[i + 1].addcmul_(step, states[i])
        return h, decay


def _chunks(u: Tensor, A: Tensor, reverse: bool) -> tuple[list[slice], int]:
    """The pieces of time in the order in which they are scanned, and the size of the largest."""
    b, l, d = u.shape
    size = min(l, max(8, min(256, _CHUNK_ELEMENTS // (b * d * A.shape[1]))))
    pieces = [slice(start, min(l, start + size)) for start in range(0, l, size)]
    return pieces[::-1] if reverse else pieces, size


def _take(x: Tensor, chunk: slice, reverse: bool) -> Tensor:
    """Time-major rows (t, b, k) of a chunk, in the order in which they are scanned."""
    rows = x[:, chunk].transpose(0, 1)
    return rows.flip(0) if reverse else rows


def _put(x: Tensor, chunk: slice, reverse: bool, rows: Tensor) -> None:
    x[:, chunk] = (rows.flip(0) if reverse else rows).transpose(0, 1)


def _contract_states(x: Tensor, h: Tensor) -> Tensor:
    """sum_n x_n h_n: (t, b, n), (t, b, n, d) -> (t, b, d)."""
    return (x.unsqueeze(2) @ h).squeeze(2)
