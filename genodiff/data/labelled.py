"""Sequences with labels, of any length: what a classifier is trained on and tested with.

A label is a class or, in regression, a number. A sequence may be of several texts; in a tokenizer
that frames its rows, BERT's for one, a row is then [CLS] a [SEP] b [SEP].
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from genodiff.batch import TokenBatch
from genodiff.data.datamodule import Keys, Tokenizer
from genodiff.data.randomness import Stream, hash_counters
from genodiff.data.regions import Region
from genodiff.errors import UserError

MetricName = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]
"""By what a task is scored: the first three of classes, the others of numbers."""


@final
@dataclass(frozen=True)
class LabelledSequences:
    """Token ids of n sequences one after another, and a label each.

    Sequence i is `ids[starts[i] : starts[i + 1]]`, and `labels[i]` its class or, where labels are
    not integers, its number. `regions`: where each was read in a genome, if that is known.
    """

    ids: np.ndarray  # (total,): uint8 of DNA, int32 of larger vocabularies
    starts: Int64[np.ndarray, "n_plus_1"]
    labels: Int64[np.ndarray, "n"] | Float64[np.ndarray, "n"]
    regions: tuple[Region, ...] | None = None

    @classmethod
    def of(
        cls,
        sequences: Iterable[np.ndarray],
        labels: Sequence[int] | Sequence[float],
        regions: Sequence[Region] | None = None,
    ) -> "LabelledSequences":
        """Of the ids of each sequence."""
        rows = list(sequences)
        ids = np.concatenate(rows) if rows else np.zeros(0, np.uint8)
        small = not len(ids) or (ids.min() >= 0 and ids.max() < 256)
        starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        return cls(
            ids.astype(np.uint8 if small else np.int32),
            starts,
            np.asarray(labels) if len(labels) else np.zeros(0, np.int64),
            None if regions is None else tuple(regions),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> np.ndarray:
        """The ids of sequence i."""
        return self.ids[self.starts[i] : self.starts[i + 1]]

    @property
    def lengths(self) -> Int64[np.ndarray, "n"]:
        """Tokens of each."""
        return np.diff(self.starts)

    def take(self, which: Int64[np.ndarray, "m"] | Bool[np.ndarray, "n"]) -> "LabelledSequences":
        """Some of them, in the order asked for."""
        index = np.arange(len(self))[which].tolist()
        regions = None if self.regions is None else [self.regions[i] for i in index]
        return LabelledSequences.of((self[i] for i in index), self.labels[index].tolist(), regions)


class ClassificationTask(NamedTuple):
    """A task: its classes in order, which is that of the labels in all splits, and its splits.

    A task of regression has no classes. `valid` is None where the task has none of its own.
    `source`: where the data come from, for manifests. `metrics`: what it is scored by, the most
    important first. `test_parts`: names and sizes of the parts that the test set consists of, one
    after another, if they are scored apart.
    """

    name: str
    classes: tuple[str, ...]
    train: LabelledSequences
    test: LabelledSequences
    valid: LabelledSequences | None
    tokenizer: Tokenizer
    source: Mapping[str, Any]
    metrics: tuple[MetricName, ...] = ("accuracy",)
    test_parts: tuple[tuple[str, int], ...] = ()


class Frame(NamedTuple):
    """What a row of text begins with, and what ends each of its texts."""

    bos_id: int
    eos_id: int


def frame_of(tokenizer: Tokenizer) -> Frame | None:
    """The frame of a tokenizer's rows; None for DNA, and for tokenizers without such tokens."""
    bos_id, eos_id = (getattr(tokenizer, name, None) for name in ("bos_id", "eos_id"))
    if hasattr(tokenizer, "complement") or bos_id is None or eos_id is None:
        return None
    return Frame(bos_id, eos_id)


def texts_of(ids: np.ndarray, tokenizer: Tokenizer) -> list[np.ndarray]:
    """The ids of each text of a sequence, where the tokenizer has an `eos_id` to end them."""
    eos_id = getattr(tokenizer, "eos_id", None)
    if eos_id is None:
        return [ids]
    ends = np.flatnonzero(ids == eos_id)
    begins = [0, *(ends + 1).tolist()]
    return [ids[a:b] for a, b in zip(begins, [*ends.tolist(), len(ids)], strict=True)]


def frame_length(tokenizer: Tokenizer) -> int:
    """How many tokens a frame adds to a sequence: one in front, one behind."""
    return 0 if frame_of(tokenizer) is None else 2


def longest_first(lengths: Sequence[int], room: int) -> list[int]:
    """How much is kept of texts of these lengths so that all have room: the longest lose first.

    What is over where they cannot be cut to one length goes to the longest and, of equal ones, to
    the last, as in `longest_first` of the package tokenizers.
    """
    kept = [0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    for rank, i in enumerate(order):
        kept[i] = min(lengths[i], room // (len(order) - rank))
        room -= kept[i]
    return kept


class LabelledRows(NamedTuple):
    """Rows of tokens, and the label of each."""

    tokens: Int64[np.ndarray, "b l"]
    labels: np.ndarray


@final
@dataclass(frozen=True)
class LabelledWindows:
    """Labelled sequences as rows of `length` tokens: cut on the right, padded on one side.

    In a tokenizer that frames its rows, the texts of a row are cut `longest_first`, so that they
    and the frame have `length` tokens. A batch's labels are the classes or numbers, and its
    weights one a row, (b, 1). Which tokens are padding is told by their id. `locate` gives the
    number of each sequence.

    Args:
        length: tokens a row, without the [SEP] of `append_sep`.
        pad: where rows are filled up.
        strand: how DNA is read; "-" is the reverse complement, taken before anything is cut, and
            "random" is either, by a hash of (seed, epoch, number).
        append_sep: end every row with the tokenizer's `eos_id`, behind the padding as published.
    """

    sequences: LabelledSequences
    tokenizer: Tokenizer
    length: int
    pad: Literal["left", "right"] = "right"
    strand: Literal["+", "-", "random"] = "+"
    append_sep: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        name = type(self.tokenizer).__name__
        if self.length < 1:
            raise UserError(f"length={self.length} is no number of tokens; give 1 or more.")
        if self.strand != "+" and not hasattr(self.tokenizer, "complement"):
            raise UserError(
                f"strands are of DNA, and {name} has no complement; read the given one alone."
            )
        if self.append_sep and getattr(self.tokenizer, "eos_id", None) is None:
            raise UserError(f"append_sep=true: {name} has no token for an end; leave it out.")
        if frame_of(self.tokenizer) is not None:
            if self.append_sep:
                raise UserError(
                    f"append_sep=true: rows of {name} end so in any case; leave it out."
                )
            n_texts = len(texts_of(self.sequences[0], self.tokenizer)) if len(self) else 1
            if self.length < 1 + 2 * n_texts:
                raise UserError(
                    f"length={self.length} has no room for {n_texts} texts and the {n_texts + 1} "
                    f"tokens around them; give {1 + 2 * n_texts} or more."
                )

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitems__(self, keys: Keys) -> LabelledRows:
        """A row of tokens, and its label, for each key (epoch, number)."""
        rows = np.full((len(keys), self.length + self.append_sep), self.tokenizer.pad_id)
        complement = np.asarray(getattr(self.tokenizer, "complement", ()))
        for row, (_, number), minus in zip(rows, keys.tolist(), self._is_minus(keys), strict=True):
            ids = self.sequences[number]
            ids = self._fitted(complement[ids[::-1]] if minus else ids)
            first = self.length - len(ids) if self.pad == "left" else 0
            row[first : first + len(ids)] = ids
        if self.append_sep:
            rows[:, -1] = getattr(self.tokenizer, "eos_id", None)
        return LabelledRows(rows, self.sequences.labels[keys[:, 1]])

    def collate(self, rows: LabelledRows) -> TokenBatch:
        """Tokens, weights and labels."""
        tokens, labels = map(torch.from_numpy, rows)
        return TokenBatch(tokens, torch.ones(len(tokens), 1), labels)

    def locate(self, keys: Keys) -> list[str]:
        """The number of each sequence and its strand."""
        signs = np.where(self._is_minus(keys), "-", "+")
        return [
            f"sequence {n} ({sign})" for (_, n), sign in zip(keys.tolist(), signs, strict=True)
        ]

    @property
    def cluster_ids(self) -> Int64[np.ndarray, "n"]:
        """Each sequence for itself."""
        return np.arange(len(self))

    def plain(self) -> "LabelledWindows":
        """The same rows with a random strand read as given."""
        return self if self.strand != "random" else replace(self, strand="+")

    def describe(self) -> dict[str, Any]:
        """How many there are, of each class, and how many are cut."""
        labels, room = self.sequences.labels, self.length - frame_length(self.tokenizer)
        cut = int((self.sequences.lengths > room).sum())
        if labels.dtype.kind == "f":
            return {"sequences": len(self), "cut": cut}
        return {"sequences": len(self), "of_each_class": np.bincount(labels).tolist(), "cut": cut}

    def _fitted(self, ids: np.ndarray) -> np.ndarray:
        """A row without its padding."""
        frame = frame_of(self.tokenizer)
        if frame is None:
            return ids[: self.length]
        texts = texts_of(ids, self.tokenizer)
        kept = longest_first([*map(len, texts)], self.length - 1 - len(texts))
        end = [frame.eos_id]
        pieces = [piece for text, n in zip(texts, kept, strict=True) for piece in (text[:n], end)]
        return np.concatenate([[frame.bos_id], *pieces])

    def _is_minus(self, keys: Keys) -> Bool[np.ndarray, "b"]:
        if self.strand != "random":
            return np.full(len(keys), self.strand == "-")
        epoch, number = keys[:, 0], keys[:, 1]
        return hash_counters(self.seed, Stream.STRAND, epoch, number) >> np.uint64(63) == 1
