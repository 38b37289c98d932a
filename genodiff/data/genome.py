"""`Genome`: a FASTA as one memory-mapped array of codes, a byte a base, shared by its readers.

The text is encoded once. The codes go to a cache folder as `NAME-PATHHASH.CONTENTHASH.codes`, and
`NAME-PATHHASH.json` says which records they hold and from which state of the FASTA they were made.
The second file is the one that counts: it is written last, by a rename, so a build that is killed
leaves a genome that is not there, never one that is wrong.
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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Int64, UInt8

from genodiff.data.fasta import BLOCK_BYTES, SOFT_MASK, FastaRecord, encode_fasta
from genodiff.errors import UserError
from genodiff.files import write_text

log = logging.getLogger(__name__)

FORMAT = 1
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


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
    contents' SHA-256 decides. Raises `UserError` for a FASTA that is missing, malformed, changed
    since it was encoded (`reindex=True` encodes it anew), or contradicted by a `.fai` beside it.
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
        index = None if reindex else self._read()
        if index is None:
            with _exclusive(self.folder, self.name) as alone:
                index = None if reindex else self._read()
                return self._build(alone) if index is None else index
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

    def _read(self) -> dict[str, Any] | None:
        try:
            index = json.loads(self.index_path.read_text(encoding="utf-8"))
            n_bases = sum(FastaRecord(*record).length for record in index["records"])
            usable = (
                index["format"] == FORMAT
                and (self.folder / index["codes"]).stat().st_size == n_bases
            )
            return index if usable else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _build(self, alone: bool) -> dict[str, Any]:
        log.info("encoding %s into %s", self.path, self.folder)
        if alone:
            for leftover in self.folder.glob(f".{self.name}.*.tmp"):  # of a build that was killed
                leftover.unlink(missing_ok=True)
        before = _stamp(self.path)
        temporary = self.folder / f".{self.name}.{uuid.uuid4().hex}.tmp"
        try:
            with temporary.open("xb") as sink:
                records, digest = _encode(self.path, sink)
                sink.flush()
                os.fsync(sink.fileno())
            if _stamp(self.path) != before:
                raise UserError(
                    f"{self.path} changed while it was being read; wait until it is complete."
                )
            codes = f"{self.name}.{digest[:16]}.codes"
            os.replace(temporary, self.folder / codes)
        finally:
            temporary.unlink(missing_ok=True)
        index = {
            "format": FORMAT,
            "source": {"path": str(self.path.resolve()), **before, "sha256": digest},
            "codes": codes,
            "records": [list(record) for record in records],
        }
        self._write_index(index)
        for stale in self.folder.glob(f"{self.name}.*.codes"):
            if stale.name != codes:
                stale.unlink(missing_ok=True)
        return index

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
    with path.open("rb", buffering=0) as raw:
        hashing = _HashingReader(raw)
        source = io.BufferedReader(hashing, BLOCK_BYTES)
        if _is_gzip(path):
            _log_compression(path)
            try:
                with gzip.GzipFile(fileobj=source, mode="rb") as text:
                    records = encode_fasta(text, sink, str(path))
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise UserError(
                    f"{path} is truncated or is not valid gzip ({error}); fetch or compress it "
                    "again."
                ) from error
        else:
            records = encode_fasta(source, sink, str(path))
        while source.read(BLOCK_BYTES):
            pass  # whatever follows the last record belongs to the file
    return records, hashing.digest.hexdigest()


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _log_compression(path: Path) -> None:
    """Say that a plain gzip file is converted, and warn of a bgzip file without its end marker."""
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(max(0, path.stat().st_size - len(_BGZF_END)))
        tail = file.read()
    if head[3:4] != b"\x04" or head[12:14] != b"BC":
        log.info("%s is plain gzip, without random access: converted once into the cache", path)
    elif tail != _BGZF_END:
        log.warning("%s lacks the end marker of bgzip: it may be truncated", path)


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


@contextlib.contextmanager
def _exclusive(folder: Path, name: str) -> Iterator[bool]:
    """Hold an advisory lock on a cache entry; yields whether it is held.

    A process that is killed loses it. Without a lock (Windows, some network file systems) two
    builders do the work twice, and the renames keep them apart.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / f"{name}.lock").open("w")
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be written ({error.strerror}), and a FASTA has to "
            "be encoded there once; give another folder with cache_dir=."
        ) from error
    with handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
            alone = True
        except (ImportError, OSError):
            alone = False
        yield alone
