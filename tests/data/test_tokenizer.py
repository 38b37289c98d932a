import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genodiff.data import DnaTokenizer

TOKENIZER = DnaTokenizer()


def test_ids_are_those_of_caduceus() -> None:
    assert TOKENIZER.encode("ACGTN").tolist() == [7, 8, 9, 10, 11]
    special = "[CLS][SEP][BOS][MASK][PAD][UNK]"
    assert TOKENIZER.encode(special).tolist() == [0, 1, 2, 3, 4, 6]
    named = (TOKENIZER.eos_id, TOKENIZER.bos_id, TOKENIZER.mask_id, TOKENIZER.pad_id)
    assert named == (1, 2, 3, 4)
    assert TOKENIZER.vocab_size == 12


def test_only_bases_are_data_and_n_where_asked() -> None:
    assert TOKENIZER.data_ids == (7, 8, 9, 10)
    assert DnaTokenizer(predict_n=True).data_ids == (7, 8, 9, 10, 11)


@given(st.text(alphabet="ACGTN", max_size=50))
def test_decoding_undoes_encoding(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_lower_case_is_read_as_upper_case() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("acgtn")) == "ACGTN"


def test_what_is_no_base_becomes_unknown() -> None:
    assert TOKENIZER.encode("R-é U").tolist() == [6, 6, 6, 6, 6]


def test_complement_pairs_bases_and_leaves_the_rest() -> None:
    complement = np.array(TOKENIZER.complement)
    assert (complement[complement] == np.arange(12)).all()
    assert TOKENIZER.decode(complement[TOKENIZER.encode("ACGTN[MASK][PAD]")]) == "TGCAN[MASK][PAD]"


def test_padding_is_on_the_left_and_truncation_on_the_right() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("ACG", length=5)) == "[PAD][PAD]ACG"
    assert TOKENIZER.decode(TOKENIZER.encode("ACG", length=2)) == "AC"
    assert TOKENIZER.decode(TOKENIZER.encode("ACG", length=3, append_sep=True)) == "AC[SEP]"


def test_decode_takes_lists_arrays_and_tensors() -> None:
    ids = [7, 3, 11]
    for tokens in (ids, np.array(ids), torch.tensor(ids)):
        assert TOKENIZER.decode(tokens) == "A[MASK]N"


def test_ids_that_pad_a_vocabulary_do_not_decode() -> None:
    with pytest.raises(ValueError, match=r"ids \[12, 15\] are not in the vocabulary of 12"):
        TOKENIZER.decode([7, 12, 15])
