"""Denoisers: all that a sampler or an objective ever sees of a model.

A denoiser says log p(x_0), as its process takes it, and by the process the transition p(x_s |
x_t). What changes a model's behaviour (a cache, guidance, another schedule) is a denoiser that
wraps a denoiser.
"""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from genodiff.diffusion import categorical
from genodiff.diffusion.chunked_head import Readout, in_chunks, raised, readout_at
from genodiff.diffusion.parameterization import Parameterization
from genodiff.diffusion.process import (
    Absorbing,
    Process,
    absorbing,
    log_expm1,
    log_indicator,
    log_one_hot,
)
from genodiff.errors import UserError

Said = Literal["log_x0", "log_score"]
"""Methods of a denoiser that say a number of every token of the vocabulary."""


class Denoiser(nn.Module, abc.ABC):
    """log p(x_0) given x_t, under a process. `time_conditioning`: whether it also depends on t.

    The methods that end in `_at` give m rows, those of the positions `where` in the order of
    `tensor[where]`: who needs few positions asks for those, and a network computes its head there
    alone.
    """

    process: Process
    time_conditioning: bool

    @property
    def reveals_at_random(self) -> bool:
        """Whether nothing that the network says moves the time at which a mask is revealed: from t
        to s each is with probability (m_t - m_s) / m_t, m the mask rate, and then it is a data
        token. Samplers may then draw all these times beforehand."""
        return False

    @abc.abstractmethod
    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        """log p(x_0), normalised over k, at least float32.

        For masking that is log p(x_0 | x_t); see `Process` for others.
        """

    def log_transition(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l k"]:
        """log p(x_s | x_t) for s <= t."""
        return self.process.log_posterior(x_t, self.log_x0(x_t, t, condition), t, s)

    def log_x0_at(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "m k"]:
        """`log_x0` at the positions `where`."""
        return self.log_x0(x_t, t, condition)[where]

    def log_transition_at(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "m k"]:
        """`log_transition` at the positions `where`."""
        return self.log_transition(x_t, t, s, condition)[where]

    def log_likelihood_at(
        self,
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
        *,
        weight: Float[Tensor, "b #l"] | None = None,
    ) -> Float[Tensor, " m"]:
        """log p(x_0) of the given x_0 at the positions `where`.

        `weight`: what each counts in a loss, up to a common factor, if that is known beforehand.
        It may save time in the backward pass, and changes nothing else.
        """
        log_x0 = self.log_x0_at(x_t, t, where, condition)
        return log_x0.gather(-1, x0[where][:, None])[:, 0]

    def propose_at(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], where: Bool[Tensor, "b l"]
    ) -> "Proposal":
        """p(x_0 | x_t) at the positions `where`, over the data tokens."""
        log_x0 = self.log_x0_at(x_t, t, where)
        if self.reveals_at_random:
            return Proposal(log_x0)
        rows = (rows_at(x_t, where), log_x0[None], rows_at(t, where))
        return Proposal(self.process.log_clean(*rows)[0])

    def given(self, x0: Int[Tensor, "b l"]) -> "Denoiser":
        """The denoiser that scores how x0 is restored: this one, but of block diffusion the one
        whose blocks are given the clean blocks of x0 before them."""
        return self

    def log_score(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        """log of the concrete score q_t(y) / q_t(x_t)."""
        return self.process.log_score(x_t, self.log_x0(x_t, t, condition), t)

    def read_at(
        self,
        said: Said,
        read: Callable[..., Float[Tensor, " n"]],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        rows: Sequence[Tensor],
        condition: Tensor | None = None,
    ) -> Float[Tensor, " m"]:
        """read(log_y (n, k), *rows) of the positions `where`, which takes each for itself; log_y
        is what the method `said` says there. In chunks where all of it at once would be large,
        which the backward pass computes again."""
        if said == "log_x0":
            log_y = self.log_x0_at(x_t, t, where, condition)
        else:
            log_y = self.log_score(x_t, t, condition)[where]
        return in_chunks(read, self.process.vocab_size, log_y, *rows)


class Proposal:
    """What a denoiser says of m tokens at one time: to look at, and to draw x_0 from.

    A subclass may draw tokens that depend on each other (see `Constrained`).
    """

    def __init__(self, log_p: Float[Tensor, "m k"]) -> None:
        self.log_p = log_p

    def draw(
        self,
        chosen: Bool[Tensor, " m"] | None,
        generator: Generator | None,
        draw: categorical.Draw = categorical.draw,
    ) -> Int[Tensor, " n"]:
        """Draws the chosen of the m tokens; None for all."""
        return draw(self.log_p if chosen is None else self.log_p[chosen], generator)

    def log_weight(
        self, tokens: Int[Tensor, " n"], chosen: Bool[Tensor, " m"] | None = None
    ) -> Float[Tensor, "#b"]:
        """log p(tokens) - log q(tokens) of each row, where q is what they were drawn from and p
        what the model says of them: 0 unless tokens are drawn together."""
        return self.log_p.new_zeros(1, dtype=torch.float64)


class NetworkDenoiser(Denoiser):
    """A network read by a parameterization.

    `network(tokens (b, l), sigma (b, #l) | None[, condition]) -> logits (b, l, k)` is any module;
    of one with `hidden` and `head` the head is computed only where it is needed. With
    `time_conditioning` it is told sigma(t) in float32, or t itself with `told="time"` (as MDLM
    does under its change of variables); without, None. Logits are raised to float32 at least, here
    and nowhere else.
    """

    def __init__(
        self,
        network: nn.Module,
        process: Process,
        parameterization: Parameterization,
        time_conditioning: bool = False,
        *,
        told: Literal["sigma", "time"] = "sigma",
    ) -> None:
        super().__init__()
        parameterization.check(process)
        if time_conditioning and not bool(process.schedule.sigma(torch.ones(1)).isfinite().all()):
            raise UserError(
                f"time_conditioning=True with {process.schedule}: sigma(1) is infinite; "
                "use a schedule with eps > 0."
            )
        self.network = network
        self.process = process
        self.parameterization = parameterization
        self.time_conditioning = time_conditioning
        self.told: Literal["sigma", "time"] = told

    @property
    def reveals_at_random(self) -> bool:
        return isinstance(self.process, Absorbing) and self.parameterization.data_only

    def logits(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        """What the network says, in float32 at least."""
        return raised(self.network(*self._arguments(x_t, t, condition)), self.process.vocab_size)

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        logits = self.logits(x_t, t, condition)
        return self.parameterization.log_x0(logits, x_t, t, self.process)

    def log_x0_at(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "m k"]:
        logits = self._readout_at(x_t, t, where, condition).logits()
        rows = (rows_at(x_t, where), rows_at(t, where), self.process)
        return self.parameterization.log_x0(logits[None], *rows)[0]

    def log_transition_at(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "m k"]:
        log_x0 = self.log_x0_at(x_t, t, where, condition)[None]
        rows = (rows_at(x_t, where), log_x0, rows_at(t, where), rows_at(s, where))
        return self.process.log_posterior(*rows)[0]

    def log_likelihood_at(
        self,
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
        *,
        weight: Float[Tensor, "b #l"] | None = None,
    ) -> Float[Tensor, " m"]:
        """In chunks where all logits at once would be large: never more than one chunk's exist."""
        readout = self._readout_at(x_t, t, where, condition)
        if weight is not None:
            readout = replace(readout, counts=rows_at(weight, where)[0])
        x0, x_t, t = (rows_at(x, where)[0] for x in (x0, x_t, t))
        return self.parameterization.log_likelihood(readout, x0, x_t, t, self.process)

    def log_score(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        logits = self.logits(x_t, t, condition)
        return self.parameterization.log_score(logits, x_t, t, self.process)

    def read_at(
        self,
        said: Said,
        read: Callable[..., Float[Tensor, " n"]],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        rows: Sequence[Tensor],
        condition: Tensor | None = None,
    ) -> Float[Tensor, " m"]:
        meaning = getattr(self.parameterization, said)

        def of(logits: Tensor, x_t: Tensor, t: Tensor, *rows: Tensor) -> Tensor:
            return read(meaning(logits[None], x_t[None], t[None], self.process)[0], *rows)

        readout = self._readout_at(x_t, t, where, condition)
        return readout.by_row(of, rows_at(x_t, where)[0], rows_at(t, where)[0], *rows)

    def _arguments(
        self, x_t: Tensor, t: Tensor, condition: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """What the network is called with."""
        sigma = None
        if self.time_conditioning:
            sigma = self.process.schedule.sigma(t) if self.told == "sigma" else t
            sigma = sigma.to(torch.float32)
        return (x_t, sigma) if condition is None else (x_t, sigma, condition)

    def _readout_at(
        self, x_t: Tensor, t: Tensor, where: Tensor, condition: Tensor | None
    ) -> Readout:
        arguments = self._arguments(x_t, t, condition)
        return readout_at(self.network, arguments, where, self.process.vocab_size)


class Cached(Denoiser):
    """The wrapped denoiser, evaluated only on rows whose tokens changed since the last call.

    Ou et al. 2024 (RADD, arXiv:2406.03736): in expectation at most min(steps, length) evaluations
    a row. A row is served from the cache while its time falls, as it does within one run of a
    sampler; a new run starts at t=1 and is evaluated afresh, so a network that was trained in
    between is never served stale. No gradients.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        require_own_transition(denoiser, "Cached")
        if denoiser.time_conditioning:
            raise ValueError(
                f"Cached({type(denoiser).__name__}) with time_conditioning=True: the output "
                "changes with t even where tokens do not; use the denoiser without Cached, or "
                "train one with time_conditioning=False."
            )
        self.denoiser = denoiser
        self.process = denoiser.process
        self.time_conditioning = False
        self._kept = RowCache()

    @property
    def reveals_at_random(self) -> bool:
        return self.denoiser.reveals_at_random

    def given(self, x0: Int[Tensor, "b l"]) -> Denoiser:
        return Cached(self.denoiser.given(x0))

    @torch.no_grad()
    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        return self._kept.get(self.denoiser.log_x0, x_t, t, condition)


def cached(denoiser: Denoiser) -> Denoiser:
    """The denoiser in a `Cached` where that changes nothing but the cost; else itself."""
    if denoiser.time_conditioning or isinstance(denoiser, Cached) or _has_own(denoiser):
        return denoiser
    return Cached(denoiser)


class RowCache:
    """What was last said of each row of a batch; asked anew where tokens changed or the time did
    not fall."""

    def __init__(self) -> None:
        self._last: _Evaluation | None = None

    def get(
        self,
        ask: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        condition: Tensor | None,
    ) -> Float[Tensor, "b l k"]:
        """ask(x_t, t, condition), which of each row depends on its tokens alone."""
        last = self._last
        if last is None or not last.is_of_batch(x_t, condition):
            said = ask(x_t, t, condition)
        else:
            said = last.said
            rows = ((last.x_t != x_t) | (t >= last.t)).any(-1).nonzero()[:, 0]
            if len(rows):
                row_condition = None if condition is None else condition[rows]
                said = said.index_copy(0, rows, ask(x_t[rows], t[rows], row_condition))
        self._last = _Evaluation(x_t.clone(), t.clone(), condition, said)
        return said


class _Evaluation(NamedTuple):
    """What was said of a batch."""

    x_t: Tensor
    t: Tensor
    condition: Tensor | None
    said: Tensor

    def is_of_batch(self, x_t: Tensor, condition: Tensor | None) -> bool:
        """Whether rows can be compared one by one with those of another batch."""
        same_place = self.x_t.shape == x_t.shape and self.x_t.device == x_t.device
        return same_place and self.condition is condition


class Counting(Denoiser):
    """Counts what the wrapped denoiser is asked: `calls` and, row by row, `row_evaluations`.

    Inside a `Cached` it counts what the network really does: `Cached(Counting(denoiser))`.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        require_own_transition(denoiser, "Counting")
        self.denoiser = denoiser
        self.process = denoiser.process
        self.time_conditioning = denoiser.time_conditioning
        self._tally = _Tally()

    @property
    def reveals_at_random(self) -> bool:
        return self.denoiser.reveals_at_random

    @property
    def calls(self) -> int:
        """How often it was asked."""
        return self._tally.calls

    @property
    def row_evaluations(self) -> int:
        """Of how many rows, all together."""
        return self._tally.rows

    def given(self, x0: Int[Tensor, "b l"]) -> Denoiser:
        counting = Counting(self.denoiser.given(x0))
        counting._tally = self._tally
        return counting

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        self._count(x_t)
        return self.denoiser.log_x0(x_t, t, condition)

    def log_x0_at(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "m k"]:
        self._count(x_t)
        return self.denoiser.log_x0_at(x_t, t, where, condition)

    def log_score(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        self._count(x_t)
        return self.denoiser.log_score(x_t, t, condition)

    def read_at(
        self,
        said: Said,
        read: Callable[..., Float[Tensor, " n"]],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        rows: Sequence[Tensor],
        condition: Tensor | None = None,
    ) -> Float[Tensor, " m"]:
        self._count(x_t)
        return self.denoiser.read_at(said, read, x_t, t, where, rows, condition)

    def _count(self, x_t: Int[Tensor, "b l"]) -> None:
        self._tally.calls += 1
        self._tally.rows += len(x_t)


@dataclass
class _Tally:
    """What a `Counting` has counted."""

    calls: int = 0
    rows: int = 0


class Rescheduled(Denoiser):
    """The log p(x_0 | x_t) of a denoiser with the transitions of another process.

    MDLM's `ddpm_cache` steps by alpha = 1 - t whatever the schedule: it is
    `Rescheduled(Cached(denoiser), Absorbing(LogLinear(eps=0.0), ...))`.
    """

    def __init__(self, denoiser: Denoiser, process: Process) -> None:
        super().__init__()
        require_own_transition(denoiser, "Rescheduled")
        self.denoiser = denoiser
        self.process = process
        self.time_conditioning = denoiser.time_conditioning

    @property
    def reveals_at_random(self) -> bool:
        return self.denoiser.reveals_at_random and isinstance(self.process, Absorbing)

    def given(self, x0: Int[Tensor, "b l"]) -> Denoiser:
        return Rescheduled(self.denoiser.given(x0), self.process)

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        return self.denoiser.log_x0(x_t, t, condition)


class Tweedie(Denoiser):
    """Transitions by the concrete score, for masking.

    Tweedie tau-leaping of Lou et al. 2024 (SEDD, arXiv:2310.16834). A mask becomes y with
    probability s_y (e^(sigma_t - sigma_s) - 1), y a data token, and stays with what is left of 1.
    For a score that comes from a normalised p(x_0 | x_t) this is the posterior itself. A network
    that is not told the time is asked again of rows that changed alone, as by `Cached`.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        if _has_own(denoiser):
            name = type(denoiser).__name__
            raise UserError(
                f"the analytic sampler steps by the score, and would lose what {name} does; use "
                "sampler=ancestral or parallel."
            )
        self.denoiser = denoiser
        self.process = self._absorbing = absorbing(denoiser.process, "Tweedie")
        self.time_conditioning = denoiser.time_conditioning
        self._kept = RowCache()

    def given(self, x0: Int[Tensor, "b l"]) -> Denoiser:
        return Tweedie(self.denoiser.given(x0))

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        return self.denoiser.log_x0(x_t, t, condition)

    def log_transition(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l k"]:
        process = self._absorbing
        log_gain = log_expm1(process.schedule.sigma(t) - process.schedule.sigma(s))[..., None]
        log_p = self._relative_score(x_t, t, condition) + self._scale(t) + log_gain
        # Logits of other tokens are never trained.
        log_p = log_p + log_indicator(log_p, process.data_ids)
        column = process.mask_column(x_t.device)
        revealed = torch.where(column, 0.0, log_p.exp()).sum(-1, keepdim=True)
        log_p = torch.where(column, (1 - revealed).clamp(min=0).log(), log_p)
        return torch.where(process.is_masked(x_t)[..., None], log_p, log_one_hot(x_t, log_p))

    def _relative_score(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None
    ) -> Float[Tensor, "b l k"]:
        """The score of masks without its scale, which is all that changes with the time."""

        def ask(x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
            return self.denoiser.log_score(x_t, t, condition) - self._scale(t)

        if self.time_conditioning:
            return ask(x_t, t, condition)
        return self._kept.get(ask, x_t, t, condition)

    def _scale(self, t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #l 1"]:
        return self._absorbing.log_score_scale(t, 1)[..., None]


def require_own_transition(denoiser: Denoiser, wrapper: str) -> None:
    """Refuses a denoiser with transitions of its own: the wrapper passes on log_x0 alone."""
    if _has_own(denoiser):
        name = type(denoiser).__name__
        raise ValueError(
            f"{wrapper}({name}(...)) would lose the transitions of {name}; "
            f"turn it round: {name}({wrapper}(...))."
        )


def _has_own(denoiser: Denoiser) -> bool:
    """Whether transitions or draws are not those that follow from log_x0."""
    own = type(denoiser)
    return (
        own.log_transition is not Denoiser.log_transition
        or own.propose_at is not Denoiser.propose_at
    )


def rows_at(x: Tensor, where: Bool[Tensor, "b l"]) -> Tensor:
    """x (b, #l) at the positions `where`, as one sequence (1, m)."""
    return x.expand_as(where)[where][None]
