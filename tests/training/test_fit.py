"""A run stopped and resumed is the run that never stopped; and what a run refuses."""

import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning import Trainer

from genodiff.errors import UserError
from genodiff.training import DivergedError, Plan, read_checkpoint, read_metrics
from genodiff.training.run_log import RunLog
from tests.training import tiny


def contents(folder: Path) -> dict[str, Any]:
    """Weights, averages, optimizer state, log and samples of a finished run."""
    last = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    return {
        "weights": last["state_dict"],
        "ema": last["ema"],
        "optimizer": last["optimizer_states"],
        "schedule": last["lr_schedulers"],
        "step": last["global_step"],
        "best": read_checkpoint(folder / "checkpoints" / "best.ckpt")["ema"],
        "log": (folder / "metrics.csv").read_text(),
        "samples": {path.name: path.read_text() for path in (folder / "samples").iterdir()},
    }


def assert_equal(left: Any, right: Any, place: str = "") -> None:
    assert type(left) is type(right), place
    if isinstance(left, dict):
        assert left.keys() == right.keys(), place
        for key in left:
            assert_equal(left[key], right[key], f"{place}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), place
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_equal(a, b, f"{place}[{index}]")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), place
    else:
        assert left == right, place


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("stop", [1, 4, 7, 10])
def test_stopped_and_resumed_equals_never_stopped(
    tmp_path: Path, micro_batch: int | None, stop: int
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert not tiny.run(straight, micro_batch=micro_batch).interrupted
    fitted = tiny.run(broken, micro_batch=micro_batch, kill_at=stop)
    assert fitted.interrupted and 0 < fitted.steps < 12
    assert not tiny.run(broken, micro_batch=micro_batch, resume=True).interrupted
    assert_equal(contents(straight), contents(broken))


def test_ctrl_c_is_dealt_with_like_sigterm(tmp_path: Path) -> None:
    fitted = tiny.run(tmp_path / "a", kill_at=5, signum=signal.SIGINT)
    assert fitted.interrupted
    assert (tmp_path / "a" / "checkpoints" / "last.ckpt").is_file()


def test_the_log_holds_the_rows_that_are_due(tmp_path: Path) -> None:
    tiny.run(tmp_path / "a", max_steps=10)
    rows = read_metrics(tmp_path / "a" / "metrics.csv")
    steps = {
        split: [row["step"] for row in rows if row["split"] == split]
        for split in ("train", "valid")
    }
    assert steps == {"train": [3, 6, 9, 10], "valid": [4, 8, 10]}
    assert all(row["tokens"] == row["step"] * tiny.BATCH * tiny.LENGTH for row in rows)


def test_the_log_has_the_rate_that_its_step_was_made_with(tmp_path: Path) -> None:
    module = tiny.module(max_steps=10)
    tiny.run(tmp_path / "a", max_steps=10)
    rows = read_metrics(tmp_path / "a" / "metrics.csv")
    rates = {row["step"]: row["learning_rate"] for row in rows if row["split"] == "train"}
    settings = module.settings
    expected = {step: settings.lr * settings.rate(step - 1, 10) for step in (3, 6, 9, 10)}
    assert rates == pytest.approx(expected, rel=1e-12)


def test_a_loss_beyond_every_perplexity_is_logged(tmp_path: Path) -> None:
    trainer = Mock(spec=Trainer, global_step=1, is_global_zero=True, loggers=[])
    RunLog(tmp_path / "metrics.csv", every=1).write(trainer, "train", 800.0)
    assert (tmp_path / "metrics.csv").read_text().strip() == "1,train,0,800.0,,inf,,,"


def test_rows_after_the_checkpoint_are_not_written_twice(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    tiny.run(straight)
    tiny.run(broken, kill_at=8)
    with (broken / "metrics.csv").open("a") as file:
        file.write("11,train,528,1.2,,3.3,0.1,0.2\n12,tra")  # what a kill -9 may leave
    tiny.run(broken, resume=True)
    assert (straight / "metrics.csv").read_bytes() == (broken / "metrics.csv").read_bytes()


def test_batches_without_a_counted_token_leave_finite_weights(tmp_path: Path) -> None:
    tiny.run(tmp_path / "a", weight=0.0, max_steps=3)
    weights = read_checkpoint(tmp_path / "a" / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())


def test_a_diverged_run_stops_and_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    tiny.run(tmp_path / "a", max_steps=5)
    good = (tmp_path / "a" / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(DivergedError, match="the loss is nan"):
        tiny.run(tmp_path / "a", max_steps=12, resume=True, weight=float("nan"))
    assert (tmp_path / "a" / "checkpoints" / "last.ckpt").read_bytes() == good


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_steps": 0}, "trainer.max_steps=0 must be at least 1"),
        ({"gradient_clip": 0.0}, "trainer.gradient_clip=0.0 must be positive"),
        ({"ema_decay": 1.0}, r"trainer.ema_decay=1.0 must be in \[0, 1\)"),
        ({"sample_every": -1}, "trainer.sample_every=-1 must not be negative"),
    ],
)
def test_a_plan_refuses_what_cannot_be_done(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Plan(**{"max_steps": 1, **setting})


def test_a_foreign_or_damaged_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; give a run folder"):
        read_checkpoint(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match="was not written by genodiff train"):
        read_checkpoint(tmp_path / "foreign.ckpt")
    torch.save({"genodiff": Path("/")}, tmp_path / "code.ckpt")
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_checkpoint(tmp_path / "code.ckpt")
    assert "\n" not in str(caught.value)
    tiny.run(tmp_path / "a", max_steps=2)
    whole = (tmp_path / "a" / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(tmp_path / "cut.ckpt")


def test_what_a_killed_writer_left_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny.run(run, kill_at=6)
    for folder in (run, run / "samples", run / "checkpoints"):
        (folder / ".a.x.tmp").write_text("half of it")
    tiny.run(run, resume=True)
    assert not list(run.glob("**/.*.tmp"))
