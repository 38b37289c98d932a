"""Cross-validation from the command line: the same table however often it is stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genodiff.files import unclaimed
from tests.tasks.browser import measured, shown
from tests.tasks.conftest import Genodiff
from tests.tasks.test_finetune import TINY, data, write

__all__ = ["data"]  # a fixture
WORDS = (*(word for word in TINY if not word.startswith("epochs")), "backbone=caduceus")


def results(folder: str) -> dict[str, Any]:
    found = json.loads((Path(folder) / "results.json").read_text())
    del found["command"]
    return found


def test_five_seeds_end_in_a_table(genodiff: Genodiff, data: tuple[str, ...]) -> None:
    words = ("crossvalidate", *data, *WORDS, "max_steps=3", "folds=2")
    outcome = genodiff(*words, "out=one", "name=one")
    assert outcome.code == 0, outcome.stderr
    found = results("one")
    assert [(row["fold"], row["seed"], row["n_test"]) for row in found["folds"]] == [
        (1, 1, 40),
        (2, 2, 40),
    ]
    assert found["mean"] == np.mean([row["accuracy"] for row in found["folds"]])
    assert found["baselines"].keys() == {"majority", "length_only", "kmer_logistic"}
    assert found["baselines"]["kmer_logistic"]["accuracy"] > 0.8
    assert found["deduplicated"]["folds"][0]["n_test"] == 40
    assert found["leakage"]["splits"]["test"]["of_each_class"] == {"at": 20, "gc": 20}
    again = genodiff(*words, "optimizer.lr=0.001", "out=two", "name=two", "against=[one]")
    assert again.code == 0, again.stderr
    assert "two minus one: " in again.stderr and "p = " in again.stderr
    table = Path("two/results.md").read_text()
    assert "**two**" in table and "**one**" in table and "McNemar" in table
    assert Path("two/results.svg").read_text().startswith("<")
    page = Path("two/results.html").read_text()
    assert "McNemar" in page and "<svg" in page and "Audit of" in page
    # what could not be compared in the end is told in the beginning
    for other, message in (
        (("folds=3", "name=three"), "cannot be paired; run both models on the same folds"),
        (("name=one",), "two results of one on train, with against="),
    ):
        refused = genodiff(*words, *other, "out=three", "against=[one]")
        assert refused.code == 2 and message in refused.stderr.splitlines()[-1], refused.stderr
        assert not Path("three").exists()
    if shutil.which("chromium"):
        assert "Audit of train" in shown(Path("two/results.html"))
        seen = measured(Path("two/results.html"), 500)
        assert len(seen.heights) >= 5 and min(seen.heights) > 40
        assert seen.requests == 0 and seen.width <= 500


def test_k_folds_test_all_training_sequences(genodiff: Genodiff, data: tuple[str, ...]) -> None:
    words = (*data, *WORDS, "max_steps=2", "protocol=kfold", "folds=3", "kmer_baseline=false")
    outcome = genodiff("crossvalidate", *words, "out=k")
    assert outcome.code == 0, outcome.stderr
    found = results("k")
    assert sum(row["n_test"] for row in found["folds"]) == 160
    assert found["baselines"]["kmer_logistic"] is None
    assert found["mean"] == pytest.approx(found["deduplicated"]["mean"])


def test_the_grid_is_chosen_by_validation(genodiff: Genodiff, data: tuple[str, ...]) -> None:
    grid = "grid={optimizer.lr:[1e-2,1e-9]}"
    words = (*data, *WORDS, "max_steps=18", "folds=2", grid, "kmer_baseline=false")
    outcome = genodiff("crossvalidate", *words, "out=g")
    assert outcome.code == 0, outcome.stderr
    assert results("g")["choices"] == [{"optimizer.lr": 0.01}] * 2
    assert len(list(Path("g").glob("fold_*/*/metrics.json"))) == 4


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_table(
    genodiff: Genodiff, data: tuple[str, ...]
) -> None:
    words = (*data, *WORDS, "epochs=4", "folds=2", "trainer.checkpoint_every=3", "name=model")
    assert genodiff("crossvalidate", *words, "out=straight").code == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "genodiff", "crossvalidate", *words, "out=killed"]
    rng = np.random.default_rng(0)
    for kill in range(8):
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            process.stderr.readline()  # it is in a fold
            time.sleep(float(rng.uniform(0, 4)))
            process.send_signal(signal.SIGKILL if kill % 2 else signal.SIGTERM)
            process.communicate()
    assert genodiff("crossvalidate", *words, "out=killed").code == 0
    assert results("killed") == results("straight")
    tables = [Path(f"{run}/results.md").read_text() for run in ("killed", "straight")]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_two_at_once_share_the_folds(genodiff: Genodiff, data: tuple[str, ...]) -> None:
    words = (*data, *WORDS, "epochs=2", "folds=4", "name=model")
    assert genodiff("crossvalidate", *words, "out=alone").code == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "genodiff", "crossvalidate", *words, "out=shared"]
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert results("shared") == results("alone")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("folds=0",), "folds=0 are too few for protocol=paper"),
        (("folds=1", "protocol=kfold"), "folds=1 are too few for protocol=kfold"),
        (("protocol=loo",), "protocol=loo is not one of paper, kfold"),
        (("against=[none]",), "against=none is no finished cross-validation"),
        (("grid={optimizer.rate:[1]}",), "grid has optimizer.rate"),
        (("length=0",), "length=0 is no number of tokens"),
        (("trainer.devices=3",), "batch_size=16 does not divide among 3 devices"),
        (("trainer.devices=2",), "a run of a cross-validation is of one device"),
        (("grid={optimizer.lr:1e-3}",), "grid={optimizer.lr:0.001} has no values to choose from"),
        (("grid={optimizer.lr:[]}",), "grid={optimizer.lr:[]} has no values to choose from"),
        (("grid={optimizer.lr:[0.1,-0.5]}",), "optimizer.lr=-0.5 must be positive"),
        (("grid={data.name:[a,b]}",), "all runs of a grid are of the same data and seeds"),
        (("seed=18446744073709551616",), "seed=18446744073709551616 is out of range"),
    ],
)
def test_what_cannot_be_is_one_clear_line_and_nothing_is_written(
    genodiff: Genodiff, data: tuple[str, ...], words: tuple[str, ...], message: str
) -> None:
    outcome = genodiff("crossvalidate", *data, *WORDS, *words, "out=run")
    assert outcome.code == 2, outcome.stderr
    assert message in outcome.stderr.splitlines()[-1], outcome.stderr
    assert not Path("run").exists()


def test_another_config_does_not_go_on_with_it(genodiff: Genodiff, data: tuple[str, ...]) -> None:
    words = ("crossvalidate", *data, *WORDS, "folds=1", "kmer_baseline=false", "out=run")
    assert genodiff(*words, "max_steps=1").code == 0
    outcome = genodiff(*words, "max_steps=2")
    assert outcome.code == 2
    assert "was begun with max_steps=1, not 2" in outcome.stderr
    resumed = genodiff("finetune", "resume=run/fold_1")
    assert resumed.code == 2 and "is a run of a cross-validation, whose own" in resumed.stderr
    write("test.csv", 40, 2)
    changed = genodiff(*words, "max_steps=1")
    assert changed.code == 2 and "was begun with other data: files was" in changed.stderr
    with unclaimed(Path("run/fold_1/lock")):
        busy = genodiff(*words, "max_steps=2", "overwrite=true")
    assert busy.code == 2 and "another process works in run/fold_1" in busy.stderr
    again = genodiff(*words, "max_steps=2", "overwrite=true")
    assert again.code == 0 and results("run")["folds"][0]["n_test"] == 40, again.stderr
