"""Vectors of sequences: what a network makes of each token, and the mean of it.

The state of token i of x, of length l, is the mean over the strands of the final hidden states

    e[i] = (h(x)[i] + h(RC x)[l - 1 - i]) / 2

or h(x)[i] without the other strand. The vector of a sequence is that of `SequenceClassifier`:

    mean   that of e over the tokens that count, which are those of `data_ids`: no N, no padding
    last   that over the strands of the last such token in the strand's own direction

A sequence longer than a chunk is read in windows of that length, of which neighbours share
`overlap` tokens or more. The state of a token is taken from the window in which it is furthest
from the edges: windows give way to each other in the middle of what they share, so that a network
is shown at least overlap / 2 tokens on both sides of each, as far as there are any. What it would
have remembered from further away is what chunks change. That is measured where two windows meet,
at their *seam*: the tokens around it, up to 32 or overlap / 8 away, have a state in both.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64, Integer
from numpy import ndarray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from genodiff.backbones import Backbone
from genodiff.errors import UserError
from genodiff.evaluation.borrowed import borrowed

Pooling = Literal["mean", "last", "none"]

CHUNK = 65_536
"""Tokens, with an overlap of a quarter. A Caduceus of 0.5 million parameters trained on windows of
1,024 bases then gives each base within 3e-4 of what it does in one pass over 131,072."""
TOLERANCE = 1e-3
"""Of what chunks change at a seam, see `Embedded`."""

_LOOKED_AT = 32


class Window(NamedTuple):
    """Tokens `start` to `end` of a sequence, which a network is shown, and `first` to `stop`,
    whose states are taken from it."""

    start: int
    end: int
    first: int
    stop: int


class Embedded(NamedTuple):
    """Vectors of n sequences.

    vectors: one each, NaN where no token counts; or, not pooled, one of each token of one sequence
    after the other. counted: tokens of each that count. seams: of each place where two windows
    meet, the largest root mean square, over channels, of the difference between their states, in
    units of the root mean square of these.
    """

    vectors: Float[ndarray, "m d"]
    counted: Int64[ndarray, " n"]
    seams: Float64[ndarray, " k"]


def embed_sequences(
    network: Backbone,
    tokenizer: Any,
    sequences: Iterable[str],
    *,
    pooling: Literal["mean", "last"] = "mean",
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> Float64[ndarray, "n d"]:
    """The vector of each sequence; of DNA the mean of both strands.

    Args:
        network: given back in the mode and on the device it came in.
        tokenizer: the network's own.
        sequences: read `batch_size` at a time.
        device: where to embed; None is where the network is.

    Raises:
        UserError: none of a sequence's tokens count, or there is no sequence.
    """
    vectors: list[Float64[ndarray, "b d"]] = []
    stream = iter(sequences)
    with borrowed(network, device):
        while texts := list(islice(stream, batch_size)):
            embedded = embed(
                network,
                [tokenizer.encode(text) for text in texts],
                data_ids=tokenizer.data_ids,
                complement=getattr(tokenizer, "complement", None),
                pooling=pooling,
            )
            if not embedded.counted.all():
                number = batch_size * len(vectors) + int(embedded.counted.argmin()) + 1
                raise UserError(
                    f"sequence {number} has no token that counts (of DNA: A, C, G or T), so it "
                    "has no vector; leave it out."
                )
            vectors.append(embedded.vectors)
    if not vectors:
        raise UserError("there is nothing to embed; give at least one sequence.")
    return np.concatenate(vectors)


def embed(
    network: Backbone,
    sequences: Sequence[Integer[ndarray, " _"]],
    *,
    data_ids: Sequence[int],
    complement: Sequence[int] | None,
    pooling: Pooling,
    chunk: int | None = None,
    overlap: int | None = None,
) -> Embedded:
    """The vectors of sequences of any lengths of one or more tokens.

    The network is told no noise level: it embeds clean sequences. It is given up to `chunk` tokens
    at a time (twice that with both strands), of one sequence or of several; what is around a
    sequence changes nothing.

    Args:
        network: in evaluation mode, gradients off; `borrowed` sees to both.
        data_ids: the tokens that count.
        complement: complement[i] is that of token i, for both strands; None for the given one.
        pooling: "none" for each token's own vector.
        chunk, overlap: see `chunking`, which may raise.
    """
    chunk, overlap = chunking(network, chunk, overlap)
    counts = [np.isin(tokens, data_ids) for tokens in sequences]
    both = complement is not None
    sink = (
        _PerToken(network, sequences)
        if pooling == "none"
        else _Pooled(network, [_weights(is_data, pooling, both=both) for is_data in counts])
    )
    reader = _Reader(network, complement)
    pieces = [
        _Piece(i, window)
        for i, tokens in enumerate(sequences)
        for window in windows(len(tokens), chunk, overlap)
        if sink.needs(i, window)
    ]
    pieces.sort(key=_length)  # keeps the order of a sequence's windows, which are of one length
    seams = _Seams(reach=min(_LOOKED_AT, -(-overlap // 8)))
    for batch in _batches(pieces, chunk, reader.equal_lengths):
        rows = [torch.from_numpy(sequences[i][w.start : w.end].astype(np.int64)) for i, w in batch]
        for piece, states in zip(batch, reader.states(rows), strict=True):
            seams.look_at(piece, states)
            window = piece.window
            sink.take(piece, states[:, window.first - window.start : window.stop - window.start])
    counted = np.array([is_data.sum() for is_data in counts], np.int64)
    return Embedded(sink.vectors(), counted, np.array(seams.differences))


def windows(length: int, chunk: int, overlap: int) -> Iterator[Window]:
    """The windows of a sequence: one, or several that are all as long as a chunk, at distances
    that are equal to within one token. Neighbours share `overlap` tokens or more."""
    size = min(chunk, length)
    gaps = -(-(length - size) // (chunk - overlap))
    starts = [i * (length - size) // max(gaps, 1) for i in range(gaps + 1)]
    seams = [(start + size + following) // 2 for start, following in pairwise(starts)]
    for start, first, stop in zip(starts, [0, *seams], [*seams, length], strict=True):
        yield Window(start, start + size, first, stop)


def chunking(
    network: Backbone, chunk: int | None = None, overlap: int | None = None
) -> tuple[int, int]:
    """The chunk and the overlap, in tokens: as given, or 65,536, or as many as the network has
    positions for; and a quarter of the chunk.

    Raises UserError unless the network can be shown a chunk, and it is longer than what neighbours
    share, which is at least 2 tokens.
    """
    limit = network.max_length
    if chunk is None:
        chunk = CHUNK if limit is None else min(CHUNK, limit)
    if overlap is None:
        overlap = chunk // 4
    if not 2 <= overlap < chunk:
        raise UserError(
            f"chunk={chunk} overlap={overlap}: chunks have to be longer than what neighbours "
            f"share, and that at least 2; use e.g. chunk={CHUNK} overlap={CHUNK // 4}."
        )
    if limit is not None and chunk > limit:
        raise UserError(
            f"chunk={chunk}, but this model has {limit} positions; use {limit} or less, or a "
            "model with more."
        )
    return chunk, overlap


class _Piece(NamedTuple):
    """A window of the sequence of that number."""

    sequence: int
    window: Window


def _length(piece: _Piece) -> int:
    return piece.window.end - piece.window.start


class _Reader:
    """A network that reads one strand or both."""

    def __init__(self, network: Backbone, complement: Sequence[int] | None) -> None:
        self.network = network
        self.device = next(network.parameters()).device
        self.keeps_both = network.d_strand != network.d_model
        self.complement = None if complement is None else torch.tensor(complement)
        # Padding in front of a strand, where a network that keeps both has it, might be counted.
        self.equal_lengths = self.keeps_both or network.unseen_id is None

    def states(self, rows: Sequence[Int[Tensor, " _"]]) -> list[Float[Tensor, "s _ d"]]:
        """Those of each row on each strand, all in the direction of the row."""
        if self.keeps_both:
            given, opposite = self.network.strands(torch.stack(list(rows)).to(self.device))
            strands = [given] if self.complement is None else [given, opposite.flip(1)]
            return list(torch.stack(strands, 1))
        if self.complement is None:
            return [hidden.unsqueeze(0) for hidden in self._hidden(rows)]
        table = self.complement
        hidden = self._hidden([*rows, *(table[row].flip(0) for row in rows)])
        pairs = zip(hidden[: len(rows)], hidden[len(rows) :], strict=True)
        return [torch.stack([given, opposite.flip(0)]) for given, opposite in pairs]

    def _hidden(self, rows: Sequence[Int[Tensor, " _"]]) -> list[Float[Tensor, "_ d"]]:
        padding = self.network.unseen_id or 0  # where there is none, rows are of one length
        tokens = pad_sequence(list(rows), batch_first=True, padding_value=padding)
        hidden = self.network.hidden(tokens.to(self.device))
        return [states[: len(row)] for states, row in zip(hidden, rows, strict=True)]


def _batches(pieces: Iterable[_Piece], chunk: int, equal_lengths: bool) -> Iterator[list[_Piece]]:
    """Pieces in the order of their length, as many as are no more than a chunk with padding."""
    batch: list[_Piece] = []
    for piece in pieces:
        length = _length(piece)
        is_full = (len(batch) + 1) * length > chunk
        if batch and (is_full or (equal_lengths and length != _length(batch[-1]))):
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _weights(
    is_data: Bool[ndarray, " l"], pooling: Pooling, *, both: bool
) -> Bool[ndarray, "s l"]:
    """Which states make up the vector of a sequence, on each strand."""
    if pooling == "mean":
        return np.broadcast_to(is_data, (1 + both, len(is_data)))
    weights = np.zeros((1 + both, len(is_data)), bool)
    places = np.flatnonzero(is_data)
    if len(places):
        weights[0, places[-1]] = True
        weights[1:, places[0]] = True
    return weights


class _Pooled:
    """Weighted means of states, of one strand after the other, in float64."""

    def __init__(self, network: Backbone, weights: Sequence[Bool[ndarray, "s _"]]) -> None:
        self.weights = weights
        self.sums = np.zeros((len(weights), network.d_strand))

    def needs(self, sequence: int, window: Window) -> bool:
        return bool(self.weights[sequence][:, window.first : window.stop].any())

    def take(self, piece: _Piece, states: Float[Tensor, "s l d"]) -> None:
        i, window = piece
        weights = torch.tensor(self.weights[i][:, window.first : window.stop])
        chosen = states[weights.to(states.device)]  # (m, d)
        self.sums[i] += chosen.sum(0, dtype=torch.float64).cpu().numpy()

    def vectors(self) -> Float64[ndarray, "n d"]:
        totals = np.array([[weights.sum()] for weights in self.weights]).reshape(-1, 1)
        return np.where(totals > 0, self.sums / np.maximum(totals, 1), np.nan)


class _PerToken:
    """States as they are, the mean over the strands."""

    def __init__(self, network: Backbone, sequences: Sequence[Integer[ndarray, " _"]]) -> None:
        self.starts = np.cumsum([0, *map(len, sequences)])
        dtype = next(network.parameters()).dtype
        self.states = torch.empty((int(self.starts[-1]), network.d_strand), dtype=dtype)

    def needs(self, sequence: int, window: Window) -> bool:
        return True

    def take(self, piece: _Piece, states: Float[Tensor, "s l d"]) -> None:
        start, window = self.starts[piece.sequence], piece.window
        self.states[start + window.first : start + window.stop] = states.mean(0)

    def vectors(self) -> Float[ndarray, "m d"]:
        return self.states.numpy()


class _Seams:
    """What two windows in a row say of the tokens that are up to `reach` from their seam."""

    def __init__(self, reach: int) -> None:
        self.reach = reach
        self.differences: list[float] = []
        self.before: tuple[int, int, Float[Tensor, "s r d"]] | None = None

    def look_at(self, piece: _Piece, states: Float[Tensor, "s l d"]) -> None:
        """Windows of a sequence come in its order, though some may be left out."""
        i, window = piece
        if self.before is not None and self.before[:2] == (i, window.first):
            here = self._around(window.first - window.start, states)
            rms = here.square().mean().sqrt()
            error = (here - self.before[2]).square().mean(-1).max().sqrt()
            self.differences.append(float(error / rms) if rms > 0 else float(error > 0))
        self.before = i, window.stop, self._around(window.stop - window.start, states)

    def _around(self, place: int, states: Float[Tensor, "s l d"]) -> Float[Tensor, "s r d"]:
        return states[:, max(place - self.reach, 0) : place + self.reach].double().cpu()
