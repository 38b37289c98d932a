"""From a text to its likelihood and to new text, through the command line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from genodiff.config import config_dir
from tests.tasks.conftest import Genodiff

STEP = (
    *("trainer.max_steps=1", "trainer.validate_sequences=2", "device=cpu"),
    *("data.length=32", "data.batch_size=2"),
    *("backbone=dit", "backbone.d_model=16", "backbone.n_layers=1"),
)


@pytest.fixture
def text(tmp_path: Path) -> tuple[str, ...]:
    """`data=text` with 12 documents in each of three files."""
    generator = np.random.default_rng(0)
    words = ["ett", "två", "tre", "fyra", "fünf", "six", "семь"]
    for split in ("train", "valid", "test"):
        documents = [" ".join(generator.choice(words, 12)) for _ in range(12)]
        (tmp_path / f"{split}.txt").write_text("\n\n".join(documents), encoding="utf-8")
    return ("data=text", *(f"data.{split}={split}.txt" for split in ("train", "valid", "test")))


def test_a_text_model_is_trained_evaluated_and_sampled(
    genodiff: Genodiff, text: tuple[str, ...]
) -> None:
    # A learning rate of nothing leaves the network as it begins: every byte as likely as another.
    outcome = genodiff("train", *text, *STEP, "optimizer.lr=1e-30", "out=run")
    assert outcome.code == 0, outcome.stderr
    words = ("checkpoint=run", "device=cpu")
    outcome = genodiff("evaluate", *words, "baselines=false", "out=test.json")
    assert outcome.code == 0, outcome.stderr
    report = json.loads(Path("test.json").read_text())
    n = len(Path("test.txt").read_bytes())
    assert n % 32  # the last chunk is padded, and padding does not count
    assert report["tokens"] == n
    assert report["baselines"] == {}
    assert report["nats_per_token"] == pytest.approx(math.log(256), rel=1e-5)
    assert report["data"]["splits"]["test"] == {
        **{"layout": "packed", "ends": False, "windows": -(-n // 32), "tokens": n},
        **{"documents": 12, "skipped": 0},
    }
    outcome = genodiff(
        *("sample", *words, "num_samples=2", "length=8", "steps=4", "out=samples.txt")
    )
    assert outcome.code == 0, outcome.stderr
    assert "[MASK]" not in Path("samples.txt").read_text(encoding="utf-8")


OBJECTIVES = sorted(path.stem for path in (config_dir() / "objective").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_for_text_too(
    genodiff: Genodiff, text: tuple[str, ...], objective: str
) -> None:
    # The networks begin with logits of 0: every byte as likely as another, whatever the objective.
    words = {
        "block_diffusion": ("backbone.block_length=8",),
        "next_token": ("backbone=ar_tiny", "backbone.n_heads=2"),
    }.get(objective, ())
    more = (*words, "backbone.d_model=16", "backbone.n_layers=1", "optimizer.lr=1e-30")
    outcome = genodiff("train", *text, *STEP, f"objective={objective}", *more, "out=run")
    assert outcome.code == 0, outcome.stderr
    outcome = genodiff("evaluate", "checkpoint=run", "device=cpu", "out=test.json")
    assert outcome.code == 0, outcome.stderr
    report = json.loads(Path("test.json").read_text())
    expected = math.log(256)
    if objective == "d3pm":  # tells every byte twice, and the mask is as likely as a byte
        expected = 2 * math.log(258)
    error = max(5 * report["standard_error"], 0.01)
    assert abs(report["nats_per_token"] - expected) < error
    assert report["bound"] is (objective != "next_token")


def test_a_text_that_is_missing_is_refused_before_anything_is_written(
    genodiff: Genodiff, text: tuple[str, ...]
) -> None:
    Path("valid.txt").unlink()
    outcome = genodiff("train", *text, *STEP, "out=run")
    assert outcome.code == 2 and "valid.txt cannot be read" in outcome.stderr
    outcome = genodiff("train", *text[:2], *STEP, "out=run")
    assert outcome.code == 2 and "data.valid= is required" in outcome.stderr
    assert not Path("run").exists()


def test_a_text_model_does_not_read_dna(
    genodiff: Genodiff, text: tuple[str, ...], genome: tuple[str, str]
) -> None:
    outcome = genodiff("train", *text, *STEP, "out=run")
    assert outcome.code == 0, outcome.stderr
    outcome = genodiff("evaluate", "checkpoint=run", "data=fasta", *genome, "out=test.json")
    assert outcome.code == 2
    assert "reads tokens of ByteTokenizer, and the data have those of DnaTok" in outcome.stderr


def test_a_corpus_is_trained_on_from_local_copies(genodiff: Genodiff) -> None:
    generator = np.random.default_rng(0)
    Path("copies").mkdir()
    for split in ("train", "test"):
        rows = [" ".join(generator.choice(["a", "b , c", "d"], 9)) for _ in range(12)]
        (Path("copies") / f"{split}.txt").write_text("\n".join(rows), encoding="utf-8")
    words = ("data=lm1b", "data.root=copies", "data.tokenizer=text8")
    outcome = genodiff("train", *words, *STEP, "data.length=32", "out=run")
    assert outcome.code == 0, outcome.stderr
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert manifest["data"]["splits"]["valid"]["layout"] == "padded"
    outcome = genodiff("train", "data=lm1b", "data.root=none", "data.tokenizer=text8", "out=no")
    assert outcome.code == 2 and "root=" in outcome.stderr and "none cannot be" in outcome.stderr
