from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genodiff.batch import TokenBatch
from genodiff.data import DnaTokenizer, SequenceData, fasta_data
from genodiff.errors import UserError
from tests.data.toys import random_sequence, write_bed, write_fasta


class Numbers:
    """A data set whose tokens are its own keys: (epoch, index)."""

    def __init__(self, n: int, *, is_plain: bool = False):
        self.n, self.is_plain = n, is_plain

    def __len__(self) -> int:
        return self.n

    def __getitems__(self, keys: Any, /) -> Any:
        return np.array(keys)

    def collate(self, codes: Any, /) -> TokenBatch:
        return TokenBatch(torch.from_numpy(codes), torch.full(codes.shape, float(self.is_plain)))

    def locate(self, keys: Any, /) -> list[str]:
        return [f"epoch {epoch}, item {index}" for epoch, index in keys]

    @property
    def cluster_ids(self) -> np.ndarray:
        return np.arange(self.n) // 10

    def plain(self) -> "Numbers":
        return Numbers(self.n, is_plain=True)

    def describe(self) -> dict[str, Any]:
        return {"windows": self.n}


def make(n: int = 10, batch_size: int = 4, **options: Any) -> SequenceData:
    sets = {"train": Numbers(n), "valid": None, "test": Numbers(n)}
    return SequenceData(
        **sets, tokenizer=DnaTokenizer(), length=2, batch_size=batch_size, **options
    )


def keys(data: SequenceData, batches: int, **options: int) -> list[list[list[int]]]:
    return [b.tokens.tolist() for b in islice(data.train_loader(**options), batches)]


@pytest.mark.parametrize("n", [1, 3, 10, 17])
def test_each_epoch_sees_every_window_once_across_batches(n: int) -> None:
    stream = [key for batch in keys(make(n), 3 * n) for key in batch]
    for epoch in range(12):
        part = stream[epoch * n : (epoch + 1) * n]
        assert sorted(part) == [[epoch, index] for index in range(n)]


def test_epochs_have_different_orders_and_so_have_seeds() -> None:
    stream = keys(make(100, 100), 2) + keys(make(100, 100, seed=1), 1)
    orders = [tuple(index for _, index in batch) for batch in stream]
    assert len(set(orders)) == 3


@pytest.mark.parametrize("first_batch", [1, 2, 3, 57])
def test_starting_at_a_batch_continues_the_stream(first_batch: int) -> None:
    data = make()
    resumed = keys(data, 5, first_batch=first_batch)
    assert resumed == keys(data, first_batch + 5)[first_batch:]


def test_the_sequences_of_a_batch_are_located_in_its_order() -> None:
    data = make()
    for batch, tokens in enumerate(keys(data, 7)):
        assert data.locate_batch(batch) == [f"epoch {e}, item {i}" for e, i in tokens]


def test_evaluation_sees_every_window_once_in_order() -> None:
    loader = make(10, eval_batch_size=4).eval_loader("test")
    batches = [batch.tokens for batch in loader]
    assert [len(tokens) for tokens in batches] == [4, 4, 2] and len(loader) == 3
    assert torch.cat(batches).tolist() == [[0, index] for index in range(10)]


def test_evaluation_is_plain_and_training_is_not() -> None:
    data = make()
    for split in ("train", "test"):
        assert all((batch.weights == 1).all() for batch in data.eval_loader(split))
    assert (next(iter(data.train_loader())).weights == 0).all()


def test_a_part_of_a_split_is_spread_evenly_with_its_clusters() -> None:
    data = make(100)
    batches = list(data.eval_loader("test", max_sequences=10))
    index = torch.cat([batch.tokens for batch in batches])[:, 1]
    assert index.tolist() == list(range(0, 100, 10))
    assert data.cluster_ids("test", max_sequences=10).tolist() == list(range(10))
    assert len(data.cluster_ids("test")) == 100
    assert len(torch.cat([b.tokens for b in data.eval_loader("test", max_sequences=1000)])) == 100
    with pytest.raises(UserError, match="max_sequences=0 is no number of sequences"):
        data.eval_loader("test", max_sequences=0)


def test_the_stream_does_not_move_the_global_random_state() -> None:
    data = make(num_workers=0)
    before = torch.random.get_rng_state()
    keys(data, 3)
    list(data.eval_loader("test"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_empty_or_missing_split_is_refused_when_asked_for() -> None:
    data = make(missing="the BED has rows for: train 3; add rows.")
    with pytest.raises(UserError, match=r"there is no valid data; the BED has rows for: train 3"):
        data.eval_loader("valid")
    with pytest.raises(UserError, match="there is no train data; give some"):
        make(n=0).train_loader()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is no number of sequences"),
        ({"eval_batch_size": 0}, "eval_batch_size=0 is no number of sequences"),
        ({"num_workers": -1}, "num_workers=-1 is no number of processes"),
        ({"seed": -1}, "seed=-1 is out of range"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create .* worker processes:UserWarning")
@pytest.mark.parametrize("num_workers", [1, 3])
def test_order_and_augmentation_do_not_depend_on_workers(num_workers: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fasta = write_fasta(tmp_path / "toy.fa", {"chr1": random_sequence(5000, rng)})
    bed = write_bed(tmp_path / "toy.bed", [("chr1", 0, 5000, "train")])
    alone, with_workers = (
        fasta_data(
            *(fasta, bed, 50, 7),
            reverse_complement=True,
            jitter=9,
            num_workers=n,
            start_method="fork" if n else None,
            cache_dir=tmp_path,
        )
        for n in (0, num_workers)
    )
    for first_batch in (0, 12):
        expected = list(islice(alone.train_loader(first_batch), 20))
        batches = list(islice(with_workers.train_loader(first_batch), 20))
        for a, b in zip(expected, batches, strict=True):
            assert torch.equal(a.tokens, b.tokens)
            assert torch.equal(a.weights, b.weights)
