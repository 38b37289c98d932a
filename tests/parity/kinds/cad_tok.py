"""Caduceus' tokenizer: vocabulary, complement and encodings. Exact.

Left out, being properties of the published wrapper and not of the encoding: what
`get_special_tokens_mask` returns, and that an empty text is not padded.
"""

import numpy as np

from genodiff.data import DnaTokenizer
from genodiff.data.tokenizer import UNK_ID, VOCABULARY
from tests.parity.cases import Case


def check(case: Case) -> None:
    table, tokenizer = case.table, DnaTokenizer()
    assert {token: i for i, token in enumerate(VOCABULARY)} == table["vocab"]
    assert tokenizer.vocab_size == table["vocab_size"] == table["len"]
    expected_complement = {int(i): j for i, j in table["complement_map"].items()}
    assert dict(enumerate(tokenizer.complement)) == expected_complement
    assert table["special_ids"] == {
        **{"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "sep": tokenizer.eos_id},
        **{"cls": 0, "pad": tokenizer.pad_id, "mask": tokenizer.mask_id, "unk": UNK_ID},
    }
    assert (table["padding_side"], table["truncation_side"]) == ("left", "right")
    length = table["model_max_length"]
    for text in table["cases"]:
        ids = tokenizer.encode(text["input"])
        assert ids.tolist() == text["ids_no_special"]
        assert tokenizer.decode(ids) == text["decoded"]
        with_sep = tokenizer.encode(text["input"], append_sep=True)
        assert with_sep.tolist() == text["ids_default"] == text["ids_default_ctor_without_special"]
        padded = tokenizer.encode(text["input"], append_sep=True, length=length)
        assert padded.tolist() == text["ids_padded_default"]
        if text["input"]:
            padded = tokenizer.encode(text["input"], length=length)
            assert padded.tolist() == text["ids_padded_no_special"]
    pair = [tokenizer.encode(table["pair"][name], append_sep=True) for name in ("a", "b")]
    assert np.concatenate(pair).tolist() == table["pair"]["ids"]
    # The published string function complements letters one by one; so do our ids.
    complement = np.array(tokenizer.complement)
    for strand in table["string_reverse_complement"]:
        if "[" not in strand["input"]:
            expected = tokenizer.encode(strand["output"])
            assert np.array_equal(complement[tokenizer.encode(strand["input"])][::-1], expected)
