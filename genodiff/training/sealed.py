"""Files of tensors and plain values that are whole or known not to be.

torch.load notices few damaged bytes: it does not compare the checksums inside its zip archives. So
the archive's comment, which ends the file, is the SHA-256 of all before it, and every reader
compares. It is part of the file, hence as atomic as the file is; an archive without any comment,
as torch.save leaves it and genodiff 0.1 wrote it, is read unverified.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

_LABEL = b"genodiff sha256 "
_SEAL_BYTES = len(_LABEL) + hashlib.sha256().digest_size * 2
_ZIP_END, _ZIP_END_BYTES = b"PK\5\6", 22
"""The last record of a zip archive; its last two bytes are the length of the comment after it."""
_BLOCK_BYTES = 1 << 20


class UnreadableError(Exception):
    """Why a file is not whole."""


def write_sealed(contents: Any, path: Path) -> None:
    """Writes the archive, then its comment: the SHA-256 of all before it."""
    with path.open("w+b") as file:
        try:
            torch.save(contents, file)
        except RuntimeError as error:
            # What torch meets when it ends the archive that the disk did not take.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.seek(-2, os.SEEK_END)
        file.write(_SEAL_BYTES.to_bytes(2, "little"))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(_LABEL + digest.encode())


def read_sealed(path: Path, *, mapped: bool = False) -> Any:
    """The contents of a whole file, on the CPU. Raises UnreadableError for any other.

    `mapped` tensors are read when they are used, so that those of a big file need no memory; the
    file has to stay as it is until then.
    """
    try:
        _require_whole(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file may fail in any way
        raise UnreadableError(str(error).strip().split("\n")[0][:120]) from error


def _require_whole(path: Path) -> None:
    """Raises ValueError unless `path` is as it was written, as far as that can be known."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _SEAL_BYTES))
        end = file.read()
        if end[-_ZIP_END_BYTES:].startswith(_ZIP_END) and end.endswith(b"\0\0"):
            return  # an archive without a comment
        if not end.startswith(_LABEL):
            raise ValueError("its end is missing")
        file.seek(0)
        digest, left = hashlib.sha256(), size - _SEAL_BYTES
        while left and (block := file.read(min(left, _BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
    if digest.hexdigest().encode() != end[len(_LABEL) :]:
        raise ValueError("its SHA-256 is not the one it was written with")
