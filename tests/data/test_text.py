import gzip
import hashlib
import json
import pickle
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genodiff.data import ByteTokenizer, SequenceData, TextChunks, Tokenizer, text_data
from genodiff.errors import UserError

PAD = 257
# Every byte at another place, so that a chunk says where it was read.
TEXT = bytes(range(1, 128)).decode()


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def make(folder: Path, text: str | bytes = TEXT, **options: Any) -> SequenceData:
    """Data whose training text is `text`."""
    valid, test = write(folder / "valid.txt", "valid"), write(folder / "test.txt", "test")
    return text_data(write(folder / "train.txt", text), valid, test, **options)


def evaluated(data: SequenceData, split: Any = "train") -> tuple[np.ndarray, np.ndarray]:
    batches = list(data.eval_loader(split))
    return (
        torch.cat([batch.tokens for batch in batches]).numpy(),
        torch.cat([batch.weights for batch in batches]).numpy(),
    )


@given(st.integers(1, 40), st.integers(1, 12))
def test_every_token_is_in_one_chunk_and_counts_once(n: int, length: int) -> None:
    string = np.arange(n, dtype=np.uint8)
    chunks = TextChunks(string, np.zeros(1, np.int64), ByteTokenizer(), length)
    keys = np.stack([np.zeros(len(chunks), np.int64), np.arange(len(chunks))], axis=1)
    tokens, weights, _ = chunks.collate(chunks.__getitems__(keys))
    assert tokens.shape == weights.shape == (-(-n // length), length)
    assert tokens.flatten()[:n].tolist() == string.tolist()
    assert (tokens.flatten()[n:] == PAD).all()
    assert weights.flatten().tolist() == [1] * n + [0] * (tokens.numel() - n)
    assert (tokens.dtype, weights.dtype) == (torch.int64, torch.float32)


def test_the_splits_are_their_files(tmp_path: Path) -> None:
    data = make(tmp_path, "åäö\r\n" * 7, length=4, batch_size=3)
    for split in ("train", "valid", "test"):
        tokens, weights = evaluated(data, split)
        content = (tmp_path / f"{split}.txt").read_bytes()
        assert bytes(tokens[weights > 0].tolist()) == content
    assert isinstance(data.tokenizer, Tokenizer)


def test_a_compressed_text_is_the_same_text(tmp_path: Path) -> None:
    plain = make(tmp_path)
    packed = write(tmp_path / "any.name", gzip.compress(TEXT.encode()))
    data = text_data(packed, None)
    assert np.array_equal(evaluated(data)[0], evaluated(plain)[0])
    described, expected = (d.describe()["text"]["train"] for d in (data, plain))
    assert described == {**expected, "path": str(packed)}


@pytest.mark.parametrize(
    "documents",
    [
        ["one document\nof two lines\n"],
        ["aa\n\n", "bbb\n\n\n\n", "cc\ndd\n\n", "ee"],
        ["\n\n  \naa\r\n\r\n", "bbb\r\ncc\r\n \t\r\n\r\n", "dd\r\n\r\n"],
        ["  a\n  a\n \n  ", "b\n\f\n"],
    ],
)
@pytest.mark.parametrize("length", [1, 3])
def test_a_chunk_belongs_to_the_document_in_which_it_begins(
    tmp_path: Path, documents: list[str], length: int
) -> None:
    data = make(tmp_path, "".join(documents), length=length)
    each = [number for number, text in enumerate(documents) for _ in text]
    assert data.cluster_ids("train").tolist() == each[::length]
    assert data.describe()["splits"]["train"]["documents"] == len(documents)


def test_jitter_moves_the_chunks_of_training_alone(tmp_path: Path) -> None:
    length, jitter = 10, 4
    data = make(tmp_path, length=length, batch_size=13, jitter=jitter)
    chunks = data.dataset("train")
    assert len(chunks) == 13
    index = np.arange(13)
    starts = []
    for epoch in range(40):
        tokens = chunks.__getitems__(np.stack([np.full(13, epoch), index], axis=1))
        starts.append(tokens[:, 0] - 1)  # TEXT begins with byte 1
        places = chunks.locate(np.stack([np.full(13, epoch), index], axis=1))
        assert places == [f"document 0, token {start}" for start in starts[-1]]
        for row, start in zip(tokens, starts[-1], strict=True):
            end = min(start + length, 127)
            assert row[: end - start].tolist() == list(range(start + 1, end + 1))
            assert (row[end - start :] == PAD).all()
    moved = np.stack(starts) - index * length
    assert (moved[:, 0] >= 0).all() and (moved[:, 12] <= 0).all()
    # 40 draws of 9 values: one of a chunk's ends is missed with probability 2 (8/9)^40 = 1.8 %,
    # of all 10 inner chunks' together 1e-17.
    assert (moved[:, 1:11].min(), moved[:, 1:11].max()) == (-jitter, jitter)
    assert np.array_equal(evaluated(data)[0], evaluated(make(tmp_path, length=length))[0])


def test_training_is_the_same_again_and_another_with_another_seed(tmp_path: Path) -> None:
    def stream(**options: Any) -> list[Any]:
        data = make(tmp_path, length=10, batch_size=8, jitter=5, **options)
        return [batch.tokens.tolist() for batch in islice(data.train_loader(), 5)]

    assert stream() == stream() != stream(seed=1)


def test_a_text_shorter_than_a_chunk_is_one_chunk(tmp_path: Path) -> None:
    data = make(tmp_path, "abc", length=8, batch_size=1, jitter=3)
    for batch in (*data.eval_loader("train"), *islice(data.train_loader(), 3)):
        assert batch.tokens.tolist() == [[97, 98, 99, *[PAD] * 5]]


def test_chunks_go_to_other_processes(tmp_path: Path) -> None:
    chunks = make(tmp_path, length=10, jitter=3).dataset("train")
    keys = np.array([[0, 2], [5, 12]])
    again = pickle.loads(pickle.dumps(chunks))
    assert np.array_equal(again.__getitems__(keys), chunks.__getitems__(keys))


def test_the_description_says_what_was_read(tmp_path: Path) -> None:
    description = json.loads(json.dumps(make(tmp_path, "ab\n\ncd", length=4).describe()))
    assert description["text"]["train"] == {
        "path": str(tmp_path / "train.txt"),
        "sha256": hashlib.sha256(b"ab\n\ncd").hexdigest(),
        "bytes": 6,
    }
    assert description["splits"]["train"] == {"windows": 2, "tokens": 6, "documents": 2}
    assert description["length"] == 4


def test_a_split_without_a_file_is_refused_when_asked_for(tmp_path: Path) -> None:
    data = text_data(write(tmp_path / "a", "a"), write(tmp_path / "b", "b"))
    with pytest.raises(UserError, match="no test data; files are given for: train, valid; give"):
        data.eval_loader("test")
    with pytest.raises(UserError, match="no valid data; files are given for: no split"):
        text_data(None, None).dataset("valid")


def test_two_splits_of_the_same_text_are_refused(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.txt", "same"), write(tmp_path / "b.txt", "other")
    with pytest.raises(UserError, match=r"train=.*a\.txt and test=.*a\.txt hold the same text"):
        text_data(a, b, a)
    packed = write(tmp_path / "c.gz", gzip.compress(b"same"))
    with pytest.raises(UserError, match=r"train=.*a\.txt and valid=.*c\.gz hold the same text"):
        text_data(a, packed)


@pytest.mark.parametrize(
    ("content", "at", "byte"),
    [
        (b"ab\xffcd", 2, "0xff"),
        ("é".encode("latin-1"), 0, "0xe9"),
        (b"a" * 5 + "€".encode()[:2], 5, "0xe2"),
        # A character that lies across two blocks is no error, and places are counted on over them.
        (b"a" * ((1 << 20) - 1) + "é".encode() + b"b\xc3(", (1 << 20) + 2, "0xc3"),
    ],
)
def test_what_is_not_utf_8_is_refused_with_its_place(
    tmp_path: Path, content: bytes, at: int, byte: str
) -> None:
    path = write(tmp_path / "bad.txt", content)
    with pytest.raises(UserError, match=rf"bad\.txt is not UTF-8 at byte {at} .*: {byte}; conv"):
        text_data(path, None)


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n\n", gzip.compress(b"")])
def test_a_file_without_text_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"empty\.txt holds no text"):
        text_data(write(tmp_path / "empty.txt", content), None)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt cannot be read \(No such file"):
        text_data(None, tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\); give the path"):
        text_data(tmp_path, None)


@pytest.mark.parametrize("damage", [lambda z: z[:-9], lambda z: z[:-1] + b"!", lambda z: z[:12]])
def test_damaged_gzip_is_refused(tmp_path: Path, damage: Any) -> None:
    path = write(tmp_path / "text.gz", damage(gzip.compress(TEXT.encode())))
    with pytest.raises(UserError, match=r"text\.gz is truncated or is not valid gzip"):
        text_data(path, None)


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="length=0 is no number of bytes; give 1 or more"):
        make(tmp_path, length=0)
    with pytest.raises(UserError, match="jitter=-1 is no number of tokens; give 0 or more"):
        make(tmp_path, jitter=-1)
