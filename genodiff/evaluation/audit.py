"""What a classification task is made of, and how much of its test set is in its training set.

A test item that is a copy of a training item says little about what was learnt; one that is a copy
of a training item of another class cannot be told right by remembering. The audit counts both, and
says which test items are *unseen*: no copy by sequence, and where intervals are known no training
interval that is the same, nor half of it covered by training intervals.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Shaped

from genodiff.evaluation.label_baselines import Labelled
from genodiff.evaluation.metrics import are_numbers

HALF = 0.5
_OTHER_STRAND = "reverse complement"
_KINDS = ("exact", _OTHER_STRAND, "near")


@runtime_checkable
class Copies(Protocol):
    """Of which training item each item is a copy, -1 of none, and of what kind: "exact", "reverse
    complement", "near" or "". `genodiff.data.matches` finds them."""

    @property
    def nearest(self) -> np.ndarray: ...

    @property
    def kind(self) -> np.ndarray: ...


@runtime_checkable
class SharedIntervals(Protocol):
    """What training intervals, of the same class and of others, share with each test interval:
    being identical, and the share of its bases. `genodiff.data.interval_matches` finds it."""

    @property
    def identical_same(self) -> np.ndarray: ...

    @property
    def identical_other(self) -> np.ndarray: ...

    @property
    def covered(self) -> np.ndarray: ...

    @property
    def covered_same(self) -> np.ndarray: ...

    @property
    def covered_other(self) -> np.ndarray: ...


class SplitContents(NamedTuple):
    """Sequences of a split, how many of each class, their lengths in tokens (None of an empty
    split), and how many are longer than what a network is given."""

    sequences: int
    of_each_class: tuple[int, ...]
    shortest: int | None
    median: float | None
    longest: int | None
    cut: int


class Count(NamedTuple):
    """Items that share something with a training item: any, one of their class, one of another.

    An item may share intervals with both; of sequences, the best copy alone counts.
    """

    any_class: int
    same_class: int
    other_class: int


class Audit(NamedTuple):
    """Of one task. `test_copies` and `train_copies` by kind: of test items in training, and of
    training items among those before them. `intervals`: test intervals "identical" to one of
    training, and "half_covered" by training, None where they are not known. `unseen` (n,): the
    test items without a copy."""

    classes: tuple[str, ...]
    length: int | None
    splits: Mapping[str, SplitContents]
    test_copies: Mapping[str, Count]
    train_copies: Mapping[str, Count]
    intervals: Mapping[str, Count] | None
    unseen: Bool[np.ndarray, "n"]

    def summary(self) -> dict[str, Any]:
        """As plain JSON: `leakage` of results.json."""
        splits = {
            name: {
                **split._asdict(),
                "of_each_class": dict(zip(self.classes, split.of_each_class, strict=True)),
            }
            for name, split in self.splits.items()
        }
        return {
            "length": self.length,
            "splits": splits,
            "test_copies_of_train": _plain(self.test_copies),
            "train_copies_of_train": _plain(self.train_copies),
            "intervals": None if self.intervals is None else _plain(self.intervals),
            "test_unseen": int(self.unseen.sum()),
        }

    def lines(self) -> list[str]:
        """For a terminal."""
        return leakage_lines(self.summary())


def audit_task(
    train: Labelled,
    test: Labelled,
    valid: Labelled | None = None,
    *,
    classes: Sequence[str],
    copies: Copies,
    train_copies: Copies,
    intervals: SharedIntervals | None = None,
    length: int | None = None,
    has_strands: bool = True,
) -> Audit:
    """Counts what `copies` (of test items in `train`), `train_copies` (of `train` in itself) and
    `intervals` have found. `length`: tokens of a sequence that a network is given. `has_strands`:
    whether a copy may be of the other strand, as of DNA and not of text."""
    kinds = [kind for kind in _KINDS if has_strands or kind != _OTHER_STRAND]
    splits = {"train": train, "valid": valid, "test": test}
    unseen = copies.nearest < 0
    shared = None
    if intervals is not None:
        is_identical = intervals.identical_same, intervals.identical_other
        is_covered = intervals.covered >= HALF
        shared = {
            "identical": _count(*is_identical),
            "half_covered": _count(
                intervals.covered_same >= HALF, intervals.covered_other >= HALF, is_covered
            ),
        }
        unseen &= ~(is_covered | is_identical[0] | is_identical[1])
    return Audit(
        tuple(classes),
        length,
        {
            name: _contents(split, len(classes), length)
            for name, split in splits.items()
            if split is not None
        },
        _by_kind(kinds, copies, test.labels, train.labels),
        _by_kind(kinds, train_copies, train.labels, train.labels),
        shared,
        unseen,
    )


def leakage_lines(summary: Mapping[str, Any]) -> list[str]:
    """`Audit.summary()` in a few lines of text."""
    lines = []
    for name, split in summary["splits"].items():
        of_each = ", ".join(f"{label} {n:,}" for label, n in split["of_each_class"].items())
        lengths = "no lengths"
        if split["sequences"]:
            median = f"{split['median']:g}"
            lengths = f"length {split['shortest']} to {split['longest']}, median {median}"
        cut = f"; {split['cut']:,} cut at {summary['length']}" if summary["length"] else ""
        of_each = f" ({of_each})" if of_each else ""
        lines.append(f"{name}: {split['sequences']:,} sequences{of_each}; {lengths}{cut}")
    n_test = summary["splits"]["test"]["sequences"]
    for what, copies in (
        ("test items with a copy in train", summary["test_copies_of_train"]),
        ("train items with an earlier copy in train", summary["train_copies_of_train"]),
    ):
        kinds = "; ".join(_spell(kind, count) for kind, count in copies.items())
        lines.append(f"{what}: {kinds}")
    if summary["intervals"]:
        identical, covered = (
            summary["intervals"]["identical"],
            summary["intervals"]["half_covered"],
        )
        lines.append(
            f"test intervals: {_spell('identical to a train interval', identical)}; "
            f"{_spell('half or more covered by train intervals', covered)}"
        )
    share = f" ({100 * summary['test_unseen'] / n_test:.1f} %)" if n_test else ""
    lines.append(
        f"without a copy in train: {summary['test_unseen']:,} of {n_test:,} test items{share}"
    )
    return lines


def _contents(split: Labelled, n_classes: int, length: int | None) -> SplitContents:
    lengths = np.diff(split.starts)
    of_each = ()
    if not are_numbers(split.labels):
        of_each = tuple(np.bincount(split.labels, minlength=n_classes).tolist())
    if not len(lengths):
        return SplitContents(0, of_each, None, None, None, 0)
    return SplitContents(
        len(lengths),
        of_each,
        int(lengths.min()),
        float(np.median(lengths)),
        int(lengths.max()),
        0 if length is None else int((lengths > length).sum()),
    )


def _by_kind(
    kinds: Sequence[str],
    copies: Copies,
    labels: Shaped[np.ndarray, "n"],
    train_labels: Shaped[np.ndarray, "t"],
) -> dict[str, Count]:
    found = copies.nearest >= 0
    same = np.zeros(len(labels), bool)
    same[found] = labels[found] == train_labels[copies.nearest[found]]
    of_kinds = {kind: copies.kind == kind for kind in kinds}
    return {
        kind.replace(" ", "_"): _count(of_kind & same, of_kind & ~same)
        for kind, of_kind in of_kinds.items()
    }


def _count(
    same: Bool[np.ndarray, "n"],
    other: Bool[np.ndarray, "n"],
    either: Bool[np.ndarray, "n"] | None = None,
) -> Count:
    either = same | other if either is None else either
    return Count(int(either.sum()), int(same.sum()), int(other.sum()))


def _plain(copies: Mapping[str, Count]) -> dict[str, dict[str, int]]:
    return {kind: count._asdict() for kind, count in copies.items()}


def _spell(kind: str, count: Mapping[str, int]) -> str:
    of_others = f" ({count['other_class']:,} of another class)" if count["other_class"] else ""
    return f"{kind.replace('_', ' ')} {count['any_class']:,}{of_others}"
