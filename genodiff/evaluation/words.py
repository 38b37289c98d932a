"""Words of letters as numbers: what Markov models and k-mer spectra count.

Letters are codes 0..K-1 and -1 is anything else (N, padding, the end of a sequence). A word is the
number whose digits in base K are its letters, the first letter being the most significant: words
are in alphabetical order, and word = K (all letters but the last) + last letter.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int8, Int32, Integer
from numpy import ndarray


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
