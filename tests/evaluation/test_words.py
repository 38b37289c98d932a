import numpy as np
import pytest

from genodiff.errors import UserError
from genodiff.evaluation.words import blocks, letter_codes, reverse_complements, words


def test_ids_become_codes_and_everything_else_breaks() -> None:
    ids = np.array([7, 10, 11, 4, 0, 200, 8], np.uint8)
    assert letter_codes(ids, (7, 8, 9, 10)).tolist() == [0, 3, -1, -1, -1, -1, 1]


def test_words_are_every_run_of_letters() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(-1, 4, 300).astype(np.int8)
    for k, (ends, found) in enumerate(words(codes, 4, 5), start=1):
        expected = {
            i: int("".join(map(str, codes[i - k + 1 : i + 1])), 4)
            for i in range(k - 1, len(codes))
            if (codes[i - k + 1 : i + 1] >= 0).all()
        }
        assert np.flatnonzero(ends).tolist() == list(expected)
        assert found.tolist() == list(expected.values())


def test_sequences_shorter_than_a_word_hold_none() -> None:
    assert [len(found) for _, found in words(np.array([1, 2], np.int8), 4, 4)] == [2, 1, 0, 0]


def test_the_reverse_complement_is_spelt_backwards() -> None:
    def spell(word: int) -> str:
        return "".join("ACGT"[word // 4**i % 4] for i in (2, 1, 0))

    reverse = reverse_complements(3, (3, 2, 1, 0))
    complement = str.maketrans("ACGT", "TGCA")
    assert [spell(r) for r in reverse] == [spell(w)[::-1].translate(complement) for w in range(64)]


def test_blocks_join_sequences_and_part_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = ["ACgt", "", "NNR", "TTé"]
    (whole,) = blocks(sequences)
    assert whole.codes.tolist() == [0, 1, 2, 3, -1, -1, -1, -1, -1, -1, 3, 3, -1, -1]
    assert whole.owner.tolist() == [0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert whole.units.tolist() == [0, 1, 2, 3]
    monkeypatch.setattr("genodiff.evaluation.words._BLOCK_LETTERS", 4)
    first, second = blocks(iter(sequences), units=[7, 7, 9, 9])
    assert (first.units.tolist(), second.units.tolist()) == ([7], [7, 9, 9])
    assert np.concatenate([first.codes, second.codes]).tolist() == whole.codes.tolist()
    assert second.owner.tolist() == [0] + [1] * 4 + [2] * 4


def test_blocks_of_ids_need_their_letters() -> None:
    (block,) = blocks([np.array([7, 8, 11])], data_ids=(7, 8, 9, 10))
    assert block.codes.tolist() == [0, 1, -1, -1]
    with pytest.raises(UserError, match="must be the ids of A, C, G, T"):
        next(blocks([np.array([7, 8])]))


def test_every_sequence_has_a_unit() -> None:
    with pytest.raises(UserError, match="1 units for 2 sequences"):
        list(blocks(["A", "C"], units=[0]))
