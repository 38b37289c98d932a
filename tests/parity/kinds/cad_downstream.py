"""Items of the published classification data sets: cut, padded, and read on either strand."""

from typing import Any

import numpy as np
from torch import Tensor

from genodiff.data import DnaTokenizer, LabelledSequences, LabelledWindows
from tests.parity.cases import Case


def check(case: Case) -> None:
    rows = case.table["rows"]
    for settings in case.table["cases"]:
        if "error" in settings:
            assert not settings["use_padding"]  # which genodiff has no word for: rows are equal
            continue
        for number, item in enumerate(settings["items"]):
            tokens, label = _item(rows, number, settings)
            assert tokens.tolist() == item["ids"], (settings, rows[number])
            assert [label] == item["target"]


def _item(rows: list[dict[str, Any]], number: int, settings: dict[str, Any]) -> Any:
    in_training = settings["split"] == "train"
    if settings["conjoin_train"] if in_training else settings["conjoin_test"]:
        (forward, label), (reverse, _) = (_read(rows, number, settings, s) for s in ("+", "-"))
        return np.stack([forward, reverse], -1), label
    augmented = settings["rc_aug"] or (in_training and settings["conjoin_test"])
    strand = "-" if augmented and settings["coin"] else "+"
    return _read(rows, number, settings, strand)


def _read(
    rows: list[dict[str, Any]], number: int, settings: dict[str, Any], strand: Any
) -> tuple[Tensor, int]:
    tokenizer = DnaTokenizer()
    sequences = LabelledSequences.of(
        [tokenizer.encode(row["sequence"]) for row in rows], [row["label"] for row in rows]
    )
    windows = LabelledWindows(
        sequences,
        tokenizer,
        settings["max_length"],
        pad="left",
        strand=strand,
        append_sep=settings["add_eos"],
    )
    batch = windows.collate(windows.__getitems__(np.array([[0, number]])))
    assert batch.labels is not None
    return batch.tokens[0], int(batch.labels[0])
