"""Sequences with labels, of any length: what a classifier is trained on and tested with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Int64

from genodiff.batch import TokenBatch
from genodiff.data.datamodule import Keys, Tokenizer
from genodiff.data.randomness import Stream, hash_counters
from genodiff.data.regions import Region
from genodiff.errors import UserError


@final
@dataclass(frozen=True)
class LabelledSequences:
    """Token ids of n sequences one after another, and a label each.

    Sequence i is `ids[starts[i] : starts[i + 1]]`, of class `labels[i]`. `regions`: where each was
    read in a genome, if that is known.
    """

    ids: np.ndarray  # (total,): uint8 of DNA, int32 of larger vocabularies
    starts: Int64[np.ndarray, "n_plus_1"]
    labels: Int64[np.ndarray, "n"]
    regions: tuple[Region, ...] | None = None

    @classmethod
    def of(
        cls,
        sequences: Iterable[np.ndarray],
        labels: Sequence[int],
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
            np.asarray(labels, np.int64),
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

    `valid` is None where the task has none of its own. `source`: where the data come from, for
    manifests.
    """

    name: str
    classes: tuple[str, ...]
    train: LabelledSequences
    test: LabelledSequences
    valid: LabelledSequences | None
    tokenizer: Tokenizer
    source: Mapping[str, Any]


@final
@dataclass(frozen=True)
class LabelledWindows:
    """Labelled sequences as rows of `length` tokens: cut on the right, padded on one side.

    A batch's labels are the classes, and its weights one a row, (b, 1). Which tokens are padding
    is told by their id. `locate` gives the number of each sequence.

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
        if self.append_sep and not hasattr(self.tokenizer, "eos_id"):
            raise UserError(f"append_sep=true: {name} has no token for an end; leave it out.")

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitems__(self, keys: Keys) -> Int64[np.ndarray, "b l_plus_2"]:
        """A row of tokens and, behind them, the label, for each key (epoch, number)."""
        rows = np.full((len(keys), self.length + self.append_sep + 1), self.tokenizer.pad_id)
        complement = np.asarray(getattr(self.tokenizer, "complement", ()))
        for row, (_, number), minus in zip(rows, keys.tolist(), self._is_minus(keys), strict=True):
            ids = self.sequences[number]
            ids = (complement[ids[::-1]] if minus else ids)[: self.length]
            first = self.length - len(ids) if self.pad == "left" else 0
            row[first : first + len(ids)] = ids
            row[-1] = self.sequences.labels[number]
        if self.append_sep:
            rows[:, -2] = getattr(self.tokenizer, "eos_id", None)
        return rows

    def collate(self, rows: Int64[np.ndarray, "b l_plus_2"]) -> TokenBatch:
        """Tokens, weights and labels."""
        table = torch.from_numpy(np.asarray(rows))
        return TokenBatch(table[:, :-1], torch.ones(len(table), 1), table[:, -1])

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
        counts = np.bincount(self.sequences.labels).tolist()
        cut = int((self.sequences.lengths > self.length).sum())
        return {"sequences": len(self), "of_each_class": counts, "cut": cut}

    def _is_minus(self, keys: Keys) -> Bool[np.ndarray, "b"]:
        if self.strand != "random":
            return np.full(len(keys), self.strand == "-")
        epoch, number = keys[:, 0], keys[:, 1]
        return hash_counters(self.seed, Stream.STRAND, epoch, number) >> np.uint64(63) == 1
