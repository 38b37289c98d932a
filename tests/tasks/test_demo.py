"""The demo from end to end, shortened; its report opened in a browser where there is one."""

import json
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from genodiff.data import DnaTokenizer, SyntheticGenome
from genodiff.diffusion import AntitheticTimes, ContinuousNelbo
from genodiff.tasks.demo import training_config
from genodiff.tasks.model import build_model, describe
from tests.tasks.browser import shown
from tests.tasks.conftest import Genodiff


def test_the_demo_s_config_describes_a_model() -> None:
    # The demo itself is a slow test; a key that a description has gained must not wait for it.
    config = training_config(Path("a.fa"), Path("a.bed"), Path("cache"), steps=1, seed=0)
    tokenizer = DnaTokenizer()
    model = build_model(describe(config, tokenizer))
    assert model.tokenizer == tokenizer
    assert model.objective == ContinuousNelbo(AntitheticTimes(t_min=1e-3))


def test_a_demo_that_was_stopped_can_be_overwritten(
    genodiff: Genodiff, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(SyntheticGenome, "write", stop)
    assert genodiff("demo", "out=demo", "device=cpu").code == 130
    assert genodiff("demo", "out=demo", "device=cpu").code == 2
    assert genodiff("demo", "out=demo", "device=cpu", "overwrite=true").code == 130


@pytest.mark.slow
def test_the_demo_leaves_what_is_promised(genodiff: Genodiff, tmp_path: Path) -> None:
    outcome = genodiff("demo", "out=demo", "steps=40", "device=cpu")
    assert outcome.code == 0, outcome.stderr
    demo = tmp_path / "demo"
    metrics = json.loads((demo / "metrics.json").read_text())
    assert metrics["gap_nats"] > 0
    assert (demo / "samples.fa").read_text().count(">") == 96
    assert {path.name for path in (demo / "model").iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json"),
    }
    page = (demo / "report.html").read_text()
    assert "http-equiv" in page and "<svg" in page and "<script" not in page

    again = genodiff("sample", "checkpoint=demo/model", "num_samples=1", "length=50", "out=-")
    assert again.code == 0 and again.stdout.startswith(">sample_0 length=50")
    refused = genodiff("demo", "out=demo", "steps=1")
    assert refused.code == 2 and "overwrite=true" in refused.stderr

    if shutil.which("chromium"):
        assert "What the model has learnt" in shown(demo / "report.html")


def test_a_demo_that_cannot_be_is_refused(genodiff: Genodiff, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    outcome = genodiff("demo", "out=notes.txt")
    assert outcome.code == 2 and "is a file" in outcome.stderr
    outcome = genodiff("demo", "out=demo", "steps=0")
    assert outcome.code == 2 and "steps=0 must be at least 1" in outcome.stderr
    assert not (tmp_path / "demo").exists()
