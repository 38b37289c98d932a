"""The published text pipeline: detokenizers, text8's tokenizer, packing and padding. Exact."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genodiff.data import DETOKENIZERS, CharacterTokenizer, TextRows, TextTokenizer, stored_tokens
from genodiff.data.character_tokenizer import VOCABULARY
from genodiff.data.packing import Layout, Padded, Published
from tests.data.given import Given
from tests.parity.cases import Case


def check(case: Case) -> None:
    for function, cases in case.table["detokenizers"].items():
        for text in cases:
            detokenized = DETOKENIZERS[function.removesuffix("_detokenizer")](text["input"])
            assert detokenized == text["output"], function
    _check_tokenizer(case.table["text8_tokenizer"])
    for group in case.table["group_texts"]:
        tokenizer = _Numbers(group["bos"], group["eos"])
        documents = [" ".join(map(str, ids)) for ids in group["input_ids"]]
        tokens, weights = _rows(documents, tokenizer, group["block_size"])
        assert tokens == group["blocks"]
        assert weights == group["attention_mask"]
    for dataset in case.table["datasets"]:
        tokens, weights = _rows(
            dataset["texts"],
            CharacterTokenizer(),
            dataset["block_size"],
            detokenizer=_detokenizer(dataset["dataset_name"]),
            is_padded=not dataset["wrap"],
            eos=dataset["wrap"],
        )
        assert tokens == [row["input_ids"] for row in dataset["result"]], dataset["dataset_name"]
        assert weights == [row["attention_mask"] for row in dataset["result"]]


def _check_tokenizer(table: dict[str, Any]) -> None:
    assert {token: i for i, token in enumerate(VOCABULARY)} == table["vocab"]
    for text in table["cases"]:
        ids = CharacterTokenizer().encode(text["input"]).tolist()
        assert ids == text["ids"] == text["ids_default"]
        assert CharacterTokenizer().decode(ids) == text["decoded"]


def _detokenizer(dataset: str) -> str | None:
    """That of a data set of these names."""
    if dataset.startswith(("wikitext", "scientific_papers")):
        return "wt" if dataset.startswith("wikitext") else "scientific_papers"
    return dataset if dataset in DETOKENIZERS else None


def _rows(
    documents: Sequence[str],
    tokenizer: TextTokenizer,
    length: int,
    *,
    detokenizer: str | None = None,
    is_padded: bool = False,
    eos: bool = False,
) -> tuple[list[list[int]], list[list[float]]]:
    """Tokens and weights of all rows."""
    with tempfile.TemporaryDirectory() as cache:
        store = stored_tokens(
            Given(documents),
            tokenizer,
            eos=eos,
            detokenizer=detokenizer,
            keep_empty=True,
            cache_dir=cache,
        )
        # text8's tokenizer puts nothing around a document that is padded.
        layout: Layout = Padded(store, length, (None, None))
        if not is_padded:
            layout = Published(store, length - 2, (tokenizer.bos_id, tokenizer.eos_id))
        rows = TextRows(store, layout, tokenizer, length)
        index = np.arange(len(rows))
        batch = rows.collate(rows.__getitems__(np.stack([0 * index, index], axis=1)))
        return batch.tokens.tolist(), batch.weights.tolist()


@dataclass(frozen=True)
class _Numbers:
    """Reads a text as the ids that it spells."""

    bos_id: int
    eos_id: int
    vocab_size: int = 1002
    mask_id: int = 1000
    pad_id: int = 1001

    @property
    def data_ids(self) -> tuple[int, ...]:
        return tuple(range(1000))

    def encode(self, text: str) -> np.ndarray:
        return np.array([int(each) for each in text.split()], np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Any) -> str:
        return " ".join(map(str, tokens))
