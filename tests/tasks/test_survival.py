"""What a run survives, as its user sees it: damaged checkpoints, a full disk, a killed worker."""

import gc
import multiprocessing
import os
import re
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genodiff.training import read_checkpoint
from genodiff.training.checkpoints import AtomicCheckpointIO
from tests.tasks.conftest import SMALL, Genodiff
from tests.training.test_fit import assert_equal

Genome = tuple[str, str]
UNLIMITED = resource.RLIM_INFINITY


def damage(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    genodiff: Genodiff, trained: str
) -> None:
    run = Path(trained)
    log = (run / "metrics.csv").read_bytes()
    last = read_checkpoint(run / "checkpoints" / "last.ckpt")
    damage(run / "checkpoints" / "last.ckpt")
    outcome = genodiff("train", "resume=trained", "device=cpu")
    assert outcome.code == 0, outcome.stderr
    (line,) = [line for line in outcome.stderr.splitlines() if "cannot be read" in line]
    assert "last.ckpt (its SHA-256 is not" in line and "step 2 of previous.ckpt" in line
    assert (run / "metrics.csv").read_bytes() == log
    again = read_checkpoint(run / "checkpoints" / "last.ckpt")
    for part in ("global_step", "state_dict", "ema", "optimizer_states"):
        assert_equal(again[part], last[part], part)


def test_damaged_checkpoints_are_one_line(genodiff: Genodiff, trained: str) -> None:
    folder = Path(trained) / "checkpoints"
    damage(folder / "best.ckpt")
    for task in (("evaluate", "out=e.json"), ("sample", "out=s.fa")):
        outcome = genodiff(*task, "checkpoint=trained")
        assert outcome.code == 2 and len(outcome.stderr.splitlines()) == 1, outcome.stderr
        assert "best.ckpt cannot be read (its SHA-256 is not" in outcome.stderr
        assert "Beside it: last.ckpt, previous.ckpt." in outcome.stderr
    damage(folder / "last.ckpt")
    damage(folder / "previous.ckpt")
    outcome = genodiff("train", "resume=trained", "device=cpu")
    assert outcome.code == 2 and len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert "last.ckpt (its SHA-256" in outcome.stderr and "previous.ckpt (its" in outcome.stderr
    assert "start a new run with init=trained/checkpoints/best.ckpt" in outcome.stderr


def test_a_full_disk_is_one_line_and_loses_nothing(
    genodiff: Genodiff, genome: Genome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once step 2 is saved no file may grow beyond 200 bytes: neither log nor checkpoint nor
    manifest."""
    with monkeypatch.context() as patch:
        full_after(patch, step=2)
        outcome = genodiff("train", *genome, *SMALL, "trainer.log_every=1", "out=full")
    assert outcome.code == 1 and "Traceback" not in outcome.stderr, outcome.stderr
    assert "metrics.csv takes no row (File too large)" in outcome.stderr
    end = outcome.stderr.splitlines()[-1]
    assert "step 4: last.ckpt cannot be written (File too large" in end
    assert end.endswith("Step 2 is saved; go on with: genodiff train resume=full")
    resumed_equals_straight(genodiff, genome)


def test_a_disk_that_fills_up_after_the_last_step_is_one_line(
    genodiff: Genodiff, genome: Genome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        full_after(patch, step=4)
        outcome = genodiff("train", *genome, *SMALL, "trainer.log_every=1", "out=full")
    assert outcome.code == 1 and "Traceback" not in outcome.stderr, outcome.stderr
    end = outcome.stderr.splitlines()[-1]
    assert "cannot be written (File too large" in end and "Step 4 is saved" in end
    resumed_equals_straight(genodiff, genome)


def resumed_equals_straight(genodiff: Genodiff, genome: Genome) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))
    hidden = {path.name for path in Path("full").rglob(".*")}
    assert hidden <= {".lock"} and not list(Path("full").rglob("*.tmp"))
    assert genodiff("train", "resume=full", "device=cpu").code == 0
    straight = genodiff("train", *genome, *SMALL, "trainer.log_every=1", "out=straight")
    assert straight.code == 0
    full, straight = Path("full"), Path("straight")
    assert (full / "metrics.csv").read_bytes() == (straight / "metrics.csv").read_bytes()
    for name in ("last.ckpt", "best.ckpt"):
        ours, other = (read_checkpoint(run / "checkpoints" / name) for run in (full, straight))
        for part in ("global_step", "state_dict", "ema"):
            assert_equal(ours[part], other[part], part)


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """Put back after each test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """From the moment on that `last.ckpt` of `step` is written, writing really fails."""
    save = AtomicCheckpointIO.save_checkpoint

    def save_and_fill(self: AtomicCheckpointIO, checkpoint: Any, path: Any, **_: Any) -> None:
        save(self, checkpoint, path)
        if checkpoint["global_step"] == step and Path(path).name == "last.ckpt":
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, UNLIMITED))

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save_and_fill)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*socket:pytest.PytestUnraisableExceptionWarning"
)
def test_a_killed_worker_is_one_line_and_the_checkpoint_stands(
    genodiff: Genodiff, genome: Genome
) -> None:
    last = Path("run/checkpoints/last.ckpt")

    def kill_a_worker() -> None:
        while not last.exists():
            time.sleep(0.01)
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    many = ("trainer.max_steps=100000", "data.num_workers=1", "trainer.validate_every=100000")
    outcome = genodiff("train", *genome, *SMALL, *many, "out=run")
    killer.join()
    gc.collect()  # the socket that torch leaves of a killed worker
    assert outcome.code == 1 and "Traceback" not in outcome.stderr, outcome.stderr
    end = outcome.stderr.splitlines()[-1]
    # torch hears of it from the kernel, when it asks, or from the pipe, whichever is first.
    how = r"(\(pid.*(killed by signal: Killed|exited unexpectedly)|went away)"
    assert re.search(f"DataLoader worker {how}, usually for want of memory", end), end
    step = read_checkpoint(last)["global_step"]
    assert end.endswith(f"Step {step} is saved; go on with: genodiff train resume=run")
