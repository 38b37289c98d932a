"""Killed at random moments, twenty times over, then resumed: nothing is lost and nothing
changed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.test_fit import assert_equal, contents

KILLS = 20
TRAIN = (
    *("data=synthetic", "data.train_records=2", "data.valid_records=1", "data.test_records=1"),
    *("data.record_length=8192", "data.length=128", "backbone.d_model=32", "backbone.n_layers=2"),
    *("trainer.max_steps=400", "trainer.checkpoint_every=7", "trainer.validate_every=40"),
    *("trainer.validate_sequences=16", "trainer.log_every=3", "trainer.sample_every=200"),
    *("trainer.accumulate=2", "device=cpu"),
)


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "genodiff", "train", *words]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    began = time.monotonic()
    straight = start(tmp_path, *TRAIN, "out=straight")
    straight.communicate()
    assert straight.returncode == 0
    duration = time.monotonic() - began

    chance = random.Random(0)
    words = (*TRAIN, "out=broken")
    finished = killed = 0
    while killed < KILLS:
        process = start(tmp_path, *words)
        number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        time.sleep(chance.uniform(0.2, 1.0) * duration * 0.8)
        process.send_signal(number)
        process.communicate()
        if process.returncode == 0:
            # It had come to its end before: start the broken run again.
            finished += 1
            assert finished < 10, "the runs are too short to be killed"
            compare(tmp_path)
            words = (*TRAIN, "out=broken", "overwrite=true")
            continue
        assert process.returncode in (-signal.SIGKILL, 130, -signal.SIGTERM), process.returncode
        killed += 1
        if (tmp_path / "broken" / "config.yaml").exists():
            words = ("resume=broken", "device=cpu")
        elif (tmp_path / "broken").exists():
            words = (*TRAIN, "out=broken")
    last = start(tmp_path, *words)
    last.communicate()
    assert last.returncode == 0
    compare(tmp_path)


def compare(folder: Path) -> None:
    """Weights, averages, optimizer, log and samples of the broken run are those of the straight
    one."""
    assert_equal(contents(folder / "straight"), contents(folder / "broken"))
