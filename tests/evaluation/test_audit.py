"""The audit of a small task in which everything was planted."""

import json

import numpy as np
import pytest

from genodiff.data import (
    ByteTokenizer,
    DnaTokenizer,
    Region,
    interval_matches,
    matches,
    matches_within,
)
from genodiff.data.labelled import LabelledSequences
from genodiff.evaluation.audit import Audit, Count, audit_task

DNA = DnaTokenizer()
COMPLEMENT = np.array(DNA.complement)


def random_dna(random: np.random.Generator, length: int) -> np.ndarray:
    return random.integers(7, 11, length)


def planted(*, with_regions: bool) -> Audit:
    """60 training sequences of 200 bases, 30 of each class, and 40 test sequences of 100 to 300.

    Of the test sequences, 0 to 2 are copied, 3 and 4 on the other strand, 5 and 6 with three
    substitutions, 7 shifted by 60 bases. In training, number 50 is a copy of 20, of another class.
    By interval, test 10 is training 1's, 3/8 of 11 lie in 2 and 3/8 in 3, and 2/5 of 12 in 4.
    """
    random = np.random.default_rng(0)
    train = [random_dna(random, 200) for _ in range(60)]
    train[50] = train[20]
    train_labels = [0] * 30 + [1] * 30
    test = [random_dna(random, int(length)) for length in random.integers(100, 301, 40)]
    test_labels = [0] * 20 + [1] * 20
    test[0], test[1], test[2] = train[0], train[1], train[40]
    test[3], test[4] = COMPLEMENT[train[2][::-1]], COMPLEMENT[train[41][::-1]]
    for j, i in ((5, 3), (6, 42)):
        test[j] = train[i].copy()
        test[j][[50, 100, 150]] = 17 - test[j][[50, 100, 150]]
    test[7] = np.concatenate([train[4][60:], random_dna(random, 60)])
    regions = test_regions = None
    if with_regions:
        regions = [Region("chr1", 1000 * i, 1000 * i + 200, "", "+") for i in range(60)]
        test_regions = [
            Region("chr2", 1000 * j, 1000 * j + len(ids), "", "+") for j, ids in enumerate(test)
        ]
        regions[3] = Region("chr1", 2240, 2440, "", "+")
        test_regions[10] = Region("chr1", 1000, 1200, "", "-")
        test_regions[11] = Region("chr1", 2140, 2300, "", "+")  # 60 of 160 bases in each
        test_regions[12] = Region("chr1", 4120, 4320, "", "+")
    a = LabelledSequences.of(train, train_labels, regions)
    b = LabelledSequences.of(test, test_labels, test_regions)
    return audit_task(
        *(a, b),
        classes=("no", "yes"),
        copies=matches(a, b, DNA),
        train_copies=matches_within(a, DNA),
        intervals=interval_matches(a, b),
        length=250,
    )


def test_what_was_planted_is_counted_and_nothing_else() -> None:
    found = planted(with_regions=False)
    assert found.test_copies == {
        "exact": Count(3, 2, 1),
        "reverse_complement": Count(2, 1, 1),
        "near": Count(3, 2, 1),
    }
    assert found.train_copies == {
        "exact": Count(1, 0, 1),
        "reverse_complement": Count(0, 0, 0),
        "near": Count(0, 0, 0),
    }
    assert found.unseen.tolist() == [False] * 8 + [True] * 32
    assert found.intervals is None


def test_intervals_take_their_test_items_out_too() -> None:
    found = planted(with_regions=True)
    assert found.intervals == {"identical": Count(1, 1, 0), "half_covered": Count(2, 2, 0)}
    assert np.flatnonzero(~found.unseen).tolist() == [*range(8), 10, 11]


def test_the_summary_is_plain_json_and_the_lines_say_the_same() -> None:
    found = planted(with_regions=True)
    summary = found.summary()
    assert json.loads(json.dumps(summary)) == summary
    train, test = summary["splits"]["train"], summary["splits"]["test"]
    assert train == {
        "sequences": 60,
        "of_each_class": {"no": 30, "yes": 30},
        "shortest": 200,
        "median": 200.0,
        "longest": 200,
        "cut": 0,
    }
    assert 0 < test["cut"] < 40 and test["longest"] > 250 and "valid" not in summary["splits"]
    assert summary["test_unseen"] == 30
    lines = found.lines()
    assert lines[0] == (
        "train: 60 sequences (no 30, yes 30); length 200 to 200, median 200; 0 cut at 250"
    )
    assert lines[2:] == [
        "test items with a copy in train: exact 3 (1 of another class); reverse complement 2 "
        "(1 of another class); near 3 (1 of another class)",
        "train items with an earlier copy in train: exact 1 (1 of another class); "
        "reverse complement 0; near 0",
        "test intervals: identical to a train interval 1; half or more covered by train "
        "intervals 2",
        "without a copy in train: 30 of 40 test items (75.0 %)",
    ]


@pytest.mark.parametrize("empty", ["valid", "test"])
def test_an_empty_split_is_said_to_be_empty(empty: str) -> None:
    some = LabelledSequences.of([np.array([7, 8, 9])], [0])
    none = LabelledSequences.of([], [])
    test, valid = (none, some) if empty == "test" else (some, none)
    found = audit_task(
        *(some, test, valid),
        classes=("one",),
        copies=matches(some, test, DNA),
        train_copies=matches_within(some, DNA),
    )
    assert f"{empty}: 0 sequences (one 0); no lengths" in found.lines()


def test_text_has_no_other_strand_and_numbers_have_no_classes() -> None:
    some = LabelledSequences.of([np.arange(9), np.arange(5)], [0.5, 2.5])
    tokens = ByteTokenizer()
    found = audit_task(
        *(some, some),
        classes=(),
        copies=matches(some, some, tokens),
        train_copies=matches_within(some, tokens),
        has_strands=False,
    )
    assert found.test_copies == {"exact": Count(2, 2, 0), "near": Count(0, 0, 0)}
    assert found.lines()[:2] == [
        "train: 2 sequences; length 5 to 9, median 7",
        "test: 2 sequences; length 5 to 9, median 7",
    ]
    assert "test items with a copy in train: exact 2; near 0" in found.lines()
    assert json.loads(json.dumps(found.summary())) == found.summary()
