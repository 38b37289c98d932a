"""The main job at its smallest: train, evaluate, sample; from a run folder, a .ckpt and a model
folder."""

import json
from pathlib import Path

import pytest
import torch

from genodiff.tasks.model import load_model, save_model
from tests.tasks.conftest import SMALL, Genodiff

Genome = tuple[str, str]
CPU = torch.device("cpu")


def test_a_run_leaves_what_is_promised(trained: str) -> None:
    run = Path(trained)
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert (run / "metrics.csv").read_text().count("\n") >= 3
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["command"][:2] == ["genodiff", "train"] and manifest["seed"] == 0
    assert manifest["versions"]["torch"] == torch.__version__ and manifest["device"] == "cpu"
    assert len(manifest["data"]["fasta"]["sha256"]) == 64
    assert manifest["sessions"][0]["steps"] == 4
    assert list(run.rglob("*.tmp")) == []


def test_evaluate_writes_the_contract(genodiff: Genodiff, trained: str) -> None:
    outcome = genodiff("evaluate", f"checkpoint={trained}", "data.split=test", "out=test.json")
    assert outcome.code == 0, outcome.stderr
    report = json.loads(Path("test.json").read_text())
    promised = {
        *(
            "nats_per_token",
            "standard_error",
            "confidence_95",
            "standard_error_data",
            "perplexity",
        ),
        *("perplexity_95", "bits_per_token", "tokens", "sequences", "network_evaluations"),
        *("estimator", "bound", "baselines", "checkpoint", "data", "seed", "version"),
    }
    assert promised <= report.keys()
    assert report["tokens"] == 2048 and report["sequences"] == 32 and report["bound"] is True
    low, high = report["perplexity_95"]
    assert low < report["perplexity"] < high
    assert {"uniform", *(f"markov_{order}" for order in range(12))} <= report["baselines"].keys()
    # random letters: nothing is better than the uniform law, and a model of 4 steps is near it
    assert 3.9 < report["perplexity"] < 4.3
    assert report["baselines"]["uniform"]["perplexity"] == 4


def test_evaluate_to_standard_output_is_json_alone(genodiff: Genodiff, trained: str) -> None:
    words = (f"checkpoint={trained}", "baselines=false", "estimator=paper", "max_sequences=8")
    outcome = genodiff("evaluate", *words, "out=-")
    report = json.loads(outcome.stdout)
    assert (
        report["estimator"] == "paper" and report["sequences"] == 8 and report["baselines"] == {}
    )


def test_sample_writes_fasta_with_provenance(genodiff: Genodiff, trained: str) -> None:
    words = (f"checkpoint={trained}", "num_samples=5", "length=100", "steps=16", "batch_size=2")
    assert genodiff("sample", *words, "out=a.fa", "seed=3").code == 0
    lines = Path("a.fa").read_text().splitlines()
    headers = [line for line in lines if line.startswith(">")]
    assert len(headers) == 5 and headers[0].startswith(">sample_0 length=100 ")
    assert all("seed=3" in header and "model=trained" in header for header in headers)
    bases = "".join(line for line in lines if not line.startswith(">"))
    assert len(bases) == 500 and set(bases) <= set("ACGT")
    report = json.loads(Path("a.json").read_text())
    assert report["seed"] == 3 and report["steps"] == 16
    assert report["network_evaluations"] <= 5 * 16
    assert genodiff("sample", *words, "out=b.fa", "seed=3").code == 0
    assert Path("a.fa").read_text() == Path("b.fa").read_text()


@pytest.mark.parametrize("sampler", ["ancestral", "first_hitting", "analytic"])
def test_every_sampler_writes_to_standard_output(
    genodiff: Genodiff, trained: str, sampler: str
) -> None:
    steps = () if sampler == "first_hitting" else ("steps=8",)
    words = (f"checkpoint={trained}", "num_samples=2", "length=30", f"sampler={sampler}", *steps)
    outcome = genodiff("sample", *words, "average_strands=true", "out=-")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.count(">sample_") == 2


@pytest.mark.parametrize("backbone", ["caduceus", "caduceus_ps", "dit"])
def test_a_model_folder_is_the_model(
    genodiff: Genodiff, genome: Genome, tmp_path: Path, backbone: str
) -> None:
    size = [
        word.replace("backbone.", "backbone.trunk.") if backbone == "caduceus_ps" else word
        for word in SMALL
    ]
    outcome = genodiff("train", *genome, *size, f"backbone={backbone}", "out=run")
    assert outcome.code == 0, outcome.stderr
    model = load_model(Path("run"), CPU)
    save_model(model, tmp_path / "folder")
    again = load_model(tmp_path / "folder", CPU)
    tokens = torch.randint(7, 11, (2, 20))
    time = torch.full((2, 1), 0.5)
    left = model.require_denoiser("test").log_x0(tokens, time)
    assert torch.equal(left, again.require_denoiser("test").log_x0(tokens, time))
    assert again.tokenizer == model.tokenizer
    assert again.description == model.description


def test_the_best_weights_are_the_averaged_ones(trained: str) -> None:
    contents = torch.load(Path(trained) / "checkpoints" / "best.ckpt", weights_only=True)
    parameters = list(load_model(Path(trained), CPU).denoiser.parameters())
    for parameter, average in zip(parameters, contents["ema"]["shadow"], strict=True):
        assert torch.equal(parameter, average)


def test_init_starts_from_the_weights_of_a_run(
    genodiff: Genodiff, genome: Genome, trained: str
) -> None:
    frozen = ("optimizer.lr=1e-12", "trainer.ema_decay=0.0", "trainer.max_steps=1")
    assert genodiff("train", *genome, *SMALL, *frozen, f"init={trained}", "out=second").code == 0
    first, second = load_model(Path(trained), CPU), load_model(Path("second"), CPU)
    for a, b in zip(first.denoiser.parameters(), second.denoiser.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_init_of_another_size_lists_what_does_not_fit(
    genodiff: Genodiff, genome: Genome, trained: str
) -> None:
    outcome = genodiff(
        "train", *genome, *SMALL, "backbone.d_model=24", f"init={trained}", "out=second"
    )
    assert outcome.code == 2 and "does not fit" in outcome.stderr and "not (" in outcome.stderr
    assert not Path("second").exists()


def test_relative_paths_hold_after_moving_elsewhere(
    genodiff: Genodiff, genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relative = ("data.fasta=genome.fa", "data.bed=genome.bed")
    assert genodiff("train", *relative, *SMALL, "out=run").code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = (f"checkpoint={tmp_path / 'run'}", "baselines=false", "max_sequences=2", "out=a.json")
    outcome = genodiff("evaluate", *words)
    assert outcome.code == 0, outcome.stderr
    assert genodiff("train", f"resume={tmp_path / 'run'}").code == 0


def test_a_resumed_run_keeps_its_provenance(genodiff: Genodiff, trained: str) -> None:
    before = json.loads((Path(trained) / "manifest.json").read_text())
    assert genodiff("train", f"resume={trained}").code == 0
    after = json.loads((Path(trained) / "manifest.json").read_text())
    assert after["command"] == before["command"] and after["command"][1] == "train"
    assert [session["command"][2] for session in after["sessions"]][1] == f"resume={trained}"


def test_a_job_that_fails_among_several_does_not_stop_the_others(genodiff: Genodiff) -> None:
    steps = "trainer.max_steps=0,2"
    words = ("data=synthetic", "data.length=32", "trainer.validate_sequences=4", "device=cpu")
    sizes = ("backbone.d_model=16", "backbone.n_layers=1")
    outcome = genodiff("train", "--multirun", steps, *words, *sizes, "out=of_${trainer.max_steps}")
    assert outcome.code == 2
    last = outcome.stderr.splitlines()[-1]
    assert last == "genodiff train: trainer.max_steps=0 must be at least 1."
    assert not Path("of_0").exists()
    assert Path("of_2/checkpoints/last.ckpt").is_file()
