"""Texts as lines, there and back."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genodiff.data import json_lines, read_texts, text_lines
from genodiff.errors import UserError

# Every letter that UTF-8 has, and often those that lines are made of.
TEXTS = st.lists(
    st.text(
        st.one_of(
            st.sampled_from("\\\n\rnr\x0b\x85\u2028"), st.characters(exclude_categories=["Cs"])
        )
    )
)


@settings(deadline=None)
@given(TEXTS)
def test_lines_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    written = text_lines(texts)
    assert written.count("\n") == len(texts) and "\r" not in written
    (folder / "a.txt").write_bytes(written.encode())
    assert read_texts(folder / "a.txt") == texts
    ids = [[len(text), 7] for text in texts]
    (folder / "a.jsonl").write_bytes(json_lines(texts, ids).encode())
    assert read_texts(folder / "a.jsonl") == texts


def test_a_line_of_json_has_the_text_and_its_ids() -> None:
    assert [json.loads(line) for line in json_lines(["ö\n"], [[3, 4]]).splitlines()] == [
        {"text": "ö\n", "ids": [3, 4]}
    ]


def test_plain_text_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\n\r\nC:\\temp \\alpha\nlast")
    assert read_texts(path) == ["one", "", "C:\\temp \\alpha", "last"]
    path.write_bytes(b"")
    assert read_texts(path) == []


def test_gzip_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a\\nb"}\n'))
    assert read_texts(path) == ["a\nb"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"one\ntw\xff", r"a\.txt is not UTF-8 at byte 6 .*: 0xff; convert it"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', r"a\.jsonl, line 2, is no \{\"text\": \.\."),
        ("a.jsonl", b"plain\n", r"line 1, is no .* name a file of plain lines \.txt"),
        ("a.jsonl", b'{"text": 3}\n', "line 1, is no"),
        ("a.jsonl", b"[]\n", "line 1, is no"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_texts(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        read_texts(tmp_path / "absent.txt")
