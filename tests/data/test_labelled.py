"""Labelled sequences: rows, strands, padding, what is cut."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from genodiff.data import ByteTokenizer, DnaTokenizer
from genodiff.data.labelled import LabelledSequences, LabelledWindows
from genodiff.data.regions import Region
from genodiff.errors import UserError

DNA = DnaTokenizer()
TEXTS = ("ACGTTGCAAN", "GGGCCCATATATAT", "acgtnR", "T", "CC")


def some(texts: Sequence[str] = TEXTS) -> LabelledSequences:
    labels = [i % 3 for i in range(len(texts))]
    return LabelledSequences.of([DNA.encode(text) for text in texts], labels)


def rows(numbers: Sequence[int] = range(5), epoch: int = 0, **options: Any) -> list[str]:
    windows = LabelledWindows(some(), DNA, options.pop("length", 12), **options)
    keys = np.array([[epoch, number] for number in numbers])
    batch = windows.collate(windows.__getitems__(keys))
    assert batch.labels is not None and batch.labels.tolist() == [n % 3 for n in numbers]
    assert batch.weights.shape == (len(keys), 1) and bool((batch.weights == 1).all())
    return [DNA.decode(row).replace("[PAD]", ".") for row in batch.tokens]


def test_rows_are_cut_on_the_right_and_padded_where_asked() -> None:
    right = ["ACGTTGCAAN..", "GGGCCCATATAT", "ACGTN[UNK]......", "T...........", "CC.........."]
    assert rows() == right
    left = ["..ACGTTGCAAN", "GGGCCCATATAT", "......ACGTN[UNK]", "...........T", "..........CC"]
    assert rows(pad="left") == left


def test_the_other_strand_is_taken_before_anything_is_cut() -> None:
    assert rows([1, 2], strand="-") == ["ATATATATGGGC", "[UNK]NACGT......"]
    assert rows([0], strand="-", append_sep=True, pad="left") == ["..NTTGCAACGT[SEP]"]


def test_random_strands_are_either_in_each_epoch_and_do_not_depend_on_company() -> None:
    forward, reverse = rows([0], strand="+")[0], rows([0], strand="-")[0]
    drawn = [rows([0], epoch, strand="random", seed=4)[0] for epoch in range(200)]
    assert set(drawn) == {forward, reverse}
    assert 70 < drawn.count(forward) < 130
    together = rows(epoch=7, strand="random", seed=4)
    assert together == [rows([n], 7, strand="random", seed=4)[0] for n in range(5)]
    plain = LabelledWindows(some(), DNA, 12, strand="random").plain()
    assert plain.strand == "+"
    places = LabelledWindows(some(), DNA, 12, strand="random", seed=4).locate(np.array([[7, 3]]))
    assert places == [f"sequence 3 ({'+' if together[3][0] == 'T' else '-'})"]


def test_some_of_the_sequences_keep_their_labels_and_regions() -> None:
    regions = [Region("chr1", i, i + 2, "", "+") for i in range(5)]
    every = LabelledSequences.of([DNA.encode(t) for t in TEXTS], [4, 3, 2, 1, 0], regions)
    part = every.take(np.array([3, 0]))
    assert [DNA.decode(part[i]) for i in range(len(part))] == ["T", TEXTS[0]]
    assert part.labels.tolist() == [1, 4] and part.lengths.tolist() == [1, 10]
    assert part.regions == (regions[3], regions[0])
    assert len(every.take(np.zeros(5, bool))) == 0
    assert every.ids.dtype == np.uint8
    assert LabelledSequences.of([np.array([30_000])], [0]).ids.dtype == np.int32


def test_what_there_is_is_described() -> None:
    described = LabelledWindows(some(), DNA, 6).describe()
    assert described == {"sequences": 5, "of_each_class": [2, 2, 1], "cut": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length=0 is no number of tokens"),
        ({"length": 4, "strand": "-"}, "ByteTokenizer has no complement"),
        ({"length": 4, "append_sep": True}, "ByteTokenizer has no token for an end"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LabelledWindows(some(), ByteTokenizer(), **options)
