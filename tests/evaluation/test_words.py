import numpy as np

from genodiff.evaluation.words import letter_codes, reverse_complements, words


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
