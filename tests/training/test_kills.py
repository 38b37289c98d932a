"""Killed or asked to stop at any moment, then resumed: nothing is lost, nothing changed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from genodiff.ranks import Ranks
from genodiff.training import Fitted, Plan, Score, fit, newest_checkpoint
from tests.training import tiny
from tests.training.test_fit import assert_equal, contents

ROOT = Path(__file__).parents[2]
TRAIN = (
    *("data=synthetic", "data.train_records=2", "data.valid_records=1", "data.test_records=1"),
    *("data.record_length=8192", "data.length=128", "backbone.d_model=32", "backbone.n_layers=2"),
    *("trainer.max_steps=100000", "trainer.log_every=3", "device=cpu"),
)


@pytest.mark.slow
def test_a_hundred_kills_change_nothing(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "kills.py", "--json", tmp_path / "kills.json"]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    report = json.loads((tmp_path / "kills.json").read_text())
    assert report["equal"] and report["left_behind"] == []
    fallen = report["fallen"]
    assert sum(fallen.values()) == report["kills"] == 100
    # A third each is aimed at the first two, a sixth at the start; most of the rest is training.
    phases = {"building the cache": 33, "writing a checkpoint": 33, "starting": 3, "training": 3}
    for phase, least in phases.items():
        assert sum(n for where, n in fallen.items() if where.startswith(phase)) >= least, fallen
    for number in ("SIGKILL", "SIGTERM"):
        assert sum(n for where, n in fallen.items() if where.endswith(number)) >= 25, fallen


def test_a_signal_in_a_validation_stops_after_its_step(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    tiny.run(straight)
    fitted = run(broken, at_validation=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert fitted.interrupted and fitted.steps == 4
    tiny.run(broken, resume=True)
    assert_equal(contents(straight), contents(broken))


def test_a_signal_while_a_checkpoint_is_written_stops_after_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    tiny.run(straight)
    synchronise = os.fsync

    def interrupted(descriptor: int) -> None:
        if ".last.ckpt." in os.readlink(f"/proc/self/fd/{descriptor}"):
            os.kill(os.getpid(), signal.SIGINT)
        synchronise(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        fitted = tiny.run(broken)
    assert fitted.interrupted and fitted.steps == 6
    tiny.run(broken, resume=True)
    assert_equal(contents(straight), contents(broken))


def test_a_second_signal_counts_after_a_second_and_then_stops_at_once(tmp_path: Path) -> None:
    def twice(seconds: float) -> Callable[[], None]:
        def send() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGTERM)

        return send

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run(tmp_path / "a", at_validation=twice(0.0)).steps == 4
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", at_validation=twice(1.1), checkpoint_every=3)
    newest = newest_checkpoint(tmp_path / "b" / "checkpoints")
    assert newest is not None and newest.step == 3
    # Given back, or the next Ctrl-C of a notebook would have no effect.
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def run(folder: Path, at_validation: Callable[[], None], checkpoint_every: int = 5) -> Fitted:
    """`tiny.run`, with something that happens in its validations."""

    def score(model: nn.Module, ranks: Ranks) -> Score:
        at_validation()
        return tiny.score(model)

    folder.mkdir()
    return fit(
        tiny.module(12),
        lambda first: DataLoader(tiny.Batches(first, None, 0, 1.0), batch_size=None),
        Plan(12, log_every=3, validate_every=4, checkpoint_every=checkpoint_every, sample_every=6),
        folder,
        score=score,
        draw=lambda model: f">a\n{tiny.score(model).nats_per_token}\n",
        device=torch.device("cpu"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_saves_and_exits_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = (*TRAIN, "data.num_workers=2", "out=run")
    command = [sys.executable, "-m", "genodiff", "train", *words]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True
    )
    log = tmp_path / "run" / "metrics.csv"
    while process.poll() is None and not (log.exists() and len(log.read_bytes().split()) > 3):
        time.sleep(0.01)
    os.killpg(process.pid, number)  # as a terminal or a scheduler does: to the workers too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    newest = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and newest.step < 100
