"""A classifier from the command line: trained, tested once, stopped and gone on with."""

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from genodiff.training import read_metrics
from tests.tasks.conftest import Genodiff

TINY = (
    "backbone.d_model=16",
    "backbone.n_layers=1",
    "optimizer.lr=0.01",
    "batch_size=16",
    "epochs=3",
    "device=cpu",
)


def write(path: str, n: int, seed: int, *, classes: tuple[str, ...] = ("at", "gc")) -> None:
    """Sequences of 20 to 40 bases, rich in A and T or in G and C."""
    rng = np.random.default_rng(seed)
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sequence", "label"])
        for i in range(n):
            at = 0.4 if i % 2 == 0 else 0.1
            p = [at, 0.5 - at, 0.5 - at, at]
            row = "".join(rng.choice(list("ACGT"), int(rng.integers(20, 41)), p=p))
            writer.writerow([row, classes[i % 2]])


@pytest.fixture
def data(genodiff: Genodiff) -> tuple[str, ...]:
    """`data.train=` and `data.test=` of 160 and 40 sequences."""
    write("train.csv", 160, 0)
    write("test.csv", 40, 1)
    return ("data=labelled", "data.train=train.csv", "data.test=test.csv")


def metrics(run: str) -> dict[str, Any]:
    return json.loads((Path(run) / "metrics.json").read_text())


def test_a_new_network_learns_and_is_tested_once(
    genodiff: Genodiff, data: tuple[str, ...]
) -> None:
    outcome = genodiff("finetune", *data, "backbone=caduceus", *TINY, "out=run")
    assert outcome.code == 0, outcome.stderr
    found = metrics("run")
    assert found["accuracy"] > 0.8 and found["n_test"] == 40 and found["n_valid"] == 16
    assert found["data"]["parts"]["train"] == {
        "sequences": 144,
        "of_each_class": found["data"]["parts"]["train"]["of_each_class"],
    }
    assert set(found["data"]["parts"]["test"]["of_each_class"]) == {"at", "gc"}
    assert found["strands"] == "conjoin" and found["max_steps"] == 27
    rows = [row for row in read_metrics(Path("run/metrics.csv")) if row["split"] == "valid"]
    best = max(row["accuracy"] for row in rows)
    assert found["valid_accuracy"] == best
    assert found["step"] == next(row["step"] for row in rows if row["accuracy"] == best)
    with np.load("run/predictions.npz") as arrays:
        right = arrays["logits"].argmax(-1) == arrays["labels"]
    assert right.mean() == found["accuracy"]
    assert "test accuracy" in outcome.stderr.splitlines()[-1]
    assert "test items with a copy in train: exact 0; reverse complement 0" in outcome.stderr
    audit = json.loads(Path("run/audit.json").read_text())
    assert audit["baselines"]["majority"]["accuracy"] == 0.5
    assert audit["deduplicated"]["mean"] == found["accuracy"]
    assert audit["leakage"]["test_unseen"] == 40
    assert json.loads(Path("run/manifest.json").read_text())["command"][:2] == [
        "genodiff",
        "finetune",
    ]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_ends_as_if_it_had_not_been(
    genodiff: Genodiff,
    data: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    signum: signal.Signals,
) -> None:
    words = (*data, "backbone=caduceus", *TINY)
    assert genodiff("finetune", *words, "out=straight").code == 0
    from genodiff.training.callbacks import Validation

    validate = Validation.on_train_batch_end

    def stop(self: Any, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == 11:
            os.kill(os.getpid(), signum)
        validate(self, trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "on_train_batch_end", stop)
        outcome = genodiff("finetune", *words, "out=broken")
    assert outcome.code == 130, outcome.stderr
    assert outcome.stderr.splitlines()[-1].endswith("genodiff finetune resume=broken")
    assert not Path("broken/metrics.json").exists()
    assert genodiff("finetune", "resume=broken").code == 0
    straight, broken = metrics("straight"), metrics("broken")
    assert straight == broken
    with np.load("straight/predictions.npz") as a, np.load("broken/predictions.npz") as b:
        assert np.array_equal(a["logits"], b["logits"])
    assert Path("straight/metrics.csv").read_text() == Path("broken/metrics.csv").read_text()


def test_a_trained_network_is_gone_on_with(
    genodiff: Genodiff, data: tuple[str, ...], trained: str
) -> None:
    words = (f"checkpoint={trained}", "batch_size=16", "max_steps=2", "device=cpu", "out=run")
    outcome = genodiff("finetune", *data, *words)
    assert outcome.code == 0, outcome.stderr
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert Path(config["checkpoint"]).is_absolute()
    assert metrics("run")["max_steps"] == 2
    outcome = genodiff("sample", "checkpoint=run", "num_samples=1", "length=8", "out=-")
    assert outcome.code == 2 and "is a classifier, of 2 classes; give a" in outcome.stderr
    assert f"such as {config['checkpoint']}," in outcome.stderr


def test_a_probe_leaves_the_network_as_it_is(
    genodiff: Genodiff, data: tuple[str, ...], trained: str
) -> None:
    words = (*data, f"checkpoint={trained}", "probe=true", "batch_size=16", "device=cpu")
    outcome = genodiff("finetune", *words, "out=run")
    assert outcome.code == 0, outcome.stderr
    found = metrics("run")
    assert found["accuracy"] > 0.8 and found["penalty"] > 0 and "step" not in found
    assert not Path("run/checkpoints").exists()


def test_the_convolutional_baseline(genodiff: Genodiff, data: tuple[str, ...]) -> None:
    words = ("head=cnn", "length=57", "batch_size=16", "max_steps=3", "device=cpu")
    outcome = genodiff("finetune", *data, *words, "out=run")
    assert outcome.code == 0, outcome.stderr
    assert metrics("run")["length"] == 57


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give checkpoint= for a trained network, or backbone= for a new one"),
        (("backbone=caduceus", "checkpoint=trained"), "one of them"),
        (("head=cnn", "backbone=caduceus"), "is a network of its own"),
        (("head=cnn",), "length=40: three convolutions leave nothing"),
        (("backbone=caduceus", "batch_size=0"), "batch_size=0 must be at least 1"),
        (("backbone=caduceus", "epochs=0"), "epochs=0 must be at least 1"),
        (("backbone=caduceus", "strands=both"), "strands=both is not one of auto, given"),
        (("backbone=caduceus", "trainer.devices=3"), "does not divide among 3 devices"),
        (("checkpoint=nowhere",), "/nowhere does not exist"),
        (("head=cnn", "length=60", "probe=true"), "probe=true is of a network's features"),
        (("backbone=caduceus", "probe=true", "epochs=2"), "epochs=2 does nothing with probe=true"),
        (("backbone=caduceus", "length=0"), "length=0 is no number of tokens"),
    ],
)
def test_what_cannot_be_is_one_clear_line_and_nothing_is_written(
    genodiff: Genodiff, data: tuple[str, ...], trained: str, words: tuple[str, ...], message: str
) -> None:
    outcome = genodiff("finetune", *data, *words, "out=run")
    assert outcome.code == 2, outcome.stderr
    assert message in outcome.stderr.splitlines()[-1], outcome.stderr
    assert not Path("run").exists()


def test_what_goes_on_has_its_own_config(genodiff: Genodiff, data: tuple[str, ...]) -> None:
    outcome = genodiff("finetune", "resume=run", "epochs=5")
    assert outcome.code == 2 and "epochs=5 does not go with resume=" in outcome.stderr
    outcome = genodiff("finetune", "resume=run")
    assert outcome.code == 2 and "resume=run is not a run folder" in outcome.stderr


def test_another_task_s_run_is_not_gone_on_with(
    genodiff: Genodiff, data: tuple[str, ...], trained: str
) -> None:
    outcome = genodiff("finetune", f"resume={trained}")
    assert outcome.code == 2 and "go on with it by genodiff train resume=trained" in outcome.stderr


def test_a_run_does_not_go_on_with_other_data(genodiff: Genodiff, data: tuple[str, ...]) -> None:
    words = (*data, "backbone=caduceus", *TINY)
    assert genodiff("finetune", *words, "out=run").code == 0
    write("train.csv", 160, 3)
    outcome = genodiff("finetune", "resume=run")
    assert outcome.code == 2 and "run was begun with other data: files was" in outcome.stderr


def test_windows_of_a_genome_have_no_labels(genodiff: Genodiff) -> None:
    outcome = genodiff("finetune", "data=synthetic", "backbone=caduceus", "out=run")
    assert outcome.code == 2
    assert "data= gives a SequenceData" in outcome.stderr.splitlines()[-1]


def test_labelled_sequences_are_not_for_train(genodiff: Genodiff, data: tuple[str, ...]) -> None:
    outcome = genodiff("train", *data, "out=run")
    assert outcome.code == 2
    assert "data= gives a ClassificationTask" in outcome.stderr.splitlines()[-1]
