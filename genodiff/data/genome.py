"""`Genome`: a FASTA as one memory-mapped array of codes, a byte a base, shared by its readers.

The text is encoded once, into a cache folder. The codes of a FASTA are `SHA256.codes`, named by
the contents of the file, so copies of it under several paths share them. `NAME-PATHHASH.json` says
for one path which codes are its own, which records they hold, and from which state of the FASTA
they were made. That file is the one that counts: it is written last, by a rename, so a build that
is killed leaves a genome that is not there, never one that is wrong.
"""

import contextlib
import gzip
import hashlib
import io
import json
import logging
import os
import re
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Int64, UInt8

from genodiff.data.compression import Compression, compressed
from genodiff.data.fasta import SOFT_MASK, FastaRecord, encode_fasta
from genodiff.data.text_blocks import BLOCK_BYTES, text_blocks, usable_threads
from genodiff.errors import OutsideError, UserError
from genodiff.files import exclusive, is_disk_trouble, write_text

log = logging.getLogger(__name__)

FORMAT = 2


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/genodiff/genomes`, or the same under `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "genodiff" / "genomes"


@final
class Genome:
    """Random access to the bases of a FASTA: plain, bgzip, or gzip.

    Coordinates are 0-based and half-open. Reading is safe in any number of threads and of
    processes, forked or spawned: there is no file position to share, each process maps the codes
    when it first needs them, and a `Genome` pickles.

    Opening compares size and modification time with those of the build; if they differ, the
    contents' SHA-256 decides. A FASTA whose contents are in the cache under another path is not
    encoded again. Raises `UserError` for a FASTA that is missing, malformed, changed
    since it was encoded (`reindex=True` encodes it anew), or contradicted by a `.fai` beside it,
    and `OutsideError` if the disk of the cache is full or fails.
    """

    def __init__(
        self, path: str | Path, *, cache_dir: str | Path | None = None, reindex: bool = False
    ):
        self.path = _existing_file(Path(path))
        folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
        index = _GenomeCache(self.path, folder).open(reindex=reindex)
        self.sha256: str = index["source"]["sha256"]
        self.records = tuple(FastaRecord(*record) for record in index["records"])
        self.lengths: Mapping[str, int] = {record.name: record.length for record in self.records}
        ends = np.cumsum([record.length for record in self.records])
        self._offsets = {
            r.name: int(end) - r.length for r, end in zip(self.records, ends, strict=True)
        }
        self._codes_path = folder / index["codes"]
        self._mapped: np.ndarray | None = None
        _check_fai(self.path, self.records)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": None}

    def offset(self, chrom: str) -> int:
        """Where `chrom` begins in the array of all codes."""
        if chrom not in self._offsets:
            raise UserError(
                f"{self.path} has no record {chrom!r}; {describe_names(self.lengths, chrom)}"
            )
        return self._offsets[chrom]

    def codes(self, chrom: str, start: int, end: int) -> UInt8[np.ndarray, "l"]:
        """The codes of `chrom` from `start` to `end`, a read-only view."""
        offset = self.offset(chrom)
        if not 0 <= start < end <= self.lengths[chrom]:
            raise UserError(
                f"{chrom}:{start}-{end} (0-based, half-open) is not inside {chrom} of "
                f"{self.path}, which has {self.lengths[chrom]} bases; give 0 <= start < end <= "
                f"{self.lengths[chrom]}."
            )
        return self._all_codes()[offset + start : offset + end]

    def fetch(self, chrom: str, start: int, end: int) -> UInt8[np.ndarray, "l"]:
        """The token ids of `chrom` from `start` to `end`, without the soft mask; a copy."""
        return self.codes(chrom, start, end) & np.uint8(SOFT_MASK - 1)

    def gather(self, offsets: Int64[np.ndarray, "b"], length_bp: int) -> UInt8[np.ndarray, "b l"]:
        """The codes of windows that begin at `offsets` of the array of all codes; a copy."""
        return np.lib.stride_tricks.sliding_window_view(self._all_codes(), length_bp)[offsets]

    def _all_codes(self) -> UInt8[np.ndarray, "n"]:
        if self._mapped is None:
            self._mapped = np.memmap(self._codes_path, dtype=np.uint8, mode="r").view(np.ndarray)
        return self._mapped


def describe_names(names: Mapping[str, int], wanted: str) -> str:
    """What there is instead of a record that is not there, as the end of a message."""
    alias = wanted.removeprefix("chr") if wanted.startswith("chr") else f"chr{wanted}"
    if alias in names:
        return f"it has {alias!r}: use the FASTA's names."
    first = ", ".join(list(names)[:3])
    return f"it has {len(names)} records: {first}{', ...' if len(names) > 3 else ''}."


class _GenomeCache:
    """The files that hold one FASTA's codes."""

    def __init__(self, path: Path, folder: Path):
        resolved = path.resolve()
        key = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:16]
        self.path, self.folder = path, folder
        self.name = re.sub(r"[^\w-]", "_", path.name.partition(".")[0]) + f"-{key}"
        self.index_path = folder / f"{self.name}.json"

    def open(self, *, reindex: bool) -> dict[str, Any]:
        """The index, from the cache if it is there and still true of the FASTA, else built."""
        index = None if reindex else self._read(self.index_path)
        if index is None:
            return self._make(reindex)
        stamp = _stamp(self.path)
        if stamp != {name: index["source"][name] for name in stamp}:
            if file_sha256(self.path) != index["source"]["sha256"]:
                raise UserError(
                    f"{self.path}: FASTA changed after indexing (encoded in {self.index_path}); "
                    "restore it, or delete that file (reindex=True from Python) to encode it "
                    "anew."
                )
            index["source"].update(stamp)
            with contextlib.suppress(OSError):  # a cache that is only readable serves as well
                self._write_index(index)
        return index

    def _read(self, path: Path) -> dict[str, Any] | None:
        """An index, if its codes are there."""
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            n_bases = sum(FastaRecord(*record).length for record in index["records"])
            usable = (
                index["format"] == FORMAT
                and (self.folder / index["codes"]).stat().st_size == n_bases
            )
            return index if usable else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _make(self, reindex: bool) -> dict[str, Any]:
        """One process at a time: those that want the same genome find it made."""
        lock = self.folder / "building.lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.touch()
        except OSError as error:
            raise UserError(
                f"the cache folder {self.folder} cannot be written ({error.strerror}), and a "
                "FASTA has to be encoded there once; give another folder with cache_dir=."
            ) from error
        with exclusive(lock) as alone:
            index = None if reindex else self._read(self.index_path) or self._adopt()
            if index is None:
                index = self._build()
                if alone:
                    self._sweep()
            return index

    def _adopt(self) -> dict[str, Any] | None:
        """The index of the same contents under another path, entered for this one."""
        before = _stamp(self.path)
        indices = [self._read(path) for path in self.folder.glob("*.json")]
        twins = [index for index in indices if index and index["source"]["size"] == before["size"]]
        digest = file_sha256(self.path) if twins else None
        for index in twins:
            if index["source"]["sha256"] == digest:
                log.info("%s is in %s already, as %s", self.path, self.folder, index["codes"])
                index["source"].update(path=str(self.path.resolve()), **before)
                self._write_index(index)
                return index
        return None

    def _build(self) -> dict[str, Any]:
        log.info("encoding %s into %s", self.path, self.folder)
        before = _stamp(self.path)
        temporary = self.folder / f".{uuid.uuid4().hex}.codes.tmp"
        try:
            with temporary.open("xb") as sink:
                records, digest = _encode(self.path, sink)
                sink.flush()
                os.fsync(sink.fileno())
            if _stamp(self.path) != before:
                raise UserError(
                    f"{self.path} changed while it was being read; wait until it is complete."
                )
            index = {
                "format": FORMAT,
                "source": {"path": str(self.path.resolve()), **before, "sha256": digest},
                "codes": f"{digest}.codes",
                "records": [list(record) for record in records],
            }
            os.replace(temporary, self.folder / index["codes"])
            self._write_index(index)
        except OSError as error:
            if not is_disk_trouble(error):
                raise
            raise OutsideError(
                f"{self.path} cannot be encoded into {self.folder} ({error.strerror}): a byte a "
                "base is needed; make room, or give another folder with cache_dir=."
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        return index

    def _sweep(self) -> None:
        """Deletes what builds that were killed left, and codes that belong to no path now."""
        indices = [self._read(path) for path in self.folder.glob("*.json")]
        in_use = {index["codes"] for index in indices if index}
        for pattern in (".*.codes.tmp", f".{self.name}.json.*.tmp", f"{64 * '[0-9a-f]'}.codes"):
            for path in self.folder.glob(pattern):
                if path.name not in in_use:
                    path.unlink(missing_ok=True)

    def _write_index(self, index: dict[str, Any]) -> None:
        write_text(self.index_path, json.dumps(index))


class _HashingReader(io.RawIOBase):
    """Reads a file from its start and hashes what it read."""

    def __init__(self, raw: io.FileIO):
        self.raw, self.digest = raw, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        size = self.raw.readinto(buffer) or 0
        self.digest.update(memoryview(buffer)[:size])
        return size


def _encode(path: Path, sink: io.BufferedIOBase) -> tuple[list[FastaRecord], str]:
    """Write the codes of a FASTA to `sink`; its records, and the SHA-256 of the file on disk."""
    compression = _compression(path)
    with path.open("rb", buffering=0) as raw:
        hashing = _HashingReader(raw)
        source = io.BufferedReader(hashing, BLOCK_BYTES)
        try:
            with contextlib.closing(text_blocks(source, compression, usable_threads())) as blocks:
                records = encode_fasta(blocks, sink, str(path))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(
                f"{path} is truncated or is not valid gzip ({error}); fetch or compress it again."
            ) from error
        return records, hashing.digest.hexdigest()


def _compression(path: Path) -> Compression:
    """How a file is compressed; what is noteworthy about that is logged."""
    compression, has_end = compressed(path)
    if compression == "gzip":
        log.info("%s is plain gzip, without random access: converted once into the cache", path)
    elif not has_end:
        log.warning("%s lacks the end marker of bgzip: it may be truncated", path)
    return compression


def _existing_file(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} does not exist; give the path of a FASTA file.")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the path of a FASTA file.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read; change its permissions.")
    return path


def _stamp(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as it is on disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_fai(path: Path, records: tuple[FastaRecord, ...]) -> None:
    """Refuse a FASTA whose `.fai` describes another: whoever reads by it gets wrong bases."""
    fai = path.with_name(f"{path.name}.fai")
    if not fai.exists():
        return
    rows = [line.split("\t")[:4] for line in fai.read_text(encoding="utf-8").splitlines() if line]
    expected = [[str(field) for field in record] for record in records]
    if rows != expected:
        raise UserError(
            f"{fai} does not describe {path}: the FASTA changed after indexing, or the index is "
            "of another file; delete it or rebuild it with samtools faidx."
        )
