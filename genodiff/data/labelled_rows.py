"""From rows, a sequence and a label each, to a task: whatever file they came from, class names are
put in order once for all splits, and what no classifier could be tested with is refused."""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, get_args

import numpy as np
from jaxtyping import Integer

from genodiff.data.datamodule import Tokenizer
from genodiff.data.intervals import Split
from genodiff.data.labelled import ClassificationTask, LabelledSequences, MetricName
from genodiff.data.regions import Region
from genodiff.data.tokenizer import UNK_ID
from genodiff.errors import UserError

_LETTERS = "ACGTNRYSWKMBDHVacgtnryswkmbdhv"  # as `genodiff.data.Genome` reads them
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_ROWS = 4096
"""Rows that are encoded at a time."""
_OF_NUMBERS: tuple[MetricName, ...] = ("pearson", "spearman")


class LabelledRow(NamedTuple):
    """The token ids of a sequence and its label; `where` names file and line, for messages."""

    where: str
    ids: Integer[np.ndarray, "l"]
    label: str
    region: Region | None = None


class TextRow(NamedTuple):
    """A row before it is encoded: its texts, of which there may be several."""

    where: str
    texts: Sequence[str]
    label: str


def encode_row(texts: Sequence[str], tokenizer: Tokenizer, where: str) -> Integer[np.ndarray, "l"]:
    """The ids of a row's text, or of its several texts, as `encode_rows` joins them."""
    return next(encode_rows([TextRow(where, texts, "")], tokenizer)).ids


def encode_rows(rows: Iterable[TextRow], tokenizer: Tokenizer) -> Iterator[LabelledRow]:
    """Each row with the ids of its texts one after the other: between two of them stands the
    tokenizer's `eos_id`, or, if it has none, a line feed, which no cell of a TSV holds.

    DNA may be in either case and have any IUPAC letter; those besides A, C, G, T and N become
    [UNK]. Raises UserError for a row without text, and, of DNA, for an empty sequence and any
    other character.
    """
    is_dna = hasattr(tokenizer, "complement")
    end = getattr(tokenizer, "eos_id", None)
    between = tokenizer.encode("\n") if end is None else np.array([end])
    encode = getattr(tokenizer, "encode_batch", lambda texts: [*map(tokenizer.encode, texts)])
    # Not int64: the rows of a large task are held all at once.
    dtype = np.uint8 if tokenizer.vocab_size <= 256 else np.int32
    rows = iter(rows)
    while chunk := list(islice(rows, _ROWS)):
        if is_dna:
            chunk = [row._replace(texts=[text.strip() for text in row.texts]) for row in chunk]
        for row in chunk:
            _check_texts(row, is_dna)
        encoded = iter(encode([text for row in chunk for text in row.texts]))
        for row in chunk:
            pieces = [piece for _ in row.texts for piece in (between, next(encoded))]
            yield LabelledRow(row.where, np.concatenate(pieces[1:]).astype(dtype), row.label)


def _check_texts(row: TextRow, is_dna: bool) -> None:
    is_empty = [not text.strip() for text in row.texts]
    if any(is_empty) if is_dna else all(is_empty):
        raise UserError(f"{row.where}: the sequence is empty; give it letters, or remove the row.")
    for text in row.texts if is_dna else ():
        if text.encode("ascii", "replace").translate(None, _LETTERS.encode()):
            at, letter = next((i, each) for i, each in enumerate(text) if each not in _LETTERS)
            raise UserError(
                f"{row.where}: {letter!r} at letter {at + 1} of the sequence is not an IUPAC "
                "letter of DNA (ACGTN or RYSWKMBDHV); correct it or write N."
            )


def task_of(
    name: str,
    splits: Mapping[Split, Sequence[LabelledRow]],
    tokenizer: Tokenizer,
    places: Mapping[Split, str],
    source: Mapping[str, Any],
    *,
    metrics: Sequence[MetricName] | None = None,
    classes: Sequence[str] | None = None,
    regression: bool = False,
    test_parts: Sequence[tuple[str, int]] = (),
) -> ClassificationTask:
    """The task of these rows. Classes are in the order given, else in alphabetical order, or by
    number if all labels are integers; in `regression` there are none, and labels are numbers.

    `places` says where each split is from, for messages. `source` is extended by what was read as
    [UNK], of DNA. `metrics` is accuracy by default, of numbers both correlations. Raises UserError
    for a split without rows, for labels in valid or test that train does not have, for a class
    without a test sequence, for fewer than two classes, for labels that are no numbers where they
    have to be, and for metrics of the other kind.
    """
    for split, rows in splits.items():
        if not rows:
            raise UserError(f"{places[split]} has no rows; {split} needs labelled sequences.")
    if regression:
        classes, labels = (), {split: [*map(_number, rows)] for split, rows in splits.items()}
        if len(set(labels["train"])) == 1:
            raise UserError(
                f"{places['train']} has one label, {labels['train'][0]:g}; a regression needs two "
                "or more."
            )
    else:
        classes = _checked(splits, places, classes)
        number = {label: i for i, label in enumerate(classes)}
        labels = {split: [number[row.label] for row in rows] for split, rows in splits.items()}
    sequences = {
        split: LabelledSequences.of((row.ids for row in rows), labels[split], _regions(rows))
        for split, rows in splits.items()
    }
    if hasattr(tokenizer, "complement"):
        source = {**source, "unknown": _unknown(list(sequences.values()))}
    return ClassificationTask(
        name,
        tuple(classes),
        sequences["train"],
        sequences["test"],
        sequences.get("valid"),
        tokenizer,
        source,
        _fitting(metrics, len(classes)),
        tuple(test_parts),
    )


def _checked(
    splits: Mapping[Split, Sequence[LabelledRow]],
    places: Mapping[Split, str],
    classes: Sequence[str] | None,
) -> tuple[str, ...]:
    """The classes in order. Raises UserError if they are not those of every split."""
    train = {row.label for row in splits["train"]}
    for split, rows in splits.items():
        if strange := next((row for row in rows if row.label not in train), None):
            hidden = " (-1 hides the labels of GLUE's test sets: test with its dev sets)"
            raise UserError(
                f"{strange.where}: label {strange.label!r} of {split} is not in train "
                f"({places['train']}), which has {_some(train)}; correct it, or leave it out"
                f"{hidden if strange.label == '-1' else ''}."
            )
    if len(train) < 2:
        raise UserError(
            f"{places['train']} has one class, {_some(train)}; a classifier needs two or more."
        )
    if missing := train - {row.label for row in splits["test"]}:
        raise UserError(
            f"{places['test']} has no sequence of class {_some(missing)}, which train has, so "
            "nothing would be known of it; add some to test, or leave the class out of train."
        )
    if classes is None:
        return _in_order(train)
    if foreign := train.symmetric_difference(classes):
        raise UserError(
            f"{places['train']} has the classes {_some(train)}, and they are to be "
            f"{_some(classes)}; correct {_some(foreign)}."
        )
    return tuple(classes)


def _number(row: LabelledRow) -> float:
    try:
        number = float(row.label)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"{row.where}: label {row.label!r} is no number, and target=regression tells numbers; "
            "correct it, or use target=classification."
        )
    return number


def _fitting(metrics: Sequence[MetricName] | None, n_classes: int) -> tuple[MetricName, ...]:
    """The metrics, or those usual for such labels. Raises UserError for others."""
    fit: tuple[MetricName, ...] = _OF_NUMBERS
    if n_classes:
        fit = tuple(
            name
            for name in get_args(MetricName)
            if name not in _OF_NUMBERS and (name != "f1" or n_classes == 2)
        )
    for name in metrics or ():
        if name not in fit:
            labels = f"{n_classes} classes" if n_classes else "numbers"
            raise UserError(f"metric {name} is not for {labels}; use {', '.join(fit)}.")
    return tuple(metrics) if metrics else ("accuracy",) if n_classes else _OF_NUMBERS


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
