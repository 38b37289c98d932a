"""`genodiff predict`: what a fine-tuned classifier says of new sequences, and what it refuses."""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tasks import test_text_classifiers as of_text
from tests.tasks.conftest import Genodiff, interrupted_once
from tests.tasks.test_finetune import TINY, data

__all__ = ["data"]  # a fixture
WORDS = (*(word for word in TINY if not word.startswith("epochs")), "backbone=caduceus")
PAIR = str.maketrans("ACGT", "TGCA")


def told(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.endswith("tsv") else ","))


def shares(rows: list[dict[str, str]]) -> np.ndarray:
    """The probabilities of all classes."""
    return np.array([[float(row[name]) for name in row if name[:2] == "p_"] for row in rows])


def in_training(run: str) -> np.ndarray:
    """The probabilities in the test of the training."""
    with np.load(Path(run) / "predictions.npz") as arrays:
        return torch.from_numpy(arrays["logits"]).softmax(-1).numpy()


def letters(path: str) -> list[str]:
    with Path(path).open(newline="") as file:
        return [row["sequence"] for row in csv.DictReader(file)]


@pytest.fixture
def run(genodiff: Genodiff, data: tuple[str, ...]) -> str:
    """A classifier's folder, tested with test.csv."""
    outcome = genodiff("finetune", *data, *WORDS, "max_steps=6", "out=run")
    assert outcome.code == 0, outcome.stderr
    return "checkpoint=run"


def fasta(path: str, sequences: list[str]) -> str:
    text = "".join(f">s{i} more\n{sequence}\n" for i, sequence in enumerate(sequences))
    Path(path).write_text(text)
    return f"sequences={path}"


def test_every_road_gives_the_probabilities_of_the_test_of_the_training(
    genodiff: Genodiff, run: str
) -> None:
    sequences, expected = letters("test.csv"), in_training("run")
    roads = {"csv": "sequences=test.csv", "fa": fasta("test.fa", sequences)}
    Path("test.csv.gz").write_bytes(gzip.compress(Path("test.csv").read_bytes()))
    roads["gz"] = "sequences=test.csv.gz"
    rows = [f"item {i}\tx\t{text.lower()}\r\n" for i, text in enumerate(sequences)]
    Path("test.tsv").write_text("\ufeffID\tother\tDNA\r\n" + "".join(rows), newline="")
    roads["tsv"] = "sequences=test.tsv columns=[dna]"
    for road, words in roads.items():
        outcome = genodiff("predict", run, *words.split(), "device=cpu", f"out={road}.tsv")
        assert outcome.code == 0 and outcome.stdout == "", outcome.stderr
        found = told(f"{road}.tsv")
        assert list(found[0]) == ["name", "predicted", "p_at", "p_gc"]
        np.testing.assert_allclose(shares(found), expected, atol=1e-5)
        assert [row["predicted"] for row in found] == [("at", "gc")[i] for i in expected.argmax(1)]
        named = {"fa": "s7", "tsv": "item 7"}.get(road, "8")
        assert found[7]["name"] == named
    report = json.loads(Path("tsv.json").read_text())
    assert report["n_sequences"] == 40 and sum(report["predicted"].values()) == 40
    assert report["strands"] == "conjoin" and report["n_cut"] == 0 and report["length"] == 40


def test_regions_are_read_on_their_strand_with_their_places(genodiff: Genodiff, run: str) -> None:
    one, two = letters("test.csv")[:2]
    Path("genome.fa").write_text(f">chr1\nNN{one}N{two.translate(PAIR)[::-1]}\n")
    start = len(one) + 3
    Path("r.bed").write_text(
        f"chr1\t2\t{len(one) + 2}\nchr1\t{start}\t{start + len(two)}\tb\t0\t-\n"
    )
    words = ("genome=genome.fa", "regions=r.bed", "device=cpu", "out=r.csv")
    outcome = genodiff("predict", run, *words)
    assert outcome.code == 0, outcome.stderr
    first, second = told("r.csv")
    assert list(first)[:5] == ["name", "chrom", "start", "end", "strand"]
    assert (second["name"], second["start"], second["strand"]) == ("b", str(start), "-")
    np.testing.assert_allclose(shares([first, second]), in_training("run")[:2], atol=1e-5)


def test_averaged_weights_are_tested_and_told_with(
    genodiff: Genodiff, data: tuple[str, ...]
) -> None:
    words = (*data, *WORDS, "max_steps=9", "trainer.ema_decay=0.9", "strands=given")
    assert genodiff("finetune", *words, "out=run").code == 0
    words = ("sequences=test.csv", "out=a.tsv", "device=cpu")
    outcome = genodiff("predict", "checkpoint=run", *words)
    assert outcome.code == 0, outcome.stderr
    np.testing.assert_allclose(shares(told("a.tsv")), in_training("run"), atol=1e-5)
    best = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    raw = best["state_dict"]["model.score.weight"]
    average = best["ema"]["shadow"][-1]
    assert average.shape == raw.shape and not torch.equal(average, raw)


def test_what_is_stopped_goes_on_and_is_the_same_byte_for_byte(
    genodiff: Genodiff, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genodiff.tasks.predict.ITEMS", 16)
    words = ("predict", run, "sequences=test.csv", "device=cpu")
    assert genodiff(*words, "out=whole.tsv").code == 0
    made = interrupted_once(monkeypatch)
    assert genodiff(*words, "out=a.tsv").code == 130 and not Path("a.tsv").exists()
    assert genodiff(*words, "out=a.tsv").code == 0 and made == [0, 1, 2]
    assert Path("a.tsv").read_bytes() == Path("whole.tsv").read_bytes()


def test_pairs_of_text_and_numbers_are_told_as_in_the_training(genodiff: Genodiff) -> None:
    of_text.write("train.tsv", of_text.pairs(60, 0))
    of_text.write("test.tsv", of_text.pairs(20, 1))
    data = ("data=labelled", "data.train=train.tsv", "data.test=test.tsv")
    words = ("finetune", *data, "max_steps=3")
    bert = f"checkpoint={of_text.checkpoint(of_text.folder_of('bert'))}"
    few = (word for word in of_text.FEW if not word.startswith("max_steps"))
    assert genodiff(*words, bert, *few, "out=run").code == 0
    outcome = genodiff("predict", "checkpoint=run", "sequences=test.tsv", "out=a.csv")
    assert outcome.code == 0, outcome.stderr
    np.testing.assert_allclose(shares(told("a.csv")), in_training("run"), atol=1e-5)
    number = ("data.target=regression", "data.tokenizer=bytes", *of_text.SMALL)
    assert genodiff(*words, *number, "out=number").code == 0
    outcome = genodiff("predict", "checkpoint=number", "sequences=test.tsv", "out=b.csv")
    assert outcome.code == 0, outcome.stderr
    rows = told("b.csv")
    assert list(rows[0]) == ["name", "predicted"]
    with np.load("number/predictions.npz") as arrays:
        expected = arrays["logits"][:, 0]
    np.testing.assert_allclose([float(row["predicted"]) for row in rows], expected, rtol=1e-4)
    for words, message in (
        (("sequences=test.tsv", "columns=[sentence1]"), "1 texts a row, and the classifier was"),
        (("genome=a.fa", "regions=a.bed"), "FASTA and regions are DNA"),
    ):
        outcome = genodiff("predict", "checkpoint=run", *words, "out=c.csv")
        assert outcome.code == 2 and message in outcome.stderr.splitlines()[-1], outcome.stderr


def test_a_long_sequence_is_cut_as_in_the_training_and_said_to_be(
    genodiff: Genodiff, run: str
) -> None:
    long = "ACGTTGCA" * 10
    words = (fasta("long.fa", [long, long[:40]]), "device=cpu", "out=a.tsv")
    outcome = genodiff("predict", run, *words)
    assert outcome.code == 0 and "1 of them are longer than the 40 tokens" in outcome.stderr
    assert json.loads(Path("a.json").read_text())["n_cut"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give sequences=FILE, or genome=FASTA and regions=BED: one of them"),
        (("sequences=a.fa", "genome=a.fa", "regions=a.bed"), "and not genome and regions beside"),
        (("genome=a.fa",), "genome= is given without regions=BED; give both"),
        (("sequences=none.csv",), "none.csv cannot be read"),
        (("sequences=a.doc",), "the suffix '.doc' names no format"),
        (("sequences=empty.csv",), "empty.csv has no rows"),
        (("sequences=empty.fa",), "empty.fa holds no sequence"),
        (("sequences=wrong.csv",), "wrong.csv, line 3: 'E' at letter 2 of the sequence"),
        (("sequences=wrong.fa",), "has 'E' at base 2"),
        (("sequences=blank.csv",), "line 2: the sequence is empty"),
        (("sequences=other.csv",), "Another name is given with columns=[NAME]"),
        (("sequences=test.csv", "names=id"), "there is no column 'id'"),
        (("sequences=a.fa", "names=id"), "names=id is of a table"),
        (("sequences=test.csv", "batch_size=0"), "batch_size=0 must be at least 1"),
        (("sequences=test.csv", "out=a.txt"), "out=a.txt must end in .tsv, .tsv.gz, .csv"),
        (("sequences=test.csv", "checkpoint=none"), "none does not exist"),
        (("sequences=test.csv", "checkpoint=trained"), "trained is a generative model, which"),
        (("sequences=test.csv", "checkpoint=probe"), "probe is of probe=true, which trains no"),
        (("sequences=test.csv", "checkpoint=folds"), "give one of its runs, such as folds/fold_1"),
    ],
)
def test_mistakes_are_one_line(
    genodiff: Genodiff, given: Path, words: tuple[str, ...], message: str
) -> None:
    fasta("a.fa", ["ACGT"])
    Path("a.bed").write_text("s0\t0\t2\n")
    Path("empty.csv").write_text("sequence\n")
    Path("empty.fa").touch()
    Path("wrong.csv").write_text("sequence\nACGT\nAEL\n")
    Path("wrong.fa").write_text(">a\nAEL\n")
    Path("blank.csv").write_text("id,sequence\nx,\n")
    Path("other.csv").write_text("dna\nACGT\n")
    names = {word.partition("=")[0] for word in words}
    more = [word for key, word in DEFAULTS.items() if key not in names]
    outcome = genodiff("predict", *words, *more)
    assert outcome.code == 2, outcome.stderr
    line = outcome.stderr.splitlines()[-1]
    assert line.startswith("genodiff predict: ") and message in line, outcome.stderr
    assert not [*Path().glob("a.t*"), *Path().glob(".a.t*")]


DEFAULTS = {"checkpoint": "checkpoint=run", "out": "out=a.tsv", "device": "device=cpu"}


@pytest.fixture
def given(genodiff: Genodiff, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with links to what was made once."""
    for path in made.iterdir():
        if not Path(path.name).exists():
            Path(path.name).symlink_to(path)
    return Path()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, a generative run, and folders that look like a probe's and folds'."""
    from tests.tasks.test_embed import saved_model
    from tests.tasks.test_finetune import write

    folder = tmp_path_factory.mktemp("made")
    for name, n in (("train.csv", 40), ("test.csv", 10)):
        write(str(folder / name), n, 0)
    words = ("data=labelled", "data.train=train.csv", "data.test=test.csv", *WORDS)
    command = [sys.executable, "-m", "genodiff", "finetune", *words, "max_steps=1", "out=run"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    saved_model(folder / "trained")
    (folder / "folds" / "fold_1").mkdir(parents=True)
    (folder / "probe").mkdir()
    (folder / "probe" / "metrics.json").write_text("{}")
    return folder


@pytest.mark.slow
def test_two_processes_write_what_one_writes(genodiff: Genodiff, run: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    generator = np.random.default_rng(0)
    fasta("a.fa", ["".join(generator.choice([*"ACGT"], 30)) for _ in range(3000)])
    command = (sys.executable, "-m", "genodiff", "predict", run, "sequences=a.fa", "device=cpu")
    for n in ("1", "2"):
        words = (f"devices={n}", f"out={n}.tsv")
        subprocess.run([*command, *words], env=environment, check=True)
    assert Path("1.tsv").read_bytes() == Path("2.tsv").read_bytes()
    assert len(told("1.tsv")) == 3000
    printed = subprocess.run([*command, "out=-"], env=environment, check=True, capture_output=True)
    assert printed.stdout == Path("1.tsv").read_bytes()
