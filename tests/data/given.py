"""Documents at hand, in the place of a corpus, and their rows."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genodiff.data import TextRows


class Given:
    """Documents of a list. `asked` are the numbers from which they were asked for."""

    origin = "given"

    def __init__(self, texts: Sequence[str]):
        self.texts, self.asked = texts, list[int]()

    def identity(self) -> dict[str, Any]:
        return {"texts": list(self.texts)}

    def documents(self, first: int = 0) -> Iterator[str]:
        self.asked.append(first)
        yield from self.texts[first:]

    def count(self) -> int:
        return len(self.texts)


def keys_of(rows: TextRows, epoch: int = 0) -> np.ndarray:
    """The key of each row."""
    index = np.arange(len(rows))
    return np.stack([np.full_like(index, epoch), index], axis=1)


def write_jsonl(path: Path, texts: Sequence[Any], column: str = "text") -> Path:
    path.write_text("".join(json.dumps({"id": 1, column: text}) + "\n" for text in texts))
    return path


def write_parquet(path: Path, texts: Sequence[Any], column: str = "text", group: int = 2) -> Path:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"id": list(range(len(texts))), column: list(texts)})
    pyarrow.parquet.write_table(table, path, row_group_size=group)
    return path
