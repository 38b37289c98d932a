"""Words of letters as numbers: what Markov models and k-mer spectra count.

Letters are codes 0..K-1 and -1 is anything else (N, padding, the end of a sequence). A word is the
number whose digits in base K are its letters, the first letter being the most significant: words
are in alphabetical order, and word = K (all letters but the last) + last letter.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int8, Int32, Integer
from numpy import ndarray

from genodiff.errors import UserError

_BLOCK_LETTERS = 1 << 21

Sequences = Iterable[str] | Iterable[Integer[ndarray, " _"]]
"""Of DNA: strings, or arrays of a tokenizer's ids."""


class Block(NamedTuple):
    """Some sequences of a set, joined.

    `codes`: their letters, of DNA as 0 to 3 for A, C, G, T, and -1 elsewhere and after each
    sequence.
    `owner`: the sequence of each position, counted from the block's first. `units` (n,): what each
    sequence belongs to, its own number in the set where it stands for itself.
    """

    codes: Int8[ndarray, " l"]
    owner: Int[ndarray, " l"]
    units: Int[ndarray, " n"]


def blocks(
    sequences: Sequences,
    *,
    data_ids: Sequence[int] | None = None,
    units: Sequence[int] | None = None,
) -> Iterator[Block]:
    """A set of sequences, some two million letters at a time. Lower case is read as upper case.

    Args:
        sequences: strings, or arrays of ids.
        data_ids: ids of A, C, G, T in this order; needed for arrays of ids.
        units: the unit of each sequence; None: each is its own.

    Raises:
        UserError: ids without `data_ids`, or not one unit a sequence.
    """
    return joined((codes_of(sequence, data_ids) for sequence in sequences), units=units)


def joined(
    sequences: Iterable[Int8[ndarray, " _"]],
    *,
    units: Sequence[int] | None = None,
    n_letters: int | None = None,
) -> Iterator[Block]:
    """Sequences of codes, of any letters, `n_letters` or more at a time (None: two million);
    `units` and errors as of `blocks`."""
    n_letters = _BLOCK_LETTERS if n_letters is None else n_letters
    pieces: list[Int8[ndarray, " _"]] = []
    first, held, number = 0, 0, 0
    for number, codes in enumerate(sequences, 1):
        pieces.append(np.append(codes, np.int8(-1)))
        held += len(codes)
        if held >= n_letters:
            yield _block(pieces, first, units)
            pieces, first, held = [], number, 0
    if units is not None and len(units) != number:
        raise UserError(f"{len(units)} units for {number} sequences; give one for each.")
    if pieces:
        yield _block(pieces, first, units)


def _block(
    pieces: Sequence[Int8[ndarray, " _"]], first: int, units: Sequence[int] | None
) -> Block:
    owner = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    numbers = np.arange(first, first + len(pieces))
    if units is not None:
        numbers = np.asarray(units[first : first + len(pieces)])
    return Block(np.concatenate(pieces), owner, numbers)


def codes_of(
    sequence: str | Integer[ndarray, " l"], data_ids: Sequence[int] | None = None
) -> Int8[ndarray, " l"]:
    """One sequence as codes: see `blocks`."""
    if isinstance(sequence, str):
        letters = np.frombuffer(sequence.upper().encode("ascii", "replace"), np.uint8)
        return letter_codes(letters, b"ACGT")
    if data_ids is None or len(data_ids) != 4:
        raise UserError(
            f"data_ids={data_ids} must be the ids of A, C, G, T for sequences given as ids; "
            "give e.g. tokenizer.data_ids[:4]."
        )
    return letter_codes(sequence, data_ids)


def letter_codes(ids: Integer[ndarray, " l"], data_ids: Sequence[int]) -> Int8[ndarray, " l"]:
    """Ids as codes: the place of each in `data_ids`, -1 if it is none of them."""
    code_of = np.full(max(data_ids) + 2, -1, np.int8)
    code_of[list(data_ids)] = np.arange(len(data_ids))
    return code_of.take(ids, mode="clip")  # an id beyond the table meets its last entry, -1


def words(
    codes: Int8[ndarray, " l"], n_letters: int, longest: int
) -> Iterator[tuple[Bool[ndarray, " l"], Int32[ndarray, " m"]]]:
    """For lengths 1, 2, ..., `longest`: where words of that length end, and the words there."""
    letters = codes.astype(np.int32)
    word, ends = np.zeros_like(letters), np.ones(len(letters), bool)
    for back in range(longest):
        earlier = letters[: max(len(letters) - back, 0)]
        ends[:back] = False
        ends[back:] &= earlier >= 0
        word[back:] += earlier * n_letters**back
        yield ends.copy(), word[ends]


def reverse_complements(length: int, partner: Sequence[int]) -> Int32[ndarray, " words"]:
    """The reverse complement of every word of `length`; `partner` is each letter's complement."""
    reverse = np.zeros(1, np.int32)
    for place in range(length):  # RC(word letter) = complement(letter) RC(word)
        first = np.asarray(partner, np.int32) * len(partner) ** place
        reverse = (reverse[:, None] + first).reshape(-1)
    return reverse


def word_shares(
    sequences: Iterable[Int8[ndarray, " _"]], lengths: Sequence[int]
) -> Float32[ndarray, "n words"]:
    """The share of each word among those of its length in each sequence, given as codes of DNA; a
    word and its reverse complement are one. 0 where a sequence has no word of a length."""
    tables = {}
    for k in lengths:
        canonical = np.minimum(np.arange(4**k), reverse_complements(k, (3, 2, 1, 0)))
        tables[k] = np.unique(canonical, return_inverse=True)[1]
    rows = []
    for codes in sequences:
        parts = []
        for k, (_, found) in enumerate(words(codes, 4, max(lengths)), start=1):
            if k in tables:
                counts = np.bincount(tables[k][found], minlength=tables[k].max() + 1)
                parts.append((counts / max(len(found), 1)).astype(np.float32))
        rows.append(np.concatenate(parts))
    width = sum(table.max() + 1 for table in tables.values())
    return np.array(rows, np.float32).reshape(len(rows), width)
