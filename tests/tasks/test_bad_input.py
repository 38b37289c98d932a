"""A user's mistake: one line on stderr with the value, the rule and the way out; exit code 2;
nothing written."""

import functools
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tasks.conftest import SMALL, Genodiff

Genome = tuple[str, str]


def assert_refused(
    genodiff: Genodiff, message: str, task: str, *overrides: str, out: str | None = "out"
) -> None:
    """Runs the task; it must refuse with `message` in one line and leave nothing at `out`."""
    words = [*overrides, *([f"out={out}"] if out else [])]
    outcome = genodiff(task, *words)
    complaint = [line for line in outcome.stderr.splitlines() if line.startswith("genodiff ")]
    assert outcome.code == 2, outcome
    assert len(complaint) == 1 and message in complaint[0], outcome.stderr
    assert "Traceback" not in outcome.stderr and outcome.stdout == ""
    assert "Error executing job" not in outcome.stderr
    assert out is None or not Path(out).exists()


def test_a_missing_fasta(genodiff: Genodiff, genome: Genome) -> None:
    assert_refused(genodiff, "none.fa", "train", "data.fasta=none.fa", genome[1], *SMALL)


def test_a_path_that_cannot_be(genodiff: Genodiff, genome: Genome) -> None:
    name = "a" * 300
    message = f"{name}: File name too long; give a path you may use."
    assert_refused(genodiff, message, "train", f"data.fasta={name}", genome[1], *SMALL)


def test_what_takes_more_memory_than_there_is_is_one_line(
    genodiff: Genodiff, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("genodiff.tasks.sample")

    @functools.wraps(module.main)
    def main(**_: object) -> None:
        torch.empty(1 << 52)

    monkeypatch.setattr(module, "main", main)
    outcome = genodiff("sample", "checkpoint=run", "out=a.fa")
    assert outcome.code == 1
    (complaint,) = outcome.stderr.splitlines()
    assert "not enough memory" in complaint and "use smaller batches" in complaint


def test_an_empty_fasta(genodiff: Genodiff, genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "empty.fa").touch()
    assert_refused(genodiff, "empty", "train", "data.fasta=empty.fa", genome[1], *SMALL)


def test_a_fasta_changed_after_indexing(
    genodiff: Genodiff, genome: Genome, tmp_path: Path
) -> None:
    assert genodiff("train", *genome, *SMALL, "out=first").code == 0
    with (tmp_path / "genome.fa").open("a") as file:
        file.write(">chr4\nACGT\n")
    assert_refused(genodiff, "changed", "train", *genome, *SMALL)


@pytest.mark.parametrize(
    ("bed", "message"),
    [
        ("chr1\t0\t4096\ttrain\n", "4096"),
        ("chrZ\t0\t2048\ttrain\n", "chrZ"),
        ("chr1\t0\t2048\ttrain\nchr1\t1024\t2048\ttest\n", "overlap"),
        # unsorted, and overlapping only across the rows between
        ("chr1\t1024\t2048\ttest\nchr2\t0\t2048\tvalid\nchr1\t0\t1100\ttrain\n", "overlap"),
        ("chr1\t2048\t0\ttrain\n", "start"),
        ("chr1\t0\t2048\tvalidation\n", "validation"),
        ("chr1\t0\n", "column"),
        ("chr2\t0\t2048\tvalid\n", "no train"),
    ],
)
def test_a_bed_that_does_not_fit(
    genodiff: Genodiff, genome: Genome, tmp_path: Path, bed: str, message: str
) -> None:
    (tmp_path / "bad.bed").write_text(bed)
    assert_refused(genodiff, message, "train", genome[0], "data.bed=bad.bed", *SMALL)


def test_letters_that_are_no_bases(genodiff: Genodiff, genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "bad.fa").write_text(">chr1\nACGTJACGT\n")
    assert_refused(genodiff, "J", "train", "data.fasta=bad.fa", genome[1], *SMALL)


def test_a_length_longer_than_any_window(genodiff: Genodiff, genome: Genome) -> None:
    assert_refused(genodiff, "length=4096", "train", *genome, *SMALL, "data.length=4096")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.lenght=5", "unknown key data.lenght=; did you mean data.length=?"),
        ("+data.colour=red", "unknown key data.colour=;"),
        ("colour=red", "unknown key colour=;"),
        ("data.length=long", "data.length=long is not an integer"),
        ("trainer.max_steps=1.5", "trainer.max_steps=1.5 is not an integer"),
        ("device=gpu", "device=gpu is not one of auto, cpu, cuda"),
        ("backbone=caduseus", "caduseus"),
        ("trainer.max_steps=0", "trainer.max_steps=0 must be at least 1"),
        ("data.length=", "data.length"),
        ("no_equals_sign", "no_equals_sign"),
        ("time_conditioning=true", "time_conditioning=true, but Caduceus has no time input"),
        ("length=5", "unknown key length=; did you mean data.length=?"),
        ("lr=5", "unknown key lr=; did you mean optimizer.lr=?"),
        ("data.root=x", "unknown key data.root=; this data= takes fasta, bed, length,"),
        ("backbone.d_state=8", "leaves it at its default; write +backbone.d_state=."),
        ("backbone=dti", "none of ar_medium, ar_small"),
        ("backbone=dti", "trained; did you mean dit?"),
        ("--seed=5", "--seed=5 is not key=value; write seed=..., without dashes."),
        ("backbone=null", "a group such as data= needs a name, not null"),
        ("seed", "seed is not key=value; write both"),
        ("trainer.max_steps=1e3", "trainer.max_steps=1000.0 is not an integer; write 1000."),
        ("trainer.gradient_clip=null", "trainer.gradient_clip=null is not a number."),
        ("optimizer.lr=nan", "optimizer.lr=nan is not a number."),
        ("optimizer.weight_decay=-0.1", "optimizer.weight_decay=-0.1 must not be negative."),
        ("sample_length=0", "sample_length=0 is no length of a sequence"),
    ],
)
def test_a_wrong_key_or_value(
    genodiff: Genodiff, genome: Genome, override: str, message: str
) -> None:
    assert_refused(genodiff, message, "train", *genome, *SMALL, override)


@pytest.mark.parametrize("wrong", ["data.record_length=-2", "data.test_records=-1"])
def test_synthetic_data_of_no_length(genodiff: Genodiff, wrong: str) -> None:
    assert_refused(genodiff, "no negative number", "train", "data=synthetic", wrong)


def test_a_missing_model_is_told_by_the_key_that_names_it(
    genodiff: Genodiff, genome: Genome, trained: str
) -> None:
    first = (f"train: init={Path.cwd()}/none does not exist; give a run folder", *SMALL)
    second = ("train: init=none does not exist", *SMALL[2:], "backbone=trained")
    for message, *words in (first, second):
        assert_refused(genodiff, message, "train", *genome, *words, "init=none")
    assert_refused(
        genodiff,
        "against=none does not exist",
        "evaluate",
        f"checkpoint={trained}",
        "against=none",
    )


@pytest.mark.parametrize("name", ["ä=(b, #c)", "2024", "~/a"])
def test_an_output_may_have_any_name(
    genodiff: Genodiff,
    genome: Genome,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    outcome = genodiff("train", *genome, *SMALL, "trainer.max_steps=1", f"out={name}")
    assert outcome.code == 0, outcome.stderr
    run = tmp_path / "home" / "a" if name == "~/a" else tmp_path / name
    assert (run / "checkpoints" / "last.ckpt").is_file()
    outcome = genodiff("train", f"resume={name}", "device=cpu")
    assert outcome.code == 0 and "is at its last step; for more" in outcome.stderr


def test_a_run_is_written_by_one_process(genodiff: Genodiff, genome: Genome, trained: str) -> None:
    """Another process has the run; this one neither goes on with it nor empties it."""
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
            "print('held', flush=True); sys.stdin.read()",
            f"{trained}/.lock",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        for words in (
            (f"resume={trained}", "device=cpu"),
            (*genome, *SMALL, f"out={trained}", "overwrite=true"),
        ):
            outcome = genodiff("train", *words)
            assert outcome.code == 2, outcome.stderr
            assert f"another process is writing to {trained}" in outcome.stderr
        assert (Path(trained) / "checkpoints" / "last.ckpt").is_file()
    finally:
        holder.communicate()
    assert genodiff("train", f"resume={trained}", "device=cpu").code == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("steps=5", "steps=5 does nothing with estimator=auto; give estimator=steps"),
        ("order=random", "order=random does nothing with estimator=auto; give estimator=chain"),
        ("max_evaluations=5", "max_evaluations=5 does nothing without half_width="),
    ],
)
def test_a_key_of_an_estimator_that_is_not_asked_for(
    genodiff: Genodiff, trained: str, word: str, message: str
) -> None:
    assert_refused(genodiff, message, "evaluate", f"checkpoint={trained}", word)


def test_a_required_key_left_out(genodiff: Genodiff, genome: Genome) -> None:
    assert_refused(genodiff, "out= is required", "train", *genome, *SMALL, out=None)
    assert_refused(genodiff, "data.bed= is required", "train", genome[0], *SMALL)
    assert_refused(genodiff, "checkpoint= is required", "sample")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(genodiff: Genodiff, genome: Genome) -> None:
    assert_refused(genodiff, "torch sees no CUDA device", "train", *genome, *SMALL, "device=cuda")


def test_an_existing_output_is_not_overwritten(
    genodiff: Genodiff, genome: Genome, trained: str
) -> None:
    before = (Path(trained) / "metrics.csv").read_bytes()
    outcome = genodiff("train", *genome, *SMALL, f"out={trained}")
    assert outcome.code == 2 and "overwrite=true" in outcome.stderr
    assert (Path(trained) / "metrics.csv").read_bytes() == before
    Path("a.fa").write_text("mine")
    outcome = genodiff("sample", f"checkpoint={trained}", "out=a.fa")
    assert outcome.code == 2 and Path("a.fa").read_text() == "mine"


def test_an_unwritable_output(genodiff: Genodiff, genome: Genome) -> None:
    assert_refused(genodiff, "cannot be written", "train", *genome, *SMALL, out="/proc/genodiff")


def test_a_checkpoint_that_is_none(genodiff: Genodiff, trained: str, tmp_path: Path) -> None:
    def refused(message: str, checkpoint: str) -> None:
        assert_refused(genodiff, message, "sample", f"checkpoint={checkpoint}", out="s.fa")
        assert_refused(genodiff, message, "evaluate", f"checkpoint={checkpoint}", out="e.json")

    refused("does not exist", "none.ckpt")
    (tmp_path / "nothing").mkdir()
    refused("holds neither", "nothing")
    whole = (Path(trained) / "checkpoints" / "best.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[:-200])
    refused("cannot be read", "cut.ckpt")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "foreign.ckpt")
    refused("was not written by genodiff train", "foreign.ckpt")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text(json.dumps({"model_type": "caduceus"}))
    refused("convert it first: genodiff convert source=hub out=DIR", "hub")
    (tmp_path / "hub" / "config.json").write_text(json.dumps({"format": 99}))
    refused("has format 99, and this genodiff reads", "hub")
    (tmp_path / "hub" / "config.json").write_text("{")
    refused("cannot be read", "hub")


def test_a_checkpoint_that_does_not_fit_its_description(
    genodiff: Genodiff, trained: str, tmp_path: Path
) -> None:
    contents = torch.load(Path(trained) / "checkpoints" / "best.ckpt", weights_only=True)
    name = next(iter(contents["state_dict"]))
    contents["state_dict"][name + "_extra"] = contents["state_dict"].pop(name)
    torch.save(contents, tmp_path / "renamed.ckpt")
    assert_refused(genodiff, "missing", "sample", "checkpoint=renamed.ckpt", out="s.fa")


def test_a_checkpoint_that_would_run_somebody_elses_code(
    genodiff: Genodiff, trained: str, tmp_path: Path
) -> None:
    contents = torch.load(Path(trained) / "checkpoints" / "best.ckpt", weights_only=True)
    contents["genodiff"]["model"]["backbone"] = {"_target_": "os.system", "command": "touch owned"}
    torch.save(contents, tmp_path / "evil.ckpt")
    assert_refused(genodiff, "outside genodiff", "sample", "checkpoint=evil.ckpt", out="s.fa")
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_samples=0", "num_samples=0 must be at least 1"),
        ("length=0", "length=0 must be at least 1"),
        ("steps=0", "steps=0"),
        ("sampler=nonsense", "nonsense"),
    ],
)
def test_a_sample_that_cannot_be_drawn(
    genodiff: Genodiff, trained: str, override: str, message: str
) -> None:
    assert_refused(genodiff, message, "sample", f"checkpoint={trained}", override, out="s.fa")


def test_more_tokens_than_a_network_has_positions(genodiff: Genodiff, genome: Genome) -> None:
    small = ("backbone.config.hidden_size=16", "backbone.config.num_hidden_layers=1", *SMALL[2:])
    words = (*genome, "backbone=bert", "backbone.config.max_position_embeddings=48", *small)
    assert_refused(genodiff, "data.length=64, but this model has 48", "train", *words)
    words = (*words, "data.length=48")
    assert_refused(genodiff, "sample_length=49, but", "train", *words, "sample_length=49")
    assert genodiff("train", *words, "out=run").code == 0
    sample = ("checkpoint=run", "num_samples=1", "length=50")
    assert_refused(genodiff, "length=50, but this model has 48", "sample", *sample, out="s.fa")


def test_steps_for_a_sampler_without_steps(genodiff: Genodiff, trained: str) -> None:
    words = (f"checkpoint={trained}", "sampler=first_hitting", "steps=8")
    assert_refused(genodiff, "FirstHitting has no steps", "sample", *words, out="s.fa")


def test_a_split_or_estimator_that_is_none(genodiff: Genodiff, trained: str) -> None:
    checkpoint = f"checkpoint={trained}"
    assert_refused(
        genodiff, "data.split=dev", "evaluate", checkpoint, "data.split=dev", out="e.json"
    )
    assert_refused(
        genodiff, "estimator=best", "evaluate", checkpoint, "estimator=best", out="e.json"
    )


def test_resume_takes_no_other_settings(genodiff: Genodiff, trained: str) -> None:
    outcome = genodiff("train", f"resume={trained}", "trainer.max_steps=9")
    assert outcome.code == 2 and "does not go with resume=" in outcome.stderr
    outcome = genodiff("train", "resume=nowhere")
    assert outcome.code == 2 and "is not a run folder" in outcome.stderr
