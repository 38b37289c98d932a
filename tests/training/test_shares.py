"""A checkpoint in shares holds what a whole one holds, and is as hard to lose."""

import errno
import os
import signal
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from genodiff.errors import UserError
from genodiff.files import set_aside
from genodiff.ranks import Ranks
from genodiff.tasks.model import checkpoint_file, load_model
from genodiff.tasks.sources import is_ours
from genodiff.training import newest_checkpoint, read_checkpoint, sharding, shares
from genodiff.training.checkpoints import AtomicCheckpointIO
from genodiff.training.shares import Share
from tests.training.test_checkpoints import kill_before, names, warnings_in
from tests.training.test_fit import assert_equal
from tests.training.worlds import train_on_several, write_genome

Act = Callable[[int], Any]


@pytest.fixture
def on_all(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Act], list[Any]]:
    """Calls a function of the rank on so many ranks, threads of this process. Returns what each
    returned, or the OSError that it raised."""
    here = threading.local()

    def run(size: int, act: Act) -> list[Any]:
        outcomes: list[Any] = [None] * size
        table: list[Any] = [None] * size
        meeting = threading.Barrier(size, timeout=60)

        def exchange(parts: list[Any], mine: Any) -> None:
            table[here.rank] = mine
            meeting.wait()
            parts[:] = table
            meeting.wait()

        def process(rank: int) -> None:
            here.rank = rank
            try:
                outcomes[rank] = act(rank)
            except OSError as error:
                outcomes[rank] = error

        monkeypatch.setattr(torch.distributed, "all_gather_object", exchange)
        threads = [threading.Thread(target=process, args=(rank,)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes

    return run


def whole(step: int = 3) -> dict[str, Any]:
    """With tensors shorter than the number of ranks, and indivisible ones, on either axis."""
    weights = OrderedDict(
        (f"w{n}", torch.arange(float(n * 5)).reshape(n, 5)) for n in (0, 1, 2, 3, 4, 5, 7)
    )
    weights["half"] = torch.arange(8).to(torch.bfloat16)
    return {
        "genodiff": {"model": {}},
        "state_dict": weights,
        "global_step": step,
        "ema": {"shadow": [torch.full((5, 4), 1.5)]},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "lr": 0.1}],
    }


def cut(checkpoint: dict[str, Any], rank: int, size: int) -> dict[str, Any]:
    """What a rank has of it, the averages being cut along their second axis."""

    def share(tensor: torch.Tensor, axis: int) -> Share:
        parts = torch.chunk(tensor, size, axis)
        empty = tensor.narrow(axis, 0, 0)
        return Share((parts[rank] if rank < len(parts) else empty).clone(), axis)

    weights = OrderedDict((k, share(v, 0)) for k, v in checkpoint["state_dict"].items())
    averages = [share(v, 1) for v in checkpoint["ema"]["shadow"]]
    return {**checkpoint, "state_dict": weights, "ema": {"shadow": averages}}


def save(path: Path, step: int = 3, rank: int = 0, size: int = 1) -> Path:
    AtomicCheckpointIO().save_checkpoint(cut(whole(step), rank, size), path, Ranks(rank, size))
    return path


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_of_any_length_are_put_together(
    tmp_path: Path, on_all: Callable[[int, Act], list[Any]], size: int
) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert on_all(size, lambda rank: save(path, 3, rank, size)) == [path] * size
    assert names(path) == {f"share_{rank}.pt" for rank in range(size)}
    contents = read_checkpoint(path)
    assert_equal(contents, whole())
    assert list(contents) == list(whole()) and list(contents["state_dict"]) == list(
        whole()["state_dict"]
    )
    for rank in range(1, size):
        file = torch.load(path / f"share_{rank}.pt", weights_only=True)
        assert file.keys() == {"saving", "rank", "size", "parts"}


def test_what_torch_cuts_is_put_together(
    tmp_path: Path,
    on_all: Callable[[int, Act], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its DTensors on three processes, of which each has but its own part in memory."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # torch sets one that names the rank
    size, tensors = 3, {f"w{n}": torch.randn(n, 4) for n in (1, 2, 3, 4, 5, 7)}
    parts: list[dict[str, Any]] = []
    for rank in range(size):
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
        try:
            mesh = init_device_mesh("cpu", (size,))
            cut = {
                name: distribute_tensor(tensor, mesh, [Shard(0)], src_data_rank=None)
                for name, tensor in tensors.items()
            }
            parts.append({name: sharding._share(tensor) for name, tensor in cut.items()})
        finally:
            torch.distributed.destroy_process_group()
    assert any(share.part.shape[0] == 0 for share in parts[2].values())
    for share in (share for process in parts for share in process.values()):
        assert share.part.untyped_storage().nbytes() == share.part.nbytes
    path = tmp_path / "last.ckpt"
    on_all(
        size, lambda rank: shares.write_shares(parts[rank], path, keep=None, ranks=Ranks(rank, 3))
    )
    assert_equal(shares.read_shares(path), tensors)


def test_a_share_that_is_missing_damaged_or_of_another_checkpoint_is_noticed(
    tmp_path: Path, on_all: Callable[[int, Act], list[Any]]
) -> None:
    path, other = tmp_path / "last.ckpt", tmp_path / "other.ckpt"
    for target in (path, other):  # equal steps: only the saving differs
        on_all(2, lambda rank, target=target: save(target, 3, rank, 2))
    first, second = path / "share_0.pt", path / "share_1.pt"
    sound = [first.read_bytes(), second.read_bytes()]
    flipped = bytearray(sound[1])
    flipped[len(flipped) // 2] ^= 1
    for file, bytes_, complaint in (
        (second, flipped, "share_1.pt: its SHA-256 is not"),
        (second, sound[1][:-100], "share_1.pt: "),
        (second, None, "share_1.pt is missing"),
        (first, None, "share_0.pt is missing"),
        (second, (other / second.name).read_bytes(), "share_1.pt is of another checkpoint"),
        (first, (other / first.name).read_bytes(), "share_1.pt is of another checkpoint"),
        (second, sound[0], "share_1.pt is another file"),
    ):
        file.unlink()
        if bytes_ is not None:
            file.write_bytes(bytes_)
        with pytest.raises(UserError, match=rf"last.ckpt cannot be read \({complaint}"):
            read_checkpoint(path)
        for name, contents in zip((first, second), sound, strict=True):
            name.write_bytes(contents)
    assert_equal(read_checkpoint(path), whole())


def test_a_damaged_folder_falls_back_and_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):  # the second and third are set aside in the place of the one before
        for _ in range(2):
            save(tmp_path / "last.ckpt", step)
        (tmp_path / "last.ckpt" / "share_0.pt").write_bytes(b"x" * step)
        assert newest_checkpoint(tmp_path) == (tmp_path / "previous.ckpt", step)
        assert names(tmp_path) == {"previous.ckpt", "damaged.ckpt"}
        assert (tmp_path / "damaged.ckpt" / "share_0.pt").read_bytes() == b"x" * step
    line = warnings_in(caplog)[-1]
    assert line.startswith(f"{tmp_path}/last.ckpt (share_0.pt: its end is missing) cannot be read")
    assert "going on from step 3 of previous.ckpt" in line
    set_aside(tmp_path / "last.ckpt", tmp_path / "damaged.ckpt")  # as another process does then
    assert names(tmp_path) == {"previous.ckpt", "damaged.ckpt"}


def save_whole(path: Path, step: int) -> None:
    AtomicCheckpointIO().save_checkpoint(whole(step), path)


@pytest.mark.parametrize("forms", [(save, save), (save, save_whole), (save_whole, save)])
def test_a_kill_at_any_moment_leaves_an_old_or_the_new_one(
    tmp_path: Path, forms: tuple[Callable[[Path, int], Any], Callable[[Path, int], Any]]
) -> None:
    """Folders after folders, a file after folders, a folder after files."""
    found: list[tuple[str, int]] = []
    for moment in range(100):
        folder = tmp_path / str(moment)
        last = folder / "last.ckpt"
        for step in (1, 2):
            forms[0](last, step)
        if (child := os.fork()) == 0:
            calls = (
                (os, "fsync"),
                (Path, "replace"),
                (Path, "mkdir"),
                (os, "unlink"),
                (os, "rmdir"),
            )
            kill_before(moment, *calls)
            try:
                forms[1](last, 3)
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        newest = newest_checkpoint(folder)
        assert newest is not None and not (folder / "damaged.ckpt").exists()
        assert_equal(read_checkpoint(newest.path), whole(newest.step))
        found.append((newest.path.name, newest.step))
        forms[1](last, 4)
        assert names(folder) == {"last.ckpt", "previous.ckpt"}
        assert read_checkpoint(last)["global_step"] == 4
        assert read_checkpoint(folder / "previous.ckpt")["global_step"] == newest.step
        if status == 0:
            break
        assert status == -signal.SIGKILL
    order = list(dict.fromkeys(found))
    assert order == [("last.ckpt", 2), ("previous.ckpt", 2), ("last.ckpt", 3)]


def test_what_one_rank_cannot_write_none_has(
    tmp_path: Path,
    on_all: Callable[[int, Act], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "last.ckpt"
    on_all(2, lambda rank: save(path, 1, rank, 2))

    def refuse(contents: dict[str, Any], file: Path) -> None:
        file.write_bytes(b"the half of it")
        if contents["rank"] == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shares, "write_sealed", refuse)
        errors = on_all(2, lambda rank: save(path, 2, rank, 2))
    assert [(type(e), e.errno, e.strerror) for e in errors] == [
        (OSError, errno.ENOSPC, "No space left on device")
    ] * 2
    assert names(tmp_path) == {"last.ckpt"} and read_checkpoint(path)["global_step"] == 1
    (tmp_path / "file").touch()
    errors = on_all(2, lambda rank: save(tmp_path / "file" / "last.ckpt", 2, rank, 2))
    assert [type(error) for error in errors] == [FileExistsError] * 2


def test_a_folder_of_shares_is_a_checkpoint_and_no_run(tmp_path: Path) -> None:
    last = save(tmp_path / "checkpoints" / "last.ckpt")
    assert checkpoint_file(last) == checkpoint_file(tmp_path) == last
    assert_equal(AtomicCheckpointIO().load_checkpoint(last), whole())
    (last / "share_0.pt").rename(last / "share_1.pt")  # as much as is left of it
    assert checkpoint_file(last) == last and is_ours(last)
    (tmp_path / "empty.ckpt").mkdir()
    with pytest.raises(UserError, match=r"share_0.pt is missing\); it is damaged or not"):
        read_checkpoint(tmp_path / "empty.ckpt")


@pytest.mark.slow
def test_shares_of_two_processes_are_what_gathering_gives(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """To the bit; also after a disk that was full for the second process alone, and after it was
    killed while it wrote."""
    genome = list(write_genome(tmp_path))
    job = {"objective": "mdlm", "genome": genome, "devices": 2, "strategy": "fsdp"}
    straight, full, killed = (
        {"run": str(tmp_path / name), **job} for name in ("straight", "full", "killed")
    )
    assert train_on_several([{**straight, "gather": True}]) == [0, 0]
    folder = tmp_path / "straight" / "checkpoints"
    for name in ("last.ckpt", "previous.ckpt"):
        assert names(folder / name) == {"share_0.pt", "share_1.pt"}
    for name in ("last.ckpt", "best.ckpt"):
        gathered = torch.load(folder / f"{name}.gathered", weights_only=True)
        assert_equal(read_checkpoint(folder / name), gathered)
    contents = read_checkpoint(folder / "last.ckpt")
    numbers = sum(weight.numel() for weight in contents["state_dict"].values())
    moments = contents["optimizer_states"][0]["state"].values()
    assert sum(state["exp_avg_sq"].numel() for state in moments) == numbers
    part = torch.load(folder / "last.ckpt" / "share_1.pt", weights_only=True)["parts"]
    assert sum(tensor.numel() for tensor, _ in part.values()) <= 4 * numbers / 2
    load_model(folder / "last.ckpt", torch.device("cpu"))
    for file in folder.glob("*.gathered"):
        file.unlink()

    capfd.readouterr()
    assert train_on_several([{**full, "full_at": 3}]) == [0, 0]
    assert "step 4: last.ckpt cannot be written (File too large" in capfd.readouterr().err
    previous = read_checkpoint(tmp_path / "full" / "checkpoints" / "previous.ckpt")
    assert previous["global_step"] == 2

    first, second = train_on_several([{**killed, "kill_at": 3}])
    assert first != 0 and second == -signal.SIGKILL
    newest = newest_checkpoint(tmp_path / "killed" / "checkpoints")
    assert newest is not None and newest.step == 2
    assert train_on_several([killed]) == [0, 0]

    for run in ("full", "killed"):
        assert names(tmp_path / run / "checkpoints") == names(folder)
        for name in ("last.ckpt", "best.ckpt"):
            ours = read_checkpoint(tmp_path / run / "checkpoints" / name)
            other = read_checkpoint(folder / name)
            for key in ("global_step", "state_dict", "ema", "optimizer_states"):
                if key in other:
                    assert_equal(ours[key], other[key])
