"""The runs of a cross-validation: which there are, each of them done once, by whoever is there.

Every run has a folder with a lock, so that the same command, started on several devices or as a
SLURM array, shares the runs out; and stopped anywhere, it goes on there.
"""

import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from genodiff.data import ClassificationTask, LabelledSequences
from genodiff.data.folds import stratified_group_folds
from genodiff.data.labelled import MetricName
from genodiff.data.near_duplicates import clusters
from genodiff.errors import UserError
from genodiff.files import unclaimed
from genodiff.tasks.classifying import (
    Parts,
    Split,
    Tested,
    describe_data,
    held_out,
    read_run,
    require_same,
    require_same_data,
    run_classifier,
)

log = logging.getLogger(__name__)

Protocol = Literal["paper", "kfold"]
_PATIENCE = 5.0
"""Seconds between looks at the runs of others."""


class Fold(NamedTuple):
    """A part of a cross-validation: its number, the seed that made it, what it consists of.
    `items`: the numbers of what it tests, among all that any fold does."""

    number: int
    seed: int
    split: Split
    items: Int64[np.ndarray, "n"]


class Run(NamedTuple):
    """One training: a fold with one choice of hyper-parameters."""

    folder: Path
    fold: Fold
    choice: dict[str, Any]
    config: dict[str, Any]


class Chosen(NamedTuple):
    """What a fold comes to: the run whose hyper-parameters did best in validation."""

    fold: Fold
    choice: dict[str, Any]
    tested: Tested


def folds_of(task: ClassificationTask, protocol: Protocol, count: int, seed: int) -> list[Fold]:
    """The folds of a protocol.

    "paper": the task's test set each time, and the splits of its training set by the seeds 1 to
    `count` (Schiff et al. 2024, section 5.3), or, of a task with a validation set of its own, that
    one. "kfold": `count` parts of all sequences that are not the test set, near copies together,
    each of which tests once.
    """
    if count < 1 + (protocol == "kfold"):
        raise UserError(f"folds={count} are too few for protocol={protocol}; use e.g. 5.")
    if protocol == "paper":
        items = np.arange(len(task.test))
        return [Fold(i, i, held_out(task, i), items) for i in range(1, count + 1)]
    pool = task.train if task.valid is None else _joined(task.train, task.valid)
    groups = clusters(pool, task.tokenizer)
    parts = stratified_group_folds(_strata(pool), groups, count, seed)
    return [
        Fold(i, seed, Split(*(pool.take(which) for which in part)), part.test)
        for i, part in enumerate(parts, 1)
    ]


def runs_of(
    out: Path, folds: Sequence[Fold], config: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]
) -> list[Run]:
    """Every fold with every choice of the grid; `grid` has lists of values by key of the config,
    such as `optimizer.lr`. Raises UserError for a key that the config lacks, and for what is no
    list of values."""
    for key, values in grid.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise UserError(
                f"grid={{{key}:{values}}} has no values to choose from; give {key}:[..]."
            )
    choices = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    runs = []
    for fold, choice in itertools.product(folds, choices):
        own = deepcopy(dict(config))
        for key, value in choice.items():
            _put(own, key, value)
        name = ",".join(f"{key}={value}" for key, value in choice.items())
        folder = out / f"fold_{fold.number}" / name if name else out / f"fold_{fold.number}"
        # Without splits of their own, folds would be one and the same run.
        same = fold.split.valid is folds[0].split.valid
        own["seed"] += fold.number - 1 if same else 0
        runs.append(Run(folder, fold, choice, own))
    return runs


def check(runs: Sequence[Run], task: ClassificationTask, device: torch.device) -> None:
    """Builds every choice of the first fold. Raises UserError for what cannot be, before anything
    is written."""
    for run in runs:
        if run.fold.number != runs[0].fold.number:
            continue
        parts = Parts(run.config, task, run.fold.split)
        parts.fit_to(device)
        if parts.plan.processes(device).total > 1:
            raise UserError(
                f"trainer.devices={parts.plan.devices}: a run of a cross-validation is of one "
                "device; leave it out, and start the same command once for each device."
            )


def do(runs: Sequence[Run], task: ClassificationTask, device: torch.device) -> bool:
    """Does the runs that nobody else does, and waits for those; False if a signal stopped it.
    Raises UserError if one of them was begun with another config or other data."""
    for run in runs:
        require_same(run.folder, run.config)
        if (run.folder / "metrics.json").is_file():
            known = read_run(run.folder).metrics["data"]
            require_same_data(run.folder, known, describe_data(task, run.fold.split))
    waiting = list(runs)
    while waiting:
        elsewhere = []
        for run in waiting:
            if (run.folder / "metrics.json").is_file():
                continue
            run.folder.mkdir(parents=True, exist_ok=True)
            with unclaimed(run.folder / "lock") as mine:
                if not mine:
                    elsewhere.append(run)
                elif not (run.folder / "metrics.json").is_file():
                    log.info("%s", run.folder)
                    parts = Parts(run.config, task, run.fold.split)
                    parts.fit_to(device)
                    if run_classifier(run.folder, parts, device) is None:
                        return False
        if elsewhere and len(elsewhere) == len(waiting):
            log.info("waiting for %d runs of other processes.", len(elsewhere))
            time.sleep(_PATIENCE)
        waiting = elsewhere
    return True


def chosen(
    runs: Sequence[Run], protocol: Protocol, metric: MetricName = "accuracy"
) -> list[Chosen]:
    """Each fold's result, with the hyper-parameters that validation chose by `metric`: for all
    folds alike by the mean of their validations ("paper"), or inside each fold ("kfold")."""
    done = [(run, read_run(run.folder)) for run in runs]
    by_fold = [
        list(group) for _, group in itertools.groupby(done, key=lambda pair: pair[0].fold.number)
    ]
    found = np.array([[tested.metrics[f"valid_{metric}"] for _, tested in row] for row in by_fold])
    if protocol == "paper":
        best = np.full(len(by_fold), found.mean(0).argmax())
    else:
        best = found.argmax(1)
    picked = [row[int(i)] for row, i in zip(by_fold, best, strict=True)]
    return [Chosen(run.fold, run.choice, tested) for run, tested in picked]


def _strata(sequences: LabelledSequences) -> Int64[np.ndarray, "n"]:
    """The classes; of numbers, which tenth each is in."""
    if sequences.labels.dtype.kind != "f":
        return sequences.labels
    return np.digitize(sequences.labels, np.quantile(sequences.labels, np.arange(1, 10) / 10))


def _joined(a: LabelledSequences, b: LabelledSequences) -> LabelledSequences:
    """Both, one after the other."""

    def rows() -> Iterator[np.ndarray]:
        for each in (a, b):
            yield from (each[i] for i in range(len(each)))

    labels = [*a.labels.tolist(), *b.labels.tolist()]
    known = a.regions is not None and b.regions is not None
    return LabelledSequences.of(
        rows(), labels, [*(a.regions or ()), *(b.regions or ())] if known else None
    )


def _put(config: dict[str, Any], key: str, value: Any) -> None:
    """Sets `config[a][b]` for the key a.b."""
    if key.split(".")[0] in ("data", "seed"):
        raise UserError(f"grid has {key}, and all runs of a grid are of the same data and seeds.")
    *path, last = key.split(".")
    node: Any = config
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        raise UserError(
            f"grid has {key}, which is none of the keys of a run; use e.g. optimizer.lr or "
            "batch_size."
        )
    node[last] = value
