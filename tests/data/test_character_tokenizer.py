"""text8's alphabet."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genodiff.data import CharacterTokenizer, TextTokenizer

TOKENIZER = CharacterTokenizer()


def test_letters_follow_the_special_tokens_and_the_space_is_last() -> None:
    assert TOKENIZER.encode("az ").tolist() == [8, 33, 34]
    names = ["[CLS]", "[SEP]", "[BOS]", "[EOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]"]
    assert [TOKENIZER.decode([i]) for i in range(8)] == names
    assert TOKENIZER.decode(range(8, 35)) == "abcdefghijklmnopqrstuvwxyz "


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("hello world", [15, 12, 19, 19, 22, 34, 30, 22, 25, 19, 11]),
        ("Abc 9!", [8, 9, 10, 34, 7, 7]),
        ("", []),
        ("[MASK]", [7, 20, 8, 26, 18, 7]),
        ("é\n\x00世😀", [7, 7, 7, 7, 7]),
        ("İ", [16, 7]),  # in lower case an i and a dot above
    ],
)
def test_any_other_character_is_unknown(text: str, ids: list[int]) -> None:
    assert TOKENIZER.encode(text).tolist() == ids
    assert TOKENIZER.encode(text).dtype == np.int64


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz ", max_size=50))
def test_decoding_undoes_encoding(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_every_id_but_mask_and_padding_is_data() -> None:
    assert TOKENIZER.data_ids == (0, 1, 2, 3, *range(6, 35))
    assert (TOKENIZER.mask_id, TOKENIZER.pad_id, TOKENIZER.vocab_size) == (4, 5, 35)
    assert (TOKENIZER.bos_id, TOKENIZER.eos_id) == (2, 3)


def test_it_is_a_text_tokenizer() -> None:
    assert isinstance(TOKENIZER, TextTokenizer)
    rows = TOKENIZER.encode_batch(["a", "", "bc"])
    assert [row.tolist() for row in rows] == [[8], [], [9, 10]]
    for tokens in ([8, 9], np.array([8, 9]), torch.tensor([8, 9])):
        assert TOKENIZER.decode(tokens) == "ab"
    with pytest.raises(ValueError, match=r"ids \[-1, 35\] are not in the vocabulary of 35"):
        TOKENIZER.decode([8, 35, -1])
