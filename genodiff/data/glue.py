"""The eight tasks of GLUE that are scored (Wang et al. 2019, arXiv:1804.07461), each held to the
published numbers of examples. WNLI and the diagnostic set are left out, as is usual.

The labels of GLUE's test sets are not public. So a task's test set here is the *development* set,
as in published tables of development scores, and what chooses weights has to come out of the
training set; of MNLI it is the matched and the mismatched set, one after the other.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genodiff.data.datamodule import Tokenizer
from genodiff.data.genome import default_cache_dir
from genodiff.data.labelled import ClassificationTask, MetricName
from genodiff.data.labelled_files import table_rows, tokenizer_of
from genodiff.data.labelled_rows import TextRow, encode_rows, task_of
from genodiff.data.labelled_store import kept
from genodiff.data.labelled_tables import read_table
from genodiff.data.text_tokenizers import TextTokenizer, fingerprint
from genodiff.errors import OutsideError, UserError


class GlueTask(NamedTuple):
    """What is published of a task.

    `folder`: as the official archive calls it. `columns` and `label` are those of its TSV,
    `hub_columns` those of the Hub's parquet. `classes` in the order in which the Hub numbers them,
    none of numbers. `train` and `dev`: how many examples.
    """

    folder: str
    columns: tuple[str, ...]
    label: str
    hub_columns: tuple[str, ...]
    classes: tuple[str, ...]
    metrics: tuple[MetricName, ...]
    train: int
    dev: tuple[int, ...]


_ONE, _PAIR, _QUESTIONS = ("sentence",), ("sentence1", "sentence2"), ("question1", "question2")
_ACCURACY: tuple[MetricName, ...] = ("accuracy",)
_AND_F1: tuple[MetricName, ...] = ("accuracy", "f1")
_MATTHEWS: tuple[MetricName, ...] = ("matthews", "accuracy")
_CORRELATIONS: tuple[MetricName, ...] = ("pearson", "spearman")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_COLA, _SST2 = ("unacceptable", "acceptable"), ("negative", "positive")
_MRPC, _QQP = ("not_equivalent", "equivalent"), ("not_duplicate", "duplicate")
_STRINGS, _NLI_PAIR = ("#1 string", "#2 string"), ("premise", "hypothesis")
_QA, _DUPLICATE = ("question", "sentence"), "is_duplicate"
GLUE: Mapping[str, GlueTask] = {
    "cola": GlueTask("CoLA", _ONE, "label", _ONE, _COLA, _MATTHEWS, 8_551, (1_043,)),
    "sst2": GlueTask("SST-2", _ONE, "label", _ONE, _SST2, _ACCURACY, 67_349, (872,)),
    "mrpc": GlueTask("MRPC", _STRINGS, "quality", _PAIR, _MRPC, _AND_F1, 3_668, (408,)),
    "qqp": GlueTask("QQP", _QUESTIONS, _DUPLICATE, _QUESTIONS, _QQP, _AND_F1, 363_846, (40_430,)),
    "stsb": GlueTask("STS-B", _PAIR, "score", _PAIR, (), _CORRELATIONS, 5_749, (1_500,)),
    "mnli": GlueTask(
        "MNLI", _PAIR, "gold_label", _NLI_PAIR, _NLI, _ACCURACY, 392_702, (9_815, 9_832)
    ),
    "qnli": GlueTask("QNLI", _QA, "label", _QA, _ENTAILMENT, _ACCURACY, 104_743, (5_463,)),
    "rte": GlueTask("RTE", _PAIR, "label", _PAIR, _ENTAILMENT, _ACCURACY, 2_490, (277,)),
}
_PARTS = {"mnli": ("matched", "mismatched")}
_COLA_HEADER = ("source", "label", "mark", "sentence")


def glue_task(
    name: str,
    root: str | Path | None = None,
    *,
    hub: str | None = None,
    tokenizer: str | Tokenizer | None = None,
    check_counts: bool = True,
    cache_dir: str | Path | None = None,
) -> ClassificationTask:
    """One of `GLUE`, from the first of these that is given or there:

    1. `hub`: a repository of the Hugging Face Hub, `nyu-mll/glue`, read by the package `datasets`.
    2. `ROOT/CoLA/{train,dev}.tsv` and so on, as the official archive unpacks.
    3. `ROOT/cola/{train,validation}*.parquet`, the Hub's repository on a disk, or the same as
       `.jsonl`, plain or gzip.

    What was read is kept in one verified file, `glue_NAME.TOKENIZER.task`, from which it is read
    from then on, until a file changes.

    Args:
        root: the folder of 2 and 3, and where the one file is written.
        tokenizer: of the text, or what `load_tokenizer` loads it by; that of the checkpoint that
            is fine-tuned.
        check_counts: refuse what does not have the published numbers of examples.
        cache_dir: where the one file is looked for and written instead.

    Raises:
        UserError: for an unknown name, no tokenizer, missing, damaged and malformed files,
            packages that are not installed, and numbers that are not the published ones.
        OutsideError: the Hub could not be read.
    """
    if name not in GLUE:
        raise UserError(f"data.name={name} is no task of GLUE; it has {', '.join(GLUE)}.")
    if tokenizer is None:
        raise UserError(
            "data=glue without checkpoint= needs data.tokenizer=, the name or folder of one; e.g. "
            "bert-base-uncased."
        )
    known = tokenizer_of(tokenizer)
    if not isinstance(known, TextTokenizer):
        raise UserError(
            f"GLUE is text, and {type(known).__name__} reads none; use a network of text."
        )
    task = GLUE[name]
    source = _hub(name, task, hub) if hub is not None else _local(name, task, root)

    def make() -> ClassificationTask:
        train, *parts = [
            [*encode_rows((_named(row, task) for row in source.rows(split)), known)]
            for split in ("train", *(f"dev{part}" for part in _parts(name)))
        ]
        sizes = [len(part) for part in parts]
        if check_counts:
            _check_counts(name, len(train), sizes)
        return task_of(
            name,
            {"train": train, "test": [row for part in parts for row in part]},
            known,
            {"train": f"train of {source.place}", "test": f"dev of {source.place}"},
            {"glue": name, "read_from": source.place, "test": "the development set"},
            metrics=task.metrics,
            classes=task.classes or None,
            regression=not task.classes,
            test_parts=[*zip(_PARTS[name], sizes, strict=True)] if name in _PARTS else (),
        )

    folder = Path(cache_dir or root or default_cache_dir().with_name("tasks"))
    path = folder / f"glue_{name}{source.kind}.{fingerprint(known)[:12]}.task"
    return kept(path, known, source.stamp, make)


class _Source(NamedTuple):
    """Where a task is read from.

    `kind` is part of the name of the one file, `place` is for messages, `stamp` tells this state
    of the source from others. `rows` of "train" and "dev" (of MNLI "dev_matched" and so on).
    """

    kind: str
    place: str
    stamp: Mapping[str, Any]
    rows: Callable[[str], Iterator[TextRow]]


def _parts(name: str) -> list[str]:
    """What the names of a task's development sets end with."""
    return [f"_{part}" for part in _PARTS[name]] if name in _PARTS else [""]


def _named(row: TextRow, task: GlueTask) -> TextRow:
    """The row with the name of its class, where its file has the number."""
    if row.label in ("-1", "-1.0"):
        raise UserError(
            f"{row.where}: label {row.label} is how GLUE hides the labels of its test sets; give "
            "the development set."
        )
    is_number = row.label.isdecimal() and int(row.label) < len(task.classes)
    return row._replace(label=task.classes[int(row.label)]) if is_number else row


def _local(name: str, task: GlueTask, root: str | Path | None) -> _Source:
    if root is None:
        raise UserError(
            "data=glue needs data.root=, the folder of the data, or data.hub=nyu-mll/glue."
        )
    official, mirror = Path(root) / task.folder, Path(root) / name
    if (official / "train.tsv").is_file():
        names = ["train", *(f"dev{part}" for part in _parts(name))]
        files = {split: [official / f"{split}.tsv"] for split in names}
        header = _COLA_HEADER if name == "cola" else None
        columns, label = task.columns, task.label
    else:
        files = {
            split: _matching(mirror, split.replace("dev", "validation"))
            for split in ("train", *(f"dev{part}" for part in _parts(name)))
        }
        header, columns, label = None, task.hub_columns, "label"
    if lacking := [split for split, paths in files.items() if not paths]:
        raise UserError(
            f"data.root={root} has neither {task.folder}/train.tsv, as of the official archive, "
            f"nor {lacking[0].replace('dev', 'validation')} in {name}/ as parquet or JSON lines; "
            "give another folder, or data.hub=nyu-mll/glue."
        )

    def rows(split: str) -> Iterator[TextRow]:
        for path in files[split]:
            # In the official TSV of QQP a few rows are cut.
            table = read_table(path, header=header, skip_short=name == "qqp")
            yield from table_rows(table, columns, label)

    return _Source("", str(Path(root)), _stamp(files.values()), rows)


def _matching(folder: Path, split: str) -> list[Path]:
    """The files of a split, `train.jsonl` or `train-00000-of-00001.parquet`, of one format."""
    for suffix in (".parquet", ".jsonl", ".jsonl.gz"):
        if found := sorted({*folder.glob(f"{split}{suffix}"), *folder.glob(f"{split}-*{suffix}")}):
            return found
    return []


def _stamp(files: Iterable[Sequence[Path]]) -> dict[str, Any]:
    try:
        states = {str(path): path.stat() for paths in files for path in paths}
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}); unpack the whole archive."
        ) from error
    return {Path(path).name: [it.st_size, it.st_mtime_ns] for path, it in states.items()}


def _hub(name: str, task: GlueTask, repository: str) -> _Source:
    def rows(split: str) -> Iterator[TextRow]:
        try:
            import datasets
        except ImportError as error:
            raise UserError(
                f"data.hub={repository} needs the package datasets; run pip install "
                "'genodiff[text]'."
            ) from error
        called = split.replace("dev", "validation")
        try:
            held = datasets.load_dataset(repository, name, split=called)
            columns = [held[column] for column in (*task.hub_columns, "label")]
        except Exception as error:  # the loader's own are many, and change with its releases
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
            raise OutsideError(
                f"{called} of {name} of {repository} could not be read from the Hub ({reason}); "
                "check the name, try later, or use another road: data.root=."
            ) from error
        for i, (*texts, label) in enumerate(zip(*columns, strict=True)):
            word = str(np.float32(label)) if isinstance(label, float) else str(label)
            yield TextRow(f"{called} of {name} of {repository}, row {i}", texts, word)

    return _Source(".hub", repository, {"hub": repository}, rows)


def _check_counts(name: str, train: int, dev: Sequence[int]) -> None:
    """Refuses what is not all there."""
    task = GLUE[name]
    for split, found, published in (
        ("train", [train], [task.train]),
        ("dev", [*dev], [*task.dev]),
    ):
        if found != published:
            here, there = (" and ".join(f"{n:,}" for n in each) for each in (found, published))
            raise UserError(
                f"{name}: the examples of {split} are {here}, and {there} are published; get the "
                "data again, or read them as they are with data.check_counts=false."
            )
