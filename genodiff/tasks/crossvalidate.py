"""Train and test a classifier several times, audit its data, and set its score beside others.

usage: genodiff crossvalidate checkpoint=RUN data=NAME ... out=DIR [key=value ...]

example:
  genodiff crossvalidate checkpoint=runs/a data=genomic_benchmarks \\
      data.name=human_nontata_promoters data.root=benchmarks out=scores/nontata_mdlm \\
      against=[scores/nontata_scratch]
  genodiff crossvalidate --multirun checkpoint=runs/bert experiment=glue data.root=glue \\
      data.name=cola,sst2,mrpc,qqp,stsb,mnli,qnli,rte 'out=scores/${data.name}'

keys:
  out=DIR             folder: a run as of finetune for each fold; at the end results.json,
                      results.md, results.html and results.svg (with genodiff[report]) and
                      items.npz (what was told of each). The same command goes on where it was
                      stopped; started several times at once, on several devices or as a SLURM
                      array, it shares the folds
  protocol=paper      the task's test set, and 90/10 splits of its training set by the seeds 1 to
                      folds= (Caduceus, MDLM); or kfold: of all but the test set, near copies kept
                      together
  folds=5             how many
  grid={KEY:[..],..}  train with every choice of e.g. optimizer.lr:[1e-3,2e-3]; validation chooses,
                      for all folds alike (paper) or inside each (kfold)
  name=TEXT           what tables call the model (default: the checkpoint's, or the network's)
  against=[DIR,..]    other cross-validations: rows of the table, and paired tests on the same task
  kmer_baseline=false leave logistic regression on k-mers, or of text on its words, out (it needs
                      genodiff[downstream])
{classifying}
  seed= device=auto|cpu|cuda overwrite=true
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from genodiff import __version__
from genodiff.errors import UserError
from genodiff.evaluation import (
    Figure,
    Run,
    compare_scores,
    holm,
    score_results,
)
from genodiff.evaluation.score_table import score_page, score_picture, score_report
from genodiff.evaluation.scores import ACCURACY, headline, paired_runs
from genodiff.files import atomic_path, claim_folder, discard, unclaimed, write_text
from genodiff.tasks.build import Node, select_device
from genodiff.tasks.classifying import (
    StrandUse,
    figures_of,
    length_of,
    plain_config,
    task_of,
)
from genodiff.tasks.cross_validation import (
    Chosen,
    Fold,
    Protocol,
    check,
    chosen,
    do,
    folds_of,
    runs_of,
)
from genodiff.tasks.facts import facts_of
from genodiff.tasks.launch import command_line, launch

log = logging.getLogger(__name__)

_FOLD = re.compile("fold_[0-9]+")
_RESULTS = ("results.json", "results.md", "results.html", "results.svg", "items.npz")


def main(
    *,
    out: str,
    name: str | None,
    protocol: Protocol,
    folds: int,
    grid: Mapping[str, Sequence[Any]] | None,
    against: Sequence[str],
    kmer_baseline: bool,
    data: Node,
    checkpoint: str | None,
    backbone: Node,
    head: Node,
    length: int | None,
    pad: Literal["left", "right"],
    append_sep: bool,
    pool_padding: bool,
    strands: StrandUse,
    probe: bool,
    batch_size: int,
    epochs: int,
    max_steps: int | None,
    optimizer: Node,
    trainer: Node,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    overwrite: bool,
) -> int:
    """Does what is left to do, and writes the results. Returns 130 if a signal stopped it."""
    asked: dict[str, Any] = dict(locals())
    folder = Path(out)
    others = [read(Path(other)) for other in against]
    config = plain_config(asked)
    task = task_of(config)
    # The parts are of the test set, which folds do not test with.
    figures = figures_of(task if protocol == "paper" else task._replace(test_parts=()))
    parts = folds_of(task, protocol, folds, seed)
    runs = runs_of(folder, parts, config, grid or {})
    chosen_device = select_device(device)
    model = name or (Path(checkpoint).name if checkpoint else _called(head, backbone))
    # What cannot be is found before anything is written.
    check(runs, task, chosen_device)
    _require_comparable(others, task.name, model, protocol, parts)
    _begin(folder, overwrite=overwrite)
    if not do(runs, task, chosen_device):
        log.info("stopped; the same command goes on with it.")
        return 130
    picked = chosen(runs, protocol, task.metrics[0])
    facts = facts_of(task, parts, protocol, length_of(length, task), kmer_baseline)
    mine = Scores(
        {
            **score_results(
                task.name,
                model,
                protocol,
                [_run(each) for each in picked],
                unseen=facts.unseen,
                baselines=facts.baselines,
                leakage=facts.audit.summary(),
                figures=figures,
            ),
            "choices": [each.choice for each in picked],
            "command": command_line(),
            "version": __version__,
        },
        [_run(each) for each in picked],
    )
    tests = paired_tests(mine, others, figures[0])
    _write(folder, mine, others, tests)
    for line in (*facts.audit.lines(), *tests):
        log.info("%s", line)
    log.info("%s", headline(mine.results))
    return 0


class Scores(NamedTuple):
    """A cross-validation that is done: its results.json, and what each run told."""

    results: dict[str, Any]
    runs: list[Run]


def read(folder: Path) -> Scores:
    """A cross-validation's folder. Raises UserError if it holds none, or one that is not done."""
    try:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        with np.load(folder / "items.npz") as arrays:
            runs = [
                Run(
                    row["fold"],
                    row["seed"],
                    int(arrays[f"n_train_{row['fold']}"]),
                    arrays[f"items_{row['fold']}"],
                    *_told(arrays, row["fold"]),
                )
                for row in found["folds"]
            ]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"against={folder} is no finished cross-validation ({error}); let it finish first, or "
            "leave it out."
        ) from error
    return Scores(found, runs)


def _told(arrays: Mapping[str, np.ndarray], fold: int) -> tuple[np.ndarray, np.ndarray]:
    """What a run told, and the labels; older folders keep only what it told right."""
    if f"told_{fold}" in arrays:
        return arrays[f"told_{fold}"], arrays[f"labels_{fold}"]
    correct = arrays[f"correct_{fold}"]
    return correct, np.ones_like(correct)


def paired_tests(mine: Scores, others: Sequence[Scores], figure: Figure = ACCURACY) -> list[str]:
    """A line for each other model on the same task and protocol: the difference in `figure`."""
    protocol = mine.results["protocol"]
    same = [
        other
        for other in _alike(others, mine.results["task"], protocol)
        if other.results.get("figure", ACCURACY.name) == figure.name
    ]
    found = [compare_scores(mine.runs, other.runs, protocol, figure) for other in same]
    over_runs = holm([test.p_runs for test in found if test.p_runs is not None])
    adjusted = iter(over_runs)
    lines = []
    for other, test in zip(same, found, strict=True):
        text = f"{mine.results['model']} minus {other.results['model']}: {test.difference:+.4f}"
        if test.confidence_95 is not None:
            low, high = test.confidence_95
            text += f" (95 % {low:+.4f} to {high:+.4f}), {test.test}"
            text += f": p = {next(adjusted):.2g} (Holm over {len(over_runs)})"
        text += (
            f"; McNemar on the first seed: {test.only_a} and {test.only_b} right alone, "
            f"p = {test.p_items:.2g}"
        )
        lines.append(text)
    return lines


def _begin(folder: Path, *, overwrite: bool) -> None:
    """Claims the folder of a new cross-validation; one that is begun is gone on with or, if it is
    to be overwritten, emptied. Raises UserError while another process works in it then."""
    begun = [path for path in folder.glob("fold_*") if _FOLD.fullmatch(path.name)]
    if not begun:
        try:
            claim_folder(folder, overwrite=overwrite)
        except UserError:
            if overwrite or not any(folder.glob("fold_*")):
                raise  # else another process has begun it just now
    elif overwrite:
        for lock in folder.glob("fold_*/**/lock"):
            with unclaimed(lock) as is_free:
                if not is_free:
                    raise UserError(
                        f"another process works in {lock.parent}; wait until it has ended, or "
                        "stop it."
                    )
        for path in (*begun, *(folder / name for name in _RESULTS)):
            discard(path)


def _require_comparable(
    others: Sequence["Scores"],
    task: str,
    model: str,
    protocol: Protocol,
    folds: Sequence[Fold],
) -> None:
    """Raises UserError if a table cannot hold all of them, or those of the same task and protocol
    are not of the same folds."""
    keys = [(other.results["task"], other.results["model"]) for other in others]
    for key in ((task, model), *keys):
        if [(task, model), *keys].count(key) > 1:
            raise UserError(
                f"two results of {key[1]} on {key[0]}, with against=; tell the models apart by "
                "name=, or leave one out."
            )
    mine = [
        Run(f.number, f.seed, len(f.split.train), f.items, labels, labels)
        for f in folds
        for labels in [f.split.test.labels]
    ]
    for other in _alike(others, task, protocol):
        paired_runs(mine, other.runs)


def _alike(others: Sequence["Scores"], task: str, protocol: str) -> list["Scores"]:
    """Those of the same task and protocol."""
    wanted = {"task": task, "protocol": protocol}
    return [other for other in others if wanted.items() <= other.results.items()]


def _run(each: Chosen) -> Run:
    fold, told = each.fold, each.tested.predictions
    return Run(fold.number, fold.seed, len(fold.split.train), fold.items, told.told, told.labels)


def _called(head: Node, backbone: Node) -> str:
    """The name of a model that has no checkpoint: of its network's class."""
    node = backbone if backbone.get("_target_") else head
    return str(node["_target_"]).rpartition(".")[2] + " from scratch"


def _write(folder: Path, mine: Scores, others: Sequence[Scores], tests: Sequence[str]) -> None:
    arrays: dict[str, Any] = {}
    for run in mine.runs:
        arrays[f"items_{run.fold}"] = run.items
        arrays[f"told_{run.fold}"], arrays[f"labels_{run.fold}"] = run.told, run.labels
        arrays[f"n_train_{run.fold}"] = np.array(run.n_train)
    with atomic_path(folder / "items.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    every = [mine.results, *(other.results for other in others)]
    write_text(folder / "results.md", score_page(every, tests=tests))
    try:
        picture = score_picture(every)
    except UserError as error:  # without matplotlib
        log.info("no results.svg and no results.html: %s", error)
    else:
        with atomic_path(folder / "results.svg") as temporary:
            temporary.write_bytes(picture)
        page = score_report(every, tests=tests, footer=f"genodiff {__version__}")
        page.write(folder / "results.html")
    write_text(folder / "results.json", json.dumps(mine.results, indent=2) + "\n")


if __name__ == "__main__":
    launch("crossvalidate", main)
