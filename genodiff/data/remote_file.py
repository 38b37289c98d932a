"""A file on a server, and the digests that it is held to: those known beforehand, and those that
`SHA256SUMS` beside it recorded."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import final
from urllib.parse import unquote, urlsplit

from genodiff.errors import UserError
from genodiff.files import write_text

SUMS = "SHA256SUMS"
_BLOCK_BYTES = 1 << 20
_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


@final
@dataclass(frozen=True)
class RemoteFile:
    """A file on a server, and what is known of its contents beforehand.

    `name` is what it is saved as, by default the last part of the URL. Digests are hexadecimal.
    Raises `UserError` for a URL that is not http(s), for a name that is not a plain one, and for
    digests of another length.
    """

    url: str
    name: str | None = None
    sha256: str | None = None
    md5: str | None = None
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        _check_url(self.url, "url")
        name = self.saved_as
        if not name or name.startswith(".") or name == SUMS or re.search(r"[/\\\x00-\x1f]", name):
            raise UserError(
                f"name={name} (of {self.url}) is not a plain file name; give another with name=."
            )
        for key, digest, digits in (("sha256", self.sha256, 64), ("md5", self.md5, 32)):
            if digest is not None and not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", digest):
                raise UserError(f"{key}={digest} is not {digits} hexadecimal digits; correct it.")

    @property
    def saved_as(self) -> str:
        """The file's name in the folder."""
        return self.name or unquote(PurePosixPath(urlsplit(self.url).path).name)

    @property
    def digests(self) -> dict[str, str]:
        """What is known beforehand: "sha256", "md5", both or none."""
        known = {"sha256": self.sha256, "md5": self.md5}
        return {key: digest.lower() for key, digest in known.items() if digest}

    def at(self, mirror: str) -> "RemoteFile":
        """The same file on another server: `mirror` in place of `https://host`."""
        _check_url(mirror, "mirror")
        parts = urlsplit(self.url)
        if urlsplit(mirror).query or urlsplit(mirror).fragment:
            raise UserError(
                f"mirror={mirror} has a query; give https://host or https://host/path."
            )
        rest = parts._replace(scheme="", netloc="").geturl()
        return replace(self, url=mirror.rstrip("/") + rest, name=self.saved_as)


def digests_of(path: Path, known: Mapping[str, str]) -> dict[str, str]:
    """The file's SHA-256, and its digests of the kinds that are `known`."""
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in {"sha256", *known}}
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            for digest in digests.values():
                digest.update(block)
    return {kind: digest.hexdigest() for kind, digest in digests.items()}


def difference(digests: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """The digests that are not as expected, in words; empty if there are none."""
    return ", ".join(
        f"{kind} {digests[kind]} instead of {wanted}"
        for kind, wanted in expected.items()
        if digests[kind] != wanted
    )


def read_sums(path: Path) -> dict[str, str]:
    """SHA-256 by file name, from what `sha256sum` writes. Raises UserError if it is no text."""
    found = map(_SUM.fullmatch, _lines(path))
    return {each[2]: each[1].lower() for each in found if each}


def record(sums_path: Path, name: str, sha256: str) -> None:
    """Enters a file's SHA-256, in the place of another; all other lines stay as they are."""
    if read_sums(sums_path).get(name) == sha256:
        return
    lines = _lines(sums_path)
    entries = [i for i, line in enumerate(lines) if (of := _SUM.fullmatch(line)) and of[2] == name]
    place = entries[0] if entries else len(lines)
    lines[place : place + 1] = [f"{sha256}  {name}"]
    kept = [line for i, line in enumerate(lines) if i not in entries[1:]]
    write_text(sums_path, "".join(f"{line}\n" for line in kept))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return text.removesuffix("\n").split("\n") if text else []
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not what sha256sum writes ({error}); move it away, or choose another out=."
        ) from error


def _check_url(url: str, key: str) -> None:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and parts.hostname and not parts.username
        is_good = is_good and parts.port != 0  # reading a port that is not a number raises
    except ValueError:
        is_good = False
    if not is_good or re.search(r"[\x00-\x20\x7f-\uffff]", url):
        raise UserError(f"{key}={url} is not a URL; give http://host/path or https://host/path.")
