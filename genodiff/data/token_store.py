"""A corpus as tokens on disk: written once, in shards, and mapped into memory by its readers.

The folder of a store is named by the SHA-256 of what its tokens depend on: text, tokenizer,
detokenizer, EOS, format. A shard is three files:

    000000.tokens     the tokens of its documents, 1, 2 or 4 bytes each, as the vocabulary needs
    000000.documents  for each document its first token and its number in the corpus, both within
                      the shard, 4 bytes each
    000000.json       how much of it there is, and SHA-256; written last

A shard ends after the document that fills it, so where it ends depends on nothing but the corpus.
`store.json` holds what all shards say, and is written when the last one is. Whoever is killed
leaves whole shards, and whoever comes next goes on behind them.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Int64

from genodiff.data.detokenizers import detokenizer_named
from genodiff.data.documents import Documents
from genodiff.data.genome import default_cache_dir, file_sha256
from genodiff.data.text_tokenizers import TextTokenizer, fingerprint
from genodiff.errors import OutsideError, UserError
from genodiff.files import atomic_path, exclusive, is_disk_trouble, remove_leftovers, write_text

log = logging.getLogger(__name__)

FORMAT = 1
SHARD_CHARACTERS = 1 << 26
SHARD_DOCUMENTS = 1 << 18
_BATCH_CHARACTERS = 1 << 20
_VERIFIED_BYTES = 1 << 26
_SECONDS_BETWEEN_LINES = 30.0


class ShardSize(NamedTuple):
    """What fills a shard: whichever comes first."""

    characters: int = SHARD_CHARACTERS
    documents: int = SHARD_DOCUMENTS


def default_text_cache() -> Path:
    """`$XDG_CACHE_HOME/genodiff/text`, or the same under `~/.cache`."""
    return default_cache_dir().with_name("text")


def stored_tokens(
    source: Documents,
    tokenizer: TextTokenizer,
    *,
    eos: bool = False,
    detokenizer: str | None = None,
    keep_empty: bool = False,
    cache_dir: str | Path | None = None,
    shard: ShardSize | None = None,
) -> "TokenStore":
    """The tokens of a corpus, from the cache or, the first time, made and put there.

    One process makes them, on as many cores as the tokenizer uses, and others that want the same
    wait for it. Memory is that of a megabyte of text and its tokens, or of the longest document.

    Args:
        eos: the tokenizer's `eos_id` behind every document.
        detokenizer: a name of `DETOKENIZERS`.
        keep_empty: documents without text or without a token stay; otherwise they are counted and
            left out.

    Raises UserError for a corpus without text, for whatever is wrong with it, and for a cache that
    cannot be written, OutsideError if its disk is full or fails.
    """
    key = {
        "format": FORMAT,
        "source": source.identity(),
        "tokenizer": fingerprint(tokenizer),
        **{"eos": eos, "detokenizer": detokenizer, "keep_empty": keep_empty},
        "shard": shard or ShardSize(),
    }
    cache = default_text_cache() if cache_dir is None else Path(cache_dir)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"\W+", "_", Path(source.origin).name)[:40]
    folder = cache / f"{name}-{digest[:16]}"
    text = _Text(source, tokenizer, eos, detokenizer, keep_empty, shard or ShardSize())
    store = _opened(folder) or _made(folder, text)
    if not store.n_tokens:
        raise UserError(f"{source.origin} holds no text; give one with some.")
    return store


@final
class TokenStore:
    """Random access to the tokens of a corpus and to its documents, read-only.

    Tokens and documents have numbers from 0 over all shards. Reading is safe in any number of
    threads and of processes: each process maps the shards when it first needs them, and a
    `TokenStore` pickles.

    Raises ValueError, or OSError, for a folder that is no whole store.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        about = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        self._shards: list[dict[str, Any]] = about["shards"]
        self._dtype = np.dtype(about["dtype"])
        for number, shard in enumerate(self._shards):
            _check_size(folder, number, shard, self._dtype)
        if self._dtype.itemsize * sum(s["tokens"] for s in self._shards) <= _VERIFIED_BYTES:
            for number, shard in enumerate(self._shards):
                _check_sha256(folder, number, shard)
        self._first_token = _offsets([shard["tokens"] for shard in self._shards])
        self._first_document = _offsets([shard["documents"] for shard in self._shards])
        self._first_number = _offsets([shard["read"] for shard in self._shards])
        self._mapped: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}

    @property
    def n_tokens(self) -> int:
        """Tokens, EOS included."""
        return int(self._first_token[-1])

    @property
    def n_documents(self) -> int:
        """Documents, those left out not counted."""
        return int(self._first_document[-1])

    @property
    def n_skipped(self) -> int:
        """Documents that are left out, being without text."""
        return int(self._first_number[-1]) - self.n_documents

    @property
    def sha256(self) -> str:
        """Of all tokens and where documents begin: equal for equal text."""
        digests = [shard["sha256"] for shard in self._shards]
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()

    def tokens(self, start: int, stop: int) -> Int64[np.ndarray, "_"]:
        """Those from `start` to `stop`; a copy."""
        pieces = []
        shard = int(np.searchsorted(self._first_token, start, side="right")) - 1
        while start < stop:
            first, end = self._first_token[shard : shard + 2]
            piece = self._shard(shard)[0][start - first : min(stop, end) - first]
            pieces.append(piece)
            start, shard = start + len(piece), shard + 1
        return np.concatenate([np.zeros(0, np.int64), *pieces], dtype=np.int64)

    def starts(self, documents: Int64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"]:
        """The first token of each document; that of number `n_documents` is where tokens end."""
        return self._column(documents, 0, self._first_token)

    def numbers(self, documents: Int64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"]:
        """The number of each document in its corpus, those left out counted."""
        return self._column(documents, 1, self._first_number)

    def documents_at(self, tokens: Int64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"]:
        """The document that holds each token."""
        out = np.empty_like(tokens)
        for shard, here in _by_shard(self._first_token, tokens):
            starts = self._shard(shard)[1][:, 0]
            within = np.searchsorted(starts, tokens[here] - self._first_token[shard], side="right")
            out[here] = within - 1 + self._first_document[shard]
        return out

    def _column(
        self, documents: Int64[np.ndarray, "b"], column: int, first: Int64[np.ndarray, "s"]
    ) -> Int64[np.ndarray, "b"]:
        out = np.full_like(documents, first[-1])
        for shard, here in _by_shard(self._first_document, documents):
            within = documents[here] - self._first_document[shard]
            out[here] = self._shard(shard)[1][within, column] + first[shard]
        return out

    def _shard(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Its tokens, and its documents (first token, number)."""
        if number not in self._mapped:
            path = self.folder / f"{number:06d}"
            tokens = _mapped(path.with_suffix(".tokens"), self._dtype)
            documents = _mapped(path.with_suffix(".documents"), np.dtype("<u4"))
            self._mapped[number] = tokens, documents.reshape(-1, 2)
        return self._mapped[number]


def _offsets(sizes: list[int]) -> Int64[np.ndarray, "s"]:
    return np.cumsum([0, *sizes])


def _by_shard(
    first: Int64[np.ndarray, "s"], items: Int64[np.ndarray, "b"]
) -> Iterator[tuple[int, np.ndarray]]:
    """The shards of these items, and which of them are there; none for those behind the last."""
    shards = np.searchsorted(first, items, side="right") - 1
    for shard in np.unique(shards):
        if shard < len(first) - 1:
            yield int(shard), shards == shard


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    if not path.stat().st_size:  # which cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)


def _check_size(folder: Path, number: int, shard: Mapping[str, Any], dtype: np.dtype) -> None:
    wanted = {"tokens": shard["tokens"] * dtype.itemsize, "documents": shard["documents"] * 8}
    for kind, size in wanted.items():
        path = folder / f"{number:06d}.{kind}"
        if path.stat().st_size != size:
            raise ValueError(f"{path} has {path.stat().st_size} bytes, not {size}")


def _check_sha256(folder: Path, number: int, shard: Mapping[str, Any]) -> None:
    for kind, digest in shard["sha256"].items():
        path = folder / f"{number:06d}.{kind}"
        if file_sha256(path) != digest:
            raise ValueError(f"{path} does not have the SHA-256 that it was written with")


class _Text(NamedTuple):
    """What is made into a store."""

    source: Documents
    tokenizer: TextTokenizer
    eos: bool
    detokenizer: str | None
    keep_empty: bool
    shard: ShardSize

    @property
    def dtype(self) -> np.dtype:
        size = self.tokenizer.vocab_size
        return np.dtype("<u1" if size <= 1 << 8 else "<u2" if size <= 1 << 16 else "<u4")


def _opened(folder: Path) -> TokenStore | None:
    """The store, if it is there and whole."""
    if not (folder / "store.json").exists():
        return None
    try:
        return TokenStore(folder)
    except (OSError, ValueError, KeyError, TypeError) as damage:
        log.warning("%s is damaged (%s), and is made anew from its text.", folder, damage)
        return None


def _made(folder: Path, text: _Text) -> TokenStore:
    lock = folder / "building.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise UserError(
            f"the cache folder {folder.parent} cannot be written ({error.strerror}), and text has "
            "to be made into tokens there once; give another folder with cache_dir=."
        ) from error
    with exclusive(lock) as alone:
        store = _opened(folder)
        if store is not None:  # by whoever held the lock before
            return store
        if alone:
            remove_leftovers(folder)
        try:
            shards = [*_build(folder, text)]
            about = {"format": FORMAT, "dtype": text.dtype.str, "shards": shards}
            write_text(folder / "store.json", json.dumps(about))
        except OSError as error:
            if not is_disk_trouble(error):
                raise
            raise OutsideError(
                f"{text.source.origin} cannot be made into tokens in {folder} "
                f"({error.strerror}); the shards that are there are kept: make room and start "
                "again, or give another folder with cache_dir=."
            ) from error
        return TokenStore(folder)


def _build(folder: Path, text: _Text) -> Iterator[dict[str, Any]]:
    """What is said of each shard, of those that are there and of those that are made now."""
    read = number = 0
    while (shard := _finished(folder, number, text.dtype)) is not None:
        yield shard
        read, number = read + shard["read"], number + 1
    log.info(
        "making tokens of %s in %s%s",
        *(text.source.origin, folder, f", from document {read} on" if number else ""),
    )
    progress = _Progress(text.source.origin)
    batches = _ahead(_batches(text, read))
    for batch in batches:
        yield _write_shard(folder, number, text, _one_shard(batch, batches), progress)
        number += 1
    progress.say()


def _finished(folder: Path, number: int, dtype: np.dtype) -> dict[str, Any] | None:
    """What is said of a shard, if it is there and whole."""
    path = folder / f"{number:06d}.json"
    if not path.exists():
        return None
    try:
        shard = json.loads(path.read_text(encoding="utf-8"))
        _check_size(folder, number, shard, dtype)
        _check_sha256(folder, number, shard)
    except (OSError, ValueError, KeyError, TypeError) as damage:
        log.warning(
            "shard %d is damaged (%s): it and those behind it are made anew", number, damage
        )
        return None
    return shard


class _Batch(NamedTuple):
    """Documents that are encoded at once, and their numbers within the shard; `read` and
    `characters` count those without text too."""

    texts: list[str]
    numbers: list[int]
    read: int
    characters: int
    ends_shard: bool


def _batches(text: _Text, first: int) -> Iterator[_Batch]:
    """From document `first` on, which begins a shard."""
    detokenize = detokenizer_named(text.detokenizer)
    texts, numbers, characters = [], [], 0
    read = in_shard = read_before = 0
    for document in text.source.documents(first):
        if text.keep_empty or (document and not document.isspace()):
            texts.append(detokenize(document))
            numbers.append(read)
        read += 1
        characters += len(document)
        is_full = in_shard + characters >= text.shard.characters or read >= text.shard.documents
        if is_full or characters >= _BATCH_CHARACTERS or len(texts) >= _BATCH_CHARACTERS // 64:
            yield _Batch(texts, numbers, read - read_before, characters, is_full)
            in_shard, read_before = in_shard + characters, read
            texts, numbers, characters = [], [], 0
            if is_full:
                read = in_shard = read_before = 0
    if read > read_before:
        yield _Batch(texts, numbers, read - read_before, characters, True)


def _ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """The same, each read by a thread while the one before is encoded."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


def _one_shard(batch: _Batch, following: Iterator[_Batch]) -> Iterator[_Batch]:
    """`batch`, which begins a shard, and those that follow until it is full."""
    yield batch
    while not batch.ends_shard and (after := next(following, None)) is not None:
        batch = after
        yield batch


def _write_shard(
    folder: Path, number: int, text: _Text, batches: Iterator[_Batch], progress: "_Progress"
) -> dict[str, Any]:
    path = folder / f"{number:06d}"
    tokens = documents = read = 0
    digests = {kind: hashlib.sha256() for kind in ("tokens", "documents")}
    with (
        atomic_path(path.with_suffix(".tokens")) as tokens_path,
        atomic_path(path.with_suffix(".documents")) as documents_path,
        tokens_path.open("wb") as tokens_file,
        documents_path.open("wb") as documents_file,
    ):
        for batch in batches:
            ids, table = _encoded(text, batch)
            table[:, 0] += tokens
            for file, kind, rows in (
                (tokens_file, "tokens", ids.astype(text.dtype)),
                (documents_file, "documents", table.astype("<u4")),
            ):
                file.write(rows.tobytes())
                digests[kind].update(rows.tobytes())
            tokens, documents = tokens + len(ids), documents + len(table)
            read += batch.read
            progress.add(batch, len(ids))
    shard = {
        **{"tokens": tokens, "documents": documents, "read": read},
        "sha256": {kind: digest.hexdigest() for kind, digest in digests.items()},
    }
    write_text(path.with_suffix(".json"), json.dumps(shard))
    return shard


def _encoded(
    text: _Text, batch: _Batch
) -> tuple[Int64[np.ndarray, "t"], Int64[np.ndarray, "d 2"]]:
    """Tokens of a batch, and of each document its first among them and its number."""
    rows = zip(batch.numbers, text.tokenizer.encode_batch(batch.texts), strict=True)
    kept = [(number, row) for number, row in rows if len(row) or text.keep_empty]
    end = [np.array([text.tokenizer.eos_id])] if text.eos else []
    pieces = [np.concatenate([row, *end]) for _, row in kept]
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    table = np.array([starts, [number for number, _ in kept]], np.int64).T
    return np.concatenate([np.zeros(0, np.int64), *pieces]), table


class _Progress:
    """A line of the log now and then."""

    def __init__(self, origin: str, clock: Callable[[], float] = time.monotonic):
        self.origin, self.clock = origin, clock
        self.began = self.said = clock()
        self.documents = self.characters = self.tokens = 0

    def add(self, batch: _Batch, tokens: int) -> None:
        self.documents += batch.read
        self.characters += batch.characters
        self.tokens += tokens
        if self.clock() - self.said >= _SECONDS_BETWEEN_LINES:
            self.said = self.clock()
            self.say()

    def say(self) -> None:
        log.info(
            "%s: %s documents, %s characters, %s tokens, %.1f million characters a second",
            *(self.origin, f"{self.documents:,}", f"{self.characters:,}", f"{self.tokens:,}"),
            self.characters / 1e6 / max(1e-9, self.clock() - self.began),
        )
