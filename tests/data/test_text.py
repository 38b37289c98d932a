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

from genodiff.data import (
    CharacterTokenizer,
    SequenceData,
    TextTokenizer,
    default_text_cache,
    hub_text_data,
    text_data,
)
from genodiff.errors import UserError
from tests.data.given import write_jsonl, write_parquet

PAD = 257
# Every byte at another place, so that a row says where it was read.
TEXT = bytes(range(1, 128)).decode()


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def make(folder: Path, text: str | bytes = TEXT, **options: Any) -> SequenceData:
    """Data whose training text is `text`."""
    valid, test = write(folder / "valid.txt", "valid"), write(folder / "test.txt", "test")
    train = write(folder / "train.txt", text)
    return text_data(train, valid, test, cache_dir=folder / "cache", **options)


def evaluated(data: SequenceData, split: Any = "train") -> tuple[np.ndarray, np.ndarray]:
    batches = list(data.eval_loader(split))
    return (
        torch.cat([batch.tokens for batch in batches]).numpy(),
        torch.cat([batch.weights for batch in batches]).numpy(),
    )


def decoded(data: SequenceData, split: Any = "train") -> list[str]:
    """The rows of a split, with B for BOS, E for EOS and _ for padding."""
    names = {"[BOS]": "B", "[EOS]": "E", "[PAD]": "_"}
    rows = [data.tokenizer.decode(row) for row in evaluated(data, split)[0]]
    for name, letter in names.items():
        rows = [row.replace(name, letter) for row in rows]
    return rows


def test_the_splits_are_their_files(tmp_path: Path) -> None:
    data = make(tmp_path, "\n\nåäö\r\n\n" * 7, length=4, batch_size=3)
    for split in ("train", "valid", "test"):
        tokens, weights = evaluated(data, split)
        content = (tmp_path / f"{split}.txt").read_bytes()
        assert bytes(tokens[weights > 0].tolist()) == content
        assert (tokens[weights == 0] == PAD).all()
    assert isinstance(data.tokenizer, TextTokenizer)


def test_a_compressed_text_is_the_same_text(tmp_path: Path) -> None:
    plain = make(tmp_path)
    packed = write(tmp_path / "any.name", gzip.compress(TEXT.encode()))
    data = text_data(packed, None, cache_dir=tmp_path / "cache")
    assert np.array_equal(evaluated(data)[0], evaluated(plain)[0])
    assert data.describe()["splits"]["train"] == plain.describe()["splits"]["train"]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, ["abcEdE", "fE____"]),
        ({"eos": False}, ["abcnnd", "nnf___"]),
        ({"eos": False, "ends": True}, ["BabcnE", "BndnnE", "BfE___"]),
        ({"ends": True, "length": 7}, ["BabcEdE", "BEfEE__"]),
        ({"layout": "padded"}, ["BabcE_", "BdE___", "BfE___"]),
        ({"layout": "padded", "length": 4}, ["BabE", "BdE_", "BfE_"]),
        ({"layout": "published"}, ["BabcEE", "BdEfEE"]),
        ({"documents": "file", "eos": False}, ["abcnnd", "nnf___"]),
        ({"documents": "file", "length": 9}, ["abcnndnnf", "E________"]),
        ({"detokenizer": "lambada", "layout": "padded"}, ["BnabcE", "BndE__", "BnfE__"]),
    ],
)
def test_layouts(tmp_path: Path, options: dict[str, Any], rows: list[str]) -> None:
    data = make(tmp_path, "abc\n\nd\n\nf", **{"tokenizer": "text8", "length": 6, **options})
    assert [row.replace("[UNK]", "n") for row in decoded(data)] == rows  # a line feed


def test_tables_and_folders_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    write_parquet(folder / "a.parquet", ["ab", "", "c"], column="story")
    write_jsonl(folder / "b.jsonl", ["d"], column="story")
    valid = [write_jsonl(tmp_path / f"{i}.jsonl", [str(i)], column="story") for i in range(2)]
    options = {"tokenizer": "text8", "length": 8, "cache_dir": tmp_path / "cache"}
    data = text_data(folder, valid, column="story", **options)
    assert decoded(data) == ["abEcEdE_"]
    assert data.dataset("valid").describe()["documents"] == 2
    keys = np.array([[0, 0]])
    assert data.dataset("train").locate(keys) == ["document 0, token 0"]
    assert data.dataset("train").describe()["skipped"] == 1


@pytest.mark.parametrize(
    "documents",
    [
        ["one document\nof two lines\n"],
        ["aa\n\n", "bbb\n\n\n\n", "cc\ndd\n\n", "ee"],
        ["\n\n  \naa\r\n\r\n", "bbb\r\ncc\r\n \t\r\n\r\n", "dd\r\n\r\n"],
        ["  a\n  a\n \n", "  b\n\f\n"],
    ],
)
@pytest.mark.parametrize("length", [1, 3])
def test_a_row_belongs_to_the_document_in_which_it_begins(
    tmp_path: Path, documents: list[str], length: int
) -> None:
    data = make(tmp_path, "".join(documents), length=length)
    each = [number for number, text in enumerate(documents) for _ in text]
    assert data.cluster_ids("train").tolist() == each[::length]
    assert data.describe()["splits"]["train"]["documents"] == len(documents)


def test_jitter_is_of_training_alone(tmp_path: Path) -> None:
    data = make(tmp_path, length=10, batch_size=13, jitter=4)
    (batch,) = islice(data.train_loader(), 1)
    first = batch.tokens[:, 0].numpy() - 1  # TEXT begins with byte 1
    assert (first % 10 > 0).any()
    assert data.locate_batch(0) == [f"document 0, token {start}" for start in first]
    assert np.array_equal(evaluated(data)[0], evaluated(make(tmp_path, length=10))[0])


def test_training_is_the_same_again_and_another_with_another_seed(tmp_path: Path) -> None:
    def stream(**options: Any) -> list[Any]:
        data = make(tmp_path, length=10, batch_size=8, jitter=5, **options)
        return [batch.tokens.tolist() for batch in islice(data.train_loader(), 5)]

    assert stream() == stream() != stream(seed=1)


def test_a_text_shorter_than_a_row_is_one_row(tmp_path: Path) -> None:
    data = make(tmp_path, "abc", length=8, batch_size=1, jitter=3)
    for batch in (*data.eval_loader("train"), *islice(data.train_loader(), 3)):
        assert batch.tokens.tolist() == [[97, 98, 99, *[PAD] * 5]]


def test_rows_go_to_other_processes(tmp_path: Path) -> None:
    rows = make(tmp_path, length=10, jitter=3).dataset("train")
    keys = np.array([[0, 2], [5, 12]])
    again = pickle.loads(pickle.dumps(rows))
    assert np.array_equal(again.__getitems__(keys), rows.__getitems__(keys))


def test_the_description_says_what_was_read(tmp_path: Path) -> None:
    description = json.loads(json.dumps(make(tmp_path, "ab\n\ncd", length=4).describe()))
    assert description["text"]["train"] == {
        "from": str(tmp_path / "train.txt"),
        "files": [["text", hashlib.sha256(b"ab\n\ncd").hexdigest()]],
        **{"unit": "paragraph", "column": "text", "between": True},
    }
    assert description["splits"]["train"] == {
        **{"layout": "packed", "ends": False, "windows": 2, "tokens": 6, "documents": 2},
        "skipped": 0,
    }
    assert (description["eos_after_documents"], description["detokenizer"]) == (False, None)
    assert description["length"] == 4


def test_the_cache_has_a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_text_cache() == tmp_path / "xdg" / "genodiff" / "text"
    text_data(write(tmp_path / "a.txt", "text"), None)
    (store,) = default_text_cache().iterdir()
    assert store.name.startswith("a_txt-")


def test_a_split_without_a_file_is_refused_when_asked_for(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", "a"), write(tmp_path / "b", "b")
    data = text_data(a, b, cache_dir=tmp_path)
    with pytest.raises(UserError, match="no test data; files are given for: train, valid; give"):
        data.eval_loader("test")
    with pytest.raises(UserError, match="no valid data; files are given for: no split"):
        text_data(None, None).dataset("valid")


def test_two_splits_of_the_same_text_are_refused(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.txt", "same"), write(tmp_path / "b.txt", "other")
    with pytest.raises(UserError, match=r"train=.*a\.txt and test=.*a\.txt hold the same text"):
        text_data(a, b, a, cache_dir=tmp_path)
    packed = write(tmp_path / "c.gz", gzip.compress(b"same"))
    with pytest.raises(UserError, match=r"train=.*a\.txt and valid=.*c\.gz hold the same text"):
        text_data(a, packed, cache_dir=tmp_path)
    table = write_jsonl(tmp_path / "d.jsonl", ["same"])
    with pytest.raises(UserError, match=r"valid=.*a\.txt and test=.*d\.jsonl hold the same text"):
        text_data(b, a, table, cache_dir=tmp_path)


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n\n", gzip.compress(b"")])
def test_a_file_without_text_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"empty\.txt holds no text"):
        text_data(write(tmp_path / "empty.txt", content), None, cache_dir=tmp_path)


def test_a_document_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.txt: the document that begins at byte 0 is long"):
        make(tmp_path, "a" * 20, max_document_bytes=19)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length=0 is no number of tokens; give 1 or more"),
        ({"jitter": -1}, "jitter=-1 is no number of tokens; give 0 or more"),
        ({"eos": True}, "eos=true, but ByteTokenizer has no EOS; leave it out"),
        ({"ends": True}, "ends=true puts BOS and EOS around rows, and ByteTokenizer has none"),
        (
            {"layout": "published"},
            "layout=published puts BOS .* and ByteTokenizer has none; use layout=packed",
        ),
        ({"layout": "padded", "eos": False}, "layout=padded has BOS and EOS in every row and no"),
        ({"layout": "padded", "jitter": 1}, "leave out eos=false and jitter=, or use layout=pac"),
        (
            {"tokenizer": "text8", "ends": True, "length": 2},
            "length=2 leaves no room .* give 3 or",
        ),
        ({"tokenizer": "text8", "layout": "padded", "length": 1}, "length=1 leaves no room for t"),
        ({"detokenizer": "bert"}, "detokenizer=bert is none; there are wt, lm1b, ptb, lambada, "),
    ],
)
def test_choices_that_do_not_go_together_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make(tmp_path, **options)


def test_the_hub_gives_the_same_rows_as_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    repository = tmp_path / "repository"
    repository.mkdir()
    paths = [
        write_parquet(repository / f"{split}.parquet", [f"{split} {i}" for i in range(3)])
        for split in ("train", "validation", "test")
    ]
    options = {"tokenizer": "text8", "length": 8, "cache_dir": tmp_path / "cache"}
    train, valid, test = paths
    ours = text_data(train, valid, test, **options)
    theirs = hub_text_data(str(repository), **options)
    for split in ("train", "valid", "test"):
        assert decoded(ours, split) == decoded(theirs, split)
    part = hub_text_data(str(repository), "train[1:]", None, None, **options)
    assert part.dataset("train").describe()["documents"] == 2
    with pytest.raises(
        UserError, match=r"no test data; .*repository is asked for: train; name on"
    ):
        part.dataset("test")


def test_the_specials_of_a_tokenizer_count_and_padding_does_not(tmp_path: Path) -> None:
    data = make(tmp_path, "ab\n\nc", tokenizer="text8", length=5, layout="padded")
    tokens, weights = evaluated(data)
    tokenizer = CharacterTokenizer()
    assert (weights == (tokens != tokenizer.pad_id)).all()
    assert {tokenizer.bos_id, tokenizer.eos_id} <= set(tokens[weights > 0].tolist())
    assert {tokenizer.bos_id, tokenizer.eos_id} <= set(tokenizer.data_ids)
