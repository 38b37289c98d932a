"""What the intervals of a test set share with those of the training set, on either strand."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from genodiff.data.labelled import LabelledSequences
from genodiff.data.regions import Region


class IntervalMatches(NamedTuple):
    """What training intervals share with each of n test intervals.

    `identical`: one begins and ends at the same places. `covered`: the share of bases that lie in
    any of them. `*_same` and `*_other`: by those of the same class, and of other classes, alone.
    """

    identical_same: Bool[np.ndarray, "n"]
    identical_other: Bool[np.ndarray, "n"]
    covered: Float64[np.ndarray, "n"]
    covered_same: Float64[np.ndarray, "n"]
    covered_other: Float64[np.ndarray, "n"]


def interval_matches(train: LabelledSequences, test: LabelledSequences) -> IntervalMatches | None:
    """None where either set's regions are not known."""
    if train.regions is None or test.regions is None:
        return None
    n = len(test)
    result = IntervalMatches(
        np.zeros(n, bool),
        np.zeros(n, bool),
        _covered(test.regions, train.regions),
        np.zeros(n),
        np.zeros(n),
    )
    for label in np.unique(test.labels):
        rows = np.flatnonzero(test.labels == label)
        regions = [test.regions[i] for i in rows.tolist()]
        for is_used, identical, covered in (
            (train.labels == label, result.identical_same, result.covered_same),
            (train.labels != label, result.identical_other, result.covered_other),
        ):
            used = [train.regions[i] for i in np.flatnonzero(is_used).tolist()]
            places = {region[:3] for region in used}
            identical[rows] = [region[:3] in places for region in regions]
            covered[rows] = _covered(regions, used)
    return result


def _covered(regions: Sequence[Region], by: Sequence[Region]) -> Float64[np.ndarray, "n"]:
    """The share of each region that lies in the union of `by`; 0 of an empty region."""
    share = np.zeros(len(regions))
    chroms = np.array([region.chrom for region in regions])
    others = np.array([region.chrom for region in by])
    places, other_places = _places(regions), _places(by)
    for chrom in set(chroms.tolist()) & set(others.tolist()):
        here = np.flatnonzero(chroms == chrom)
        start, end = places[here].T
        union = _Union(other_places[others == chrom])
        share[here] = (union.before(end) - union.before(start)) / np.maximum(end - start, 1)
    return share


def _places(regions: Sequence[Region]) -> Int64[np.ndarray, "n 2"]:
    pairs = [(region.start, region.end) for region in regions]
    return np.array(pairs, np.int64).reshape(-1, 2)


class _Union:
    """The union of intervals (n, 2) of one chromosome."""

    def __init__(self, places: Int64[np.ndarray, "n 2"]) -> None:
        start, end = places[np.argsort(places[:, 0])].T
        reach = np.maximum.accumulate(end)
        is_first = np.concatenate([[True], start[1:] > reach[:-1]])
        self._start = start[is_first]
        self._end = reach[np.append(np.flatnonzero(is_first)[1:] - 1, len(reach) - 1)]
        self._bases = np.cumsum(np.append(0, self._end - self._start))

    def before(self, place: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
        """Bases of the union before each place."""
        piece = np.searchsorted(self._start, place, "right") - 1
        inside = np.minimum(place, self._end[piece]) - self._start[piece]
        return np.where(piece < 0, 0, self._bases[piece] + inside)
