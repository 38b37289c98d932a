"""Datasets to loaders: which windows make up batch number i, from any point on.

Training sees one endless stream of samples. Sample j is window `permutation_e(j mod n)` in epoch e
= j // n, and batch i holds samples [i b, (i+1) b): arithmetic, with no state but i. So a run that
resumes at batch i sees what it would have seen, and an epoch ends inside a batch without dropping
or repeating a window. A batch is that of an optimizer step, over all processes; each of them reads
all of it, and training cuts it into shares.
"""

import signal
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from genodiff.batch import TokenBatch
from genodiff.data.intervals import Split
from genodiff.data.randomness import Stream, permute
from genodiff.errors import UserError

Keys = Int64[np.ndarray, "b 2"]


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back, with the ids that mean something to a model."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def mask_id(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def data_ids(self) -> tuple[int, ...]:
        """The ids that diffuse and are predicted."""
        ...

    def encode(self, text: str) -> Int64[np.ndarray, "l"]: ...

    def decode(self, tokens: Sequence[int] | np.ndarray | Tensor) -> str: ...


@runtime_checkable
class TokenDataset(Protocol):
    """What `SequenceData` needs of a data set: batches of items by their keys (epoch, index)."""

    def __len__(self) -> int: ...

    def __getitems__(self, keys: Any, /) -> Any: ...

    def collate(self, codes: Any, /) -> TokenBatch: ...

    def locate(self, keys: Any, /) -> Sequence[object]:
        """Where the items of these keys were read: what `str` makes of it is for people."""
        ...

    @property
    def cluster_ids(self) -> Int64[np.ndarray, "n"]: ...

    def plain(self) -> "TokenDataset":
        """The same items without augmentation, every base at full weight."""
        ...

    def describe(self) -> dict[str, Any]: ...


@final
class SequenceData:
    """The train, valid and test sets of one task, and their loaders.

    `batch_size` is the batch of an optimizer step, over all processes. `source` (say, paths and
    checksums) becomes part of `describe()`. `n_labels` are the classes of its sequences, 0 if they
    have no labels. A set may be None; asking for it then raises
    `UserError` with `missing`, a sentence on what there is instead.
    """

    def __init__(
        self,
        train: TokenDataset | None,
        valid: TokenDataset | None,
        test: TokenDataset | None,
        tokenizer: Tokenizer,
        *,
        length: int,
        batch_size: int,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        start_method: Literal["fork", "spawn", "forkserver"] | None = None,
        pin_memory: bool = False,
        seed: int = 0,
        n_labels: int = 0,
        source: dict[str, Any] | None = None,
        missing: str = "",
    ):
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        for name, value in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if value < 1:
                raise UserError(f"{name}={value} is no number of sequences; give 1 or more.")
        if num_workers < 0:
            raise UserError(
                f"num_workers={num_workers} is no number of processes; give 0 or more."
            )
        if not 0 <= seed < 2**63:
            raise UserError(f"seed={seed} is out of range; give 0 to 2^63 - 1.")
        self._sets: dict[Split, TokenDataset | None] = {
            "train": train,
            "valid": valid,
            "test": test,
        }
        self.tokenizer, self.length, self.n_labels = tokenizer, length, n_labels
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self._workers: dict[str, Any] = {"num_workers": num_workers, "pin_memory": pin_memory}
        if num_workers > 0:
            self._workers |= {"persistent_workers": True, "multiprocessing_context": start_method}
        self._source, self._missing = source or {}, missing

    def dataset(self, split: Split) -> TokenDataset:
        """The data set of a split. Raises `UserError` if it is missing or empty."""
        dataset = self._sets[split]
        if dataset is None or len(dataset) == 0:
            raise UserError(
                f"there is no {split} data; {self._missing or 'give some, or use another split.'}"
            )
        return dataset

    def train_loader(self, first_batch: int = 0) -> DataLoader[TokenBatch]:
        """An endless stream of batches, from number `first_batch` on."""
        return self._loader(self.dataset("train"), self._train_batches(first_batch))

    def locate_batch(self, batch: int) -> list[str]:
        """Where the sequences of training batch number `batch` lie, in its order."""
        keys = self._train_batches(batch).keys(batch)
        return [str(place) for place in self.dataset("train").locate(keys)]

    def eval_loader(
        self, split: Split, *, max_sequences: int | None = None
    ) -> DataLoader[TokenBatch]:
        """Every window of a split once, in order, without augmentation; the last batch is smaller.

        `max_sequences` takes so many, spread evenly.
        """
        dataset = self.dataset(split).plain()
        index = _spread(len(dataset), max_sequences)
        return self._loader(dataset, EvalBatches(index, self.eval_batch_size))

    def cluster_ids(
        self, split: Split, *, max_sequences: int | None = None
    ) -> Int64[np.ndarray, "n"]:
        """The cluster (BED row, document) of each window, in the order of `eval_loader`."""
        dataset = self.dataset(split)
        return dataset.cluster_ids[_spread(len(dataset), max_sequences)]

    def describe(self) -> dict[str, Any]:
        """Where the data come from and how much of it there is, for the manifest of a run."""
        splits = {
            split: dataset.describe()
            for split, dataset in self._sets.items()
            if dataset is not None
        }
        return {**self._source, "length": self.length, "splits": splits}

    def _train_batches(self, first_batch: int) -> "TrainBatches":
        return TrainBatches(len(self.dataset("train")), self.batch_size, self.seed, first_batch)

    def _loader(self, dataset: TokenDataset, batches: Sampler[Keys]) -> DataLoader[TokenBatch]:
        # A loader draws a seed for its workers at each start: from a generator of its own, or it
        # would move torch's global one, and a resumed run would not equal the uninterrupted one.
        return DataLoader(
            dataset,  # pyright: ignore[reportArgumentType]: torch wants its own base class, and uses the protocol
            batch_sampler=batches,  # pyright: ignore[reportArgumentType]: batches are arrays, not lists
            collate_fn=dataset.collate,
            generator=torch.Generator().manual_seed(self.seed),
            worker_init_fn=_ignore_interrupts,
            **self._workers,
        )


@final
class TrainBatches(Sampler[Keys]):
    """The keys (epoch, index) of each training batch, without end."""

    def __init__(self, n: int, batch_size: int, seed: int, first_batch: int):
        self.n, self.batch_size, self.seed, self.first_batch = n, batch_size, seed, first_batch

    def __iter__(self) -> Iterator[Keys]:
        batch = self.first_batch
        while True:
            yield self.keys(batch)
            batch += 1

    def keys(self, batch: int) -> Keys:
        """The keys of batch number `batch`."""
        samples = batch * self.batch_size + np.arange(self.batch_size)
        epoch, position = np.divmod(samples, self.n)
        index = np.empty_like(position)
        for e in np.unique(epoch):
            here = epoch == e
            index[here] = permute(position[here], self.n, self.seed, Stream.ORDER, int(e))
        return np.stack([epoch, index], axis=1)


@final
class EvalBatches(Sampler[Keys]):
    """The keys of the windows `index`, in epoch 0."""

    def __init__(self, index: Int64[np.ndarray, "n"], batch_size: int):
        self.index, self.batch_size = index, batch_size
        self.starts = range(0, len(index), batch_size)

    def __iter__(self) -> Iterator[Keys]:
        for start in self.starts:
            index = self.index[start : start + self.batch_size]
            yield np.stack([np.zeros_like(index), index], axis=1)

    def __len__(self) -> int:
        return len(self.starts)


def _ignore_interrupts(worker: int) -> None:
    # Ctrl-C, and the SIGTERM of a scheduler, reach all processes; what to do about them is for the
    # main one to say. It ends a worker that it cannot do without by a second SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _spread(n: int, most: int | None) -> Int64[np.ndarray, "m"]:
    """All of range(n), or `most` of it at equal distances."""
    if most is not None and most < 1:
        raise UserError(
            f"max_sequences={most} is no number of sequences; give 1 or more, or none."
        )
    m = n if most is None else min(n, most)
    return np.arange(m) * n // m
