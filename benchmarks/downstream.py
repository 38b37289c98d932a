"""Classifiers from one pre-trained network and another, in few steps: a table from real data.

    python benchmarks/downstream.py --promoters test.csv.gz --gue GUE --mlm runs/mlm \\
        --mdlm runs/mdlm --runs runs/downstream --out results

On human_nontata_promoters, of which the published *test* file alone is at hand: it is split by
itself, 80 to 20, into a training and a test set, so its scores do not compare with published ones.
Again with few labels: a training set of --few sequences of it. And on tasks of GUE with their own
splits. Each by the protocol `paper` with five seeds, for the convolutional baseline, Caduceus from
scratch, and Caduceus from both pre-trained networks; with few labels also for logistic regressions
on the pooled states of the last three as they are, which train no network. Every run is `genodiff
crossvalidate`; started again, it goes on where it stopped.
"""

import argparse
import csv
import gzip
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from commands import genodiff

from genodiff.files import write_text

GUE_TASKS = ("tf_0", "prom_core_notata")


def main() -> None:
    """Parses the command line, splits, trains, and copies tables and pictures."""
    parser = argparse.ArgumentParser(description="Downstream tasks in few steps.")
    parser.add_argument("--promoters", type=Path, required=True)
    parser.add_argument("--gue", type=Path, required=True)
    parser.add_argument("--mlm", type=Path, required=True)
    parser.add_argument("--mdlm", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of tables and pictures")
    parser.add_argument("--epochs", type=int, default=4, help="on the promoters")
    parser.add_argument("--steps", type=int, default=200, help="on each task of GUE")
    parser.add_argument("--few", type=int, default=500, help="labels of the promoters again")
    parser.add_argument("--few-steps", type=int, default=80, help="of training on them")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    for task in tasks(arguments):
        data = ["data=labelled", f"data.train={task.folder.absolute()}", f"data.name={task.name}"]
        shared = [*data, f"folds={arguments.folds}", f"batch_size={arguments.batch}"]
        done: list[Path] = []
        for model, words in models(task, arguments).items():
            out = arguments.runs / task.name / model
            against = f"against=[{','.join(map(str, done))}]"
            genodiff("crossvalidate", *shared, *words, f"name={model}", against, f"out={out}")
            done.append(out)
        for name in ("results.md", "results.svg"):
            suffix = Path(name).suffix
            shutil.copy(done[-1] / name, arguments.out / f"downstream_{task.name}{suffix}")
        for model in done:
            shutil.copy(
                model / "results.json", arguments.out / f"downstream_{task.name}_{model.name}.json"
            )


class Task(NamedTuple):
    """A folder of `train.csv` and `test.csv`, how long to train on it, and whether to probe."""

    name: str
    folder: Path
    length: str
    probes: bool


def tasks(arguments: argparse.Namespace) -> list[Task]:
    """The promoters, the same with few labels, and GUE's."""
    folder, few = arguments.runs / "promoters", arguments.runs / f"promoters_{arguments.few}"
    split(arguments.promoters, folder)
    keep_few(folder, few, arguments.few)
    name, steps = "human_nontata_promoters_test", f"max_steps={arguments.steps}"
    return [
        Task(name, folder, f"epochs={arguments.epochs}", probes=False),
        Task(f"{name}_{arguments.few}", few, f"max_steps={arguments.few_steps}", probes=True),
        *(Task(gue, arguments.gue / gue, steps, probes=False) for gue in GUE_TASKS),
    ]


def models(task: Task, arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The words of each; Caduceus is as wide and deep as the pre-trained networks."""
    networks = {
        "scratch": ["backbone=caduceus", "backbone.d_model=118"],
        "mlm": [f"checkpoint={arguments.mlm.absolute()}"],
        "mdlm": [f"checkpoint={arguments.mdlm.absolute()}"],
    }
    found = {"cnn": ["head=cnn", task.length]}
    found |= {name: [*words, task.length] for name, words in networks.items()}
    if task.probes:
        found |= {f"{name}_probe": [*words, "probe=true"] for name, words in networks.items()}
    return found


def split(source: Path, folder: Path) -> None:
    """A fifth of each class to test, the rest to train, by seed 0; once."""
    if (folder / "test.csv").is_file():
        return
    with gzip.open(source, "rt", newline="") as file:
        rows = [(row["seq"], row["label"]) for row in csv.DictReader(file)]
    rng = np.random.default_rng(0)
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for label in sorted({label for _, label in rows}):
        of_class = [row for row in rows if row[1] == label]
        order = rng.permutation(len(of_class))
        for place, i in enumerate(order.tolist()):
            parts["test" if 5 * place < len(of_class) else "train"].append(of_class[i])
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        lines = ["sequence,label", *(f"{sequence},{label}" for sequence, label in part)]
        write_text(folder / f"{name}.csv", "\n".join(lines) + "\n")


def keep_few(source: Path, folder: Path, count: int) -> None:
    """The test set of a task, and as many of its training sequences, drawn by seed 0; once."""
    if (folder / "test.csv").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    header, *lines = (source / "train.csv").read_text().splitlines()
    kept = np.random.default_rng(0).permutation(len(lines))[:count]
    write_text(folder / "train.csv", "\n".join([header, *(lines[i] for i in kept)]) + "\n")
    shutil.copy(source / "test.csv", folder / "test.csv")


if __name__ == "__main__":
    main()
