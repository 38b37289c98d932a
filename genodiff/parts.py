"""A file that is written in numbered parts, by any number of processes, and survives any kill.

The parts of `DIR/NAME` lie in the folder `DIR/.NAME.parts` until all of them are there; then they
become the file, and the folder goes. Each part is written whole or not at all and is known by its
number, so a command that was stopped anywhere and is given again makes the parts that are missing
and no others. `work.json` in the folder says what they are parts of: a command that would make
others does not take them for its own.
"""

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, final

from genodiff.errors import OutsideError, UserError
from genodiff.files import (
    atomic_path,
    claim_file,
    discard,
    free_space,
    is_disk_trouble,
    sole_writer,
    write_text,
)
from genodiff.ranks import ALONE, Ranks

_WORK = "work.json"


@final
class Parts:
    """The parts of one file; made by `parts_of`."""

    def __init__(self, folder: Path, ranks: Ranks):
        self.folder, self.ranks = folder, ranks

    def mine(self, index: int) -> bool:
        """Whether this process is to make part `index`, which is not there."""
        is_ours = index % self.ranks.size == self.ranks.rank
        return is_ours and not self._path(index).exists()

    def write(self, index: int, contents: bytes, tally: Mapping[str, float] | None = None) -> None:
        """Keeps a part, with what is to be counted over all of them."""
        with atomic_path(self._path(index)) as temporary, temporary.open("wb") as file:
            file.write(json.dumps(dict(tally or {})).encode() + b"\n")
            file.write(contents)

    def tally(self, count: int) -> Counter[str]:
        """The sums over the first `count` parts."""
        total: Counter[str] = Counter()
        for index in range(count):
            with self._path(index).open("rb") as file:
                total.update(json.loads(file.readline()))
        return total

    def open(self, count: int) -> Iterator[BinaryIO]:
        """The first `count` parts in order, each open at the beginning of its contents."""
        for index in range(count):
            with self._path(index).open("rb") as file:
                file.readline()
                yield file

    def join(self, sink: BinaryIO, count: int) -> None:
        """Writes the first `count` parts to `sink`, one after the other."""
        for part in self.open(count):
            shutil.copyfileobj(part, sink, 1 << 20)

    def wait(self) -> None:
        """Until all processes are here."""
        self.ranks.together([None])

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:09d}"


def claim_outputs(target: Path, *beside: Path, overwrite: bool) -> Path:
    """Checks, before any work is done, that the file `target` and those `beside` it can be
    written, as `claim_file` does. Where there are parts of `target`, a kill may have left some of
    these files: they are written again, unless the parts are another command's."""
    is_begun = _folder(target).is_dir()
    for path in (*beside, target):
        claim_file(path, overwrite=overwrite or is_begun)
    return target


@contextmanager
def standard_output() -> Iterator[None]:
    """While results are written there. If its reader leaves before their end, as `head` does, the
    command ends with code 1 and without a word."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes what is left when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


@contextmanager
def parts_of(
    target: Path | None,
    work: Mapping[str, Any],
    *,
    overwrite: bool = False,
    ranks: Ranks = ALONE,
) -> Iterator[Parts]:
    """The parts of the file `target`, those that are there included. Left without an error, it
    deletes them: the file has to be written by then. None is standard output, whose parts do not
    outlive this.

    Args:
        work: all that the parts depend on, as plain JSON values: keys of the command, checksums of
            what it reads, the records in a part. Not what changes nothing, such as devices.
        overwrite: throw away parts that another command left, in the place of a UserError.

    Raises:
        UserError: parts of another command, or another process that is making them.
        OutsideError: a disk that is full or fails; the parts stay.
    """
    if target is None:
        if ranks.size > 1:
            raise UserError("out=- is of one process; give a file, or devices=1.")
        with tempfile.TemporaryDirectory(prefix="genodiff-") as folder:
            yield Parts(Path(folder), ranks)
        return
    folder = _folder(target)
    with ExitStack() as stack:
        if ranks.rank == 0:
            folder.mkdir(exist_ok=True)
            stack.enter_context(sole_writer(folder))
            _claim(folder, target, json.loads(json.dumps(dict(work))), overwrite)
        parts = Parts(folder, ranks)
        parts.wait()
        try:
            yield parts
        except OSError as error:
            if not is_disk_trouble(error):
                raise
            raise OutsideError(
                f"out={target} cannot be written ({error.strerror}; {free_space(folder)}); what "
                "is done is kept: make room, and give the same command again."
            ) from error
        parts.wait()
        if ranks.rank == 0:
            discard(folder)


def _folder(target: Path) -> Path:
    return target.with_name(f".{target.name}.parts")


def _claim(folder: Path, target: Path, work: dict[str, Any], overwrite: bool) -> None:
    """Checks that parts in the folder are of the same work, or empties it."""
    known: Any = None
    if (folder / _WORK).is_file():
        known = json.loads((folder / _WORK).read_text(encoding="utf-8"))
    if known == work:
        return
    left = [*folder.glob("[0-9]*")]
    if known is not None and left and not overwrite:
        raise UserError(
            f"out={target} was begun by another command, {_difference(known, work)}; give "
            "that one again to finish it, or overwrite=true to drop what it made."
        )
    # First what says whose parts they are: without it a kill leaves parts of nobody.
    for path in (folder / _WORK, *left):
        path.unlink(missing_ok=True)
    write_text(folder / _WORK, json.dumps(work, indent=2) + "\n")


def _difference(known: Mapping[str, Any], work: Mapping[str, Any]) -> str:
    """The first thing that is not the same."""
    for name in [*work, *known]:
        if known.get(name) != work.get(name):
            return f"with {name}={known.get(name)} where this one has {work.get(name)}"
    return "of another version"
