"""Labelled text from the command line: in the tokens of a checkpoint, by all scores of a task."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from genodiff.config import config_dir
from genodiff.data import GLUE, GlueTask, load_tokenizer
from genodiff.data import glue as glue_module
from genodiff.tasks.model import build_model, describe, save_model
from tests.data.tiny_vocabularies import bert_folder, gpt2_folder
from tests.tasks.conftest import Genodiff

BERT = (
    *("backbone=bert", "backbone.config.hidden_size=16", "backbone.config.num_hidden_layers=1"),
    *("backbone.config.num_attention_heads=2", "backbone.config.intermediate_size=32"),
)
SMALL = (
    *("backbone=caduceus", "backbone.d_model=16", "backbone.n_layers=1", "optimizer.lr=0.01"),
    *("batch_size=16", "length=24", "device=cpu"),
)
FEW = ("max_steps=4", "batch_size=8", "length=24", "device=cpu")


def folder_of(kind: str) -> str:
    """A tokenizer's folder."""
    make = {"bert": bert_folder, "gpt2": gpt2_folder}[kind]
    return str(make(Path(f"{kind}_files")))


def checkpoint(tokenizer: str) -> str:
    """A model folder with fresh weights that reads the words of a tokenizer."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", [*BERT]), resolve=True)
    save_model(build_model(describe(config, load_tokenizer(tokenizer))), Path("model"))
    return "model"


def pairs(n: int, seed: int) -> list[tuple[str, str, int]]:
    """Two texts, which are of class 1 if the second is about what the first is about."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        one, other = random.permutation(["cat", "mat", "then", "they"])[:2]
        filler = " ".join(random.choice(["the", "sat", "and", "on"], int(random.integers(2, 6))))
        rows.append((f"{filler} {one}", f"the {one if i % 2 else other}", i % 2))
    return rows


def write(name: str, rows: list[tuple[str, str, Any]]) -> None:
    lines = ["sentence1\tsentence2\tlabel", *("\t".join(map(str, row)) for row in rows)]
    Path(name).write_text("\n".join(lines) + "\n")


@pytest.fixture
def data(genodiff: Genodiff) -> tuple[str, ...]:
    write("train.tsv", pairs(60, 0))
    write("test.tsv", pairs(20, 1))
    return ("data=labelled", "data.train=train.tsv", "data.test=test.tsv")


def metrics(run: str) -> dict[str, Any]:
    return json.loads((Path(run) / "metrics.json").read_text())


def test_the_checkpoint_says_what_text_is_read_as(
    genodiff: Genodiff, data: tuple[str, ...]
) -> None:
    files = folder_of("bert")
    words = ("finetune", *data, f"checkpoint={checkpoint(files)}", *FEW)
    outcome = genodiff(*words, "data.metrics=[f1,accuracy]", "out=run")
    assert outcome.code == 0, outcome.stderr
    found = metrics("run")
    assert {"f1", "accuracy", "valid_f1"} <= found.keys() and found["length"] == 24
    assert "test f1" in outcome.stderr.splitlines()[-1]
    same = genodiff(*words, f"data.tokenizer={files}", "data.metrics=[f1,accuracy]", "out=same")
    assert same.code == 0, same.stderr
    assert metrics("same") == found
    config = yaml.safe_load(Path("same/config.yaml").read_text())
    assert Path(config["data"]["tokenizer"]).is_absolute()
    other = genodiff(*words, f"data.tokenizer={folder_of('gpt2')}", "out=other")
    assert other.code == 2 and not Path("other").exists()
    line = other.stderr.splitlines()[-1]
    assert "/model was not trained with the data's tokenizer" in line
    dna = genodiff("finetune", "data=glue", "data.name=rte", "data.tokenizer=bytes", "out=other",
                   "backbone=caduceus", "data.root=.")  # fmt: skip
    assert dna.code == 2 and "has neither RTE/train.tsv" in dna.stderr


def test_labels_that_are_numbers_have_scores_of_their_own(
    genodiff: Genodiff, data: tuple[str, ...]
) -> None:
    words = (*data, "data.target=regression", "data.tokenizer=bytes", *SMALL)
    outcome = genodiff("finetune", *words, "max_steps=2", "out=run")
    assert outcome.code == 0, outcome.stderr
    found = metrics("run")
    assert {"pearson", "spearman", "squared_error", "valid_pearson"} <= found.keys()
    assert "accuracy" not in found and "nats" not in found
    assert "test pearson" in outcome.stderr.splitlines()[-1]
    assert found["data"]["parts"]["test"] == {"sequences": 20, "mean_label": 0.5}
    probe = genodiff("finetune", *words, "probe=true", "out=probe")
    assert probe.code == 2 and "these labels are numbers" in probe.stderr.splitlines()[-1]


def test_glue_has_defaults_and_scores_its_parts_apart(
    genodiff: Genodiff, glue: tuple[str, ...]
) -> None:
    words = (*glue, "data.name=mnli", "data.tokenizer=bytes", "length=24", "device=cpu")
    small = (word for word in SMALL if not word.startswith(("batch_size", "length", "device")))
    outcome = genodiff("finetune", *words, *small, "max_steps=2", "out=run")
    assert outcome.code == 0, outcome.stderr
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert (config["batch_size"], config["epochs"]) == (16, 3)
    assert config["head"]["pooling"] == "first"
    found = metrics("run")
    assert found["n_test"] == 21 and 21 * found["accuracy"] == pytest.approx(
        9 * found["matched"] + 12 * found["mismatched"]
    )


@pytest.mark.slow
def test_numbers_are_learnt_in_their_own_units(genodiff: Genodiff) -> None:
    rows = [(a, b, 100.0 + 10 * len(a.split())) for a, b, _ in pairs(120, 2)]
    write("train.tsv", rows)
    write("test.tsv", [(a, b, 100.0 + 10 * len(a.split())) for a, b, _ in pairs(40, 3)])
    words = (
        *("data=labelled", "data.train=train.tsv", "data.test=test.tsv"),
        *("data.target=regression", "data.tokenizer=bytes"),
    )
    outcome = genodiff("finetune", *words, *SMALL, "max_steps=60", "out=run")
    assert outcome.code == 0, outcome.stderr
    found = metrics("run")
    spread = np.var([label for *_, label in rows])
    assert found["pearson"] > 0.9 and found["squared_error"] < spread / 4
    with np.load("run/predictions.npz") as arrays:
        assert np.corrcoef(arrays["logits"][:, 0], arrays["labels"])[0, 1] == pytest.approx(
            found["pearson"]
        )
    words = (*words, *SMALL, "max_steps=2", "folds=2", "protocol=kfold", "out=folds")
    again = genodiff("crossvalidate", *words, "name=ours")
    assert again.code == 0, again.stderr
    results = json.loads(Path("folds/results.json").read_text())
    assert results["metric"] == "pearson" and list(results["also"]) == ["spearman"]
    assert results["baselines"]["length_only"]["pearson"] > 0.5
    assert results["baselines"]["word_ridge"]["n_test"] == 120
    page = Path("folds/results.md").read_text()
    assert "train, pearson" in page and "bag-of-words ridge regression" in page


@pytest.fixture
def glue(genodiff: Genodiff, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """`experiment=glue` and a folder with two tasks as large as they say."""
    small = {"mrpc": GLUE["mrpc"]._replace(train=60, dev=(20,))}
    small |= {"mnli": GLUE["mnli"]._replace(train=30, dev=(9, 12))}
    monkeypatch.setattr(glue_module, "GLUE", small)
    for name, task in small.items():
        (Path("glue") / name).mkdir(parents=True)
        parts = ("_matched", "_mismatched") if name == "mnli" else ("",)
        sizes = {"train": task.train}
        sizes |= {f"validation{p}": n for p, n in zip(parts, task.dev, strict=True)}
        for split, n in sizes.items():
            lines_of(Path("glue") / name / f"{split}.jsonl", task, n, seed=n)
    return ("experiment=glue", "data.root=glue")


@pytest.mark.slow
def test_glue_is_cross_validated_by_its_defaults_and_scores(
    genodiff: Genodiff, glue: tuple[str, ...]
) -> None:
    model = checkpoint(folder_of("bert"))
    words = (*glue, f"checkpoint={model}", "length=24", "device=cpu")
    outcome = genodiff("crossvalidate", "data.name=mrpc", *words, "folds=2", "out=mrpc")
    assert outcome.code == 0, outcome.stderr
    config = yaml.safe_load(Path("mrpc/fold_1/config.yaml").read_text())
    assert (config["batch_size"], config["epochs"], config["optimizer"]["lr"]) == (16, 3, 2e-5)
    found = json.loads(Path("mrpc/results.json").read_text())
    assert found["metric"] == "accuracy" and list(found["also"]) == ["f1"]
    assert found["baselines"]["word_logistic"]["accuracy"] > 0.7  # words that both texts have
    assert found["leakage"]["splits"]["test"]["of_each_class"].keys() == {*GLUE["mrpc"].classes}
    outcome = genodiff(
        *("crossvalidate", "data.name=mnli", *words, "epochs=1", "folds=1", "out=mnli"),
        *("kmer_baseline=false", "against=[mrpc]"),
    )
    assert outcome.code == 0, outcome.stderr
    found = json.loads(Path("mnli/results.json").read_text())
    assert found["figure"] == "matched" and found["folds"][0]["n_test"] == 9
    assert found["also"]["mismatched"]["folds"][0]["n_test"] == 12
    assert metrics("mnli/fold_1").keys() >= {"accuracy", "matched", "mismatched"}
    header = next(line for line in Path("mnli/results.md").read_text().splitlines() if "|" in line)
    columns = ("mnli, matched", "mnli, mismatched", "mrpc, accuracy", "mrpc, f1")
    assert [cell.strip() for cell in header.strip("|").split("|")][1:] == [*columns]
    assert "*BERT* (MDLM, table 4)" in Path("mnli/results.md").read_text()


def lines_of(path: Path, task: GlueTask, n: int, *, seed: int) -> None:
    rows = [
        {**dict(zip(task.hub_columns, texts, strict=True)), "label": i % len(task.classes)}
        for i, (*texts, _) in enumerate(pairs(n, seed))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data=glue", "data.name=wnli", "data.tokenizer=bytes"), "wnli is no task of GLUE"),
        (("data=glue", "data.name=rte"), "needs data.tokenizer="),
        (("data=glue", "data.name=rte", "data.tokenizer=bytes"), "needs data.root="),
        (("data=labelled", "data.train=train.tsv", "data.test=test.tsv", "data.metrics=[bleu]"),
         "data.metrics=[bleu] is not a list"),
        (("data=labelled", "data.train=train.tsv", "data.test=test.tsv", "data.tokenizer=5"),
         "data.tokenizer=5 is no name"),
        (("data=labelled", "data.train=train.tsv", "data.test=test.tsv", "data.target=ranks"),
         "data.target=ranks is not one of classification, regression"),
        (("data=labelled", "data.train=train.tsv", "data.test=test.tsv",
          "data.tokenizer=nowhere/at/all"),
         "tokenizer=nowhere/at/all"),
        (("data=labelled", "data.train=train.tsv", "data.test=test.tsv"),
         "is not an IUPAC letter of DNA"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_clear_line(
    genodiff: Genodiff, data: tuple[str, ...], words: tuple[str, ...], message: str
) -> None:
    outcome = genodiff("finetune", *words, "backbone=caduceus", "device=cpu", "out=run")
    assert outcome.code == 2, outcome.stderr
    assert message in outcome.stderr.splitlines()[-1], outcome.stderr
    assert not Path("run").exists()
