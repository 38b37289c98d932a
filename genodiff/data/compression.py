"""How a file is compressed, told from its bytes and not from its name."""

from pathlib import Path
from typing import Literal, NamedTuple

HEADER_BYTES = 18
"""Of a file, or of a block of bgzip, that tell how it is compressed."""
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")

Compression = Literal["none", "gzip", "bgzip"]


class Compressed(NamedTuple):
    """How a file is compressed, and whether it has an end: an empty block, if it is bgzip. One
    that was cut between two blocks has none, and is valid gzip all the same."""

    compression: Compression
    has_end: bool


def compression_of(head: bytes) -> Compression:
    """How a file, or a member of one, that begins with these bytes (18 or more) is compressed.

    bgzip is gzip in blocks of up to 64 KiB, which tell their own size.
    """
    if not head.startswith(b"\x1f\x8b"):
        return "none"
    return "bgzip" if head[2:4] == b"\x08\x04" and head[12:14] == b"BC" else "gzip"


def compressed(path: Path) -> Compressed:
    """That of a file."""
    with path.open("rb") as file:
        compression = compression_of(file.read(HEADER_BYTES))
        file.seek(max(0, path.stat().st_size - len(_BGZIP_END)))
        return Compressed(compression, compression != "bgzip" or file.read() == _BGZIP_END)
