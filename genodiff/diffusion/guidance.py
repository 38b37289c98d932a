"""Guidance: denoisers of p(x | y) or of what exaggerates it, made of unguided ones.

Classifier-free guidance mixes a network that was told a class with itself that was not;
classifier guidance weighs every change of one token by what a classifier makes of it. Schiff et
al. 2024 (UDLM, arXiv:2412.10193), section 3; Nisonoff et al. 2024 (arXiv:2406.01572).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genodiff.diffusion.denoiser import Denoiser, RowCache, cached, require_own_transition
from genodiff.diffusion.process import LOG_ZERO, ids_on, log_indicator
from genodiff.errors import UserError

Classifier = Callable[[Tensor], Tensor]
"""One-hot sequences (n, l, k), noise as it is, -> log p(y | x) (n,)."""


class Conditional(Denoiser):
    """The wrapped denoiser, told that every row is of one class."""

    def __init__(self, denoiser: Denoiser, label: int) -> None:
        super().__init__()
        require_own_transition(denoiser, "Conditional")
        self.denoiser = denoiser
        self.label = label
        self.process = denoiser.process
        self.time_conditioning = denoiser.time_conditioning

    @property
    def reveals_at_random(self) -> bool:
        return self.denoiser.reveals_at_random

    def given(self, x0: Int[Tensor, "b l"]) -> Denoiser:
        return Conditional(self.denoiser.given(x0), self.label)

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        return self.denoiser.log_x0(x_t, t, self._labels(x_t))

    def log_x0_at(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "m k"]:
        return self.denoiser.log_x0_at(x_t, t, where, self._labels(x_t))

    def log_score(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        return self.denoiser.log_score(x_t, t, self._labels(x_t))

    def _labels(self, x_t: Int[Tensor, "b l"]) -> Int[Tensor, " b"]:
        return torch.full((len(x_t),), self.label, device=x_t.device)


class ClassifierFree(Denoiser):
    """p(x_0 | y)^strength p(x_0)^(1 - strength), normalised at each token.

    0 is the unconditional model, 1 the conditional one, more exaggerates the class (Ho & Salimans
    2022, arXiv:2207.12598). Two network evaluations each. The times at which masks are revealed
    stay as they are. The network must have been trained with some of its labels left out.
    """

    def __init__(self, denoiser: Denoiser, label: int, strength: float) -> None:
        super().__init__()
        self.conditional = Conditional(denoiser, label)
        self.denoiser = denoiser
        self.strength = strength
        self.process = denoiser.process
        self.time_conditioning = denoiser.time_conditioning

    @property
    def reveals_at_random(self) -> bool:
        return self.denoiser.reveals_at_random

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        return self._mix(self.conditional.log_x0(x_t, t), self.denoiser.log_x0(x_t, t))

    def log_x0_at(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "m k"]:
        return self._mix(
            self.conditional.log_x0_at(x_t, t, where), self.denoiser.log_x0_at(x_t, t, where)
        )

    def _mix(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        return _tilted(unconditional, self.strength * (conditional - unconditional))


class ClassifierFreeTransitions(ClassifierFree):
    """The same mixture of the transitions p(x_s | x_t), as in UDLM for processes that do not mask
    and whose every transition can undo what was done."""

    @property
    def reveals_at_random(self) -> bool:
        return False

    def log_transition(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l k"]:
        return self._mix(
            self.conditional.log_transition(x_t, t, s), self.denoiser.log_transition(x_t, t, s)
        )


class ClassifierGuided(Denoiser):
    """Every change of one token is weighed by (p(y | x after) / p(y | x before))^strength.

    Weighed are the transitions: for masking, where staying a mask has weight 1, this also moves
    the times of reveals. Samplers that have times of their own (`Parallel`) see p(x_0) weighed.
    With strength 1 and the exact p(y | x_t) of noised sequences both give p(x | y).

    Args:
        denoiser: whose tokens they are.
        classifier: log p(y | x) of one-hot sequences, which are noised: with masks, or with random
            letters. Any callable.
        strength: 0 for no guidance.
        first_order: one evaluation and its gradient in the place of one for every change (a
            first-order Taylor expansion at x_t).
        batch_size: sequences told to the classifier at once.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        classifier: Classifier,
        strength: float = 1.0,
        *,
        first_order: bool = False,
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1; use e.g. 256.")
        if type(denoiser).propose_at is not Denoiser.propose_at:
            name = type(denoiser).__name__
            raise UserError(
                f"ClassifierGuided({name}(...)) would lose how {name} draws; turn it round: "
                f"{name}(ClassifierGuided(...))."
            )
        self.denoiser = cached(denoiser)
        self._gains = RowCache()
        self.classifier = classifier
        self.strength = strength
        self.first_order = first_order
        self.batch_size = batch_size
        self.process = denoiser.process
        self.time_conditioning = denoiser.time_conditioning
        self.classifier_evaluations = 0

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        return self._guide(x_t, t, self.denoiser.log_x0(x_t, t, condition))

    def log_x0_at(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "m k"]:
        """The classifier is asked of changes at `where` alone."""
        log_p = self.denoiser.log_x0_at(x_t, t, where, condition)
        return _tilted(log_p, self.strength * self._gain(x_t, where)[where])

    def log_transition(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l k"]:
        return self._guide(x_t, t, self.denoiser.log_transition(x_t, t, s, condition))

    def _guide(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], log_p: Float[Tensor, "b l k"]
    ) -> Float[Tensor, "b l k"]:
        def ask(x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
            return self._gain(x_t, torch.ones_like(x_t, dtype=torch.bool))

        return _tilted(log_p, self.strength * self._gains.get(ask, x_t, t, None))

    def _gain(self, x_t: Int[Tensor, "b l"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "b l k"]:
        """What each change of a token at `where` does to log p(y | x); 0 for what is no change to
        data."""
        is_open = where & self.process.is_open(x_t)
        one_hot = F.one_hot(x_t, self.process.vocab_size).float()
        gain = self._gradient(one_hot) if self.first_order else self._changes(one_hot, is_open)
        indicator = log_indicator(gain, self.process.data_ids)
        return torch.where((indicator == 0) & is_open[..., None], gain, 0.0)

    @torch.no_grad()
    def _changes(
        self, one_hot: Float[Tensor, "b l k"], is_open: Bool[Tensor, "b l"]
    ) -> Float[Tensor, "b l k"]:
        """log p(y | x after) - log p(y | x before) of every change."""
        row, position = is_open.nonzero(as_tuple=True)
        tokens = ids_on(one_hot.device, self.process.data_ids)
        gain = torch.zeros_like(one_hot, dtype=torch.float64)
        before = self._ask(one_hot)
        changes = torch.cartesian_prod(torch.arange(len(row), device=tokens.device), tokens)
        for part in changes.split(self.batch_size):
            at, token = part[:, 0], part[:, 1]
            changed = one_hot[row[at]]
            here = torch.arange(len(at), device=tokens.device)
            changed[here, position[at]] = 0.0
            changed[here, position[at], token] = 1.0
            gain[row[at], position[at], token] = self._ask(changed) - before[row[at]]
        return gain

    @torch.enable_grad()
    def _gradient(self, one_hot: Float[Tensor, "b l k"]) -> Float[Tensor, "b l k"]:
        x = one_hot.requires_grad_()
        asked = self._ask(x)
        if not asked.requires_grad:
            raise UserError(
                "first_order=True takes the classifier's gradient, and what it gives has none; "
                "compute it by torch from its argument, or use first_order=False."
            )
        (slope,) = torch.autograd.grad(asked.sum(), x)
        return (slope - (slope * one_hot).sum(-1, keepdim=True)).detach().double()

    def _ask(self, one_hot: Float[Tensor, "n l k"]) -> Float[Tensor, " n"]:
        self.classifier_evaluations += len(one_hot)
        log_p = self.classifier(one_hot)
        if log_p.shape != one_hot.shape[:1]:
            raise UserError(
                f"the classifier gives shape {tuple(log_p.shape)} for {len(one_hot)} sequences, "
                "and one log p(y | x) a sequence is needed; pick the class, e.g. [:, 1]."
            )
        if not bool(log_p.isfinite().all()):
            raise UserError(
                "the classifier gives log-probabilities that are not finite; clamp them, e.g. at "
                "-30."
            )
        return log_p.to(one_hot.device, torch.float64)


def _tilted(log_p: Float[Tensor, "*s k"], gain: Float[Tensor, "*s k"]) -> Float[Tensor, "*s k"]:
    """p exp(gain), normalised; what was impossible stays so."""
    possible = log_p > LOG_ZERO / 2
    tilted = torch.where(possible, log_p + gain.to(log_p.dtype), LOG_ZERO)
    return tilted.log_softmax(-1).clamp(min=LOG_ZERO)
