"""log p of a continuation given a context that stays as it is.

`Following` makes of a denoiser of whole sequences one of what follows a context. It is a denoiser
like any other, so every estimator of likelihoods is one of conditional likelihoods: the any-order
bound masks k of the continuation's n tokens and never the context (LLaDA: Nie et al. 2025,
arXiv:2502.09992, its evaluation code), the chain reveals them from left to right, an objective's
own bound noises them alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from genodiff.diffusion import CausalModel, Denoiser
from genodiff.diffusion.denoiser import Said
from genodiff.errors import UserError
from genodiff.evaluation.estimators import (
    AnyOrder,
    ByExactObjective,
    Chain,
    CompleteChain,
    Estimator,
    Place,
)


class ConditionalLikelihood(NamedTuple):
    """log p(continuation | context) in nats, or a lower bound of it.

    `standard_error` is what other draws would change: 0 where nothing is drawn, None for a single
    draw. `evaluations`: sequences that went through the network.
    """

    log_p: float
    standard_error: float | None
    bound: bool
    evaluations: int


class Following(Denoiser):
    """The denoiser of what follows a context: the wrapped one of both, which sees the context
    clean whatever the time.

    Its transitions are those of a sampler that keeps the context frozen.
    """

    def __init__(self, denoiser: Denoiser, context: Int[Tensor, " c"]) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.context = context
        self.process = denoiser.process
        self.time_conditioning = denoiser.time_conditioning

    @property
    def reveals_at_random(self) -> bool:
        return self.denoiser.reveals_at_random

    def given(self, x0: Int[Tensor, "b l"]) -> Denoiser:
        return Following(self.denoiser.given(self._behind(x0)), self.context)

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        whole = self.denoiser.log_x0(self._behind(x_t), self._times(t), condition)
        return whole[:, len(self.context) :]

    def log_x0_at(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "m k"]:
        asked = (self._behind(x_t), self._times(t), self._nowhere_before(where))
        return self.denoiser.log_x0_at(*asked, condition)

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
        asked = (self._behind(x_t), self._times(t), self._nowhere_before(where))
        counts = None if weight is None else self._times(weight)
        return self.denoiser.log_likelihood_at(self._behind(x0), *asked, condition, weight=counts)

    def log_score(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        whole = self.denoiser.log_score(self._behind(x_t), self._times(t), condition)
        return whole[:, len(self.context) :]

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
        asked = (self._behind(x_t), self._times(t), self._nowhere_before(where))
        return self.denoiser.read_at(said, read, *asked, rows, condition)

    def _behind(self, x: Int[Tensor, "b l"]) -> Int[Tensor, "b n"]:
        """The tokens behind the context."""
        return torch.cat([self.context.to(x).expand(len(x), -1), x], 1)

    def _times(self, t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #n"]:
        """Times, or weights, of both: the context's is that of the first token behind it."""
        if t.shape[1] == 1:
            return t
        return torch.cat([t[:, :1].expand(-1, len(self.context)), t], 1)

    def _nowhere_before(self, where: Bool[Tensor, "b l"]) -> Bool[Tensor, "b n"]:
        before = where.new_zeros(len(where), len(self.context))
        return torch.cat([before, where], 1)


@torch.no_grad()
def conditional_likelihood(
    model: Any,
    context: Int[Tensor, " c"],
    continuation: Int[Tensor, " n"],
    *,
    estimator: Estimator,
    samples: int = 128,
    batch_size: int = 32,
    seed: int = 0,
) -> ConditionalLikelihood:
    """log p(continuation | context), as the estimator knows it.

    Args:
        model: what the estimator evaluates, in evaluation mode.
        context: may be empty.
        continuation: at least one token that the model is about.
        estimator: `estimator_for(objective, model)` is the best of a model; `CompleteChain()` is
            -log p of the order from left to right.
        samples: draws, one in each of as many strata. Of those that are exact, and of `AnyOrder`
            with a single token, there is one draw only, and the complete chain has n.
        batch_size: sequences that the network sees at once.
        seed: of the draws. They do not depend on the context: alternatives of one question meet
            the same ones.

    Raises UserError if the estimator is not for this model, or nothing is to be scored.
    """
    estimator.check(model)
    if samples < 1:
        raise UserError(f"samples={samples} is below 1; use e.g. 128.")
    context, x0 = context.long(), continuation.long()[None]
    if isinstance(model, CausalModel):
        return _left_to_right(model, context, x0)
    if not isinstance(model, Denoiser):
        raise UserError(
            f"a {type(model).__name__} noises vectors of whole sequences and keeps no context; "
            "use a model of masked or uniform diffusion, or a left-to-right one."
        )
    following = Following(model, context.to(x0.device)) if len(context) else model
    n = int(estimator.is_data(following, x0).sum())
    if n == 0:
        raise UserError("the continuation holds no token that the model is about; give one.")
    complete = isinstance(estimator, CompleteChain)
    if complete:
        estimator, samples = Chain(estimator.order), n  # each place in the order once
    alone = isinstance(estimator, AnyOrder) and n == 1
    if alone:
        samples = 1  # the token is masked, or there is nothing to tell
    u = _strata(samples, None if complete else seed)
    batches = (range(samples)[i : i + batch_size] for i in range(0, samples, batch_size))
    nats = np.concatenate([_sums(following, x0, estimator, u, batch, seed) for batch in batches])
    return ConditionalLikelihood(
        log_p=-float(nats.mean()),
        standard_error=0.0 if complete or alone else _standard_error(nats),
        bound=estimator.bound and not alone,
        evaluations=samples,
    )


def _left_to_right(
    model: CausalModel, context: Int[Tensor, " c"], x0: Int[Tensor, "1 n"]
) -> ConditionalLikelihood:
    whole = torch.cat([context.to(x0.device)[None], x0], 1)
    scored = model.is_scored(whole)[:, len(context) :]
    if not bool(scored.any()):
        raise UserError("the continuation holds no token that the model scores; give one.")
    log_p = model.log_likelihood(whole)[:, len(context) :].double().sum()
    return ConditionalLikelihood(float(log_p), 0.0, ByExactObjective.bound, 1)


def _sums(
    model: Denoiser,
    x0: Int[Tensor, "1 n"],
    estimator: Estimator,
    u: Float[ndarray, " s"],
    rounds: range,
    seed: int,
) -> Float[ndarray, " b"]:
    """-log p of the continuation by each of a batch of draws."""
    rows = x0.expand(len(rounds), -1)
    places = [Place(seed, 0, round_) for round_ in rounds]
    draw = estimator.draw(model, rows, u[rounds.start : rounds.stop], places)
    nats = (estimator.nats(model, rows, draw).double() * draw.weight).sum(-1)
    if not bool(nats.isfinite().all()):
        raise UserError("the network gives no finite likelihood; is the checkpoint damaged?")
    return nats.cpu().numpy()


def _strata(samples: int, seed: int | None) -> Float[ndarray, " s"]:
    """A number in each of as many equal parts of (0, 1]; its middle without a seed."""
    within = 0.5 if seed is None else 1 - np.random.default_rng(seed).random(samples)
    return (np.arange(samples) + within) / samples


def _standard_error(nats: Float[ndarray, " s"]) -> float | None:
    """Of the mean of one draw a stratum, from the differences of neighbouring strata: too large by
    what the curve rises between them."""
    if len(nats) < 2:
        return None
    return math.sqrt(float(np.mean(np.diff(nats) ** 2)) / 2 / len(nats))
