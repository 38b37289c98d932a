"""Files from servers into a folder: resumed after anything, verified, never half there.

What has arrived of `NAME` lies in `.NAME.part`; what the server announced when it began to send,
in `.NAME.part.json`: a part is gone on with only while the server still has that same file. A
complete part whose digests are right is entered into `SHA256SUMS` (as `sha256sum -c` reads it) and
renamed to `NAME`. From then on that digest is what the file is held to.
"""

import base64
import binascii
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPMessage, HTTPResponse
from pathlib import Path
from typing import NamedTuple, TypeVar, final

from genodiff import __version__
from genodiff.data.remote_file import SUMS, RemoteFile, difference, digests_of, read_sums, record
from genodiff.errors import OutsideError, UserError
from genodiff.files import exclusive, write_text

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20

T = TypeVar("T")

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes that are there, and those announced, as they arrive."""


@final
@dataclass(frozen=True)
class Patience:
    """How long a server is waited for, in seconds, and how often it is asked again.

    Waits double from `first_wait` to `longest_wait`. The count of tries begins anew whenever more
    of the file has arrived than ever before.
    """

    stall: float = 60.0
    tries: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, failures: int) -> float:
        """Seconds before the next try, after so many failures in a row."""
        return min(self.longest_wait, self.first_wait * 2.0 ** (failures - 1))


def fetch_files(
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    overwrite: bool = False,
    patience: Patience | None = None,
    progress: Progress = lambda name, done, total: None,
) -> None:
    """Brings `files` into `folder`, one after the other; those that are there and right stay.

    A file is held to the digests of its `RemoteFile`, to the one that `SHA256SUMS` recorded when
    it was first fetched, and to what the server announces: its length, and its MD5 where there is
    one (`x-goog-hash`, `Content-MD5`). With `overwrite` the recorded digest does not count, and
    what differs is replaced.

    Only one process works in a folder at a time; others wait.

    Raises:
        UserError: a file is there and differs; the server does not have it or refuses it; the
            folder cannot be written.
        OutsideError: the server cannot be reached or fails again and again, what it sends is
            corrupt twice, or the disk is full. What has arrived is kept for the next call.
    """
    lock = folder / ".fetch.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise UserError(
            f"out={folder} cannot be written ({error.strerror}); choose a folder you may write to."
        ) from error
    with exclusive(lock) as alone:
        if not alone:
            log.warning("%s has no file locks: fetch into it from one process at a time.", folder)
        for file in files:
            try:
                _Fetch(file, folder, patience or Patience(), progress).run(overwrite)
            except OSError as error:  # of the disk: those of the network are dealt with
                raise OutsideError(
                    f"{file.saved_as} cannot be written into {folder} ({error.strerror}); what "
                    "has arrived is kept, and the same command goes on from there."
                ) from error


class _Temporary(Exception):
    """What may go better the next time."""


class _Announced(NamedTuple):
    """What a server said of a file when it began to send it."""

    url: str
    validator: str | None
    size_bytes: int | None
    md5: str | None


class _Fetch:
    """One file on its way into a folder."""

    def __init__(self, file: RemoteFile, folder: Path, patience: Patience, progress: Progress):
        self.file, self.patience, self.progress = file, patience, progress
        self.sums = folder / SUMS
        self.target = folder / file.saved_as
        self.part = folder / f".{file.saved_as}.part"
        self.sidecar = folder / f".{file.saved_as}.part.json"

    def run(self, overwrite: bool) -> None:
        recorded = read_sums(self.sums).get(self.target.name)
        known = self.file.digests
        if recorded and not overwrite:
            known = {"sha256": recorded, **known}
        if self.target.exists() and self._is_right(known, overwrite):
            log.info("%s is there and verified.", self.target)
            return
        digests = self._download_verified(known)
        with self.part.open("rb") as complete:
            os.fsync(complete.fileno())
        # First the record: what has the final name is always in it.
        record(self.sums, self.target.name, digests["sha256"])
        self.part.replace(self.target)
        self.sidecar.unlink(missing_ok=True)
        log.info("%s: %d bytes, sha256 %s", self.target, _size(self.target), digests["sha256"])

    def _is_right(self, known: Mapping[str, str], overwrite: bool) -> bool:
        """Whether the file that is there is the one wanted; if it is not, it has to be one that
        may be overwritten."""
        if not self.target.is_file():
            raise UserError(f"{self.target} is not a file; choose another out=.")
        size = self.file.size_bytes
        if not known:
            if overwrite:
                return False
            announced = self._patiently(self._ask)
            known, size = _md5(announced), announced.size_bytes
            if not known and size is None:
                raise UserError(
                    f"{self.target} is there, and nothing is known to check it by; give its "
                    "sha256=, or overwrite=true to fetch it again."
                )
        if size is not None and size != _size(self.target):
            differs = f"{_size(self.target)} bytes instead of {size}"
        else:
            digests = digests_of(self.target, known)
            differs = difference(digests, known)
            if not differs:
                record(self.sums, self.target.name, digests["sha256"])
                return True
        if overwrite:
            return False
        raise UserError(
            f"{self.target} is there and differs: {differs}; overwrite=true replaces it."
        )

    def _download_verified(self, known: Mapping[str, str]) -> dict[str, str]:
        """Completes the part; its digests, which are right."""
        for is_last in (False, True):
            announced = self._patiently(self._complete)
            expected = {**_md5(announced), **known}
            digests = digests_of(self.part, expected)
            differs = difference(digests, expected)
            if not differs:
                return digests
            self._discard()
            if not is_last:
                log.warning("%s arrived corrupt (%s); once more.", self.file.url, differs)
        raise OutsideError(
            f"{self.file.url} arrived corrupt twice ({differs}); nothing is kept. Try another "
            "mirror=, or, if the file has changed there, give its new digest (overwrite=true "
            f"forgets the one in {self.sums.name})."
        )

    def _patiently(self, ask: Callable[[], T]) -> T:
        """`ask()`, again and again while what goes wrong may be temporary."""
        failures, furthest = 0, _size(self.part)
        while True:
            try:
                return ask()
            except _Temporary as error:
                if _size(self.part) > furthest:
                    failures, furthest = 0, _size(self.part)
                failures += 1
                if failures >= self.patience.tries:
                    raise OutsideError(
                        f"{self.file.url}: {error}, {failures} times in a row; "
                        f"{_size(self.part)} bytes are kept, and the same command goes on from "
                        "there. Try later, or another mirror=."
                    ) from error
                wait = self.patience.wait(failures)
                log.warning("%s: %s; again in %.0f s.", self.file.url, error, wait)
                self.patience.sleep(wait)

    def _ask(self) -> _Announced:
        """What the server announces, without taking the file."""
        with self._open({}) as response:
            return self._announced(response)

    def _complete(self) -> _Announced:
        """One connection, which adds to the part; the announcement once the part is complete."""
        announced, offset = self._resumable(), _size(self.part)
        if announced is None:
            self._discard()
            offset = 0
        elif announced.size_bytes == offset:
            return announced
        headers = {}
        if announced and offset:
            headers["Range"] = f"bytes={offset}-"
            if announced.validator:
                headers["If-Range"] = announced.validator
        with self._open(headers) as response:
            if response.status == 206 and announced:
                self._check_continuation(response, announced, offset)
            else:
                announced, offset = self._announced(response), 0
                self._discard()
                write_text(self.sidecar, json.dumps(announced._asdict()))
            self._check_space(announced, offset)
            self._receive(response, announced, offset)
        return announced

    def _resumable(self) -> _Announced | None:
        """What was announced of the part that is there, if it can be gone on with."""
        try:
            announced = _Announced(**json.loads(self.sidecar.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        # Without a validator two states of the file could be joined, and only a digest tells.
        is_safe = announced.validator or self.file.digests
        size = announced.size_bytes
        fits = size is None or _size(self.part) <= size
        return announced if announced.url == self.file.url and is_safe and fits else None

    def _open(self, headers: Mapping[str, str]) -> HTTPResponse:
        """Asks for the file. Raises `_Temporary`, or `UserError` for a refusal."""
        agent = {"User-Agent": f"genodiff/{__version__}", "Accept-Encoding": "identity"}
        request = urllib.request.Request(self.file.url, headers={**agent, **headers})
        try:
            return urllib.request.urlopen(request, timeout=self.patience.stall)
        except urllib.error.HTTPError as error:
            error.close()
            answer = f"the server answers {error.code} {error.reason}".rstrip()
            if error.code == 416:  # the file became shorter than the part
                self._discard()
            if error.code in (408, 416, 425, 429) or error.code >= 500:
                raise _Temporary(answer) from error
            raise UserError(
                f"{self.file.url}: {answer}; check the URL, or give another server with mirror=."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Temporary(_reason(error)) from error

    def _announced(self, response: HTTPResponse) -> _Announced:
        """Reads the headers of a response that holds the whole file."""
        if response.status != 200:
            raise _Temporary(f"the server answers {response.status} instead of the file")
        headers = response.headers
        length = headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() and not response.chunked else None
        expected = self.file.size_bytes
        if size is not None and expected is not None and size != expected:
            raise OutsideError(
                f"{self.file.url}: the server announces {size} bytes instead of {expected}, so it "
                "has another file; try another mirror=."
            )
        etag = headers.get("ETag", "")
        validator = etag if etag.startswith('"') else headers.get("Last-Modified")
        announced = _Announced(self.file.url, validator, size, _announced_md5(headers))
        is_framed = size is not None or response.chunked
        if not is_framed and not announced.md5 and not self.file.digests:
            raise UserError(
                f"{self.file.url}: the server announces neither length nor digest, so a cut "
                "transfer would look complete; give the file's sha256=."
            )
        return announced

    def _check_continuation(
        self, response: HTTPResponse, announced: _Announced, offset: int
    ) -> None:
        """Raises `_Temporary`, and gives the part up, unless the response goes on from its end."""
        headers = response.headers
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        total = None if announced.size_bytes is None else str(announced.size_bytes)
        continues = found and int(found[1]) == offset and found[2] in (total or found[2], "*")
        # A server that takes no notice of If-Range may go on with another state of the file.
        validator = announced.validator
        kind = "ETag" if validator and validator.startswith('"') else "Last-Modified"
        is_changed = validator and headers.get(kind, validator) != validator
        if not continues or is_changed:
            self._discard()
            raise _Temporary("the server goes on with something else, so from the start")

    def _check_space(self, announced: _Announced, offset: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if announced.size_bytes is not None and announced.size_bytes - offset > free:
            raise OutsideError(
                f"{self.part.parent}: {announced.size_bytes - offset} bytes are missing of "
                f"{self.target.name} and {free} are free; what is there is kept. Make room, or "
                "choose another out=."
            )

    def _receive(self, response: HTTPResponse, announced: _Announced, offset: int) -> None:
        """Adds what the server sends to the part, which has `offset` bytes."""
        total = announced.size_bytes
        with self.part.open("ab") as part:
            for block in _blocks(response, None if total is None else total - offset):
                part.write(block)
                part.flush()  # a kill would lose what is in the buffer
                offset += len(block)
                self.progress(self.target.name, offset, total)
        if total is not None and offset < total:
            raise _Temporary(f"the connection ended after {offset} of {total} bytes")

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)


def _blocks(response: HTTPResponse, size: int | None) -> Iterator[bytes]:
    """What arrives, as it arrives: `read` would wait for whole blocks and lose a started one.

    Raises `_Temporary` where the connection breaks.
    """
    while size is None or size > 0:
        try:
            block = response.read1(BLOCK_BYTES if size is None else min(BLOCK_BYTES, size))
        except (OSError, http.client.HTTPException) as error:
            raise _Temporary(_reason(error)) from error
        if not block:
            return
        if size is not None:
            size -= len(block)
        yield block


def _announced_md5(headers: HTTPMessage) -> str | None:
    """The whole file's MD5 in hexadecimal, as Google's storage and RFC 1864 announce it."""
    hashes = ",".join(headers.get_all("x-goog-hash", []))
    stored = re.search(r"(?:^|[,\s])md5=([\w+/]+=*)", hashes)
    if headers.get("x-goog-stored-content-encoding", "identity") != "identity":
        stored = None  # of the compressed file, which the server unpacks on the way
    encoded = stored[1] if stored else headers.get("Content-MD5", "")
    try:
        digest = base64.b64decode(encoded, validate=True).hex()
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == 32 else None


def _md5(announced: _Announced) -> dict[str, str]:
    return {"md5": announced.md5} if announced.md5 else {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    """What went wrong between here and a server, in one line."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return "the server sends nothing"
    return f"the connection failed ({str(reason) or type(reason).__name__})"
