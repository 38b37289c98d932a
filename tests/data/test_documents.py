import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genodiff.data import LocalDocuments
from genodiff.data.documents import Part, text_files
from genodiff.errors import UserError
from tests.data.given import Given, write_jsonl, write_parquet


def local(path: Path, *args: Any, **options: Any) -> LocalDocuments:
    return LocalDocuments(text_files(path), *args, **options)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


TEXT = "\n \n  one\n two\n\n\t\n three\r\n \r\n\nfour"


@pytest.mark.parametrize(
    ("unit", "kept", "bare"),
    [
        (
            "paragraph",
            ["\n \n  one\n two\n\n\t\n", " three\r\n \r\n\n", "four"],
            ["one\n two", "three", "four"],
        ),
        (
            "line",
            ["\n \n  one\n", " two\n\n\t\n", " three\r\n \r\n\n", "four"],
            ["one", "two", "three", "four"],
        ),
        ("file", [TEXT], [TEXT.strip()]),
    ],
)
def test_what_a_document_is(tmp_path: Path, unit: Any, kept: list[str], bare: list[str]) -> None:
    path = write(tmp_path / "a.txt", TEXT)
    assert list(local(path, unit, between=True).documents()) == kept
    assert list(local(path, unit).documents()) == bare
    packed = write(tmp_path / "b", gzip.compress(TEXT.encode()))
    assert list(local(packed, unit).documents()) == bare


def test_a_row_is_a_line_and_a_blank_one_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", " \n = A = \n\nb")
    assert list(local(path, "row").documents()) == ["", " = A = \n", "", "b"]


@given(st.text(alphabet="a \n\té", max_size=40), st.sampled_from(["paragraph", "line", "file"]))
@settings(deadline=None)
def test_what_is_kept_between_documents_makes_the_text_whole(
    tmp_path_factory: pytest.TempPathFactory, text: str, unit: Any
) -> None:
    path = write(tmp_path_factory.mktemp("any") / "a.txt", text)
    documents = list(local(path, unit, between=True).documents())
    assert "".join(documents) == (text if text.strip() else "")
    assert all(document.strip() for document in documents)


def test_lines_longer_than_a_piece_are_one(tmp_path: Path) -> None:
    long = " " * (1 << 20) + "é" * (1 << 20)
    path = write(tmp_path / "a.txt", f"{long}\nshort\n\nnext")
    assert list(local(path, between=True).documents()) == [f"{long}\nshort\n\n", "next"]
    assert list(local(path, "row").documents()) == [f"{long}\n", "short\n", "", "next"]


def test_tables_hold_a_document_a_row(tmp_path: Path) -> None:
    texts = ["a\n\nb", "", None, "c ", "é", "f", "g"]
    expected = ["a\n\nb", "", "", "c ", "é", "f", "g"]
    paths = [
        write_jsonl(tmp_path / "a.jsonl", texts),
        write_parquet(tmp_path / "b.parquet", texts),
    ]
    zipped = tmp_path / "c.jsonl.gz"
    zipped.write_bytes(gzip.compress(paths[0].read_bytes() + b"\n \n"))
    for path in (*paths, zipped):
        for first in range(len(texts) + 1):
            assert list(local(path).documents(first)) == expected[first:], (path, first)
        assert local(path).count() == len(texts)


def test_files_follow_each_other_and_documents_are_counted_over_them(tmp_path: Path) -> None:
    write(tmp_path / "1.txt", "a\n\nb")
    write_parquet(tmp_path / "2.parquet", ["c", "d", "e"])
    write_jsonl(tmp_path / "3.jsonl", ["f"])
    write(tmp_path / "4.md", "not text")
    write(tmp_path / ".hidden.txt", "neither")
    source = local(tmp_path)
    for first in range(7):
        assert list(source.documents(first)) == list("abcdef")[first:]
    assert source.count() == 6
    assert source.origin == f"{tmp_path / '1.txt'} and 2 more"
    ordered = [tmp_path / "3.jsonl", tmp_path / "1.txt"]
    assert list(LocalDocuments(text_files(ordered)).documents()) == ["f", "a", "b"]


@given(st.integers(0, 8), *[st.none() | st.integers(-9, 9)] * 2)
def test_a_part_is_a_slice(n: int, start: int | None, stop: int | None) -> None:
    texts = [str(i) for i in range(n)]
    part = Part(Given(texts), start, stop)
    assert list(part.documents()) == texts[start:stop]
    assert list(part.documents(2)) == texts[start:stop][2:]
    assert part.count() == len(texts[start:stop])
    assert Part(Given(texts), -3, None).origin == "given[-3:]"


def test_identity_is_the_text_and_how_it_is_read(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.txt", "same"), write(tmp_path / "b.txt", "same")
    assert local(a).identity() == local(b).identity()
    assert json.dumps(local(a).identity())
    others = [local(a, "line"), local(a, between=True), local(write(tmp_path / "c.txt", "other"))]
    others.append(local(write(tmp_path / "d.jsonl", "same")))
    assert all(other.identity() != local(a).identity() for other in others)
    assert Part(local(a), 0, 1).identity() != Part(local(a), 0, 2).identity()


def test_the_digest_of_a_large_file_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genodiff.data.documents._LARGE_FILE_BYTES", 3)
    path, digests = write(tmp_path / "a.txt", "text"), tmp_path / "digests"
    identity = local(path, digests=digests).identity()
    (kept,) = digests.iterdir()
    kept.write_text(kept.read_text().replace(identity["files"][0][1], "0" * 64))
    assert local(path, digests=digests).identity()["files"] == [["text", "0" * 64]]
    for damaged in ("[]", "{}", "{"):
        kept.write_text(damaged)
        assert local(path, digests=digests).identity() == identity
    write(path, "tents")
    assert local(path, digests=digests).identity()["files"][0][1] not in ("0" * 64, identity)


@pytest.mark.parametrize("name", ["line.txt", "file.txt", "row.jsonl"])
def test_a_document_too_long_is_refused_before_it_is_held(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(b"short\n\n" if name == "line.txt" else b"{" * 7)
        for _ in range(16):
            file.write(b"a" * (1 << 20))
    tracemalloc.start()
    begins = 7 if name == "line.txt" else 0
    with pytest.raises(UserError, match=rf"document that begins at byte {begins} is longer than "):
        list(local(path, max_document_bytes=2 << 20).documents())
    assert tracemalloc.get_traced_memory()[1] < 6 << 20
    tracemalloc.stop()


def test_a_long_row_of_parquet_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["a", "bé" * 4, "c"])
    assert len(list(local(path, max_document_bytes=12).documents())) == 3
    with pytest.raises(UserError, match=r"rows 0 to 1 .*has 12 bytes, and max_document_bytes=11 "):
        list(local(path, max_document_bytes=11).documents())


@pytest.mark.parametrize(
    ("content", "at", "byte"),
    [
        (b"ab\xffcd", 2, "0xff"),
        (b"one\n\ntwo\n\n" + "é".encode("latin-1"), 10, "0xe9"),
        (b"a" * 5 + "€".encode()[:2], 5, "0xe2"),
        (b"a" * ((1 << 20) - 1) + "é".encode() + b"b\xc3(", (1 << 20) + 2, "0xc3"),
    ],
)
def test_what_is_not_utf_8_is_refused_with_its_place(
    tmp_path: Path, content: bytes, at: int, byte: str
) -> None:
    path = write(tmp_path / "bad.txt", content)
    with pytest.raises(UserError, match=rf"bad\.txt is not UTF-8 at byte {at} .*: {byte}; conv"):
        list(local(path).documents())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'text': 1}", r"a\.jsonl, line 2 is not JSON \(Expecting .*\); write an object a line"),
        ("[1]", r'line 2 is not an object of JSON; write \{"text": "\.\.\."\}'),
        ('{"a": 1, "b": 2}', r"line 2 has no column 'text', but a, b; give column="),
        ('{"text": 1}', "line 2: text is int, not text; give column="),
        (r'{"text": "a\ud800"}', "line 2: the text has half of a surrogate pair at letter 1"),
        ('{"text": "a', "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_bad_lines_of_json_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"text": "good"}}\n{line}\n')
    with pytest.raises(UserError, match=message):
        list(local(path).documents())


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["a"], column="article")
    with pytest.raises(UserError, match=r"a\.parquet has no column 'text', but id, article; give"):
        list(local(path).documents())
    with pytest.raises(UserError, match="column 'id' holds int64, not text"):
        list(local(path, column="id").documents())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"a\.parquet is truncated or is not parquet \(.*\); get"):
        list(local(path, column="article").documents())


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for name in ("none.txt", "none.jsonl", "none.parquet"):
        with pytest.raises(UserError, match=rf"{name} cannot be read \(No such file"):
            local(tmp_path / name).identity()
        with pytest.raises(UserError, match=rf"{name} cannot be read \(No such file"):
            list(local(tmp_path / name).documents())
    with pytest.raises(UserError, match=r"is a folder without text; give one with files \*\.txt"):
        text_files(tmp_path)


@pytest.mark.parametrize("damage", [lambda z: z[:-9], lambda z: z[:-1] + b"!", lambda z: z[:12]])
def test_damaged_gzip_is_refused(tmp_path: Path, damage: Any) -> None:
    path = write(tmp_path / "text.gz", damage(gzip.compress(b"text" * 100)))
    with pytest.raises(UserError, match=r"text\.gz is truncated or is not valid gzip"):
        list(local(path).documents())


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a\n\nb")
    documents = local(path).documents()
    next(documents)
    write(path, "a\n\nb\n\nc")
    with pytest.raises(UserError, match=r"a\.txt changed while it was read; start again when"):
        list(documents)


def test_a_file_that_changes_between_its_digest_and_its_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a\n\nb")
    source = local(path)
    source.identity()  # what tokens are kept under
    write(path, "a\n\nb\n\nc")
    with pytest.raises(UserError, match=r"a\.txt changed while it was read; start again when"):
        list(source.documents())
