"""Intervals of test and training: bases counted one by one."""

from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genodiff.data.interval_matches import interval_matches
from genodiff.data.labelled import LabelledSequences
from genodiff.data.regions import Region


class Item(NamedTuple):
    chrom: str
    start: int
    length: int
    label: int
    strand: str


ITEMS = st.lists(
    st.builds(
        Item,
        st.sampled_from(["chr1", "chr2"]),
        st.integers(0, 20),
        st.integers(1, 8),
        st.integers(0, 2),
        st.sampled_from("+-"),
    ),
    max_size=8,
)


def labelled(items: list[Item]) -> LabelledSequences:
    regions = [
        Region(
            item.chrom,
            item.start,
            item.start + item.length,
            "",
            "+" if item.strand == "+" else "-",
        )
        for item in items
    ]
    sequences = [np.full(item.length, 7) for item in items]
    return LabelledSequences.of(sequences, [item.label for item in items], regions)


def bases(item: Item) -> set[tuple[str, int]]:
    return {(item.chrom, item.start + i) for i in range(item.length)}


@given(ITEMS, ITEMS)
def test_shares_are_those_of_the_bases(train: list[Item], test: list[Item]) -> None:
    found = interval_matches(labelled(train), labelled(test))
    assert found is not None
    for j, item in enumerate(test):
        same = [other for other in train if other.label == item.label]
        others = [other for other in train if other.label != item.label]
        for used, covered, identical in (
            (train, found.covered, None),
            (same, found.covered_same, found.identical_same),
            (others, found.covered_other, found.identical_other),
        ):
            union = set().union(*map(bases, used))
            assert covered[j] == len(bases(item) & union) / item.length
            if identical is not None:
                assert identical[j] == any(other[:3] == item[:3] for other in used)


def test_without_regions_nothing_is_said() -> None:
    known = labelled([Item("chr1", 0, 5, 0, "+")])
    unknown = LabelledSequences.of([np.full(5, 7)], [0])
    assert interval_matches(known, unknown) is None and interval_matches(unknown, known) is None
