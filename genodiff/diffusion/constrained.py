"""Hard constraints on what is drawn: every sample is in a regular language, whatever the model.

A denoiser gives independent p_i(x_i | x_t) at the masks. Here tokens are drawn from their product
*given that the whole sequence is in the language*, clean tokens as they are: by a backward pass
over the states of the automaton,

    beta_i(s) = sum over x_i of p_i(x_i) beta_(i+1)(step[s, x_i])

and a forward pass that draws. What is drawn can be completed, so any part of it may be revealed
and the rest drawn again later: the constraint stays satisfiable, and is satisfied in the end. The
passes are in logarithms and float64, so that it holds however improbable the language is.

The law: with masks that are independent under the model, samples follow p(x | language) exactly.
Otherwise the masks that are left are looked ahead at as if they were independent, and the weights
of `JointProposal.log_weight` make up for it.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from copy import copy
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from genodiff.diffusion import categorical
from genodiff.diffusion.automaton import Automaton, product
from genodiff.diffusion.denoiser import Denoiser, Proposal
from genodiff.diffusion.process import LOG_ZERO, Masking, Process, log_one_hot
from genodiff.errors import UserError

Allowed = Bool[Tensor, "l k"]
"""The tokens that may stand at each position."""
Given = Bool[Tensor, " l"]
"""The positions that the automaton tells from the others."""


class Constrained(Denoiser):
    """The wrapped denoiser, its tokens drawn so that the sequence is in a language.

    Every mask counts as still to be drawn, frozen or not, and data tokens alone are drawn: also
    one that the model rules out, where nothing else will do. For samplers that draw by
    `propose_at`, as those do that reveal masks; those that draw every token from its own
    transition are refused.

    Drawing costs about as much as a small network where independent draws meet the constraint now
    and then. Otherwise time and memory are proportional to length x states x batch, a byte each;
    `log_p` takes another two passes and 8 bytes, `JointProposal.log_weight` a pass or two.

    Args:
        denoiser: of a process that masks.
        automaton: the language, over all tokens of the process.
        allowed: (l, k) the tokens that may stand at each position of sequences of l tokens; None
            for no such restriction.
        given: (l,) positions that the automaton is to tell from the others: it then reads token v
            there as k + v, and is over 2 k tokens. None for none.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        automaton: Automaton,
        allowed: Allowed | None = None,
        given: Given | None = None,
    ) -> None:
        super().__init__()
        process = denoiser.process
        if not isinstance(process, Masking):
            raise UserError(
                f"Constrained draws masks, and the noise of {process!r} is not masks alone; use a "
                "model that was trained with a process that masks and nothing else."
            )
        if isinstance(denoiser, Constrained):
            raise UserError(
                "Constrained(Constrained(...)) would lose the inner constraint; give the product "
                "of the automata."
            )
        needed = process.vocab_size * (1 if given is None else 2)
        if automaton.vocab_size != needed:
            raise UserError(
                f"an automaton over {automaton.vocab_size} tokens cannot read the {needed} of "
                f"{process!r}{'' if given is None else ', given and not'}; build it with "
                f"vocab_size={needed}."
            )
        self.denoiser = denoiser
        self.process = process
        self.time_conditioning = denoiser.time_conditioning
        self.automaton = automaton
        self.allowed = allowed
        self.given_positions = given

    @property
    def reveals_at_random(self) -> bool:
        return self.denoiser.reveals_at_random

    def given(self, x0: Int[Tensor, "b l"]) -> Denoiser:
        return Constrained(
            self.denoiser.given(x0), self.automaton, self.allowed, self.given_positions
        )

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        """log of each token's marginal, given the language."""
        masked = self.process.is_masked(x_t)
        log_p = self._propose(x_t, t, masked, condition).log_p
        sure = log_one_hot(x_t, log_p.new_empty(*x_t.shape, log_p.shape[-1]))
        return sure.masked_scatter(masked[..., None], log_p)

    def propose_at(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], where: Bool[Tensor, "b l"]
    ) -> "JointProposal":
        """Drawing from it, or asking for marginals, raises UserError where the tokens of x_t
        already leave the language."""
        return self._propose(x_t, t, where, None)

    def log_normalizer(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"]
    ) -> Float[Tensor, " b"]:
        """log of the probability of the language, the masks of x_t drawn independently from what
        the wrapped denoiser says of each."""
        return self.propose_at(x_t, t, self.process.is_masked(x_t)).log_normalizer

    def log_transition(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l k"]:
        """Refused."""
        raise _drawn_apart("its transition")

    def log_score(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        """Refused."""
        raise _drawn_apart("its score")

    @torch.no_grad()
    def _propose(
        self, x_t: Tensor, t: Tensor, where: Tensor, condition: Tensor | None
    ) -> "JointProposal":
        masked = self.process.is_masked(x_t)
        if bool((where & ~masked).any()):
            raise ValueError("a constrained denoiser is asked for masks only; leave the rest out.")
        log_p = self.denoiser.log_x0_at(x_t, t, masked, condition)
        constraint = (self.automaton, self.allowed, self.given_positions)
        lattice = _Lattice(*constraint, self.process, x_t, masked, log_p)
        return JointProposal(lattice, where)


class JointProposal(Proposal):
    """The masks of a batch under a constraint, to be drawn together.

    `log_p` are the marginals given the language. Drawing and `log_p` raise UserError where the
    tokens that are there already leave the language.
    """

    def __init__(self, lattice: "_Lattice", where: Bool[Tensor, "b l"]) -> None:
        self._lattice = lattice
        self._where = where

    @cached_property
    def log_p(self) -> Float[Tensor, "m k"]:  # pyright: ignore[reportIncompatibleVariableOverride]  # costs more than a draw
        return self._lattice.log_marginals(self._where)

    @cached_property
    def log_normalizer(self) -> Float[Tensor, " b"]:
        """log of the probability of the language under the product of p_i."""
        return self._lattice.log_normalizer()

    def draw(
        self,
        chosen: Bool[Tensor, " m"] | None,
        generator: Generator | None,
        draw: categorical.Draw = categorical.draw,
    ) -> Int[Tensor, " n"]:
        if draw is not categorical.draw:
            raise UserError(
                "a constraint draws tokens together, by inverse CDF in float64, and not by "
                f"draw={getattr(draw, '__name__', draw)}; leave draw out."
            )
        return self._lattice.draw(self._positions(chosen), generator)

    def log_weight(
        self, tokens: Int[Tensor, " n"], chosen: Bool[Tensor, " m"] | None = None
    ) -> Float[Tensor, " b"]:
        """log p(tokens) - log q(tokens) of each row, for tokens that were drawn for the chosen: p
        is the product of p_i, q what they were drawn from.

        It is log Z - log Z', the log-probabilities of the language before and after these tokens,
        both under the p_i of now, at the cost of a backward pass each. Summed over the steps of a
        sampler that draws every mask, it is the log importance weight of the sample: weighted,
        samples have the law p(x | language), and the mean weight is the model's probability of the
        language.
        """
        after = self._lattice.revealed(self._positions(chosen), tokens)
        return self.log_normalizer - after.log_normalizer()

    def _positions(self, chosen: Bool[Tensor, " m"] | None) -> Bool[Tensor, "b l"]:
        if chosen is None:
            return self._where
        return torch.zeros_like(self._where).masked_scatter(self._where, chosen)


def combined(
    constraints: Mapping[str, tuple[Automaton, Allowed | None]],
) -> tuple[Automaton, Allowed | None]:
    """The one constraint that holds where all of them, one or more, do."""
    automaton = product([automaton for automaton, _ in constraints.values()])
    tables = [allowed for _, allowed in constraints.values() if allowed is not None]
    return automaton, torch.stack(tables).all(0) if tables else None


def conflict(
    constraints: Mapping[str, tuple[Automaton, Allowed | None]],
    x: Int[Tensor, " l"],
    process: Process,
    given: Given | None = None,
) -> list[str] | None:
    """The names of constraints that no completion of x satisfies together, and of which none can
    be spared; None where some completion satisfies all. `given` is as in `Constrained`."""
    if _satisfiable(constraints, x, process, given):
        return None
    needed = dict(constraints)
    for name in constraints:
        without = {other: needed[other] for other in needed if other != name}
        if not _satisfiable(without, x, process, given):
            needed = without
    return list(needed)


def _satisfiable(
    constraints: Mapping[str, tuple[Automaton, Allowed | None]],
    x: Int[Tensor, " l"],
    process: Process,
    given: Given | None,
) -> bool:
    if not constraints:
        return True
    masked = process.is_masked(x[None])
    indifferent = torch.zeros(int(masked.sum()), process.vocab_size, device=x.device)
    lattice = _Lattice(*combined(constraints), given, process, x[None], masked, indifferent)
    return bool(lattice.log_normalizer().isfinite())


class _Lattice:
    """The states at each position of a batch, and the probabilities of going from one to another.

    Tokens that no state tells apart are gone through as one class c. Positions and states come
    before rows of the batch: `mass` is (l, c, b), log beta (s, b).
    """

    def __init__(
        self,
        automaton: Automaton,
        allowed: Tensor | None,
        given: Given | None,
        process: Process,
        x_t: Int[Tensor, "b l"],
        masked: Bool[Tensor, "b l"],
        log_p: Float[Tensor, "m k"],
    ) -> None:
        device, k = x_t.device, process.vocab_size
        if allowed is None:
            allowed = torch.ones(x_t.shape[1], k, dtype=torch.bool, device=device)
        if allowed.shape != (x_t.shape[1], k):
            raise UserError(
                f"allowed is of shape {tuple(allowed.shape)}, and the sequences are of "
                f"{x_t.shape[1]} positions and {k} tokens; make it for these."
            )
        allowed = allowed.to(device).expand(len(x_t), -1, -1)
        data = process.is_data(torch.arange(k, device=device))
        log_p = torch.where(data, log_p.double().clamp(min=LOG_ZERO), -torch.inf).log_softmax(-1)
        self.log_p = torch.where(allowed[masked], log_p, -torch.inf)  # (m, k), of all masks
        self.masked = masked

        class_of, step = (torch.from_numpy(x).to(device) for x in automaton.token_classes())
        classes = torch.arange(step.shape[1], device=device)
        read = x_t if given is None else x_t + k * given.to(device)
        held = allowed.gather(-1, x_t[..., None]) & (class_of[read][..., None] == classes)
        class_of = class_of[:k]
        mass = torch.where(held, 0.0, -torch.inf).double()  # (b, l, c)
        if len(self.log_p):
            of_masks = [self.log_p[:, class_of == c].logsumexp(-1) for c in classes]
            mass = mass.masked_scatter(masked[..., None], torch.stack(of_masks, -1))
        used = mass.isfinite().any(0).any(0)
        used |= ~used.any()  # an empty tensor would have no maximum
        self.class_of = torch.where(used, used.cumsum(0) - 1, 0)[class_of]
        self.step = step.T[used].contiguous()  # (c, s)
        self.mass = mass[..., used].permute(1, 2, 0).contiguous()
        self.start, self.accept = automaton.start, torch.from_numpy(automaton.accept).to(device)

    def revealed(self, where: Bool[Tensor, "b l"], tokens: Int[Tensor, " n"]) -> "_Lattice":
        """This one with the tokens at `where` known."""
        classes = torch.arange(len(self.step), device=where.device)
        possible = self.log_p[where[self.masked]].gather(-1, tokens[:, None]).isfinite()
        hit = possible & (self.class_of[tokens][:, None] == classes)
        known = torch.where(hit, 0.0, -torch.inf).double()
        mass = self.mass.permute(2, 0, 1).masked_scatter(where[..., None], known)
        lattice = copy(self)
        lattice.masked, lattice.mass = self.masked & ~where, mass.permute(1, 2, 0).contiguous()
        return lattice

    def log_normalizer(self) -> Float[Tensor, " b"]:
        """log of the probability of the language."""
        ((_, _, log_beta),) = deque(self._backward(), maxlen=1)
        return log_beta[self.start]

    def draw(self, where: Bool[Tensor, "b l"], generator: Generator | None) -> Int[Tensor, " n"]:
        """Tokens at `where`, of all masks drawn together.

        Rows for which independent draws happen to meet the constraint are done: that is the same
        law, for much less. The others take the backward pass.
        """
        path, done = self._attempt(generator)
        if not bool(done.all()):
            path[:, ~done] = self._rows(~done)._path(generator)
        drawn = self.class_of == path.T[where][:, None]
        return categorical.draw(
            torch.where(drawn, self.log_p[where[self.masked]], -torch.inf), generator
        )

    def log_marginals(self, where: Bool[Tensor, "b l"]) -> Float[Tensor, "m k"]:
        """log p of each token at `where`, given the language."""
        log_betas = [self._log_accept(), *(log_beta for _, _, log_beta in self._backward())]
        log_betas.reverse()  # of positions 0 to l
        _check(log_betas[0][self.start])
        log_marginal = torch.empty_like(self.mass)  # of classes
        p_state = torch.zeros_like(log_betas[0])
        p_state[self.start] = 1.0
        for i, mass in enumerate(self.mass):
            # Where log beta is -inf, p_state is 0.
            here = log_betas[i].clamp(min=_LEAST)
            log_move = self._next(log_betas[i + 1]) + mass[:, None] - here  # (c, s, b)
            flow = p_state * log_move.exp()
            log_marginal[i] = flow.sum(1).log()
            p_state = torch.zeros_like(p_state).index_add_(
                0, self.step.flatten(), flow.flatten(0, 1)
            )
        gain = (log_marginal - self.mass.clamp(min=_LEAST)).permute(2, 0, 1)[where]  # (m, c)
        log_p = self.log_p[where[self.masked]] + gain[:, self.class_of]
        return log_p.log_softmax(-1).clamp(min=LOG_ZERO)

    def _attempt(
        self, generator: Generator | None
    ) -> tuple[Int[Tensor, "l b"], Bool[Tensor, " b"]]:
        """(classes, whether they meet the constraint): of each row the first of some independent
        draws that does."""
        length, _, batch = self.mass.shape
        shape = (length, _ATTEMPTS, batch)
        u = torch.rand(shape, dtype=torch.float64, device=self.mass.device, generator=generator)
        shares = (self.mass - self.mass.amax(1, keepdim=True).clamp(min=_LEAST)).exp().cumsum(1)
        possible = shares[:, -1] > 0  # (l, b)
        # (l, n, 1, b) to (l, 1, c, b)
        classes = (shares[:, None] <= u[:, :, None] * shares[:, None, -1:]).sum(2)
        classes = torch.where(possible[:, None], classes, 0)
        steps, n_states = self.step.flatten(), len(self.accept)
        state = torch.full(shape[1:], self.start, device=u.device)
        for cells in classes * n_states:
            state = steps.take(cells + state)
        met = self.accept[state] & possible.all(0)  # (n, b)
        first = met.to(torch.uint8).argmax(0)
        return classes.gather(1, first.expand(length, 1, -1))[:, 0], met.any(0)

    def _path(self, generator: Generator | None) -> Int[Tensor, "l b"]:
        """Classes, drawn from the backward pass."""
        length, n_classes, batch = self.mass.shape
        device = self.mass.device
        u = torch.rand(length, batch, dtype=torch.float64, device=device, generator=generator)
        # Classes are chosen for every state on the way back, and looked up for one on the way on.
        dtype = torch.uint8 if n_classes < 255 else torch.int64
        choice = torch.empty(length, len(self.accept), batch, dtype=dtype, device=device)
        for i, shares, log_beta in self._backward():
            choice[i] = (shares <= u[i] * shares[-1]).sum(0)
            if i == 0:
                _check(log_beta[self.start])
        path = torch.empty(length, batch, dtype=torch.int64, device=device)
        state = torch.full((1, batch), self.start, device=device)
        for i in range(length):
            path[i] = choice[i].gather(0, state)[0]
            state = self.step[path[i], state]
        return path

    def _rows(self, rows: Bool[Tensor, " b"]) -> "_Lattice":
        """This one of some rows of the batch, without the tokens' own probabilities."""
        lattice = copy(self)
        lattice.masked, lattice.mass = self.masked[rows], self.mass[..., rows].contiguous()
        return lattice

    def _backward(self) -> Iterator[tuple[int, Float[Tensor, "c #s b"], Float[Tensor, "s b"]]]:
        """(position, cumulative weights of the classes, log beta), from the last to the first."""
        log_beta = self._log_accept()
        given, log_given = self.mass.argmax(1), self.mass.amax(1)  # (l, b)
        shares_given = self.mass.exp().cumsum(1)[:, :, None]
        drawn = self.masked.any(0).tolist()
        for i in reversed(range(len(self.mass))):
            if drawn[i]:
                log_move = self._next(log_beta) + self.mass[i][:, None]  # (c, s, b)
                top = log_move.amax(0).clamp(min=_LEAST)
                shares = (log_move - top).exp().cumsum(0)
                log_beta = top + shares[-1].log()
            else:
                log_beta = log_beta.gather(0, self.step[given[i]].T) + log_given[i]
                shares = shares_given[i]
            yield i, shares, log_beta

    def _log_accept(self) -> Float[Tensor, "s b"]:
        log_accept = torch.where(self.accept, 0.0, -torch.inf).double()
        return log_accept[:, None].repeat(1, self.mass.shape[-1])

    def _next(self, log_beta: Float[Tensor, "s b"]) -> Float[Tensor, "c s b"]:
        """log beta of the state that each class leads to."""
        return log_beta.index_select(0, self.step.flatten()).unflatten(0, self.step.shape)


_ATTEMPTS = 32
"""Independent draws of each row before the backward pass, at about a tenth of its cost."""

_LEAST = -1e300
"""A finite stand-in for -inf, so that nothing is subtracted from itself."""


def _check(log_normalizer: Float[Tensor, " b"]) -> None:
    if bool(log_normalizer.isnan().any()):
        raise ValueError(
            "the log-probabilities to draw from hold NaN or +inf; check the denoiser."
        )
    rows = log_normalizer.isinf().nonzero()[:, 0].tolist()
    if rows:
        raise UserError(
            f"rows {rows}: no sequence that meets the constraints has the tokens that are given; "
            "give fewer tokens or loosen a constraint (`conflict` says which contradict)."
        )


def _drawn_apart(what: str) -> UserError:
    return UserError(
        f"Constrained draws tokens together, and this sampler draws each from {what}, alone; use "
        "a sampler that reveals masks: parallel, first_hitting, confidence or, of a model whose "
        "reveals are at random and not guided by a classifier, ancestral."
    )
