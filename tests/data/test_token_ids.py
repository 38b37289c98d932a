"""Bare ids as a tokenizer."""

import pytest

from genodiff.data import TokenIds
from genodiff.errors import UserError


def test_ids_there_and_back() -> None:
    tokenizer = TokenIds(vocab_size=20, mask_id=3)
    ids = tokenizer.encode("12 5  7")
    assert ids.tolist() == [12, 5, 7]
    assert tokenizer.decode(ids) == "12 5 7" and tokenizer.decode([]) == ""
    assert tokenizer.encode("").tolist() == []


def test_all_ids_but_the_mask_are_data() -> None:
    assert TokenIds(vocab_size=4, mask_id=2).data_ids == (0, 1, 3)


@pytest.mark.parametrize("text", ["20", "-1", "1.5", "a", "1,2"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no token id; use numbers from 0 to 19"):
        TokenIds(vocab_size=20, mask_id=3).encode(f"1 {text} 2")


@pytest.mark.parametrize("mask_id", [-1, 20])
def test_the_mask_is_in_the_vocabulary(mask_id: int) -> None:
    with pytest.raises(UserError, match=f"mask_id={mask_id} is not in the vocabulary of 20"):
        TokenIds(vocab_size=20, mask_id=mask_id)
