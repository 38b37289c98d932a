"""Files that are plain or gzip, told by their first bytes."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genodiff.errors import UserError

_GZIP = b"\x1f\x8b"
"""No UTF-8 begins so."""


def read_plain(path: Path, wanted: str) -> bytes:
    """The contents of a file, decompressed if it is gzip. Raises UserError, which asks for
    `wanted`, if it cannot be read or is cut."""
    with _told(path, wanted):
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content


def plain_lines(path: Path, wanted: str) -> Iterator[bytes]:
    """The lines of a file with their ends, one at a time in memory; raises what `read_plain`
    does, when it comes there."""
    with _told(path, wanted):
        with path.open("rb") as file:
            is_gzip = file.read(len(_GZIP)) == _GZIP
        with gzip.open(path) if is_gzip else path.open("rb") as lines:
            yield from lines


@contextmanager
def _told(path: Path, wanted: str) -> Iterator[None]:
    """Makes errors of reading a user's."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is truncated or is not valid gzip ({error}); fetch or compress it again."
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give the path of {wanted}."
        ) from error
