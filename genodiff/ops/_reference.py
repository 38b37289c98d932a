"""The definitions of the kernels in plain torch: what every faster implementation is compared with.

Channel-last, any floating dtype (tests use float64), differentiable by autograd, time and memory linear in length.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class Scanned(NamedTuple):
    """Output (b, l, d) of a selective scan, and the state (b, d, n) that it ends in."""

    y: Tensor
    last_state: Tensor


def selective_scan(
    u: Float[Tensor, "b l d"],
    delta: Float[Tensor, "b l d"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "b l n"],
    C: Float[Tensor, "b l n"],
    D: Float[Tensor, " d"] | None,
    z: Float[Tensor, "b l d"] | None,
    delta_bias: Float[Tensor, " d"] | None,
    delta_softplus: bool,
    reverse: bool,
) -> Scanned:
    """The recurrence of the public function, one step at a time; reversed, the last state is that of step 0."""
    dt = delta if delta_bias is None else delta + delta_bias
    if delta_softplus:
        dt = F.softplus(dt)
    steps = list(zip(u.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), strict=True))
    state = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])  # (b, d, n)
    outputs = []
    for u_t, dt_t, B_t, C_t in reversed(steps) if reverse else steps:
        decay = torch.exp(dt_t.unsqueeze(2) * A)
        state = decay * state + (dt_t * u_t).unsqueeze(2) * B_t.unsqueeze(1)
        outputs.append((state * C_t.unsqueeze(1)).sum(2))
    y = torch.stack(outputs[::-1] if reverse else outputs, dim=1)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * F.silu(z)
    return Scanned(y, state)


def causal_conv1d(
    x: Float[Tensor, "b l d"],
    weight: Float[Tensor, "d width"],
    bias: Float[Tensor, " d"] | None,
    activation: Literal["silu"] | None,
    reverse: bool,
) -> Float[Tensor, "b l d"]:
    """The sum of the public function over shifted inputs."""
    length, width = x.shape[1], weight.shape[1]
    padded = F.pad(x, (0, 0, 0, width - 1) if reverse else (0, 0, width - 1, 0))
    shifted = [padded[:, start : start + length] for start in range(width)]
    taps = weight.flip(1) if reverse else weight
    s = sum((x_j * w_j for x_j, w_j in zip(shifted, taps.unbind(1), strict=True)), torch.zeros_like(x))
    if bias is not None:
        s = s + bias
    return F.silu(s) if activation == "silu" else s
