import gzip
import io
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from Bio import bgzf

from genodiff.data import text_blocks as module
from genodiff.data.compression import Compression, compression_of
from genodiff.data.fasta import FastaRecord, TextBlock, encode_fasta, translate
from genodiff.data.text_blocks import text_blocks, usable_threads
from genodiff.errors import UserError
from tests.data.toys import fasta_text, random_sequence

RNG = np.random.default_rng(0)
SEQUENCES = {
    f"chr{i}": random_sequence(n, RNG) for i, n in enumerate((200_001, 1, 61, 90_000, 70_000))
}
TEXT = fasta_text(SEQUENCES, line_bases=61).encode()
COMPRESSIONS: tuple[Compression, ...] = ("none", "gzip", "bgzip")


def compressed(text: bytes, compression: Compression) -> bytes:
    if compression == "none":
        return text
    if compression == "gzip":
        return gzip.compress(text)
    file = io.BytesIO()
    writer = bgzf.BgzfWriter(fileobj=file)
    writer.write(text)
    writer.flush()
    file.write(bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000"))
    return file.getvalue()


def read(data: bytes, threads: int = 2) -> list[TextBlock]:
    return list(text_blocks(io.BytesIO(data), compression_of(data[:18]), threads))


def encoded(blocks: Any) -> tuple[list[FastaRecord], bytes]:
    sink = io.BytesIO()
    return encode_fasta(blocks, sink, "toy.fa"), sink.getvalue()


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_neither_text_nor_records_nor_codes(
    compression: Compression, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequential = encoded([translate(TEXT)])
    data = compressed(TEXT, compression)
    assert compression_of(data[:18]) == compression
    for n_bytes in (1, 997, 1 << 20):
        if n_bytes == 1 and compression == "none":
            continue  # 370,000 tasks
        monkeypatch.setattr(module, "BLOCK_BYTES", max(n_bytes, 100))
        monkeypatch.setattr(module, "BGZIP_BYTES", max(n_bytes, 100))
        blocks = read(data, threads)
        assert b"".join(block.text for block in blocks) == TEXT
        assert encoded(blocks) == sequential


def test_a_block_without_a_header_comes_translated() -> None:
    for block in read(compressed(TEXT, "bgzip")):
        assert (block.codes is None) == (b">" in block.text)
    assert sum(block.codes is not None for block in read(compressed(TEXT, "bgzip"))) >= 2


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_an_empty_file_has_no_text(compression: Compression) -> None:
    assert b"".join(block.text for block in read(compressed(b"", compression))) == b""


@pytest.mark.parametrize("compression", ["gzip", "bgzip"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_of_the_file_is_the_one_that_is_raised(
    compression: Compression, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(module, "BGZIP_BYTES", 4096)
    cut = compressed(TEXT, compression)[:-5000]
    with pytest.raises((EOFError, zlib.error)):
        read(cut, threads)
    bad = compressed(TEXT.replace(b"\n>chr3", b"\n*\n>chr3"), compression)[:-5000]
    for _ in range(5):
        with pytest.raises(UserError, match="record 'chr2' has '\\*' at base 62"):
            encoded(text_blocks(io.BytesIO(bad), compression, threads))


def test_damage_in_any_block_of_bgzip_is_noticed() -> None:
    data = compressed(TEXT, "bgzip")
    for at in range(40, len(data) - 40, 9973):
        damaged = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        with pytest.raises((zlib.error, EOFError, gzip.BadGzipFile)):
            read(damaged)
    with pytest.raises(EOFError, match="the last block is incomplete"):
        read(data[:-1])
    with pytest.raises(gzip.BadGzipFile, match="bgzip at first, something else later"):
        read(data + gzip.compress(TEXT))


def test_closing_leaves_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 64)
    before = threading.active_count()
    blocks = text_blocks(io.BytesIO(TEXT), "none", 4)
    next(blocks)
    assert threading.active_count() > before
    blocks.close()
    assert threading.active_count() == before


def test_no_more_than_a_few_blocks_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 64)
    source = io.BytesIO(TEXT)
    blocks = text_blocks(source, "none", 2)
    next(blocks)
    assert source.tell() <= 5 * 64
    blocks.close()


def test_threads_follow_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: {3, 5, 6}, raising=False)
    assert usable_threads() == 3
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: set(range(64)))
    assert usable_threads() == 8
    monkeypatch.delattr(module.os, "sched_getaffinity")
    monkeypatch.setattr(module.os, "cpu_count", lambda: None)
    assert usable_threads() == 1


def test_a_file_on_disk_is_read_as_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    path.write_bytes(TEXT)
    with path.open("rb") as source:
        assert encoded(text_blocks(source, "none", 2)) == encoded([translate(TEXT)])
