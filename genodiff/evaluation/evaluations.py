"""Network evaluations of sequences: running them, and what is kept of each.

Kept are moments, linear in the nats: so the difference or the mean of two models on the same draws
is itself a set of evaluations, with an estimate and a standard error of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from genodiff.errors import UserError
from genodiff.evaluation.borrowed import borrowed
from genodiff.evaluation.control import DEGREE, Moments, mean_of_pieces, pieces, powers
from genodiff.evaluation.covariates import N_COVARIATES, token_covariates
from genodiff.evaluation.estimators import Draw, Estimator, Place
from genodiff.evaluation.sequences import Sequences, equal_lengths
from genodiff.evaluation.stratified import Plan, join
from genodiff.ranks import ALONE, Ranks

Progress = Callable[[int, int], None]

_PIECES = 8
_SEQUENCES_PER_PIECE = 16


class Evaluations(NamedTuple):
    """Evaluations of a plan. `network`: how many sequences went through a network for them."""

    sequences: Sequences
    estimator: Estimator
    seed: int
    plan: Plan
    moments: Moments
    network: int

    def combined(self, other: "Evaluations", mine: float, theirs: float) -> "Evaluations":
        """mine x self + theirs x other, evaluation by evaluation."""
        a, b = self.moments, other.moments
        moments = a._replace(
            nats=mine * a.nats + theirs * b.nats, cross=mine * a.cross + theirs * b.cross
        )
        return self._replace(moments=moments, network=self.network + other.network)


@final
class Evaluator:
    """Evaluates sequences under a model, one plan after the other.

    Args:
        model: given back in the mode and on the device it came in.
        complement: evaluate the reverse complement of every sequence, with reflected masks; what
            is kept is laid out as if it were of the sequence itself.
        progress: called with (evaluations done, evaluations in all) after each batch.
        ranks: of the processes that share each plan, batch by batch; all get the whole.
    """

    def __init__(
        self,
        model: Any,
        estimator: Estimator,
        sequences: Sequences,
        *,
        seed: int,
        device: torch.device | str | None = None,
        complement: Sequence[int] | None = None,
        progress: Progress | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        estimator.check(model)
        self.model, self.estimator, self.sequences = model, estimator, sequences
        self.seed, self.device, self.progress, self.ranks = seed, device, progress, ranks
        self.complement = None if complement is None else torch.tensor(complement)
        self._covariates = token_covariates(sequences.rows) if estimator.controlled else None
        self._tokens = sequences.tokens[sequences.scored]
        self._n_pieces = min(_PIECES, len(sequences.rows) // _SEQUENCES_PER_PIECE)
        self._expected = self._expectations()
        self._plans: list[Plan] = []
        self._kept: list[_Kept] = []

    def run(self, plan: Plan) -> Evaluations:
        """Evaluates one more plan; returns all evaluations up to here."""
        before = sum(len(kept.nats) for kept in self._kept)
        rows, size = self.sequences.rows, self.sequences.batch_size
        batches = list(equal_lengths(plan.sequence, rows, size))
        parts: list[_Kept] = []
        with borrowed(self.model, self.device) as here:
            for batch in self.ranks.mine(batches):
                parts.append(self._keep(plan, batch, here))
                if self.progress is not None:
                    done = min(sum(len(p.nats) for p in parts) * self.ranks.size, len(plan.u))
                    self.progress(before + done, before + len(plan.u))
        kept = self._empty(len(plan.u))
        for batch, part in zip(batches, self.ranks.together(parts), strict=True):
            for whole, piece in zip(kept, part, strict=True):
                whole[batch] = piece
        if not np.isfinite(kept.nats).all():
            bad = np.flatnonzero(~np.isfinite(kept.nats))[0]
            raise UserError(
                f"the network gives {kept.nats[bad]} nats on sequence "
                f"{self.sequences.scored[plan.sequence[bad]]} (from 0): its weights are damaged "
                "or training diverged; use another checkpoint."
            )
        self._plans.append(plan)
        self._kept.append(kept)
        everything = join(self._plans)
        lengths = data_lengths(self.sequences)[everything.sequence]
        level = self.estimator.level(everything.u, lengths)
        return Evaluations(
            self.sequences,
            self.estimator,
            self.seed,
            everything,
            Moments(
                *map(np.concatenate, zip(*self._kept, strict=True)),
                expected=self._expected,
                level=level,
                terms=self._terms(level),
            ),
            sum(self.estimator.evaluations(int(n)) for n in lengths),
        )

    def _keep(self, plan: Plan, batch: Int[ndarray, " b"], here: torch.device) -> "_Kept":
        """The moments of a batch of the plan."""
        kept = self._empty(len(batch))
        rows = [self.sequences.rows[i] for i in plan.sequence[batch]]
        tokens = torch.from_numpy(np.stack([row.tokens for row in rows]))
        x0 = tokens.to(here, torch.int64)
        places = [
            Place(
                self.seed,
                self.sequences.keys[plan.sequence[e]],
                2 * int(plan.round[e]) + int(plan.is_low[e]),
            )
            for e in batch
        ]
        draw = self.estimator.draw(self.model, x0, plan.u[batch], places)
        nats = (self._nats(x0, draw).double() * draw.where).cpu().numpy()
        where, weight = draw.where.cpu().numpy(), draw.weight.cpu().numpy()
        lengths = np.array([np.count_nonzero(row.is_data) for row in rows])
        terms = self._terms(self.estimator.level(plan.u[batch], lengths))
        kept.nats[:] = (weight * nats * np.stack([row.weights for row in rows])).sum(-1)
        if self.estimator.exact:
            return kept
        if self._covariates is None:
            tokens = self._tokens[plan.sequence[batch]]
            kept.predicted[:, :, 0], kept.gram[:] = terms * tokens[:, None], 1.0
            kept.cross[:, 0] = kept.nats / tokens
            return kept
        columns = (plan.sequence[batch], rows, terms, where, nats, weight[:, 0])
        for i, (owner, row, term, scored, each, factor) in enumerate(zip(*columns, strict=True)):
            g = self._covariates[owner][scored].astype(np.float64)
            kept.predicted[i] = np.multiply.outer(term, factor * (row.weights[scored] @ g))
            kept.gram[i] = g.T @ g / len(g)
            kept.cross[i] = each[scored] @ g / len(g)
        return kept

    def _nats(self, x0: Int[Tensor, "b l"], draw: Draw) -> Float[Tensor, "b l"]:
        """The nats of each scored token, of the strand that is asked for."""
        if self.complement is None:
            return self.estimator.nats(self.model, x0, draw)
        table = self.complement.to(x0.device)
        reflected = self.estimator.reflected(draw, table)
        return self.estimator.nats(self.model, table[x0].flip(1), reflected).flip(1)

    def _terms(self, level: Float[ndarray, "*s"]) -> Float[ndarray, "*s d"]:
        """Of the curve that the nats follow, as fine as that many sequences can tell."""
        return powers(level) if self.estimator.controlled else pieces(level, self._n_pieces)

    def _expectations(self) -> Float[ndarray, "2 s d f"]:
        rows, low = self.sequences.rows, self.estimator.low
        if self.estimator.exact:
            return np.zeros((2, len(rows), 1, 0))
        if self._covariates is None:
            curve = np.multiply.outer(self._tokens, mean_of_pieces(self._n_pieces))[..., None]
            return np.stack([curve, np.zeros_like(curve)])
        expected = np.zeros((2, len(rows), DEGREE + 1, N_COVARIATES))
        for i, (row, key) in enumerate(zip(rows, self.sequences.keys, strict=True)):
            counted = self._covariates[i] * row.weights[:, None].astype(np.float64)
            for band, ends in enumerate(((low, 1.0), (0.0, low))[: 1 + (low > 0)]):
                expected[band, i] = self.estimator.expected(row, counted, ends, self.seed, key)
        return expected

    def _empty(self, n: int) -> "_Kept":
        d, f = self._expected.shape[2:]
        shapes = (n,), (n, d, f), (n, f, f), (n, f)
        return _Kept(*map(np.zeros, shapes))


class _Kept(NamedTuple):
    """The first moments of `Moments`, which are of evaluations alone."""

    nats: Float[ndarray, " e"]
    predicted: Float[ndarray, "e d f"]
    gram: Float[ndarray, "e f g"]
    cross: Float[ndarray, "e f"]


def data_lengths(sequences: Sequences) -> Int[ndarray, " s"]:
    """Data tokens of each scored sequence."""
    return np.array([np.count_nonzero(row.is_data) for row in sequences.rows])
