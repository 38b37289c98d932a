"""Files that are plain or gzip, told by their first bytes."""

import gzip
import zlib
from pathlib import Path

from genodiff.errors import UserError


def read_plain(path: Path, wanted: str) -> bytes:
    """The contents of a file, decompressed if it is gzip. Raises UserError, which asks for
    `wanted`, if it cannot be read or is cut."""
    try:
        content = path.read_bytes()
        # No UTF-8 begins so.
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is truncated or is not valid gzip ({error}); fetch or compress it again."
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give the path of {wanted}."
        ) from error
