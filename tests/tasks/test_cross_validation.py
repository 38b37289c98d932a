"""The runs of a cross-validation: which there are, what chooses among them, and who does them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from genodiff.config import config_dir
from genodiff.data import ClassificationTask, DnaTokenizer, LabelledSequences
from genodiff.errors import UserError
from genodiff.evaluation import Figure
from genodiff.evaluation import Run as ScoredRun
from genodiff.files import unclaimed
from genodiff.tasks import cross_validation
from genodiff.tasks.classifying import plain_config
from genodiff.tasks.cross_validation import Run, chosen, do, folds_of, runs_of
from genodiff.tasks.crossvalidate import Scores, paired_tests, read
from tests.tasks.test_finetune import TINY

CPU = torch.device("cpu")


def task(n: int = 60, *, copies: int = 1, valid: int = 0) -> ClassificationTask:
    """Sequences of 20 to 40 bases, `copies` of each one after another; classes by composition."""
    rng = np.random.default_rng(0)

    def some(count: int) -> LabelledSequences:
        rows, labels = [], []
        for i in range(count):
            at = 0.4 if i % 2 else 0.1
            p = (at, 0.5 - at, 0.5 - at, at)
            row = rng.choice((7, 8, 9, 10), int(rng.integers(20, 41)), p=p)
            rows += [row] * copies
            labels += [i % 2] * copies
        return LabelledSequences.of(rows, labels)

    return ClassificationTask(
        *("toy", ("gc", "at"), some(n), some(20), some(valid) if valid else None),
        *(DnaTokenizer(), {}),
    )


def config(**more: Any) -> dict[str, Any]:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        words = [*(word for word in TINY if word != "device=cpu"), "backbone=caduceus"]
        asked: Any = OmegaConf.to_container(
            compose("finetune", [*words, "data.train=x", "max_steps=2"]), resolve=True
        )
    return {**plain_config(asked), **more}


def test_the_paper_splits_the_training_set_anew_and_keeps_the_test_set() -> None:
    toy = task()
    folds = folds_of(toy, "paper", 5, seed=7)
    assert [fold.seed for fold in folds] == [1, 2, 3, 4, 5]
    for fold in folds:
        assert fold.split.test is toy.test
        assert (len(fold.split.train), len(fold.split.valid)) == (54, 6)
    assert len({fold.split.valid.ids.tobytes() for fold in folds}) == 5
    runs = runs_of(Path("out"), folds, config(), {})
    assert {run.config["seed"] for run in runs} == {0}


def test_a_validation_set_of_its_own_is_kept_and_seeds_differ() -> None:
    toy = task(valid=8)
    folds = folds_of(toy, "paper", 3, seed=7)
    assert all(fold.split.valid is toy.valid for fold in folds)
    runs = runs_of(Path("out"), folds, config(), {})
    assert [run.config["seed"] for run in runs] == [0, 1, 2]


def test_k_folds_test_every_sequence_once_and_copies_together() -> None:
    toy = task(30, copies=3)
    folds = folds_of(toy, "kfold", 4, seed=0)
    parts = [
        {"".join(map(str, part[i])) for i in range(len(part))}
        for fold in folds
        for part in fold.split
    ]
    assert sum(len(fold.split.test) for fold in folds) == len(toy.train)
    for train, valid, test in zip(*[iter(parts)] * 3, strict=True):
        assert not train & valid and not train & test and not valid & test


def test_the_grid_is_every_choice_of_every_fold() -> None:
    folds = folds_of(task(), "paper", 2, seed=0)
    grid = {"optimizer.lr": [0.1, 0.2], "batch_size": [8, 16]}
    runs = runs_of(Path("out"), folds, config(), grid)
    assert len(runs) == len({run.folder for run in runs}) == 8
    assert runs[1].folder == Path("out/fold_1/optimizer.lr=0.1,batch_size=16")
    assert runs[1].config["optimizer"]["lr"] == 0.1 and runs[1].config["batch_size"] == 16
    with pytest.raises(UserError, match=r"grid has optimizer\.rate"):
        runs_of(Path("out"), folds, config(), {"optimizer.rate": [1]})


def test_runs_are_done_once_and_a_stranger_s_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = task()
    runs = runs_of(tmp_path, folds_of(toy, "paper", 2, seed=0), config(), {})
    assert do(runs, toy, CPU)
    found = chosen(runs, "paper")
    assert [each.fold.number for each in found] == [1, 2]
    assert all(each.tested.metrics["n_test"] == 20 for each in found)
    monkeypatch.setattr(cross_validation, "run_classifier", None)
    assert do(runs, toy, CPU)  # nothing is left to do
    others = runs_of(tmp_path, [run.fold for run in runs], config(batch_size=4), {})
    with pytest.raises(UserError, match="was begun with batch_size=16, not 4"):
        do(others, toy, CPU)


def test_what_another_process_does_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = task()
    runs = runs_of(tmp_path, folds_of(toy, "paper", 2, seed=0), config(), {})
    for run in runs:
        run.folder.mkdir()
    order: list[str] = []
    done = cross_validation.run_classifier
    monkeypatch.setattr(
        cross_validation, "run_classifier", lambda f, *rest: order.append(f.name) or done(f, *rest)
    )
    held = unclaimed(runs[0].folder / "lock")
    held.__enter__()
    monkeypatch.setattr(cross_validation.time, "sleep", lambda _: held.__exit__(None, None, None))
    assert do(runs, toy, CPU)
    assert order == ["fold_2", "fold_1"]


def test_validation_chooses_for_all_folds_or_inside_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = {"fold_1/a=1": 0.9, "fold_1/a=2": 0.6, "fold_2/a=1": 0.5, "fold_2/a=2": 0.7}

    class Fake:
        def __init__(self, folder: Path) -> None:
            self.metrics = {"valid_accuracy": accuracies[str(folder)]}

    monkeypatch.setattr(cross_validation, "read_run", Fake)
    folds = folds_of(task(), "paper", 2, seed=0)
    runs = [
        Run(Path(f"fold_{fold.number}/a={a}"), fold, {"a": a}, {})
        for fold in folds
        for a in (1, 2)
    ]
    assert [each.choice["a"] for each in chosen(runs, "paper")] == [1, 1]  # 0.7 and 0.65
    assert [each.choice["a"] for each in chosen(runs, "kfold")] == [1, 2]


def test_folders_that_keep_only_what_was_told_right_are_compared_with(tmp_path: Path) -> None:
    results = {
        "task": "toy",
        "protocol": "paper",
        "model": "old",
        "folds": [{"fold": 1, "seed": 1}],
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    correct = np.array([True, False, True, True])
    np.savez(tmp_path / "items.npz", n_train_1=9, items_1=np.arange(4), correct_1=correct)
    old = read(tmp_path)
    assert old.runs[0].score("accuracy") == 0.75
    labels = np.array([0, 1, 1, 0])
    new = ScoredRun(1, 1, 9, np.arange(4), np.array([0, 1, 0, 0]), labels)
    mine = Scores({**results, "model": "new", "figure": "accuracy"}, [new])
    (line,) = paired_tests(mine, [old])
    assert line.startswith(
        "new minus old: +0.0000; McNemar on the first seed: 1 and 1 right alone"
    )
    assert paired_tests(mine, [old], Figure("f1", "f1")) == []  # it has no F1
