"""Writing results so that a killed run leaves no half file under a final name."""

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genodiff.errors import UserError

_DISK_TROUBLE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
)
_TEMPORARY = ".*.tmp"
_LOCK = ".lock"
_LONGEST_NAME = 200  # of the 255 bytes of a file system


@contextmanager
def atomic_path(path: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """A temporary name beside `path`; renamed onto it on success, deleted on any exception.

    What `path` was until then is renamed `keep`, if given: a kill between the two renames leaves
    `keep` alone.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        rename(temporary, path, keep=keep)
    finally:
        temporary.unlink(missing_ok=True)


def rename(source: Path, path: Path, *, keep: Path | None) -> None:
    """Renames a file or a folder; what `path` was until then, if anything, is renamed `keep`, if
    given. A kill at any moment leaves one of `path` and `keep`, whole."""
    if keep is not None and path.exists():
        if path.is_dir() or keep.is_dir():
            discard(keep)  # which no renaming replaces
        path.replace(keep)
    source.replace(path)


def discard(path: Path) -> None:
    """Deletes a file or a folder, if there is one; no part of it ever has its name."""
    with suppress(FileNotFoundError):
        _delete(path.replace(temporary_name(path)))


def set_aside(path: Path, onto: Path) -> None:
    """Renames the file or folder `path` in place of what `onto` was. Of several processes that do
    so at once, one does it and the others nothing."""
    with suppress(FileNotFoundError):
        taken = path.replace(temporary_name(path))
        discard(onto)
        taken.replace(onto)


def temporary_name(path: Path) -> Path:
    """A new name beside `path`, for what is not whole."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


@contextmanager
def exclusive(lock: Path) -> Iterator[bool]:
    """Waits until no other process holds the file `lock`, then holds it; yields whether it does.

    A process that is killed loses it. The lock is advisory, and there is none on Windows and on
    some network file systems.
    """
    with lock.open("w") as handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
            is_held = True
        except (ImportError, OSError):
            is_held = False
        yield is_held


@contextmanager
def unclaimed(lock: Path) -> Iterator[bool]:
    """Holds the file `lock` if no other process does, without waiting; yields whether that is so.
    Where there are no locks nobody is known to hold one."""
    with lock.open("w") as handle:
        is_free = True
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_free = False
        except (ImportError, OSError):
            pass
        yield is_free


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Holds `folder`, which exists, for this process and for none that it forks; one that is
    killed loses it. Raises UserError if another process holds it.

    Where there are no locks nobody is known to hold it.
    """
    with (folder / _LOCK).open("w") as handle:
        try:
            import fcntl

            # Not flock: workers of a data loader would keep that for seconds after a kill.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UserError(
                f"another process is writing to {folder}; wait until it has ended, or stop it."
            ) from error
        except (ImportError, OSError):
            pass
        yield


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `path`; renamed onto it on success, deleted on any exception.

    With `overwrite` it replaces an old one, which stays as it is until then. Raises UserError as
    `claim_folder` does.
    """
    _require_free(path, overwrite)
    _require_writable(path.parent, path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.is_dir():
            # Two renames: a kill between them leaves the old folder under a temporary name.
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_bytes(path: Path, contents: bytes) -> None:
    """Appends `contents` to `path`: all of it or, where that raises OSError, nothing."""
    left = memoryview(contents)
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            while left:  # a disk that fills up takes a part, and refuses the rest
                left = left[file.write(left) :]
        except OSError:
            file.truncate(size)
            raise


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files and folders of writers in `folder` that were killed.

    For a folder that one process writes to: another's would go as well.
    """
    for leftover in folder.glob(_TEMPORARY):
        _delete(leftover)


def is_disk_trouble(error: OSError) -> bool:
    """Whether a disk is full or failing, which no other argument would have prevented."""
    return error.errno in _DISK_TROUBLE


def free_space(folder: Path) -> str:
    """What is free on the disk where `folder` is or would be, for a message."""
    while not folder.exists():
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB free"


def claim_file(path: Path, *, overwrite: bool) -> Path:
    """Checks, before any work is done, that `path` can be written; makes its folder.

    Raises UserError if it exists (without `overwrite`), is a folder, or cannot be written.
    """
    _require_short(path)
    if path.is_dir():
        raise UserError(f"out={path} is a folder; give the name of a file in it.")
    if path.exists() and not overwrite:
        raise UserError(f"out={path} exists; choose another name, or overwrite=true.")
    _require_writable(path.parent, path)
    return path


def claim_folder(path: Path, *, overwrite: bool) -> Path:
    """Makes the folder `path` for a task's results; with `overwrite` an old one is emptied first.

    Raises UserError if it exists and is not empty (without `overwrite`), if another process is
    writing to it, or if it cannot be written.
    """
    _require_free(path, overwrite)
    _require_writable(path, path)
    if any(path.iterdir()):
        with sole_writer(path):
            shutil.rmtree(path)
        path.mkdir()
    return path


def _require_free(path: Path, overwrite: bool) -> None:
    """Raises UserError unless `path` is nothing, an empty folder, or one of ours to overwrite."""
    _require_short(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"out={path} is a file; give the name of a folder.")
    # A task that was killed before its first file leaves a temporary one, or its lock.
    if path.is_dir() and not all(
        entry.match(_TEMPORARY) or entry.name == _LOCK for entry in path.iterdir()
    ):
        if not overwrite:
            raise UserError(
                f"out={path} exists and is not empty; choose another name, or overwrite=true."
            )
        if not _is_ours(path):
            raise UserError(
                f"out={path} was not written by genodiff, so overwrite=true will not empty it; "
                "choose another name."
            )


def _delete(path: Path) -> None:
    """Deletes a file or a folder. What cannot go, being open on a network disk, is a leftover."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    """The user's; temporary files are private, and results follow it like any other file."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _is_ours(path: Path) -> bool:
    return any((path / name).is_file() for name in ("manifest.json", "metrics.json"))


def _require_short(path: Path) -> None:
    """Raises UserError for a name that is too long, or leaves no room for a temporary one."""
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > _LONGEST_NAME:
        raise UserError(
            f"out= has a name of {longest} bytes in it; use names of {_LONGEST_NAME} or less."
        )


def _require_writable(folder: Path, target: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"out={target} cannot be written ({error.strerror}); choose a folder you may write to."
        ) from error
