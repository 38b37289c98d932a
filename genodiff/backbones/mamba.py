"""Mamba's mixer in one and in two directions.

    x, z = split(W_in h)
    u    = silu(causal_conv(x))
    dt, B, C = split(W_x u)
    y    = scan(u, W_dt dt, A, B, C) + D u      (genodiff.ops.selective_scan)
    out  = W_out (y * silu(z))

Gu & Dao 2023 (arXiv:2312.00752), section 3.4. Nothing is ever flipped or transposed: tensors are
channel-last, and the other direction is a `reverse` flag of the convolution and the scan.

Padding is hidden by x = 0 and u = 0 there: the state stays 0 until the first token comes, from
either side, and amid a row it only decays.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from genodiff.backbones.base import require_positive
from genodiff.backbones.blocks import Blocks, Reading, each_block
from genodiff.errors import UserError
from genodiff.ops import causal_conv1d, selective_scan, stateful_scan

# Initial time steps are log-uniform in this range (Gu & Dao 2023, section 3.6).
_DT_MIN, _DT_MAX, _DT_FLOOR = 1e-3, 1e-1, 1e-4

STRATEGIES = ("add", "ew_multiply")


class SelectiveSSM(nn.Module):
    """Convolution and selective scan of one direction, without the projections in and out.

    `dt_rank` is the rank of the map to time steps. With `reverse`, position l - 1 comes first.
    """

    def __init__(
        self, d_inner: int, d_state: int, d_conv: int, dt_rank: int, *, reverse: bool = False
    ) -> None:
        super().__init__()
        self.widths = [dt_rank, d_state, d_state]
        self.reverse = reverse
        self.conv_weight = nn.Parameter(
            torch.empty(d_inner, d_conv).uniform_(-1, 1) / math.sqrt(d_conv)
        )
        self.conv_bias = nn.Parameter(torch.empty(d_inner).uniform_(-1, 1) / math.sqrt(d_conv))
        self.x_proj = nn.Linear(d_inner, sum(self.widths), bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        log_dt = torch.empty(d_inner).uniform_(math.log(_DT_MIN), math.log(_DT_MAX))
        dt = log_dt.exp().clamp(min=_DT_FLOOR)
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus^-1(dt)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1.0).log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue] (the optimizer reads it)

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        z: Float[Tensor, "b l d"] | None = None,
        blocks: Blocks | None = None,
    ) -> Float[Tensor, "b l d"]:
        """y, or y * silu(z).

        In blocks, `reverse` begins anew at the end of each; the other direction goes through all
        of them, or on from the clean ones where these are given, or from what has been read.
        """
        padding = _padding_at(x, blocks)
        if blocks is None or not (blocks.given or blocks.reading is not None or self.reverse):
            return self._go_through(x, padding, z)
        if self.reverse:
            y = each_block(self._go_through, x, padding, blocks.length)
        elif blocks.reading is not None:
            y = self._read_on(x, padding, blocks.reading)
        else:
            y = self._continue_clean(x, padding, blocks.length)
        return y if z is None else y * F.silu(z)

    def _go_through(
        self,
        x: Float[Tensor, "b l d"],
        padding: Bool[Tensor, "b l"] | None,
        z: Float[Tensor, "b l d"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """y, or y * silu(z), of whole sequences."""
        u = causal_conv1d(x, self.conv_weight, self.conv_bias, reverse=self.reverse)
        inputs = self._scan_inputs(_silenced(u, padding))
        return selective_scan(*inputs, self.D, z, self.dt_proj.bias, reverse=self.reverse)

    def _scan_inputs(
        self, u: Float[Tensor, "b l d"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """u, delta, A, B, C."""
        dt, B, C = self.x_proj(u).split(self.widths, dim=-1)
        # The scan adds the bias, in float32 whatever autocast makes of the product. Against a
        # contiguous (rank, d_inner), as the gradients of F.linear are 3 to 7 times slower on CPU.
        delta = dt @ self.dt_proj.weight.t().contiguous()
        A = -self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)).exp()
        return u, delta, A, B, C

    def _continue_clean(
        self, x: Float[Tensor, "b l d"], padding: Bool[Tensor, "b l"] | None, length: int
    ) -> Float[Tensor, "b l d"]:
        """y of a batch [x ; clean]: each block of x goes on from where the clean block before it
        ended, with the state and the last inputs of that one."""
        x, clean = x.chunk(2)
        padding, clean_padding = (None, None) if padding is None else padding.chunk(2)
        (b, l, d), before = x.shape, self.conv_weight.shape[1] - 1
        u = _silenced(causal_conv1d(clean, self.conv_weight, self.conv_bias), clean_padding)
        y_clean, states = stateful_scan(
            *self._scan_inputs(u), self.D, self.dt_proj.bias, every=min(length, l)
        )
        n_blocks = -(-l // length)
        states = F.pad(states, (0, 0, 0, 0, 1, 0))[:, :n_blocks]  # (b, n_blocks, d, n)
        inputs = F.pad(clean, (0, 0, before, length)).unfold(1, before, length)[:, :n_blocks]
        # What fills the last block is after all that counts.
        x = F.pad(x, (0, 0, 0, n_blocks * length - l)).unflatten(1, (n_blocks, length))
        rows = torch.cat([inputs.transpose(2, 3), x], dim=2).flatten(0, 1)
        if padding is not None:
            padding = F.pad(padding, (0, n_blocks * length - l)).view(-1, length)
        u = causal_conv1d(rows, self.conv_weight, self.conv_bias)[:, before:]
        u = _silenced(u, padding)
        y, _ = stateful_scan(
            *self._scan_inputs(u), self.D, self.dt_proj.bias, initial=states.flatten(0, 1)
        )
        return torch.cat([y.reshape(b, -1, d)[:, :l], y_clean])

    def _read_on(
        self, x: Float[Tensor, "b l d"], padding: Bool[Tensor, "b l"] | None, reading: Reading
    ) -> Float[Tensor, "b l d"]:
        """y of steps that go on from the last inputs and the state of a memory."""
        before = self.conv_weight.shape[1] - 1
        inputs, state = reading.memory.layers.get(self, (None, None))
        rows = F.pad(x, (0, 0, before, 0)) if inputs is None else torch.cat([inputs, x], dim=1)
        if x.shape[1] == 1:
            y, state = self._step(rows, padding, state)
        else:
            u = causal_conv1d(rows, self.conv_weight, self.conv_bias)[:, before:]
            u = _silenced(u, padding)
            every = x.shape[1] if reading.keep else None
            y, states = stateful_scan(
                *self._scan_inputs(u), self.D, self.dt_proj.bias, initial=state, every=every
            )
            state = states[:, -1] if reading.keep else None
        if reading.keep and state is not None:
            reading.memory.layers[self] = rows[:, rows.shape[1] - before :], state
        return y

    def _step(
        self,
        rows: Float[Tensor, "b width d"],
        padding: Bool[Tensor, "b 1"] | None,
        state: Float[Tensor, "b d n"] | None,
    ) -> tuple[Float[Tensor, "b 1 d"], Float[Tensor, "b d n"]]:
        """y and the state after the last of as many inputs as the convolution has taps: the
        recurrence as it is written, for which one step is too little to call a kernel."""
        u = F.silu((rows * self.conv_weight.t()).sum(1, keepdim=True) + self.conv_bias)
        u, delta, A, B, C = self._scan_inputs(_silenced(u, padding))
        u, delta, B, C = (
            x[:, 0].to(torch.promote_types(x.dtype, A.dtype)) for x in (u, delta, B, C)
        )
        dt = F.softplus(delta + self.dt_proj.bias)
        gain = (dt * u).unsqueeze(-1) * B.unsqueeze(1)  # (b, d, n)
        state = gain if state is None else state * (dt.unsqueeze(-1) * A).exp() + gain
        y = (state @ C.unsqueeze(-1)).squeeze(-1) + self.D * u
        return y.unsqueeze(1).to(rows.dtype), state


class Mamba(nn.Module):
    """Mamba's mixer: position i sees positions up to i.

    Args:
        d_model: width of input and output.
        d_state: states a channel.
        d_conv: taps of the convolution.
        expand: inner channels a channel of `d_model`.
        dt_rank: rank of the map to time steps; "auto" is ceil(d_model / 16).
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        d_inner, dt_rank = _inner_sizes(d_model, d_state, d_conv, expand, dt_rank)
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.ssm = SelectiveSSM(d_inner, d_state, d_conv, dt_rank)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self, h: Float[Tensor, "b l d"], blocks: Blocks | None = None
    ) -> Float[Tensor, "b l d"]:
        x, z = _project_in(self.in_proj, _silenced(h, _padding_at(h, blocks)))
        return self.out_proj(self.ssm(x, z, blocks))


class BiMamba(nn.Module):
    """The mixer of Caduceus: Mamba(h) + flip(Mamba'(flip(h))), or their product.

    Schiff et al. 2024 (arXiv:2403.03234), section 4.1. With `tie_projections` the directions share
    the projections in and out and differ in the rest. A tied sum needs one product with each:
    W_out (y z' + y' z') = W_out ((y + y') z').

    Args:
        strategy: "add" or "ew_multiply", how the directions meet.
        tie_projections: whether the directions share `in_proj` and `out_proj`.
        d_model, d_state, d_conv, expand, dt_rank: as in `Mamba`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        strategy: str = "add",
        tie_projections: bool = True,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        if strategy not in STRATEGIES:
            raise UserError(
                f"bidirectional_strategy={strategy} is unknown; use {' or '.join(STRATEGIES)}."
            )
        d_inner, dt_rank = _inner_sizes(d_model, d_state, d_conv, expand, dt_rank)
        self.strategy = strategy
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.forward_ssm = SelectiveSSM(d_inner, d_state, d_conv, dt_rank)
        self.reverse_ssm = SelectiveSSM(d_inner, d_state, d_conv, dt_rank, reverse=True)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self.reverse_in_proj = (
            None if tie_projections else nn.Linear(d_model, 2 * d_inner, bias=False)
        )
        self.reverse_out_proj = (
            None if tie_projections else nn.Linear(d_inner, d_model, bias=False)
        )

    def forward(
        self, h: Float[Tensor, "b l d"], blocks: Blocks | None = None
    ) -> Float[Tensor, "b l d"]:
        h = _silenced(h, _padding_at(h, blocks))
        x, z = _project_in(self.in_proj, h)
        if self.reverse_in_proj is None and self.strategy == "add":
            ys = self.forward_ssm(x, blocks=blocks), self.reverse_ssm(x, blocks=blocks)
            return self.out_proj(_GatedSum.apply(*ys, z))
        forward = self.out_proj(self.forward_ssm(x, z, blocks))
        if self.reverse_in_proj is not None:
            x, z = _project_in(self.reverse_in_proj, h)
        reverse = (self.reverse_out_proj or self.out_proj)(self.reverse_ssm(x, z, blocks))
        return forward + reverse if self.strategy == "add" else forward * reverse


class _GatedSum(torch.autograd.Function):
    """(a + b) * silu(z), keeping the sum and z alone: 4 % off a training step on CPU."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, z: Tensor) -> Tensor:
        y = a + b
        ctx.save_for_backward(y, z)
        return F.silu(z).mul_(y)

    @staticmethod
    @once_differentiable  # its type hides the names of the parameters:
    def backward(ctx: Any, g: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        y, z = ctx.saved_tensors
        dy = F.silu(z).mul_(g)
        return dy, dy, torch.ops.aten.silu_backward(g * y, z)


def _project_in(
    in_proj: nn.Linear, h: Float[Tensor, "b l d"]
) -> tuple[Float[Tensor, "b l d_inner"], Float[Tensor, "b l d_inner"]]:
    """x and z. One product for each: the gradients of a split would be copied into one tensor."""
    x, z = (F.linear(h, half) for half in in_proj.weight.chunk(2))
    return x, z


def _padding_at(x: Float[Tensor, "b l d"], blocks: Blocks | None) -> Bool[Tensor, "b l"] | None:
    """Where these positions are padding that is to be hidden: they are the last."""
    if blocks is None or blocks.padding is None:
        return None
    return blocks.padding[:, -x.shape[1] :]


def _silenced(
    x: Float[Tensor, "b l d"], padding: Bool[Tensor, "b l"] | None
) -> Float[Tensor, "b l d"]:
    """x, and 0 at padding."""
    return x if padding is None else x.masked_fill(padding.unsqueeze(-1), 0)


def _inner_sizes(
    d_model: int, d_state: int, d_conv: int, expand: int, dt_rank: int | Literal["auto"]
) -> tuple[int, int]:
    """(d_inner, dt_rank) of valid sizes."""
    rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
    require_positive(d_model=d_model, d_state=d_state, d_conv=d_conv, expand=expand, dt_rank=rank)
    return expand * d_model, rank
