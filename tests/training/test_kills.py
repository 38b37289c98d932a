"""Killed at random moments, twenty times over, then resumed: nothing is lost, nothing changed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.test_fit import assert_equal, contents

KILLS, STEPS = 20, 800
TRAIN = (
    *("data=synthetic", "data.train_records=2", "data.valid_records=1", "data.test_records=1"),
    *("data.record_length=8192", "data.length=128", "backbone.d_model=32", "backbone.n_layers=2"),
    *(f"trainer.max_steps={STEPS}", "trainer.checkpoint_every=7", "trainer.validate_every=40"),
    *("trainer.validate_sequences=16", "trainer.log_every=3", "trainer.sample_every=200"),
    *("trainer.accumulate=2", "device=cpu"),
)


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert start(tmp_path, *TRAIN, "out=straight").wait() == 0

    broken, chance = tmp_path / "broken", random.Random(0)
    words = (*TRAIN, "out=broken")
    for kill in range(KILLS):
        process = start(tmp_path, *words)
        if kill % 5 == 0:  # before the first step: in imports, or while the genome is encoded
            time.sleep(chance.uniform(0.5, 4.0))
        else:  # a few steps on, anywhere within a step, a validation or a checkpoint
            wait_for_step(process, broken, last_step(broken) + chance.randint(1, 50))
            time.sleep(chance.uniform(0.0, 0.1))
        process.send_signal(chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        assert process.wait() in (-signal.SIGKILL, -signal.SIGTERM, 130)
        if (broken / "config.yaml").exists():
            words = ("resume=broken", "device=cpu")
    assert last_step(broken) < STEPS
    assert start(tmp_path, *words).wait() == 0
    assert_equal(contents(tmp_path / "straight"), contents(broken))


@pytest.mark.slow
def test_ctrl_c_with_workers_saves_and_exits_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = (*TRAIN, "data.num_workers=2", "trainer.checkpoint_every=1000", "out=broken")
    process = start(tmp_path, *words)
    wait_for_step(process, tmp_path / "broken", 10)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    assert process.wait() == 130
    assert (tmp_path / "broken" / "checkpoints" / "last.ckpt").is_file()


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "genodiff", "train", *words]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, start_new_session=True)


def last_step(run: Path) -> int:
    """The step of the last row of the log; 0 where there is none."""
    log = run / "metrics.csv"
    rows = log.read_text().splitlines()[1:] if log.exists() else []
    return int(rows[-1].split(",")[0] or 0) if rows else 0


def wait_for_step(process: subprocess.Popen[bytes], run: Path, step: int) -> None:
    """Until the log has come to `step`. A resumed run cuts it back to its checkpoint first."""
    before = last_step(run)
    while process.poll() is None and last_step(run) in range(before + 1):
        time.sleep(0.005)
    while process.poll() is None and last_step(run) < step:
        time.sleep(0.005)
    assert process.poll() is None, f"ended before step {step}"
