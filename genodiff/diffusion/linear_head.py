"""log p of given tokens by a softmax over a linear head, and its gradients, in one pass.

    logits_i = W h_i + b,    log p_i = logits_i[y_i] - logsumexp(logits_i)

The gradient by the logits, one-hot minus softmax, is at hand where log p is computed. So gradients
are taken there, a chunk of rows at a time: no logits are kept for the backward pass, and none are
computed twice. The gradient by h_i only has to be multiplied by what comes from above; those by W
and b are sums over rows, which need to know beforehand what each row counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def log_softmax_at(
    tokens: Int[Tensor, " m"],
    states: Float[Tensor, "m d"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"],
    *,
    counts: Float[Tensor, " m"] | None,
    rows_at_once: int,
) -> Float[Tensor, " m"]:
    """log p of a token a row, in float32 at least.

    `counts` is what the gradient by each log p will be, up to a common factor, where that is
    known: it spares the backward pass a product and its logits. Where it turns out wrong, and in a
    second backward pass, they are computed again, and gradients are right either way. They cannot
    be differentiated: RuntimeError.
    """
    dtype = F.linear(states[:0], weight[:0]).dtype  # autocast's, where there is one
    if counts is not None:
        counts = counts.to(torch.promote_types(dtype, torch.float32))
    rows = _Rows(tokens, rows_at_once, dtype)
    if torch.is_grad_enabled():
        # pyright does not know what `apply` gives.
        return _LogSoftmaxAt.apply(states, weight, bias, counts, rows)  # pyright: ignore[reportReturnType]
    return torch.cat([log_p for _, log_p, _ in rows.swept(*rows.cast(states, weight, bias))])


@dataclass(frozen=True)
class _Rows:
    """Tokens, and how the logits of their rows are computed: products in `dtype`, all else in
    float32 at least."""

    tokens: Int[Tensor, " m"]
    at_once: int
    dtype: torch.dtype

    def cast(self, *factors: Tensor) -> Iterator[Tensor]:
        return (x.to(self.dtype) for x in factors)

    def swept(
        self, states: Tensor, weight: Tensor, bias: Tensor
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Of every chunk its rows, their log p (n,) and the gradients by their logits (k, n), in
        whose place come those of the next."""
        # Logits lie transposed: MKL writes wide rows of them at two thirds of the speed.
        buffer = weight.new_empty(len(weight), min(self.at_once, len(states)))
        for start in range(0, len(states), self.at_once):
            rows = slice(start, start + self.at_once)
            h = states[rows].T
            logits = torch.addmm(bias[:, None], weight, h, out=buffer[:, : h.shape[1]])
            logits = logits.to(torch.promote_types(self.dtype, torch.float32))
            logits -= logits.amax(0)
            tokens = self.tokens[rows]
            at_tokens = (tokens, torch.arange(len(tokens), device=tokens.device))
            of_tokens = logits[at_tokens]
            total = logits.exp_().sum(0)
            by_logits = logits.div_(-total)
            by_logits[at_tokens] += 1
            yield rows, of_tokens - total.log(), by_logits.to(self.dtype)


class _HeadGradient:
    """The gradient of sum(counts log p) by the head, in float32 at least."""

    def __init__(self, weight: Tensor, counts: Tensor) -> None:
        full = torch.promote_types(weight.dtype, torch.float32)
        self.counts = counts
        self.weight = torch.zeros_like(weight, dtype=full)
        self.bias = weight.new_zeros(len(weight), dtype=full)

    def add(self, rows: slice, by_logits: Tensor, states: Tensor) -> None:
        counts = self.counts[rows].to(by_logits.dtype)
        counted = states[rows] * counts[:, None]
        if self.weight.dtype == by_logits.dtype:
            self.weight.addmm_(by_logits, counted)  # without memory for the product
        else:
            self.weight += by_logits @ counted
        self.bias += by_logits @ counts

    def scaled_to(self, g: Tensor) -> bool:
        """Makes it the gradient of sum(g log p), if but for rounding g is c times the counts."""
        counts = self.counts.double()
        c = (g.double() @ counts) / (counts @ counts)
        expected = c * counts
        rounding = 16 * torch.finfo(g.dtype).eps
        if not bool(((g - expected).abs() <= rounding * expected.abs()).all()):
            return False
        self.weight *= c
        self.bias *= c
        return True


class _LogSoftmaxAt(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor,
        counts: Tensor | None,
        rows: _Rows,
    ) -> Tensor:
        ctx.rows = rows
        needs_states, *needs_head = ctx.needs_input_grad[:3]
        ctx.by_head = None
        if counts is not None and any(needs_head):
            ctx.by_head = _HeadGradient(weight, counts)
        by_states = torch.empty_like(states, dtype=rows.dtype) if needs_states else None
        ctx.save_for_backward(states, weight, bias, by_states)
        states, weight, bias = rows.cast(states, weight, bias)
        log_p = []
        for part, log_p_part, by_logits in rows.swept(states, weight, bias):
            log_p.append(log_p_part)
            if by_states is not None:
                torch.mm(by_logits.T, weight, out=by_states[part])
            if ctx.by_head is not None:
                ctx.by_head.add(part, by_logits, states)
        return torch.cat(log_p)

    @staticmethod
    def backward(ctx: Any, g: Tensor):  # type: ignore[override]  # one gradient, not any number
        # `once_differentiable` lets a g that is constant pass, as if these gradients were too.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph=True: the gradients of a linear head's likelihood have none; take "
                "the likelihood from all logits (log_x0), or a network without `linear_head`."
            )
        states, weight, bias, by_states = ctx.saved_tensors
        if by_states is not None:
            by_states = (by_states * g[:, None]).to(states.dtype)
        if not any(ctx.needs_input_grad[1:3]):
            return by_states, None, None, None, None
        by_head, ctx.by_head = ctx.by_head, None  # it is scaled in place, so good for one pass
        if by_head is None or not by_head.scaled_to(g):
            by_head = _HeadGradient(weight, g)
            states, *head = ctx.rows.cast(states, weight, bias)
            for part, _, by_logits in ctx.rows.swept(states, *head):
                by_head.add(part, by_logits, states)
        by_weight, by_bias = by_head.weight.to(weight.dtype), by_head.bias.to(bias.dtype)
        return by_states, by_weight, by_bias, None, None
