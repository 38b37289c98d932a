"""What a change of a sequence does to its likelihood: log p(alternative) - log p(reference), nats.

Three estimates of it, which agree for a network whose conditionals are those of one distribution:

- `llr`, of substitutions: log p of the sites that differ, given all others, as the alternative has
  them minus as the reference has them. A single site is masked once, and both alleles are read off
  the same evaluation. Of several sites all are masked, and revealed one after the other: the mean
  over all orders if these are few, else over random ones.
- `bound`: the any-order bound of the alternative as a whole minus that of the reference, each with
  the same tokens masked (`AnyOrder`; Ou et al. 2024, arXiv:2406.03736, section 3). What else
  changes with the variant, how well its surroundings fit it, is in it, and so are insertions and
  deletions.
- `exact`: log p itself, of left-to-right models.

Both of the first two are, over a set of n sites (those that differ; all),

    E over k and S of sum over i in S of log p(x_i | all but S) / (k P(k)),    |S| = k, S uniform

with P(k) = sqrt(k/n) - sqrt((k-1)/n), as of u^2 for a uniform u, in the place of 1/n: the fewer
are masked the more does it matter which.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from numpy import ndarray
from torch import Tensor

from genodiff.backbones.reverse_complement import complement_table
from genodiff.diffusion import Absorbing, BlockDenoiser, CausalModel, Denoiser
from genodiff.errors import UserError
from genodiff.evaluation.borrowed import borrowed
from genodiff.evaluation.sequences import source

Method = Literal["llr", "bound", "exact"]


class VariantPair(NamedTuple):
    """Two sequences of equal length.

    partner: a permutation; the alternative's token i is masked together with the reference's token
    partner[i]. That is the same base, wherever both have it.
    """

    reference: Integer[ndarray, " l"]
    alternative: Integer[ndarray, " l"]
    partner: Int[ndarray, " l"]

    @property
    def is_substitution(self) -> bool:
        """Whether every token stays in its place."""
        return bool((self.partner == np.arange(len(self.partner))).all())


class VariantScore(NamedTuple):
    """log p(alternative) - log p(reference): below 0 the alternative is less likely.

    standard_error: what other masks or orders would change; 0 where nothing was drawn.
    """

    nats: float
    standard_error: float
    method: Method


def score_variants(
    model: Any,
    pairs: Sequence[VariantPair],
    *,
    method: Method,
    complement: Sequence[int] | None = None,
    samples: int = 32,
    batch_size: int = 32,
    seed: int = 0,
) -> list[VariantScore]:
    """The score of each pair.

    What is drawn follows from the seed and the pair: neither order nor company changes a score,
    beyond rounding.

    Args:
        model: a `Denoiser` of masks that sees both sides, or, for `exact`, a `CausalModel`; given
            back in the mode it came in.
        complement: average the scores of both strands; None for networks to which they are the
            same.
        samples: masks for each bound, from as many strata of k; the most subsets of sites that a
            substitution of several is enumerated with.
        batch_size: sequences that the network sees at once.

    Raises:
        UserError: a model that has no such score, an `llr` of what is no substitution of tokens
            that the model predicts, or a network that gives no finite number.
    """
    _check(model, method)
    if samples < 2:
        raise UserError(f"samples={samples} gives no standard error; use 2 or more, e.g. 32.")
    with borrowed(model, None) as here:
        table = None if complement is None else torch.tensor(complement, device=here)
        evaluate = _log_p_of_rows if method == "exact" else _log_p_of_masks
        plans = [
            _plan(model, pair, number, method, samples, seed) for number, pair in enumerate(pairs)
        ]
        totals = [np.zeros(draws) for draws, _ in plans]
        every = (row for _, rows in plans for row in rows)
        for batch in _batches(every, batch_size):
            x = np.stack([rows[0].tokens for rows in batch])
            said = evaluate(model, torch.from_numpy(x).to(here, torch.int64), table)
            for rows, read in zip(batch, said, strict=True):
                for row in rows:
                    totals[row.pair][row.draw] += row.weight * read(row.asked)
    return [_score(total, method) for total in totals]


class _Row(NamedTuple):
    """What the network is given, and what is asked: the weight counts log p of the `asked` tokens
    at the masks, or of all tokens, in a draw of a pair."""

    tokens: Integer[ndarray, " l"]
    asked: Integer[ndarray, " m"]
    weight: float
    pair: int
    draw: int


_Plan = tuple[int, Iterator[_Row]]  # draws, whose mean is the score; rows, of all of them
_Read = Callable[[ndarray], float]  # log p of the tokens that are asked for


def _plan(
    model: Any, pair: VariantPair, number: int, method: Method, samples: int, seed: int
) -> _Plan:
    if method == "exact":
        nothing = pair.alternative[:0]
        both = ((pair.alternative, 1.0), (pair.reference, -1.0))
        return 1, (_Row(tokens, nothing, weight, number, 0) for tokens, weight in both)
    ids = np.array(model.process.data_ids)
    sites = np.isin(pair.reference, ids), np.isin(pair.alternative, ids)
    if method == "llr":
        differ = pair.reference != pair.alternative
        if not pair.is_substitution or not (sites[0] & sites[1])[differ].all():
            raise UserError(
                "only a substitution of tokens that the model predicts has a likelihood ratio at "
                "the masked site; use the bound for insertions and deletions."
            )
        sites = differ, differ
        if 2 ** np.count_nonzero(differ) - 1 <= samples:
            drawn = ((0, masks) for masks in _subsets(differ))
            return 1, _rows(pair, drawn, number, model.process.mask_id)
    drawn = _drawn(pair, sites, samples, source(seed, _key(pair), 0, "noise"))
    return samples, _rows(pair, drawn, number, model.process.mask_id)


class _Masks(NamedTuple):
    """Which tokens of both are masked, and what their log p counts."""

    reference: Bool[ndarray, " l"]
    alternative: Bool[ndarray, " l"]
    weights: tuple[float, float]


def _subsets(sites: Bool[ndarray, " l"]) -> Iterator[_Masks]:
    """Every choice of some of the sites, with its share of all orders."""
    places = np.flatnonzero(sites)
    for k in range(1, len(places) + 1):
        weight = 1 / (k * math.comb(len(places), k))
        for subset in combinations(places, k):
            masked = np.zeros_like(sites)
            masked[list(subset)] = True
            yield _Masks(masked, masked, (weight, weight))


def _key(pair: VariantPair) -> int:
    """A number that the random numbers of a pair follow from."""
    both = np.concatenate([pair.reference, pair.alternative]).astype(np.int32)
    return int.from_bytes(hashlib.blake2b(both.tobytes(), digest_size=8).digest())


def _drawn(
    pair: VariantPair,
    sites: tuple[Bool[ndarray, " l"], Bool[ndarray, " l"]],
    samples: int,
    random: np.random.Generator,
) -> Iterator[tuple[int, _Masks]]:
    """Masks by one order of all tokens a draw, the alternative's that of their partners."""
    for draw in range(samples):
        u = (draw + 1 - random.random()) / samples
        order = random.random(len(pair.partner))
        first = _first(order, sites[0], u)
        second = _first(order[pair.partner], sites[1], u)
        yield draw, _Masks(first[0], second[0], (first[1], second[1]))


def _first(
    order: Float[ndarray, " l"], sites: Bool[ndarray, " l"], u: float
) -> tuple[Bool[ndarray, " l"], float]:
    """The first k of the sites, with what they count, 1 / (k P(k))."""
    places, n = np.flatnonzero(sites), np.count_nonzero(sites)
    masked = np.zeros_like(sites)
    if n == 0:
        return masked, 0.0
    k = min(max(math.ceil(u**2 * n), 1), n)
    masked[places[np.argsort(order[places])[:k]]] = True
    return masked, math.sqrt(n) / (k * (math.sqrt(k) - math.sqrt(k - 1)))


def _rows(
    pair: VariantPair, drawn: Iterable[tuple[int, _Masks]], number: int, mask_id: int
) -> Iterator[_Row]:
    for draw, masks in drawn:
        sides = (
            (pair.reference, masks.reference, -masks.weights[0]),
            (pair.alternative, masks.alternative, masks.weights[1]),
        )
        for tokens, masked, weight in sides:
            seen = np.where(masked, mask_id, tokens)
            yield _Row(seen, tokens[masked], weight, number, draw)


def _batches(rows: Iterable[_Row], batch_size: int) -> Iterator[list[list[_Row]]]:
    """Batches of sequences of one length, each once, with the rows that ask about it: both alleles
    of a site that is masked, and those of several alternatives."""
    batch: dict[bytes, list[_Row]] = {}
    for row in rows:
        key = row.tokens.tobytes()
        is_full = len(batch) == batch_size and key not in batch
        if batch and (is_full or len(key) != len(next(iter(batch)))):
            yield list(batch.values())
            batch = {}
        batch.setdefault(key, []).append(row)
    if batch:
        yield list(batch.values())


def _log_p_of_masks(
    model: Denoiser, x_t: Int[Tensor, "b l"], complement: Int[Tensor, " c"] | None
) -> Iterator[_Read]:
    """Of each row, what it says of its masks; the mean of both strands."""
    process = model.process
    where = process.is_masked(x_t)
    share = where.sum(-1) / (where | process.is_data(x_t)).sum(-1).clamp(min=1)
    t = process.schedule.inverse(1 - share.double()[:, None])
    log_p = model.log_x0_at(x_t, t, where).double()
    if complement is not None:
        other = model.log_x0_at(complement[x_t].flip(1), t, where.flip(1)).double()
        back = other.new_zeros(*where.shape, other.shape[-1])
        back[where.flip(1)] = other
        table = complement_table(complement.tolist(), other.shape[-1])
        log_p = (log_p + back.flip(1)[where][:, table]) / 2
    ends = where.sum(-1).cumsum(0).cpu().numpy()[:-1]
    for rows in np.split(log_p.cpu().numpy(), ends):
        yield lambda asked, rows=rows: float(rows[np.arange(len(asked)), asked].sum())


def _log_p_of_rows(
    model: CausalModel, x: Int[Tensor, "b l"], complement: Int[Tensor, " c"] | None
) -> Iterator[_Read]:
    """Of each row, log p of all its tokens; the mean of both strands."""
    log_p = model.log_likelihood(x).double().sum(-1)
    if complement is not None:
        log_p = (log_p + model.log_likelihood(complement[x].flip(1)).double().sum(-1)) / 2
    for value in log_p.tolist():
        yield lambda _, value=value: value


def _score(draws: Float[ndarray, " s"], method: Method) -> VariantScore:
    """The mean of one draw a stratum. Its error is from the differences of neighbouring strata:
    too large by what the mean moves between them."""
    if not np.isfinite(draws).all():
        raise UserError("the network gives no finite likelihood; is the checkpoint damaged?")
    error = 0.0
    if len(draws) > 1:
        error = math.sqrt(float(np.mean(np.diff(draws) ** 2)) / 2 / len(draws))
    return VariantScore(float(draws.mean()), error, method)


def _check(model: Any, method: Method) -> None:
    """Raises UserError for a model without a score by this method."""
    name = type(model).__name__
    if isinstance(model, CausalModel):
        if method != "exact":
            raise UserError(
                f"score={method} masks tokens, and a {name} reads from left to right and gives "
                "log p itself; use score=auto."
            )
        return
    process = getattr(model, "process", None)
    if isinstance(model, BlockDenoiser) or not isinstance(process, Absorbing):
        of = "" if process is None else f" of {type(process).__name__}"
        raise UserError(
            f"this model is a {name}{of}, and variants are scored by masks that are seen from "
            "both sides or from left to right; use a model of masked diffusion (mdlm, sedd, md4, "
            "mlm) or of objective=next_token."
        )
    if method == "exact":
        raise UserError(f"a {name} gives no exact log p; use the method llr or bound.")
