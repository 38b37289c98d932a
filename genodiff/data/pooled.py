"""Several sources of data as one: genomes of several species, say."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Int64

from genodiff.batch import TokenBatch
from genodiff.data.datamodule import Keys, SequenceData, TokenDataset
from genodiff.data.intervals import SPLITS, Split
from genodiff.data.sources import StartMethod
from genodiff.errors import UserError


def pooled_data(
    parts: Mapping[str, SequenceData],
    batch_size: int = 32,
    *,
    length: int = 1024,
    labelled: bool = False,
    eval_batch_size: int | None = None,
    num_workers: int = 0,
    start_method: StartMethod | None = None,
    pin_memory: bool = False,
    seed: int = 0,
) -> SequenceData:
    """All windows of all parts, each once an epoch, in an order that mixes them.

    Each part has windows of `length` tokens; how its loaders are set up has no effect.
    `labelled=True` labels a sequence by the number of its part, in the order given, for a network
    with as many classes.
    """
    if not parts:
        raise UserError("parts={} is empty; give at least one.")
    first = next(iter(parts.values()))
    for name, part in parts.items():
        if part.length != length:
            raise UserError(
                f"parts.{name} has sequences of {part.length} tokens, not length={length}; give "
                "all parts the same."
            )
        if part.tokenizer != first.tokenizer:
            raise UserError(f"parts.{name} has another tokenizer; train a model for each.")

    def pooled(split: Split) -> Pooled | None:
        sets, labels = [], []
        for label, part in enumerate(parts.values()):
            with contextlib.suppress(UserError):  # a part may lack a split
                sets.append(part.dataset(split))
                labels.append(label)
        return Pooled(sets, labels if labelled else None) if sets else None

    train, valid, test = (pooled(split) for split in SPLITS)
    return SequenceData(
        *(train, valid, test, first.tokenizer),
        length=length,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        num_workers=num_workers,
        start_method=start_method,
        pin_memory=pin_memory,
        seed=seed,
        n_labels=len(parts) if labelled else 0,
        source={"parts": {name: part.describe() for name, part in parts.items()}},
        missing="no part has any; add some, or use another split.",
    )


class Items(NamedTuple):
    """The items of one data set in a batch."""

    part: int
    rows: Int64[np.ndarray, "m"]
    """Where in the batch they are."""
    items: Any


@final
class Pooled:
    """The items of several data sets, numbered one set after the other; of each set with the label
    of its own, if there are labels."""

    def __init__(self, sets: Sequence[TokenDataset], labels: Sequence[int] | None = None):
        self.sets, self.labels = sets, labels
        self._ends = np.cumsum([len(part) for part in sets])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitems__(self, keys: Keys, /) -> list[Items]:
        """The items of a batch of keys (epoch, index)."""
        return [
            Items(part, rows, self.sets[part].__getitems__(own))
            for part, rows, own in self._by_part(keys)
        ]

    def collate(self, batch: list[Items], /) -> TokenBatch:
        """Tokens, weights and labels, in the order of the keys."""
        parts = [self.sets[each.part].collate(each.items) for each in batch]
        order = torch.from_numpy(np.argsort(np.concatenate([each.rows for each in batch])))
        labels = None
        if self.labels is not None:
            labels = [torch.full((len(each.rows),), self.labels[each.part]) for each in batch]
            labels = torch.cat(labels)[order]
        return TokenBatch(
            torch.cat([part.tokens for part in parts])[order],
            torch.cat([part.weights for part in parts])[order],
            labels,
        )

    def locate(self, keys: Keys, /) -> list[str]:
        """Where the items of these keys were read: the number of the part, and what it says."""
        places = [""] * len(keys)
        for part, rows, own in self._by_part(keys):
            for row, place in zip(rows, self.sets[part].locate(own), strict=True):
                places[row] = f"part {part}, {place}"
        return places

    @property
    def cluster_ids(self) -> Int64[np.ndarray, "n"]:
        """As in the parts; those of two parts are never the same."""
        ids: list[np.ndarray] = []
        for part in self.sets:
            first = int(ids[-1].max()) + 1 if ids else 0
            ids.append(part.cluster_ids + first)
        return np.concatenate(ids)

    def plain(self) -> "Pooled":
        """The same items without augmentation."""
        return Pooled([part.plain() for part in self.sets], self.labels)

    def describe(self) -> dict[str, Any]:
        """How many items there are; each part is described by itself."""
        return {"windows": len(self)}

    def _by_part(self, keys: Keys) -> Iterator[tuple[int, Int64[np.ndarray, "m"], Keys]]:
        """Each part that is asked, which rows of the batch are its, and its own keys of them."""
        part_of = np.searchsorted(self._ends, keys[:, 1], side="right")
        for part in np.unique(part_of).tolist():
            rows = np.flatnonzero(part_of == part)
            first = self._ends[part] - len(self.sets[part])
            yield part, rows, keys[rows] - np.array([0, first])
