"""Classifiers from one pre-trained network and another, in few steps: a table from real data.

    python benchmarks/downstream.py --promoters test.csv.gz --gue GUE --mlm runs/mlm \\
        --mdlm runs/mdlm --runs runs/downstream --out results

On human_nontata_promoters, of which the published *test* file alone is at hand: it is split by
itself, 80 to 20, into a training and a test set, so its scores do not compare with published ones.
And on tasks of GUE with their own splits. Each by the protocol `paper` with five seeds, for the
convolutional baseline, Caduceus from scratch, and Caduceus from both pre-trained networks. Every
run is `genodiff crossvalidate`; started again, it goes on where it stopped.
"""

import argparse
import csv
import gzip
import shutil
from pathlib import Path

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
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    promoters = arguments.runs / "promoters"
    split(arguments.promoters, promoters)
    sources = {"human_nontata_promoters_test": promoters}
    sources |= {task: arguments.gue / task for task in GUE_TASKS}
    for task, folder in sources.items():
        length = [f"epochs={arguments.epochs}"]
        if task in GUE_TASKS:
            length = [f"max_steps={arguments.steps}"]
        data = ["data=labelled", f"data.train={folder.absolute()}", f"data.name={task}"]
        shared = [*data, *length, f"folds={arguments.folds}", f"batch_size={arguments.batch}"]
        done: list[Path] = []
        for model, words in models(arguments).items():
            out = arguments.runs / task / model
            against = f"against=[{','.join(map(str, done))}]"
            words = [*shared, *words, f"name={model}", against, f"out={out}"]
            genodiff("crossvalidate", *words)
            done.append(out)
        for name in ("results.md", "results.svg"):
            suffix = Path(name).suffix
            shutil.copy(done[-1] / name, arguments.out / f"downstream_{task}{suffix}")
        for model in done:
            shutil.copy(
                model / "results.json", arguments.out / f"downstream_{task}_{model.name}.json"
            )


def models(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The words of each; Caduceus is as wide and deep as the pre-trained networks."""
    scratch = ["backbone=caduceus", "backbone.d_model=118"]
    return {
        "cnn": ["head=cnn"],
        "scratch": scratch,
        "mlm": [f"checkpoint={arguments.mlm.absolute()}"],
        "mdlm": [f"checkpoint={arguments.mdlm.absolute()}"],
    }


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


if __name__ == "__main__":
    main()
