r"""Texts as lines of a file, and back.

In a `.txt` file a text is a line, in which `\\` stands for a backslash, `\n` for a line feed and
`\r` for a carriage return; any other backslash is one, so that plain text is read as it is. In a
`.jsonl` file a line is an object with the key `text`, and `ids` where the tokens are known.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from genodiff.data.plain_files import read_plain
from genodiff.errors import UserError

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_LETTERS = {"\\": "\\", "n": "\n", "r": "\r"}


def text_lines(texts: Iterable[str]) -> str:
    """The contents of a `.txt` file of `texts`."""
    table = str.maketrans(_ESCAPES)
    return "".join(f"{text.translate(table)}\n" for text in texts)


def json_lines(texts: Iterable[str], ids: Iterable[Sequence[int]]) -> str:
    """The contents of a `.jsonl` file of `texts` and their tokens."""
    rows = ({"text": text, "ids": list(row)} for text, row in zip(texts, ids, strict=True))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_texts(path: Path) -> list[str]:
    """The texts of a `.jsonl` file, or of any other as a `.txt` file; plain or gzip.

    It undoes `text_lines` and `json_lines` exactly, empty texts included. Lines may end as on
    Windows, and the last one may end with the file. Raises `UserError` for a file that cannot be
    read, is not UTF-8, or has a line of JSON without a text.
    """
    content = read_plain(path, "a file of texts, one a line")
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 at byte {error.start} (counted from 0): "
            f"0x{content[error.start]:02x}; convert it to UTF-8."
        ) from error
    if not lines[-1]:  # what follows the last line break is no line
        lines.pop()
    lines = [line.removesuffix("\r") for line in lines]
    if ".jsonl" in path.suffixes:
        return [_text_of(line, path, number) for number, line in enumerate(lines, 1)]
    return [re.sub(r"\\([\\nr])", lambda found: _LETTERS[found[1]], line) for line in lines]


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise UserError(
            f'{path}, line {number}, is no {{"text": ...}}; correct it, or name a file of plain '
            "lines .txt."
        )
    return text
