"""A checkpoint is whole or known not to be, two are kept, and a full disk costs neither."""

import errno
import os
import random
import resource
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from genodiff.batch import TokenBatch
from genodiff.errors import OutsideError, UserError
from genodiff.training import Fitted, Plan, fit, newest_checkpoint, read_checkpoint
from genodiff.training.checkpoints import AtomicCheckpointIO
from tests.training import tiny
from tests.training.test_fit import assert_equal, contents

WHOLE = {"genodiff": {"model": {}}, "global_step": 3, "state_dict": {"a": torch.arange(400.0)}}


def saved(path: Path, checkpoint: dict[str, Any] = WHOLE) -> Path:
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    name = "genodiff.training.checkpoints"
    return [record.getMessage() for record in caplog.records if record.name == name]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    # Without the seal torch reads 19 of 20 such files as if nothing were wrong.
    path = saved(tmp_path / "a.ckpt")
    assert_equal(read_checkpoint(path), WHOLE)
    whole, chance = path.read_bytes(), random.Random(0)
    seal, contents = len(whole) - 80, range(len(whole) - 80)
    for place in [*chance.sample(contents, 300), *range(seal, len(whole))]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            read_checkpoint(path)


def test_every_shortened_or_lengthened_file_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt")
    whole = path.read_bytes()
    pages = range(0, len(whole), 512)
    for size in [*pages, *range(len(whole) - 200, len(whole))]:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="cannot be read"):
            read_checkpoint(path)
        path.write_bytes(whole[:size] + bytes(len(whole) - size))  # as a power cut leaves it
        with pytest.raises(UserError, match="cannot be read"):
            read_checkpoint(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(path)


def test_the_seal_is_the_comment_of_a_sound_archive(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"genodiff sha256 ")
    assert_equal(torch.load(path, weights_only=True), WHOLE)  # for whoever knows nothing of seals


def test_checkpoints_without_a_seal_are_read(tmp_path: Path) -> None:
    torch.save(WHOLE, tmp_path / "a.ckpt")
    assert_equal(read_checkpoint(tmp_path / "a.ckpt"), WHOLE)


def test_the_checkpoint_before_is_kept(tmp_path: Path) -> None:
    for step in range(3):
        saved(tmp_path / "last.ckpt", {**WHOLE, "global_step": step})
    assert names(tmp_path) == {"last.ckpt", "previous.ckpt"}
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2
    assert read_checkpoint(tmp_path / "previous.ckpt")["global_step"] == 1
    assert newest_checkpoint(tmp_path) == (tmp_path / "last.ckpt", 2)


def test_a_kill_at_any_moment_of_saving_leaves_the_newest_whole_one(tmp_path: Path) -> None:
    """Before the file is synchronised, before and between the two renames, and after them."""
    found = []
    for moment in range(4):
        folder = tmp_path / str(moment)
        for step in (1, 2):
            saved(folder / "last.ckpt", {**WHOLE, "global_step": step})
        if (child := os.fork()) == 0:
            kill_before(moment, (os, "fsync"), (Path, "replace"))
            saved(folder / "last.ckpt", {**WHOLE, "global_step": 3})
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == (-signal.SIGKILL if moment < 3 else 0)
        newest = newest_checkpoint(folder)
        assert newest is not None
        found.append((newest.path.name, newest.step))
        saved(folder / "last.ckpt", {**WHOLE, "global_step": 4})
        assert names(folder) == {"last.ckpt", "previous.ckpt"}
        assert read_checkpoint(folder / "previous.ckpt")["global_step"] == newest.step
    assert found == [("last.ckpt", 2)] * 2 + [("previous.ckpt", 2), ("last.ckpt", 3)]


def kill_before(moment: int, *calls: tuple[Any, str]) -> None:
    """This process is killed in the place of the `moment`-th of such calls."""
    left = [moment]

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*arguments, **options)

        return run

    for owner, name in calls:
        setattr(owner, name, guarded(getattr(owner, name)))


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    tiny.run(straight)
    tiny.run(broken, kill_at=11)  # checkpoints at 5, 10 and, stopped, at 11 or 12
    folder = broken / "checkpoints"
    last = folder / "last.ckpt"
    whole = bytearray(last.read_bytes())
    whole[len(whole) // 2] ^= 1
    last.write_bytes({"empty": b"", "cut": whole[:-100], "flipped": whole}[damage])
    newest = newest_checkpoint(folder)
    assert newest == (folder / "previous.ckpt", 10)
    (line,) = warnings_in(caplog)
    assert line.startswith(f"{last} (") and "going on from step 10 of previous.ckpt" in line
    assert names(folder) == {"best.ckpt", "previous.ckpt", "damaged.ckpt"}
    tiny.run(broken, resume=True)
    assert_equal(contents(straight), contents(broken))
    assert read_checkpoint(folder / "previous.ckpt")["global_step"] == 10


def test_damaged_checkpoints_alone_are_one_clear_line(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(
        UserError, match=r"no checkpoint in .* can be read: last.ckpt \(.*new run,"
    ):
        newest_checkpoint(tmp_path)
    (tmp_path / "previous.ckpt").write_text("x")
    (tmp_path / "best.ckpt").touch()
    pattern = r"last.ckpt \(.*\), previous.ckpt \(.*\); start a new run with init=.*best.ckpt,"
    with pytest.raises(UserError, match=pattern) as caught:
        newest_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"Beside it: last.ckpt, previous.ckpt\."):
        read_checkpoint(tmp_path / "best.ckpt")
    assert names(tmp_path) == {"last.ckpt", "previous.ckpt", "best.ckpt"}


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: a write that really fails, with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_refuses_is_told_as_such_wherever_it_does(tmp_path: Path) -> None:
    path = saved(tmp_path / "last.ckpt")
    whole = path.read_bytes()
    for size in (0, 100, 1000, len(whole) - 200, len(whole) - 90, len(whole) - 1):
        with file_limit(size), pytest.raises(OSError, match="File too large"):
            saved(tmp_path / "last.ckpt")
        assert names(tmp_path) == {"last.ckpt"} and path.read_bytes() == whole


def test_a_disk_that_is_full_for_a_while_costs_the_run_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight, full = tmp_path / "straight", tmp_path / "full"
    tiny.run(straight)
    fitted = run_with_limits(full, {3: 3000, 11: None})
    assert fitted.steps == 12 and not fitted.interrupted
    lines = warnings_in(caplog)
    assert any("step 4: these are the best weights" in line for line in lines)
    assert any("step 5: last.ckpt cannot be written (File too large" in line for line in lines)
    assert any("step 10: " in line and "next attempt is at step 12" in line for line in lines)
    assert_equal(contents(straight), contents(full))
    assert names(full / "checkpoints") == {"best.ckpt", "last.ckpt"}


def test_a_full_disk_at_the_end_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    straight, full = tmp_path / "straight", tmp_path / "full"
    tiny.run(straight)
    with pytest.raises(
        OutsideError, match=r"step 12: last.ckpt cannot be written \(File too large"
    ):
        run_with_limits(full, {7: 3000})
    assert newest_checkpoint(full / "checkpoints") == (full / "checkpoints" / "last.ckpt", 5)
    assert names(full / "checkpoints") == {"best.ckpt", "last.ckpt"}
    tiny.run(full, resume=True)
    assert_equal(contents(straight), contents(full))


def test_rows_that_the_disk_refuses_wait_also_in_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, full = tmp_path / "straight", tmp_path / "full"
    tiny.run(straight)

    def refuse(path: Path, contents: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OutsideError, match="lacks its last rows"):
        patch.setattr("genodiff.training.run_log.append_bytes", refuse)
        tiny.run(full, kill_at=7)
    assert len((full / "metrics.csv").read_text().splitlines()) == 1
    tiny.run(full, resume=True)
    assert_equal(contents(straight), contents(full))
    tiny.run(full, resume=True)  # nothing is left to do, and nothing is written twice
    assert_equal(contents(straight), contents(full))


class LimitedBatches(tiny.Batches):
    """At batch i, files may from now on grow to `limits[i]` bytes, or without limit."""

    def __init__(self, limits: dict[int, int | None]) -> None:
        super().__init__(0, None, 0, 1.0)
        self.limits = limits

    def __getitem__(self, index: int) -> TokenBatch:
        if index in self.limits:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            limit = self.limits[index]
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard if limit is None else limit, hard))
        return super().__getitem__(index)


def run_with_limits(folder: Path, limits: dict[int, int | None]) -> Fitted:
    """`tiny.run` on `LimitedBatches`."""
    plan = Plan(max_steps=12, log_every=3, validate_every=4, checkpoint_every=5, sample_every=6)
    folder.mkdir()
    with file_limit(resource.getrlimit(resource.RLIMIT_FSIZE)[0]):
        return fit(
            tiny.module(12),
            lambda first: DataLoader(LimitedBatches(limits), batch_size=None),
            plan,
            folder,
            score=tiny.score,
            draw=lambda model: f">a\n{tiny.score(model).nats_per_token}\n",
            device=torch.device("cpu"),
        )
