"""Rows of equal length from a corpus of tokens: where each begins is arithmetic, so that any row
is read at once and nothing has a state.

Three layouts:

    packed      one string of all documents, cut at equal distances
    padded      a document a row, cut where it is too long, padded on the right where it is short
    published   the packing of MDLM and its descendants, token for token

A row's BOS and EOS are tokens like any others, which are predicted and count; padding is not and
does not.
"""

from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64

from genodiff.batch import TokenBatch
from genodiff.data.datamodule import Keys
from genodiff.data.randomness import Stream, integers_below
from genodiff.data.text_tokenizers import TextTokenizer
from genodiff.data.token_store import TokenStore

_PUBLISHED_GROUP = 1000
_DOCUMENTS_AT_ONCE = 1 << 18

Ends = tuple[int | None, int | None]
"""The id in front of a row's text and that behind it, where there are any."""


@runtime_checkable
class Layout(Protocol):
    """Which tokens of a corpus are in which row."""

    @property
    def ends(self) -> "Ends":
        """What stands in front of them and behind them in each row."""
        ...

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def spans(self, keys: Keys) -> Int64[np.ndarray, "b 2"]:
        """The tokens of the row of each key (epoch, row): the first, and that behind the last."""
        ...

    def plain(self) -> "Layout":
        """The same rows without augmentation."""
        ...

    def describe(self) -> dict[str, Any]:
        """The layout's name and what it makes of the corpus."""
        ...


@final
class Packed:
    """Row i holds tokens i k to (i + 1) k, through documents; the last is shorter.

    Args:
        room: k, the tokens of text in a row.
        jitter: a row is read up to so many tokens earlier or later, anew in each epoch, as far as
            the corpus goes.
    """

    def __init__(
        self,
        store: TokenStore,
        room: int,
        ends: Ends,
        *,
        jitter: int = 0,
        seed: int = 0,
    ):
        self.store, self.room, self.ends, self.jitter, self.seed = store, room, ends, jitter, seed

    def __len__(self) -> int:
        return -(-self.store.n_tokens // self.room)

    def spans(self, keys: Keys) -> Int64[np.ndarray, "b 2"]:
        """See `Layout`."""
        epoch, row = keys.T
        start, n = row * self.room, self.store.n_tokens
        if self.jitter:
            last = np.maximum(start, n - self.room)  # of a row without padding
            low = np.maximum(0, start - self.jitter)
            high = np.minimum(last, start + self.jitter)
            start = low + integers_below(high - low + 1, self.seed, Stream.JITTER, epoch, row)
        return np.stack([start, np.minimum(start + self.room, n)], axis=1)

    def plain(self) -> "Packed":
        """The same rows where they were cut."""
        return Packed(self.store, self.room, self.ends)

    def describe(self) -> dict[str, Any]:
        """See `Layout`."""
        return {"layout": "packed", "ends": self.ends != (None, None)}


@final
class Padded:
    """Row i holds the first `room` tokens of document i, between BOS and EOS where the tokenizer
    has them. As published, but that documents without text have no row."""

    def __init__(self, store: TokenStore, room: int, ends: Ends):
        self.store, self.room, self.ends = store, room, ends

    def __len__(self) -> int:
        return self.store.n_documents

    def spans(self, keys: Keys) -> Int64[np.ndarray, "b 2"]:
        """See `Layout`."""
        document = keys[:, 1]
        start, end = self.store.starts(document), self.store.starts(document + 1)
        return np.stack([start, np.minimum(start + self.room, end)], axis=1)

    def plain(self) -> "Padded":
        """The same rows: nothing is augmented."""
        return self

    def describe(self) -> dict[str, Any]:
        """Also how many documents are cut, and how many tokens that loses."""
        documents = cut = tokens_cut = 0
        while documents < self.store.n_documents:  # of which there may be millions
            end = min(documents + _DOCUMENTS_AT_ONCE, self.store.n_documents)
            lengths = np.diff(self.store.starts(np.arange(documents, end + 1)))
            over = np.maximum(0, lengths - self.room)
            documents, cut = end, cut + int((over > 0).sum())
            tokens_cut += int(over.sum())
        return {"layout": "padded", "cut": cut, "tokens_cut": tokens_cut}


@final
class Published:
    """The packing of Sahoo et al. 2024 (arXiv:2406.07524): of each 1,000 documents, those without
    text included and EOS behind each, whole rows of `room` tokens between BOS and EOS; what is
    left over is dropped. The published code splits the documents among processes first; this is
    what one process makes of them.

    Raises ValueError for a store that leaves documents out.
    """

    def __init__(self, store: TokenStore, room: int, ends: Ends):
        if store.n_skipped:
            raise ValueError("the published packing counts documents without text")
        self.store, self.room, self.ends = store, room, ends
        groups = np.arange(0, store.n_documents + _PUBLISHED_GROUP, _PUBLISHED_GROUP)
        self._starts = store.starts(np.minimum(groups, store.n_documents))
        self._rows = np.cumsum([0, *(np.diff(self._starts) // room)])

    def __len__(self) -> int:
        return int(self._rows[-1])

    def spans(self, keys: Keys) -> Int64[np.ndarray, "b 2"]:
        """See `Layout`."""
        row = keys[:, 1]
        group = np.searchsorted(self._rows, row, side="right") - 1
        start = self._starts[group] + (row - self._rows[group]) * self.room
        return np.stack([start, start + self.room], axis=1)

    def plain(self) -> "Published":
        """The same rows: nothing is augmented."""
        return self

    def describe(self) -> dict[str, Any]:
        """Also how many tokens are dropped."""
        dropped = self.store.n_tokens - len(self) * self.room
        return {"layout": "published", "tokens_dropped": dropped}


@final
class TextRows:
    """Rows of `length` tokens of a corpus, as a layout has them; padding is at the end of a row,
    with weight 0."""

    def __init__(self, store: TokenStore, layout: Layout, tokenizer: TextTokenizer, length: int):
        self.store, self.layout = store, layout
        self.tokenizer, self.length = tokenizer, length

    def __len__(self) -> int:
        return len(self.layout)

    def __getitems__(self, keys: Keys, /) -> Int64[np.ndarray, "b l"]:
        """The tokens of the rows of these keys, (epoch, row)."""
        first, last = (np.array([i] if i is not None else [], np.int64) for i in self.layout.ends)
        rows = np.full((len(keys), self.length), self.tokenizer.pad_id, np.int64)
        for row, (start, stop) in zip(rows, self.layout.spans(keys).tolist(), strict=True):
            tokens = np.concatenate([first, self.store.tokens(start, stop), last])
            row[: len(tokens)] = tokens
        return rows

    def collate(self, tokens: Int64[np.ndarray, "b l"], /) -> TokenBatch:
        """Tokens and weights of a batch."""
        weights = (tokens != self.tokenizer.pad_id).astype(np.float32)
        return TokenBatch(torch.from_numpy(tokens), torch.from_numpy(weights))

    def locate(self, keys: Keys, /) -> list[str]:
        """Where the text of the rows of these keys begins: the document's number in its corpus,
        and the token's in the whole of it, each from 0."""
        start = self.layout.spans(keys)[:, 0]
        numbers = self.store.numbers(self.store.documents_at(start))
        return [f"document {n}, token {at}" for n, at in zip(numbers, start, strict=True)]

    @property
    def cluster_ids(self) -> Int64[np.ndarray, "n"]:
        """The document in which each row begins."""
        rows = np.arange(len(self))
        keys = np.stack([np.zeros_like(rows), rows], axis=1)
        return self.store.documents_at(self.layout.plain().spans(keys)[:, 0])

    def plain(self) -> "TextRows":
        """The same rows without augmentation."""
        return TextRows(self.store, self.layout.plain(), self.tokenizer, self.length)

    def describe(self) -> dict[str, Any]:
        """How text became rows, for logs and manifests: rows, tokens (those between documents
        included, those around rows not), documents, and those left out for having no text."""
        return {
            **self.layout.describe(),
            "windows": len(self),
            "tokens": self.store.n_tokens,
            "documents": self.store.n_documents,
            "skipped": self.store.n_skipped,
        }
