"""A file in parts: stopped anywhere, taken up again, by any number of processes."""

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest

from genodiff.errors import OutsideError, UserError
from genodiff.parts import Parts, claim_outputs, parts_of
from genodiff.ranks import Ranks

WORK = {"seed": 0, "sha256": "ab"}


def make(parts: Parts, wanted: range) -> list[int]:
    """Makes those of the parts that are this process'; their numbers."""
    made = [index for index in wanted if parts.mine(index)]
    for index in made:
        parts.write(index, b"%d\n" % index, {"records": 1, f"of {index}": 2})
    return made


def stop_after(path: Path, wanted: range) -> None:
    with pytest.raises(KeyboardInterrupt), parts_of(path, WORK) as parts:
        make(parts, wanted)
        raise KeyboardInterrupt


def test_parts_are_joined_in_order_and_go_with_their_folder(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with parts_of(tmp_path / "a.txt", WORK) as parts:
        for index in (2, 0, 1):
            make(parts, range(index, index + 1))
        parts.join(sink, 3)
        assert parts.tally(3) == {"records": 3, "of 0": 2, "of 1": 2, "of 2": 2}
        assert [part.read() for part in parts.open(3)] == [b"0\n", b"1\n", b"2\n"]
    assert sink.getvalue() == b"0\n1\n2\n"
    assert not list(tmp_path.iterdir())


def test_what_was_made_before_a_stop_is_not_made_again(tmp_path: Path) -> None:
    stop_after(tmp_path / "a.txt", range(2))
    with parts_of(tmp_path / "a.txt", WORK) as parts:
        assert make(parts, range(4)) == [2, 3]


def test_processes_make_each_part_once_and_another_number_of_them_goes_on(
    tmp_path: Path,
) -> None:
    stop_after(tmp_path / "a.txt", range(3))
    folder = tmp_path / ".a.txt.parts"
    made = [make(Parts(folder, Ranks(rank, 2)), range(6)) for rank in (0, 1)]
    assert made == [[4], [3, 5]]


def test_half_a_part_is_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(tmp_path / "a.txt", range(1))
    parts = Parts(tmp_path / ".a.txt.parts", Ranks())
    with monkeypatch.context() as patched:
        patched.setattr("genodiff.files.rename", lambda *_, **__: (_ for _ in ()).throw(OSError()))
        with pytest.raises(OSError):
            parts.write(1, b"half")
    assert parts.mine(1)


def test_parts_of_another_command_are_refused_by_what_differs(tmp_path: Path) -> None:
    stop_after(tmp_path / "a.txt", range(1))
    with (
        pytest.raises(UserError, match="with seed=0 where this one has 1; give"),
        parts_of(tmp_path / "a.txt", {**WORK, "seed": 1}),
    ):
        pass
    with parts_of(tmp_path / "a.txt", {**WORK, "seed": 1}, overwrite=True) as parts:
        assert make(parts, range(1)) == [0]


def test_a_command_that_made_nothing_stands_in_nobodys_way(tmp_path: Path) -> None:
    stop_after(tmp_path / "a.txt", range(0))
    with parts_of(tmp_path / "a.txt", {**WORK, "seed": 1}) as parts:
        assert make(parts, range(1)) == [0]


def test_a_command_that_is_given_twice_at_once_is_run_once(tmp_path: Path) -> None:
    stop_after(tmp_path / "a.txt", range(1))
    hold = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX)"
    words = [sys.executable, "-c", f"{hold}; print(flush=True); input()"]
    lock = str(tmp_path / ".a.txt.parts" / ".lock")
    with subprocess.Popen(
        [*words, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with (
            pytest.raises(UserError, match="another process is writing to"),
            parts_of(tmp_path / "a.txt", {**WORK, "seed": 1}, overwrite=True),
        ):
            pass
        other.communicate("\n")
    with parts_of(tmp_path / "a.txt", WORK) as parts:
        assert make(parts, range(2)) == [1]


def test_a_full_disk_is_told_in_one_line_and_loses_no_part(tmp_path: Path) -> None:
    with (
        pytest.raises(OutsideError, match=r"a.txt cannot be written \(No space left.*MiB free\)"),
        parts_of(tmp_path / "a.txt", WORK) as parts,
    ):
        make(parts, range(1))
        raise OSError(errno.ENOSPC, "No space left on device")
    with parts_of(tmp_path / "a.txt", WORK) as parts:
        assert make(parts, range(2)) == [1]


def test_what_a_kill_left_of_the_outputs_is_written_again(tmp_path: Path) -> None:
    target, report = tmp_path / "a.txt", tmp_path / "a.json"
    target.write_text("written, and then killed")
    with pytest.raises(UserError, match="exists"):
        claim_outputs(target, report, overwrite=False)
    stop_after(target, range(1))
    assert claim_outputs(target, report, overwrite=False) == target
    with (
        pytest.raises(UserError, match="was begun by another command"),
        parts_of(target, {**WORK, "seed": 1}),
    ):
        pass


def test_parts_for_standard_output_leave_nothing_behind(tmp_path: Path) -> None:
    with parts_of(None, WORK) as parts:
        make(parts, range(1))
        folder = parts.folder
    assert not folder.exists()
    with (
        pytest.raises(UserError, match="out=- is of one process"),
        parts_of(None, WORK, ranks=Ranks(0, 2)),
    ):
        pass


def test_a_reader_that_leaves_ends_a_command_without_a_word() -> None:
    lines = (
        "import sys",
        "from genodiff.parts import standard_output",
        "with standard_output():",
        "    print('x', flush=True)",
        "    input()",
        "    print('y')",
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)], stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        assert process.stdout.readline() == b"x\n"
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert (process.stderr.read(), process.wait()) == (b"", 1)
