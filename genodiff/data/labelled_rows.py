"""From rows, a sequence and a label each, to a task: whatever file they came from, class names are
put in order once for all splits, and what no classifier could be tested with is refused."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer

from genodiff.data.datamodule import Tokenizer
from genodiff.data.intervals import Split
from genodiff.data.labelled import ClassificationTask, LabelledSequences
from genodiff.data.regions import Region
from genodiff.data.tokenizer import UNK_ID
from genodiff.errors import UserError

_LETTERS = "ACGTNRYSWKMBDHVacgtnryswkmbdhv"  # as `genodiff.data.Genome` reads them
_INTEGER = re.compile(r"-?[0-9]{1,18}")


class LabelledRow(NamedTuple):
    """The token ids of a sequence and its label; `where` names file and line, for messages."""

    where: str
    ids: Integer[np.ndarray, "l"]
    label: str
    region: Region | None = None


def encode_row(texts: Sequence[str], tokenizer: Tokenizer, where: str) -> Integer[np.ndarray, "l"]:
    """The ids of a row's text, or of its several texts one after the other: between two of them
    stands the tokenizer's `eos_id`, or, if it has none, a line feed, which no cell of a TSV holds.

    DNA may be in either case and have any IUPAC letter; those besides A, C, G, T and N become
    [UNK]. Raises UserError for an empty text and, of DNA, for any other character.
    """
    is_dna = hasattr(tokenizer, "complement")
    if is_dna:
        texts = [text.strip() for text in texts]
    for text in texts:
        if not text.strip():
            raise UserError(f"{where}: the sequence is empty; give it letters, or remove the row.")
        if is_dna and text.encode("ascii", "replace").translate(None, _LETTERS.encode()):
            at, letter = next((i, each) for i, each in enumerate(text) if each not in _LETTERS)
            raise UserError(
                f"{where}: {letter!r} at letter {at + 1} of the sequence is not an IUPAC letter "
                "of DNA (ACGTN or RYSWKMBDHV); correct it or write N."
            )
    end = getattr(tokenizer, "eos_id", None)
    between = tokenizer.encode("\n") if end is None else np.array([end])
    pieces = [piece for text in texts for piece in (between, tokenizer.encode(text))]
    # Not int64: the rows of a large task are held all at once.
    return np.concatenate(pieces[1:]).astype(np.uint8 if tokenizer.vocab_size <= 256 else np.int32)


def task_of(
    name: str,
    splits: Mapping[Split, Sequence[LabelledRow]],
    tokenizer: Tokenizer,
    places: Mapping[Split, str],
    source: Mapping[str, Any],
) -> ClassificationTask:
    """The task of these rows. Classes are in alphabetical order, or by number if all labels are
    integers.

    `places` says where each split is from, for messages. `source` is extended by what was read as
    [UNK], of DNA. Raises UserError for a split without rows, for labels in valid or test that
    train does not have, for a class without a test sequence, and for fewer than two classes.
    """
    for split, rows in splits.items():
        if not rows:
            raise UserError(f"{places[split]} has no rows; {split} needs labelled sequences.")
    labels = {split: {row.label for row in rows} for split, rows in splits.items()}
    train = labels["train"]
    for split, rows in splits.items():
        if strange := next((row for row in rows if row.label not in train), None):
            raise UserError(
                f"{strange.where}: label {strange.label!r} of {split} is not in train "
                f"({places['train']}), which has {_some(train)}; correct it, or leave it out."
            )
    if len(train) < 2:
        raise UserError(
            f"{places['train']} has one class, {_some(train)}; a classifier needs two or more."
        )
    if missing := train - labels["test"]:
        raise UserError(
            f"{places['test']} has no sequence of class {_some(missing)}, which train has, so "
            "nothing would be known of it; add some to test, or leave the class out of train."
        )
    classes = _in_order(train)
    number = {label: i for i, label in enumerate(classes)}
    sequences = {
        split: LabelledSequences.of(
            (row.ids for row in rows), [number[row.label] for row in rows], _regions(rows)
        )
        for split, rows in splits.items()
    }
    if hasattr(tokenizer, "complement"):
        source = {**source, "unknown": _unknown(list(sequences.values()))}
    return ClassificationTask(
        name,
        classes,
        sequences["train"],
        sequences["test"],
        sequences.get("valid"),
        tokenizer,
        source,
    )


def _in_order(labels: Collection[str]) -> tuple[str, ...]:
    if all(_INTEGER.fullmatch(label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _some(labels: Collection[str]) -> str:
    """Labels for a message: the first few."""
    first = _in_order(labels)
    return ", ".join(map(repr, first[:5])) + (", ..." if len(first) > 5 else "")


def _regions(rows: Sequence[LabelledRow]) -> list[Region] | None:
    regions = [row.region for row in rows if row.region is not None]
    return regions if len(regions) == len(rows) else None


def _unknown(splits: Sequence[LabelledSequences]) -> dict[str, int]:
    """How many letters are [UNK], and in how many sequences."""
    letters = sequences = 0
    for split in splits:
        at = np.flatnonzero(split.ids == UNK_ID)
        letters += len(at)
        sequences += len(np.unique(np.searchsorted(split.starts, at, side="right")))
    return {"letters": letters, "sequences": sequences}
