"""The definitions in plain torch, which every faster implementation is compared with.

Any floating dtype (tests use float64), differentiable by autograd; linear in length.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Scanned(NamedTuple):
    """Output (b, l, d) of a selective scan, and the state (b, d, n) that it ends in."""

    y: Tensor
    last_state: Tensor


def scan_with_state(
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
) -> Scanned:
    """The recurrence, step by step. Reversed, the last state is the one after step 0."""
    dt = delta if delta_bias is None else delta + delta_bias
    if delta_softplus:
        dt = F.softplus(dt)
    steps = list(zip(u.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), strict=True))
    h = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])  # (b, d, n)
    outputs = []
    for u_t, dt_t, B_t, C_t in reversed(steps) if reverse else steps:
        h = torch.exp(dt_t.unsqueeze(2) * A) * h + (dt_t * u_t).unsqueeze(2) * B_t.unsqueeze(1)
        outputs.append((h * C_t.unsqueeze(1)).sum(2))
    y = torch.stack(outputs[::-1] if reverse else outputs, dim=1)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * F.silu(z)
    return Scanned(y, h)


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
    return scan_with_state(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse).y


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    """The sum over taps of shifted inputs."""
    length, width = x.shape[1], weight.shape[1]
    padded = F.pad(x, (0, 0, 0, width - 1) if reverse else (0, 0, width - 1, 0))
    shifts = [padded[:, start : start + length] for start in range(width)]
    taps = (weight.flip(1) if reverse else weight).unbind(1)
    s = torch.stack([shift * tap for shift, tap in zip(shifts, taps, strict=True)]).sum(0)
    if bias is not None:
        s = s + bias
    return F.silu(s) if silu else s
