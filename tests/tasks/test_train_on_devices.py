"""Several processes from the command line: who starts them, what they write, how they end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from genodiff.training import read_checkpoint, read_metrics
from tests.tasks.conftest import SMALL, Genodiff

Genome = tuple[str, str]
TORCHRUN = {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "2"}


def start(*words: str, program: tuple[str, ...] = ("-m", "genodiff", "train")) -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *program, *words], env=environment, stderr=subprocess.PIPE, text=True
    )


def rows(run: str) -> list[dict[str, Any]]:
    return read_metrics(Path(run) / "metrics.csv")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_leave_what_one_leaves(
    genodiff: Genodiff, genome: Genome, trained: str, strategy: str
) -> None:
    devices = ("trainer.devices=2", f"trainer.strategy={strategy}")
    process = start(*genome, *SMALL, *devices, "trainer.sample_every=2", "out=two")
    stderr = process.communicate()[1]
    assert process.returncode == 0, stderr
    assert stderr.count("step 4/4") == 1 and "Warning" not in stderr, stderr
    assert len(rows("two")) == len(rows(trained))
    for ours, theirs in zip(rows("two"), rows(trained), strict=True):
        assert ours["tokens"] == theirs["tokens"]
        assert ours["nats_per_token"] == pytest.approx(theirs["nats_per_token"], rel=1e-4)
    manifest = json.loads(Path("two/manifest.json").read_text())
    assert len(manifest["sessions"]) == 1
    assert manifest["sessions"][0]["peak_memory_bytes"] > 1e7
    assert len(list(Path("two/samples").iterdir())) == 2
    outcome = genodiff("train", "resume=two", "trainer.devices=1", "trainer.strategy=auto")
    assert outcome.code == 0, outcome.stderr
    config = yaml.safe_load(Path("two/config.yaml").read_text())
    assert config["trainer"]["devices"] == 2  # as the run was begun


@pytest.mark.slow
def test_torchrun_starts_them_too(genome: Genome, trained: str) -> None:
    program = ("-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "genodiff.tasks.train")
    process = start(*genome, *SMALL, "out=two", program=program)
    stderr = process.communicate()[1]
    assert process.returncode == 0, stderr
    for ours, theirs in zip(rows("two"), rows(trained), strict=True):
        assert ours["nats_per_token"] == pytest.approx(theirs["nats_per_token"], rel=1e-4)


@pytest.mark.slow
def test_srun_starts_them_too(
    genome: Genome, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with what srun sets for them."""
    job = {"SLURM_JOB_ID": "10007", "SLURM_JOB_NAME": "train", "SLURM_NODEID": "0"}
    tasks = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}
    for name, value in {**job, **tasks, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    processes = []
    for rank in "01":
        monkeypatch.setenv("SLURM_PROCID", rank)
        monkeypatch.setenv("SLURM_LOCALID", rank)
        processes.append(start(*genome, *SMALL, "out=two"))
    stderr = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], stderr
    for ours, theirs in zip(rows("two"), rows(trained), strict=True):
        assert ours["nats_per_token"] == pytest.approx(theirs["nats_per_token"], rel=1e-4)


@pytest.mark.slow
def test_a_signal_to_the_first_stops_all_at_one_step(genodiff: Genodiff, genome: Genome) -> None:
    words = (*genome, *SMALL, "trainer.max_steps=100000", "trainer.checkpoint_every=100000")
    process = start(*words, "trainer.devices=2", "trainer.log_every=1", "out=two")
    while process.poll() is None and not Path("two/metrics.csv").exists():
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=120)[1]  # ends once all that hold the pipe have ended
    assert process.returncode == 130, stderr
    step = read_checkpoint(Path("two/checkpoints/last.ckpt"))["global_step"]
    assert rows("two")[-1]["step"] == step
    assert f"stopped at step {step} of 100000; go on with: genodiff train resume=two" in stderr


def test_a_loss_that_is_not_finite_names_the_step_and_the_sequences(
    genodiff: Genodiff, genome: Genome
) -> None:
    words = ("trainer.max_steps=20", "trainer.checkpoint_every=1", "optimizer.lr=1e30")
    outcome = genodiff("train", *genome, *SMALL, *words, "data.batch_size=4", "out=run")
    assert outcome.code == 1
    last = outcome.stderr.splitlines()[-1]
    found = re.match(r"genodiff train: step (\d+): the (loss|gradient's norm) is (nan|inf)", last)
    assert found, last
    assert re.search(r"in chr1:\d+-\d+\([+-]\)", last)
    assert "lower optimizer.lr, or look at these sequences" in last
    kept = read_checkpoint(Path("run/checkpoints/last.ckpt"))
    assert kept["global_step"] < int(found[1])
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (("trainer.devices=3",), {}, "data.batch_size=4 does not divide among 3 devices"),
        (("trainer.devices=0",), {}, "trainer.devices=0 must be at least 1"),
        (("trainer.micro_batch=0",), {}, "trainer.micro_batch=0 must be at least 1"),
        (("trainer.num_nodes=2",), {}, "start the run with srun, or with torchrun"),
        (("trainer.devices=3",), TORCHRUN, "trainer.devices=3, but torchrun has started 2 nodes"),
        (("trainer.num_nodes=1",), SLURM, "trainer.num_nodes=1, but SLURM has started 2 nodes"),
        (("data.batch_size=6",), TORCHRUN, "data.batch_size=6 does not divide among 4 devices"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    genodiff: Genodiff,
    genome: Genome,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    environment: dict[str, str],
    message: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    outcome = genodiff("train", *genome, *SMALL, "data.batch_size=4", *words, "out=run")
    assert outcome.code == 2 and message in outcome.stderr, outcome.stderr
    assert not Path("run").exists()


def test_tasks_of_slurm_without_their_number_a_node_are_refused(
    genodiff: Genodiff, genome: Genome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_NNODES", "2")
    outcome = genodiff("train", *genome, *SMALL, "out=run")
    assert outcome.code == 2 and "give it --ntasks-per-node=2" in outcome.stderr


def test_a_run_goes_on_with_other_devices_and_nothing_else(
    genodiff: Genodiff, trained: str
) -> None:
    outcome = genodiff("train", f"resume={trained}", "trainer.max_steps=8")
    assert outcome.code == 2
    assert "trainer.max_steps=8 does not go with resume=" in outcome.stderr
    outcome = genodiff("train", f"resume={trained}", "trainer.micro_batch=2")
    assert outcome.code == 0, outcome.stderr


def test_a_run_of_an_older_release_is_one_clear_line(genodiff: Genodiff, trained: str) -> None:
    path = Path(trained) / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["trainer"]["accumulate"] = 2
    path.write_text(yaml.safe_dump(config))
    outcome = genodiff("train", f"resume={trained}")
    assert outcome.code == 2
    assert "accumulate" in outcome.stderr.splitlines()[-1]


def test_a_network_of_scans_is_not_compiled(genodiff: Genodiff, genome: Genome) -> None:
    outcome = genodiff("train", *genome, *SMALL, "trainer.compile=true", "out=run")
    assert outcome.code == 2
    assert "trainer.compile=true is for transformers" in outcome.stderr
    assert not Path("run").exists()


def test_a_machine_that_cannot_compile_is_told_so(
    genodiff: Genodiff, genome: Genome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand much else")

    monkeypatch.setattr("torch.compile", fail)
    words = (*SMALL, "backbone=dit_tiny", "backbone.n_heads=2", "trainer.compile=true")
    outcome = genodiff("train", *genome, *words, "out=run")
    assert outcome.code == 2, outcome.stderr
    assert "torch.compile fails for cpu here (no C++ compiler)" in outcome.stderr.splitlines()[-1]
    assert not Path("run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [(), ("trainer.devices=2", "trainer.strategy=fsdp")])
def test_a_compiled_transformer_takes_the_steps_of_an_eager_one(
    genodiff: Genodiff, genome: Genome, devices: tuple[str, ...]
) -> None:
    words = (*genome, *SMALL, "backbone=dit_tiny", "backbone.n_heads=2", "backbone.dropout=0.0")
    eager = genodiff("train", *words, "out=eager")
    assert eager.code == 0, eager.stderr
    process = start(*words, *devices, "trainer.compile=true", "out=fused")
    stderr = process.communicate()[1]
    assert process.returncode == 0, stderr
    assert "Warning" not in stderr, stderr
    for ours, theirs in zip(rows("fused"), rows("eager"), strict=True):
        assert ours["nats_per_token"] == pytest.approx(theirs["nats_per_token"], rel=1e-4)
    left, right = (
        read_checkpoint(Path(f"{run}/checkpoints/last.ckpt")) for run in ("fused", "eager")
    )
    assert left["state_dict"].keys() == right["state_dict"].keys()
