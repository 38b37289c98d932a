"""Samplers that reveal masks and leave them: in random order, in an order of the network's own, a
few at a time or as many as it is sure of.

All need a process that masks. A token that is revealed alone is drawn given everything that is
seen: one at a time, every order follows the law of an exact denoiser. What costs fidelity is to
draw several apart; `tests/diffusion/test_revealing.py` has the exact figures for a small world.
"""

import abc
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from genodiff.diffusion import categorical
from genodiff.diffusion.denoiser import Denoiser
from genodiff.diffusion.plan import Plan, open_masks, plan_of_levels, plan_of_steps, reveal
from genodiff.diffusion.process import Absorbing, absorbing
from genodiff.diffusion.sampling import Sampler, check_steps
from genodiff.errors import UserError

Score = Literal["confidence", "margin", "entropy"]
Order = Literal["random", "confidence", "margin", "entropy"]
Grid = Literal["uniform", "cosine"]


@dataclass(frozen=True)
class FirstHitting(Sampler):
    """Reveals one token a row and call, at the exact times at which the reverse process would.

    Zheng et al. 2024 (arXiv:2409.02908): exact in law, no grid. With n masks left at mask rate m
    the next is revealed at mask rate m u^(1/n), and is any of them: together, the masks are
    revealed at mask rates that are independent and uniform. As many calls as the row with the most
    masks has.
    """

    draw: categorical.Draw = categorical.draw

    def restore(
        self,
        denoiser: Denoiser,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        process = absorbing(denoiser.process, "FirstHitting")
        if not denoiser.reveals_at_random:
            raise UserError(
                f"FirstHitting with a {type(denoiser).__name__} whose network decides when a mask "
                "is revealed: these times cannot be drawn beforehand; use sampler=ancestral."
            )
        schedule = process.schedule
        u = torch.rand(x.shape, dtype=torch.float64, device=x.device, generator=generator)
        start = schedule.mask_rate(torch.ones(1, 1, dtype=torch.float64, device=x.device))
        plan = plan_of_levels(u * start, open_masks(process, x, frozen))
        times = schedule.inverse(1 - plan.t.clamp(min=0))
        return reveal(denoiser, x, plan._replace(t=times), self.draw, generator)


class Ranked(NamedTuple):
    """The masks of each row from the surest to the least sure; the rest of a row is padding."""

    confidence: Tensor  # (b, l): the largest probability; 0 at padding
    entropy: Tensor  # (b, l): nats; infinite at padding
    left: Tensor  # (b,): masks


class InOrder(Sampler, abc.ABC):
    """Reveals the masks that the network is surest of first; subclasses say how many at a time.

    Sure is measured by `order`: the probability of the likeliest token (Chang et al. 2022,
    arXiv:2202.04200), its distance from the second (Kim et al. 2025, arXiv:2502.06768), or minus
    the entropy. Ties are broken at random. The token is then drawn, not taken as the likeliest:
    wrap the denoiser for a temperature. A network that is told the time is told the one at which
    the share that is left would be masked.
    """

    order: Score
    draw: categorical.Draw

    @abc.abstractmethod
    def count(self, ranked: Ranked, masks: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """How many of the first in each row are revealed now, 1 or more; `masks` is how many there
        were at the start."""

    def restore(
        self,
        denoiser: Denoiser,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        process = absorbing(denoiser.process, type(self).__name__)
        free = open_masks(process, x, frozen)
        masks, x_t = free.sum(-1), x.clone()
        rows = masks.nonzero()[:, 0]
        while len(rows):
            where, left = free[rows], free[rows].sum(-1)
            t = _time_of_share(process, left.double() / masks[rows])
            proposal = denoiser.propose_at(x_t[rows], t, where)
            position, ranked = self._rank(proposal.log_p, where, generator)
            n = self.count(ranked, masks[rows]).clamp(min=1).minimum(left)
            first = torch.arange(where.shape[1], device=x.device) < n[:, None]
            now = torch.zeros_like(where).scatter(-1, position, first)
            drawn = proposal.draw(now[where], generator, self.draw)
            x_t[rows] = x_t[rows].masked_scatter(now, drawn)
            free[rows] = where & ~now
            rows = rows[free[rows].any(-1)]
        return x_t

    def _rank(
        self, log_p: Float[Tensor, "m k"], where: Bool[Tensor, "r l"], generator: Generator | None
    ) -> tuple[Int[Tensor, "r l"], Ranked]:
        """The positions of each row in order, and what is known of them."""
        best, entropy = _best_and_entropy(log_p)
        match self.order:
            case "confidence":
                score = best[:, 0]
            case "margin":
                score = best[:, 0] - best[:, -1]
            case "entropy":
                score = -entropy
        lottery = torch.rand(
            where.shape, dtype=torch.float64, device=where.device, generator=generator
        ).argsort(-1)

        def padded(values: Tensor, padding: float) -> Float[Tensor, "r l"]:
            full = torch.full(where.shape, padding, dtype=values.dtype, device=values.device)
            return full.masked_scatter(where, values)

        shuffled = padded(score, -torch.inf).gather(-1, lottery)
        order = shuffled.sort(dim=-1, descending=True, stable=True).indices
        position = lottery.gather(-1, order)
        return position, Ranked(
            padded(best[:, 0], 0.0).gather(-1, position),
            padded(entropy, torch.inf).gather(-1, position),
            where.sum(-1),
        )


@dataclass(frozen=True)
class Parallel(InOrder):
    """As many masks a step as a grid says: of n masks n r(j / steps) are left after step j, with
    r(u) = 1 - u (uniform) or cos(pi u / 2) (cosine, Chang et al. 2022, arXiv:2202.04200).

    In random order the numbers of `Ancestral` without their chance, and its law as steps grow; in
    the others, decoding by confidence as in MaskGIT and LLaDA (Nie et al. 2025,
    arXiv:2502.09992). Steps in which nothing would be revealed cost nothing.
    """

    steps: int
    grid: Grid = "uniform"
    order: Order = "random"  # pyright: ignore[reportIncompatibleVariableOverride]  # one more
    draw: categorical.Draw = categorical.draw

    def __post_init__(self) -> None:
        check_steps(self.steps)
        _check_choice("grid", self.grid, Grid)
        _check_choice("order", self.order, Order)

    def restore(
        self,
        denoiser: Denoiser,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        if self.order != "random":
            return super().restore(denoiser, x, frozen, generator)
        process = absorbing(denoiser.process, "Parallel")
        plan = self.plan(process, open_masks(process, x, frozen), generator)
        return reveal(denoiser, x, plan, self.draw, generator)

    def plan(
        self, process: Absorbing, free: Bool[Tensor, "b l"], generator: Generator | None
    ) -> Plan:
        """Random order: which of the free masks are revealed together."""
        u = torch.rand(free.shape, dtype=torch.float64, device=free.device, generator=generator)
        rank = plan_of_levels(u, free).turn
        shown = free.sum(-1, keepdim=True) - self._left(free.sum(-1))  # (b, steps + 1)
        step = torch.searchsorted(shown[:, 1:].contiguous(), rank.clamp(min=0), right=True)
        times = _time_of_share(process, self._shares(free.device))[:, 0]
        return plan_of_steps(step, times, free)

    def count(self, ranked: Ranked, masks: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        left, now = self._left(masks), ranked.left[:, None]
        return ranked.left - torch.where(left < now, left, 0).amax(-1)

    def _left(self, masks: Int[Tensor, " b"]) -> Int[Tensor, "b n"]:
        """Masks left after 0, 1, .. steps."""
        return (masks[:, None] * self._shares(masks.device)).round().long()

    def _shares(self, device: torch.device) -> Float[Tensor, " n"]:
        """The share that is left after 0, 1, .. steps."""
        u = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64, device=device)
        return 1 - u if self.grid == "uniform" else (math.pi / 2 * u).cos().clamp(min=0)


@dataclass(frozen=True)
class Threshold(InOrder):
    """All masks whose likeliest token has a probability of `threshold` or more, and at least one.

    Wu et al. 2025 (Fast-dLLM, arXiv:2505.22618). A threshold of 1 reveals one at a time, or
    several that are certain.
    """

    threshold: float = 0.9
    draw: categorical.Draw = categorical.draw

    order = "confidence"

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UserError(
                f"threshold={self.threshold} is a probability, in (0, 1]; use e.g. 0.9."
            )

    def count(self, ranked: Ranked, masks: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        return (ranked.confidence >= self.threshold).long().cumprod(-1).sum(-1)


@dataclass(frozen=True)
class EntropyBounded(InOrder):
    """As many masks as keep the error of drawing them apart below `bound` nats: the sum of their
    entropies without the largest.

    Ben-Hamu et al. 2025 (EB-sampler, arXiv:2505.24857). That sum bounds the KL divergence of the
    product of marginals from the joint law; a bound of 0 reveals one at a time, or several that
    are certain.
    """

    bound: float = 0.5
    order: Score = "entropy"
    draw: categorical.Draw = categorical.draw

    def __post_init__(self) -> None:
        _check_choice("order", self.order, Score)
        if not 0 <= self.bound < math.inf:
            raise UserError(f"bound={self.bound} is in nats, 0 or more; use e.g. 0.5.")

    def count(self, ranked: Ranked, masks: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        error = ranked.entropy.cumsum(-1) - ranked.entropy.cummax(-1).values
        within = (error <= self.bound) & ranked.entropy.isfinite()
        return within.long().cumprod(-1).sum(-1)


def _best_and_entropy(
    log_p: Float[Tensor, "m k"],
) -> tuple[Float[Tensor, "m n"], Float[Tensor, " m"]]:
    """The two largest probabilities (one where there is but one token), and nats; float64."""
    best, entropy = [], []
    for (part,) in categorical.in_parts(log_p):
        p = part.double().exp()
        best.append(p.topk(min(2, p.shape[-1]), dim=-1).values)
        entropy.append(-torch.xlogy(p, p).sum(-1))
    return torch.cat(best), torch.cat(entropy)


def _time_of_share(process: Absorbing, share: Float[Tensor, " n"]) -> Float[Tensor, "n 1"]:
    """The time at which that share of the masks at t=1 is left."""
    start = process.schedule.mask_rate(torch.ones_like(share, dtype=torch.float64))
    return process.schedule.inverse(1 - start * share)[:, None]


def _check_choice(name: str, value: str, choices: object) -> None:
    known = cast(tuple[str, ...], get_args(choices))
    if value not in known:
        raise UserError(f"{name}={value!r} is not one of {', '.join(map(repr, known))}.")
