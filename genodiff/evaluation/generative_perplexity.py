"""Generative perplexity: what texts cost under a language model that judges them.

A text's tokens are the judge's own. Its cost depends on what counts:

- `rule="all"`: every token, the first one given the token with which the judge begins a document.
  Where a text begins with the name of that token itself, as samples of a model that draws BOS do,
  that one is given and does not count. A text longer than the judge's window is read in windows
  that overlap, and each token counts in the first that holds it.
- `rule="published"`, as MDLM (Sahoo et al. 2024) and what descends from it: nothing stands before
  a text, so that its first token is given; windows do not overlap, and the first token of each is
  given too; of the tokens that end a document only the first of a window counts. Their code reads
  one window of a text: cut texts to it to have the same tokens.

Perplexities under two tokenizers do not compare, not even of one text; nats per byte do.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import nn

from genodiff.errors import UserError
from genodiff.evaluation.borrowed import borrowed
from genodiff.evaluation.judges import LanguageModel, by_length, padded
from genodiff.evaluation.text_statistics import Measure, Tokens, measure
from genodiff.evaluation.uncertainty import perplexity, ratio_standard_error

Rule = Literal["all", "published"]


class GenerativePerplexity(NamedTuple):
    """Nats of all texts over what was counted; errors are those of drawing other texts.

    `tokens`: how many counted. `nats_per_byte` (of UTF-8) only where every token of a text counts.
    """

    nats_per_token: Measure
    nats_per_byte: Measure | None
    tokens: int

    def summary(self) -> dict[str, Any]:
        """As plain JSON values, with the perplexity exp(nats per token) as the `value`."""
        interval = self.nats_per_token.confidence_95
        per_byte = self.nats_per_byte
        return {
            "value": perplexity(self.nats_per_token.value),
            "confidence_95": None if interval is None else [perplexity(end) for end in interval],
            "nats_per_token": self.nats_per_token.summary(),
            "nats_per_byte": None if per_byte is None else per_byte.summary(),
            "tokens": self.tokens,
        }


def generative_perplexity(
    judge: LanguageModel,
    texts: Sequence[str],
    *,
    rule: Rule = "all",
    window: int = 1024,
    stride: int | None = None,
    batch_size: int = 8,
    device: torch.device | str | None = None,
) -> GenerativePerplexity:
    """What `texts` cost under `judge`.

    Args:
        window: tokens that the judge sees at once; fewer if it takes fewer.
        stride: tokens that each further window adds, by default half of it. Of `rule="all"`.
        batch_size: windows that go through the network together.
        device: where the judge reads; by default where it is. It is given back as it was.

    Raises:
        UserError: no token counts, a stride that leaves no token to be read before the others, or
            a judge that gives no number.
    """
    window = min(window, judge.max_length)
    rows = judge.encode(texts)
    sizes = np.array([len(text.encode()) for text in texts], np.float64)
    if rule == "published":
        if stride is not None:
            raise UserError(
                f"stride={stride}: windows do not overlap under rule=published; leave stride= out."
            )
        nats, counted = _published(judge, rows, window, batch_size, device)
    else:
        stride = max(window // 2, 1) if stride is None else stride
        if not 1 <= stride < window:
            raise UserError(
                f"stride={stride} with window={window}: each window adds `stride` tokens to some "
                f"that it has seen; use 1 .. {window - 1}."
            )
        sizes -= [_begins(row, judge) * _start_bytes(judge) for row in rows]
        rows = [row if _begins(row, judge) else _begun(row, judge) for row in rows]
        per_token = token_nats(
            judge.network, rows, window=window, stride=stride, batch_size=batch_size, device=device
        )
        nats = np.array([np.nansum(each) for each in per_token])
        counted = np.array([np.isfinite(each).sum() for each in per_token])
    total = int(counted.sum())
    if not total:
        raise UserError(f"none of {len(texts)} texts has a token that counts; give longer texts.")
    whole = rule == "all" and judge.start_id is not None
    return GenerativePerplexity(
        _ratio(nats, counted.astype(np.float64)), _ratio(nats, sizes) if whole else None, total
    )


def token_nats(
    network: nn.Module,
    rows: Sequence[Tokens],
    *,
    window: int,
    stride: int,
    batch_size: int = 8,
    device: torch.device | str | None = None,
) -> list[Float[ndarray, "_"]]:
    """-log p of each token of each row given those before it in its window; NaN for the first.

    Args:
        network: a causal language model; `network(input_ids=, attention_mask=).logits`.
        stride: windows begin so many tokens apart, fewer than `window`.

    Raises:
        UserError: the network gives no number.
    """
    found = [np.full(len(row), np.nan) for row in rows]
    # (row, first token of the window, first token of it that counts)
    places = [
        (i, start, start + window - stride if start else 1)
        for i, row in enumerate(rows)
        for start in range(0, max(len(row) - window + stride, 1), stride)
        if len(row) > 1
    ]
    pieces = [rows[i][start : start + window] for i, start, _ in places]
    with borrowed(network, device) as here:
        for batch in by_length(pieces, batch_size):
            tokens, mask = padded([pieces[k] for k in batch], None, here)
            logits = network(input_ids=tokens, attention_mask=mask).logits
            for k, row_logits, row in zip(batch, logits, tokens, strict=True):
                (i, start, first), end = places[k], len(pieces[k])
                nats = F.cross_entropy(
                    row_logits[first - start - 1 : end - 1].float(),
                    row[first - start : end],
                    reduction="none",
                )
                found[i][first : start + end] = nats.double().cpu().numpy()
    if not all(np.isfinite(each[1:]).all() for each in found):
        raise UserError("the language model gives a text NaN or infinite nats; use another one.")
    return found


def _begins(row: Tokens, judge: LanguageModel) -> bool:
    """Whether a text itself begins with the token that begins a document."""
    return len(row) > 0 and bool(row[0] == judge.start_id)


def _begun(row: Tokens, judge: LanguageModel) -> Tokens:
    """A text behind the token that begins a document, if there is such a token."""
    return row if judge.start_id is None else np.concatenate([[judge.start_id], row])


def _start_bytes(judge: LanguageModel) -> int:
    """Of the name of the token that begins a document, as a text has it."""
    if judge.start_id is None:
        return 0
    return len(judge.tokenizer.convert_ids_to_tokens(judge.start_id).encode())


def published_counts(tokens: Tokens, eos_id: int | None) -> Bool[ndarray, "_"]:
    """Which tokens of a window count under the published rule."""
    ends = tokens == eos_id if eos_id is not None else np.zeros(len(tokens), bool)
    counts = ~ends | (ends & (np.cumsum(ends) == 1))
    counts[:1] = False
    return counts


def _published(
    judge: LanguageModel,
    rows: Sequence[Tokens],
    window: int,
    batch_size: int,
    device: torch.device | str | None,
) -> tuple[Float[ndarray, " n"], Int[ndarray, " n"]]:
    """Nats and tokens that count of each row, in windows that do not overlap."""
    places = [(i, s) for i, row in enumerate(rows) for s in range(0, len(row), window)]
    pieces = [rows[i][start : start + window] for i, start in places]
    per_token = token_nats(
        judge.network, pieces, window=window, stride=1, batch_size=batch_size, device=device
    )
    nats, counted = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
    for (i, _), piece, each in zip(places, pieces, per_token, strict=True):
        counts = published_counts(piece, judge.eos_id)
        nats[i] += each[counts].sum()
        counted[i] += counts.sum()
    return nats, counted


def _ratio(totals: Float[ndarray, " n"], weights: Float[ndarray, " n"]) -> Measure:
    """sum(totals) / sum(weights), with the error over texts."""
    error = ratio_standard_error(totals, weights)
    return measure(
        float(totals.sum() / weights.sum()),
        None if error is None else float(error),
        int((weights > 0).sum()),
    )
