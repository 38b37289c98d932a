"""Sequences that are copies of one another: the same, on either strand, or for the most part.

A *word* is K = 16 letters in a row (no N, no padding), taken as one with its reverse complement
where tokens have complements. Two sequences are *near* if they have at least half of the distinct
words of the one that has fewer in common. A substitution costs at most 16 words: two windows of
250 bases are near with seven substitutions anywhere, two of 70 with one, and two windows shifted
by up to half of their words always. By chance they share next to none, as there are 2 * 10^9 words
of DNA: shorter words would be met by chance in sets of 10^8 bases, longer ones would lose short
copies with changes. A sequence of fewer than K distinct words (of fewer than 31 tokens, or a
microsatellite) has too few for a share to mean much; it is compared as a whole only. Of text in
sub-words K is 8, a phrase of some 30 letters, so that sentences of 15 tokens are compared.

Hardly any pair is looked at. Of h words that A must share with B, any choice of all but h - 1 of
A's words meets one: the rarest are chosen (the prefix filter: Chaudhuri et al. 2006, "A primitive
operator for similarity joins in data cleaning"), and whatever they meet is compared in full.
Repeats cost little, because most of a copy's words have mutations of its own. Only where even a
sequence's rarest words are those of many others, a family, their number is bounded, at 2,048 that
it meets and 128 that it is compared with: those of its relatives that share most words, among some
chosen by a hash. Equal sequences are found apart from this, all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from genodiff.data.datamodule import Tokenizer
from genodiff.data.labelled import LabelledSequences
from genodiff.data.randomness import hash_counters, integers_below

_DOUBLINGS = 4
K = 2**_DOUBLINGS
_LETTERS = 1000
"""A vocabulary of fewer tokens is of letters or bytes."""
NEAR = 0.5

_MET, _COMPARED = 2048, 128
_CHUNK = 1 << 22  # tokens, pairs or words at a time: tens of MB for each array


class Matches(NamedTuple):
    """Of which training sequence each of n test sequences is a copy.

    `nearest`: its number, -1 where there is none. `kind`: "exact", "reverse complement", "near" or
    "". `shared`: the share of words in common, 1 for equal sequences, 0 where there is none. The
    best counts, in the order of the kinds and then by share; of equally good ones, the first.
    """

    nearest: Int64[np.ndarray, "n"]
    kind: Shaped[np.ndarray, "n"]
    shared: Float64[np.ndarray, "n"]


def _doublings(tokenizer: Tokenizer) -> int:
    """log2 of the tokens of a word."""
    return _DOUBLINGS if tokenizer.vocab_size < _LETTERS else _DOUBLINGS - 1


class _Pairs(NamedTuple):
    """Sequences `i` < `j` and the share of words that they have in common."""

    i: Int64[np.ndarray, "p"]
    j: Int64[np.ndarray, "p"]
    shared: Float64[np.ndarray, "p"]


def matches(train: LabelledSequences, test: LabelledSequences, tokenizer: Tokenizer) -> Matches:
    """The training sequence that each test sequence is most a copy of."""
    result = _no_matches(len(test))
    first_of: dict[bytes, int] = {}
    for i, content in enumerate(_contents(train, tokenizer)[0]):
        first_of.setdefault(content, i)
    for j, strands in enumerate(zip(*_contents(test, tokenizer), strict=True)):
        _match_whole(result, j, strands, first_of)
    known, rest = np.array([*first_of.values()], np.int64), np.flatnonzero(result.kind == "")
    sequences = [train[i] for i in known.tolist()] + [test[j] for j in rest.tolist()]
    pairs = _near_pairs(sequences, tokenizer, n_first=len(known))
    _match_near(result, known[pairs.i], rest[pairs.j - len(known)], pairs.shared)
    return result


def matches_within(sequences: LabelledSequences, tokenizer: Tokenizer) -> Matches:
    """The earlier sequence that each sequence of a set is most a copy of."""
    result = _no_matches(len(sequences))
    first_of: dict[bytes, int] = {}
    for j, strands in enumerate(zip(*_contents(sequences, tokenizer), strict=True)):
        if not _match_whole(result, j, strands, first_of):
            first_of[strands[0]] = j
    known = np.array([*first_of.values()], np.int64)
    pairs = _near_pairs([sequences[i] for i in known.tolist()], tokenizer)
    _match_near(result, known[pairs.i], known[pairs.j], pairs.shared)
    return result


def clusters(sequences: LabelledSequences, tokenizer: Tokenizer) -> Int64[np.ndarray, "n"]:
    """The cluster of each sequence: copies, and copies of copies, have the same.

    Clusters are numbered from 0 in the order of their first sequences.
    """
    first_of: dict[bytes, int] = {}
    first = np.array(
        [
            first_of.setdefault(min(strands), i)
            for i, strands in enumerate(zip(*_contents(sequences, tokenizer), strict=True))
        ],
        np.int64,
    )
    distinct = np.unique(first)
    pairs = _near_pairs([sequences[i] for i in distinct.tolist()], tokenizer)
    root = list(range(len(sequences)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, j in zip(distinct[pairs.i].tolist(), distinct[pairs.j].tolist(), strict=True):
        a, b = find(i), find(j)
        root[max(a, b)] = min(a, b)
    roots = np.array([find(i) for i in first.tolist()], np.int64)
    return np.unique(roots, return_inverse=True)[1]


def _no_matches(n: int) -> Matches:
    return Matches(np.full(n, -1), np.full(n, "", "<U18"), np.zeros(n))


def _match_whole(
    result: Matches, j: int, strands: tuple[bytes, bytes], first_of: Mapping[bytes, int]
) -> bool:
    for kind, content in zip(("exact", "reverse complement"), strands, strict=True):
        if content in first_of:
            result.nearest[j], result.kind[j], result.shared[j] = first_of[content], kind, 1
            return True
    return False


def _match_near(
    result: Matches,
    i: Int64[np.ndarray, "p"],
    j: Int64[np.ndarray, "p"],
    shared: Float64[np.ndarray, "p"],
) -> None:
    order = np.lexsort((i, -shared, j))
    found, best = np.unique(j[order], return_index=True)
    best = order[best]
    result.nearest[found], result.kind[found], result.shared[found] = i[best], "near", shared[best]


def _contents(
    sequences: LabelledSequences, tokenizer: Tokenizer
) -> tuple[list[bytes], list[bytes]]:
    """Each sequence, and its reverse complement (itself, where there is no complement)."""
    rows = [sequences[i].astype(np.int32) for i in range(len(sequences))]
    forward = [row.tobytes() for row in rows]
    complement = _complement(tokenizer)
    if complement is None:
        return forward, forward
    return forward, [complement[row[::-1]].astype(np.int32).tobytes() for row in rows]


def _complement(tokenizer: Tokenizer) -> Int64[np.ndarray, "v"] | None:
    complement = getattr(tokenizer, "complement", None)
    return None if complement is None else np.asarray(complement, np.int64)


def _near_pairs(
    sequences: Sequence[np.ndarray], tokenizer: Tokenizer, n_first: int | None = None
) -> _Pairs:
    """All pairs of near sequences, in no order and some of them twice. With `n_first`, only pairs
    of one of the first so many and one of the others."""
    index = _index(sequences, tokenizer, n_first)
    entries = np.sort((index.sequence << 32) | index.word)
    found = [_compared(index, entries, a, b) for a, b in _candidates(index)]
    empty = np.zeros(0, np.int64)
    return _Pairs(
        np.concatenate([empty, *(pairs.i for pairs in found)]),
        np.concatenate([empty, *(pairs.j for pairs in found)]),
        np.concatenate([np.zeros(0), *(pairs.shared for pairs in found)]),
    )


class _Index(NamedTuple):
    """The m (word, sequence) in which the word is one of several sequences that may be paired.

    `word`, numbered from 0, and `sequence` are in the order of words, then of sequences.
    `partners`, from place `partners_from` on, is how many sequences a sequence meets by the word.
    `sizes` (n,) counts all distinct words of each sequence.
    """

    sizes: Int64[np.ndarray, "n"]
    word: Int64[np.ndarray, "m"]
    sequence: Int64[np.ndarray, "m"]
    partners_from: Int64[np.ndarray, "m"]
    partners: Int64[np.ndarray, "m"]


def _index(sequences: Sequence[np.ndarray], tokenizer: Tokenizer, n_first: int | None) -> _Index:
    n = len(sequences)
    hashes, owners = _words(sequences, tokenizer)
    sizes = np.zeros(n, np.int64)
    words, holders = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    # By ranges of hashes, because most words are of one sequence alone and need not be kept.
    n_parts = 1 + len(hashes) // (2 * _CHUNK)
    part_of = ((hashes >> np.uint64(32)) * np.uint64(n_parts)) >> np.uint64(32)
    for part in range(n_parts):
        here = np.flatnonzero(part_of == part)
        here = here[np.argsort(hashes[here], kind="stable")]
        word, holder = hashes[here], owners[here].astype(np.int64)
        distinct = np.ones(len(word), bool)
        distinct[1:] = (word[1:] != word[:-1]) | (holder[1:] != holder[:-1])
        word, holder = word[distinct], holder[distinct]
        sizes += np.bincount(holder, minlength=n)
        several = np.zeros(len(word), bool)
        several[1:] = word[1:] == word[:-1]
        several[:-1] |= several[1:]
        words.append(word[several])
        holders.append(holder[several])
    word, holder = np.concatenate(words), np.concatenate(holders)
    enough = sizes[holder] >= 2 ** _doublings(tokenizer)
    number, holder = _numbered(word[enough]), holder[enough]
    n_words = int(number[-1]) + 1 if len(number) else 0
    of_first = np.bincount(number[holder < (n_first or 0)], minlength=n_words)
    of_all = np.bincount(number, minlength=n_words)
    paired = of_all > 1 if n_first is None else (of_first > 0) & (of_first < of_all)
    kept = paired[number]
    number, holder = _numbered(number[kept]), holder[kept]
    of_first, of_all = of_first[paired], of_all[paired]
    begin = (np.cumsum(of_all) - of_all)[number]
    if n_first is None:
        return _Index(sizes, number, holder, begin, of_all[number])
    is_first = holder < n_first
    return _Index(
        sizes,
        number,
        holder,
        np.where(is_first, begin + of_first[number], begin),
        np.where(is_first, (of_all - of_first)[number], of_first[number]),
    )


def _words(
    sequences: Sequence[np.ndarray], tokenizer: Tokenizer
) -> tuple[Shaped[np.ndarray, "w"], Shaped[np.ndarray, "w"]]:
    """A 64-bit hash of every word, the same on both strands, and the number of its sequence.

    Of 10^8 words two different ones have the same hash with probability 3 * 10^-4.
    """
    complement = _complement(tokenizer)
    k = 2 ** _doublings(tokenizer)
    token_hash = hash_counters(np.arange(tokenizer.vocab_size))
    is_letter = np.zeros(tokenizer.vocab_size, bool)
    is_letter[list(tokenizer.data_ids)] = True
    ends = np.cumsum([0, *map(len, sequences)])
    hashes, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)]
    for low, high in pairwise(_blocks(np.diff(ends))):
        ids = np.concatenate(sequences[low:high])
        owner = np.repeat(np.arange(low, high, dtype=np.int32), np.diff(ends[low : high + 1]))
        word = token_hash[ids]
        other = None if complement is None else token_hash[complement[ids]]
        for doubling in range(_doublings(tokenizer)):  # a word is hashed from its two halves
            half = 2**doubling
            word = hash_counters(word[:-half], word[half:])
            if other is not None:
                other = hash_counters(other[half:], other[:-half])
        if other is not None:
            word = np.minimum(word, other)
        strange = np.cumsum(np.concatenate([[0], ~is_letter[ids]]))
        whole = (strange[k:] == strange[:-k]) & (
            owner[k - 1 :] == owner[: max(len(owner) - k + 1, 0)]
        )
        hashes.append(word[whole])
        owners.append(owner[: len(whole)][whole])
    return np.concatenate(hashes), np.concatenate(owners)


def _candidates(
    index: _Index,
) -> Iterator[tuple[Int64[np.ndarray, "c"], Int64[np.ndarray, "c"]]]:
    """Pairs (a, b) of sequences that meet by the rarest words of a: those of many a at a time."""
    n = len(index.sizes)
    held = np.bincount(index.sequence, minlength=n)
    n_chosen = np.maximum(held - np.ceil(NEAR * index.sizes).astype(np.int64) + 1, 0)
    order = np.lexsort((index.partners, index.sequence))
    order = order[_rank(index.sequence[order]) < n_chosen[index.sequence[order]]]
    chooser, partners = index.sequence[order], index.partners[order]
    met = np.bincount(chooser, partners, minlength=n)[chooser]
    most = np.maximum(_MET // np.maximum(n_chosen, 1), 1)[chooser]
    draws = np.where(met <= _MET, partners, np.minimum(partners, most))
    # blocks of whole sequences
    for low, high in pairwise(_blocks(np.bincount(chooser, draws, minlength=n).astype(np.int64))):
        low, high = np.searchsorted(chooser, (low, high))
        each = np.repeat(np.arange(low, high), draws[low:high])
        turn = _rank(each)
        drawn = draws[each] < partners[each]
        turn[drawn] = integers_below(partners[each[drawn]], order[each[drawn]], turn[drawn])
        a = chooser[each]
        b = index.sequence[index.partners_from[order[each]] + turn]
        pairs, times = np.unique((a * n + b)[a != b], return_counts=True)
        a, b = np.divmod(pairs, n)
        best = np.lexsort((-times, a))
        best = best[_rank(a[best]) < _COMPARED]
        yield a[best], b[best]


def _compared(
    index: _Index,
    entries: Int64[np.ndarray, "m"],
    a: Int64[np.ndarray, "c"],
    b: Int64[np.ndarray, "c"],
) -> _Pairs:
    """Those of the pairs (a, b) that are near. `entries` are the index as sequence * 2^32 + word,
    in ascending order."""
    begin = np.searchsorted(entries, np.arange(len(index.sizes) + 1) << 32)
    held = np.diff(begin)[b]
    common = np.zeros(len(a), np.int64)
    for low, high in pairwise(_blocks(held)):
        pair = np.repeat(np.arange(low, high), held[low:high])
        word = entries[begin[b[pair]] + _rank(pair)] & 0xFFFFFFFF
        wanted = (a[pair] << 32) | word
        place = np.minimum(np.searchsorted(entries, wanted), len(entries) - 1)
        common += np.bincount(pair[entries[place] == wanted], minlength=len(a))
    shared = common / np.minimum(index.sizes[a], index.sizes[b])
    near = shared >= NEAR
    return _Pairs(np.minimum(a, b)[near], np.maximum(a, b)[near], shared[near])


def _numbered(values: Shaped[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
    """Equal neighbours get the same number, counted from 0."""
    return np.cumsum(np.concatenate([[False], values[1:] != values[:-1]])[: len(values)])


def _rank(values: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
    """How many equal neighbours stand before each."""
    here = np.arange(len(values))
    is_first = np.concatenate([[True], values[1:] != values[:-1]])[: len(values)]
    return here - np.maximum.accumulate(np.where(is_first, here, 0))


def _blocks(costs: Int64[np.ndarray, "n"]) -> list[int]:
    """Where to part n things in a row, so that each part costs about _CHUNK."""
    parts = np.flatnonzero(np.diff(np.cumsum(costs) // _CHUNK)) + 1
    return [0, *parts.tolist(), len(costs)] if len(costs) else [0]
