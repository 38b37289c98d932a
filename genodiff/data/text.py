"""Text files as data: one long string of tokens each, cut into chunks.

A *document* ends at a blank line (one of nothing but white space). Chunks do not: they are cut at
equal distances from the start of a file to its end, through documents and, of bytes, characters.
So every token is in exactly one chunk. Documents serve for standard errors: chunks that begin in
one are not independent.
"""

import codecs
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Int64, Integer, UInt8

from genodiff.batch import TokenBatch
from genodiff.data.byte_tokenizer import ByteTokenizer
from genodiff.data.datamodule import Keys, SequenceData, Tokenizer
from genodiff.data.intervals import Split
from genodiff.data.plain_files import read_plain
from genodiff.data.randomness import Stream, integers_below
from genodiff.data.sources import StartMethod
from genodiff.errors import UserError

_BLOCK_BYTES = 1 << 20
_DOCUMENT_START = re.compile(rb"(?:\A|\n[^\S\n]*\n)\s*")


def text_data(
    train: str | Path | None,
    valid: str | Path | None,
    test: str | Path | None = None,
    length: int = 128,
    batch_size: int = 32,
    *,
    eval_batch_size: int | None = None,
    jitter: int = 0,
    num_workers: int = 0,
    start_method: StartMethod | None = None,
    pin_memory: bool = False,
    seed: int = 0,
) -> SequenceData:
    """Chunks of `length` bytes of text files in UTF-8 (plain or gzip), one file a split.

    A blank line ends a document; chunks run on over it (see `TextChunks`). Training only: `jitter`
    moves each chunk by up to so many bytes.

    The files are held in memory, a byte a byte. Raises `UserError` for one that cannot be read, is
    not UTF-8 or holds no text, and for two splits of the same text.
    """
    if length < 1:
        raise UserError(f"length={length} is no number of bytes; give 1 or more.")
    paths: dict[Split, str | Path | None] = {"train": train, "valid": valid, "test": test}
    texts: dict[Split, Text] = {
        split: read_text(Path(path)) for split, path in paths.items() if path is not None
    }
    _check_different(texts)
    tokenizer = ByteTokenizer()

    def chunks(split: Split) -> TextChunks | None:
        if split not in texts:
            return None
        text = texts[split]
        return TextChunks(
            text.content, text.documents, tokenizer, length, jitter=jitter, seed=seed
        )

    return SequenceData(
        chunks("train"),
        chunks("valid"),
        chunks("test"),
        tokenizer,
        length=length,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        num_workers=num_workers,
        start_method=start_method,
        pin_memory=pin_memory,
        seed=seed,
        source={
            "text": {
                split: {"path": str(text.path), "sha256": text.sha256, "bytes": len(text.content)}
                for split, text in texts.items()
            }
        },
        missing=f"files are given for: {', '.join(texts) or 'no split'}; give one for it too, or "
        "use another split.",
    )


@final
class TextChunks:
    """Chunks of `length` tokens of one long string, the last one shorter and padded (weight 0).

    With `jitter` a chunk is read up to that many tokens earlier or later, anew in each epoch, as
    far as the string goes.

    Args:
        tokens: the string.
        documents: where documents begin in it, ascending.
    """

    def __init__(
        self,
        tokens: Integer[np.ndarray, "n"],
        documents: Int64[np.ndarray, "d"],
        tokenizer: Tokenizer,
        length: int,
        *,
        jitter: int = 0,
        seed: int = 0,
    ):
        if jitter < 0:
            raise UserError(f"jitter={jitter} is no number of tokens; give 0 or more.")
        self.tokens, self.documents, self.tokenizer = tokens, documents, tokenizer
        self.length, self.jitter, self.seed = length, jitter, seed
        self._starts = np.arange(0, len(tokens), length)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitems__(self, keys: Keys, /) -> Int64[np.ndarray, "b l"]:
        """The tokens of the chunks of these keys, (epoch, index)."""
        place = self._read_at(keys)[:, None] + np.arange(self.length)
        inside = place < len(self.tokens)
        tokens = self.tokens[place * inside].astype(np.int64)
        tokens[~inside] = self.tokenizer.pad_id
        return tokens

    def collate(self, tokens: Int64[np.ndarray, "b l"], /) -> TokenBatch:
        """Tokens and weights of a batch."""
        weights = (tokens != self.tokenizer.pad_id).astype(np.float32)
        return TokenBatch(torch.from_numpy(tokens), torch.from_numpy(weights))

    def locate(self, keys: Keys, /) -> list[str]:
        """Where the chunks of these keys begin: the document and the token, each from 0."""
        start = self._read_at(keys)
        places = zip(self._documents_at(start), start, strict=True)
        return [f"document {document}, token {token}" for document, token in places]

    @property
    def cluster_ids(self) -> Int64[np.ndarray, "n"]:
        """The document in which each chunk begins."""
        return self._documents_at(self._starts)

    def plain(self) -> "TextChunks":
        """The same chunks where they were cut."""
        return TextChunks(self.tokens, self.documents, self.tokenizer, self.length)

    def describe(self) -> dict[str, int]:
        """What the chunks are made of, for logs and manifests."""
        return {
            "windows": len(self),
            "tokens": len(self.tokens),
            "documents": len(self.documents),
        }

    def _read_at(self, keys: Keys) -> Int64[np.ndarray, "b"]:
        """The first token of each chunk."""
        epoch, index = keys.T
        start = self._starts[index]
        if self.jitter:
            last = np.maximum(start, len(self.tokens) - self.length)  # of a chunk without padding
            low = np.maximum(0, start - self.jitter)
            high = np.minimum(last, start + self.jitter)
            start = low + integers_below(high - low + 1, self.seed, Stream.JITTER, epoch, index)
        return start

    def _documents_at(self, start: Int64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"]:
        document = np.searchsorted(self.documents, start, side="right") - 1
        return np.maximum(document, 0)  # white space before the first counts as part of it


class Text(NamedTuple):
    """The bytes of a text, decompressed, their SHA-256, and where its documents begin."""

    path: Path
    content: UInt8[np.ndarray, "n"]
    sha256: str
    documents: Int64[np.ndarray, "d"]


def read_text(path: Path) -> Text:
    """Reads a file of UTF-8, plain or gzip.

    Raises `UserError` if it cannot be read, is not UTF-8, or holds nothing but white space.
    """
    content = read_plain(path, "a text file, plain or gzip")
    invalid = _first_invalid(content)
    if invalid is not None:
        raise UserError(
            f"{path} is not UTF-8 at byte {invalid} (counted from 0, decompressed): "
            f"0x{content[invalid]:02x}; convert it to UTF-8."
        )
    starts = np.array([match.end() for match in _DOCUMENT_START.finditer(content)], np.int64)
    documents = starts[starts < len(content)]
    if not len(documents):
        raise UserError(f"{path} holds no text; give a file with some.")
    return Text(
        path,
        np.frombuffer(content, dtype=np.uint8),
        hashlib.sha256(content).hexdigest(),
        documents,
    )


def _first_invalid(content: bytes) -> int | None:
    """Where `content` first fails to be UTF-8; decoded in blocks, since a str takes up to four
    times the memory."""
    view, start = memoryview(content), 0
    while start < len(content):
        block = view[start : start + _BLOCK_BYTES]
        try:
            _, used = codecs.utf_8_decode(block, "strict", start + len(block) == len(content))
        except UnicodeDecodeError as error:
            return start + error.start
        start += used
    return None


def _check_different(texts: Mapping[Split, Text]) -> None:
    """Refuses two splits of the same text: what is measured on one was learnt from the other."""
    seen: dict[str, tuple[Split, Path]] = {}
    for split, text in texts.items():
        if text.sha256 in seen:
            other, path = seen[text.sha256]
            raise UserError(
                f"{other}={path} and {split}={text.path} hold the same text; give each split a "
                "text of its own."
            )
        seen[text.sha256] = split, text.path
