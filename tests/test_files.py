"""Writing results: whole or not at all, and never over something else."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from genodiff.errors import UserError
from genodiff.files import (
    append_bytes,
    atomic_folder,
    atomic_path,
    claim_file,
    claim_folder,
    free_space,
    remove_leftovers,
    sole_writer,
    unclaimed,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_the_file_before_is_kept_where_asked(tmp_path: Path) -> None:
    target, before = tmp_path / "a.txt", tmp_path / "b.txt"
    for text in ("1", "2", "3"):
        with atomic_path(target, keep=before) as temporary:
            temporary.write_text(text)
    assert (target.read_text(), before.read_text()) == ("3", "2")
    with pytest.raises(RuntimeError), atomic_path(target, keep=before):
        raise RuntimeError
    assert (target.read_text(), before.read_text()) == ("3", "2")
    assert sorted(tmp_path.iterdir()) == [target, before]


def test_what_is_appended_is_there_in_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    append_bytes(target, b"1,2\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, limits[1]))  # room for a half of what comes
    try:
        with pytest.raises(OSError, match="File too large"):
            append_bytes(target, b"3,4\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_bytes() == b"1,2\n"
    append_bytes(target, b"3,4\n")
    assert target.read_bytes() == b"1,2\n3,4\n"


def test_leftovers_of_a_killed_writer_are_removed_and_in_nobodys_way(tmp_path: Path) -> None:
    killed = atomic_path(tmp_path / "a.txt")
    assert killed.__enter__().exists()
    assert claim_folder(tmp_path, overwrite=False) == tmp_path
    (tmp_path / "a.txt").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_free_space_is_that_of_the_disk_where_a_folder_would_be(tmp_path: Path) -> None:
    assert free_space(tmp_path / "none" / "deeper").endswith(" MiB free")


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(UserError, match="exists; choose another name, or overwrite=true"):
        claim_file(target, overwrite=False)
    assert claim_file(target, overwrite=True) == target and target.read_text() == "old"


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a folder"):
        claim_file(tmp_path, overwrite=True)
    with pytest.raises(UserError, match="is a file"):
        claim_folder(tmp_path / "file", overwrite=True)


def test_an_unwritable_place_is_said_before_any_work() -> None:
    with pytest.raises(UserError, match="cannot be written"):
        claim_file(Path("/proc/genodiff/a.txt"), overwrite=False)
    with pytest.raises(UserError, match="cannot be written"):
        claim_folder(Path("/proc/genodiff"), overwrite=False)


@pytest.mark.parametrize("claim", [claim_file, claim_folder])
def test_a_name_that_no_file_system_takes_is_said_before_any_work(
    claim: Callable[..., Path], tmp_path: Path
) -> None:
    claim(tmp_path / ("a" * 200), overwrite=False)
    with pytest.raises(UserError, match="a name of 201 bytes in it; use names of 200 or less"):
        claim(tmp_path / ("a" * 201), overwrite=False)


def test_a_folder_is_held_by_one_process_and_by_none_that_it_forks(tmp_path: Path) -> None:
    hold = (
        "import os, sys, time; from pathlib import Path; from genodiff.files import sole_writer\n"
        "with sole_writer(Path(sys.argv[1])):\n"
        "    if os.fork() == 0: time.sleep(60)\n"
        "    else: print('held', flush=True); sys.stdin.read(); os._exit(9)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match="another process is writing to"),
            sole_writer(tmp_path),
        ):
            pass
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(60) == 9  # and what it forked lives on
        with sole_writer(tmp_path):
            pass
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        assert child.stdout is not None
        child.stdout.close()


def test_overwrite_empties_only_what_genodiff_wrote(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty"):
        claim_folder(run, overwrite=False)
    with pytest.raises(UserError, match="was not written by genodiff"):
        claim_folder(run, overwrite=True)
    (run / "manifest.json").touch()
    claim_folder(run, overwrite=True)
    assert list(run.iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with pytest.raises(RuntimeError), atomic_folder(target, overwrite=False) as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert list((tmp_path / "deep").iterdir()) == []
    with atomic_folder(target, overwrite=False) as temporary:
        (temporary / "manifest.json").write_text("1")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["manifest.json"]
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o777 & ~umask


def test_an_old_folder_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "manifest.json").write_text("old")
    with (
        pytest.raises(UserError, match="not empty"),
        atomic_folder(target, overwrite=False),
    ):
        pass
    with pytest.raises(RuntimeError), atomic_folder(target, overwrite=True):
        raise RuntimeError
    assert (target / "manifest.json").read_text() == "old"
    with atomic_folder(target, overwrite=True) as temporary:
        (temporary / "manifest.json").write_text("new")
    assert (target / "manifest.json").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_what_another_process_holds_is_not_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = (
        "import sys\nfrom pathlib import Path\nfrom genodiff.files import unclaimed\n"
        "with unclaimed(Path(sys.argv[1])) as free:\n"
        "    print(free, flush=True)\n    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        with unclaimed(lock) as free:
            assert not free
        process.kill()
    with unclaimed(lock) as free:
        assert free
