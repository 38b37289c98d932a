"""Vectors in files, joined from parts without holding more than one of them.

A part has arrays by name, of which a file has the rows of one part after the other: numpy's `.npz`
as arrays, Parquet as columns, with a row group a part. Vectors are a matrix, or lists of their
width. Where there are `lengths`, a row has so many vectors and not one: `.npz` says where they
begin, and Parquet has lists of lists.
"""

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.parts import Parts

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first date a zip can have: what is in a file does not depend on when it was written."""


def as_part(arrays: Mapping[str, ndarray]) -> bytes:
    """The contents of a part."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return sink.getvalue()


class Stored(NamedTuple):
    """The arrays of the first `n` parts."""

    parts: Parts
    n: int

    def arrays(self, name: str) -> Iterator[ndarray]:
        """Those of that name."""
        for file in self.parts.open(self.n):
            with np.load(file) as part:
                yield part[name]

    def tables(self) -> Iterator[dict[str, ndarray]]:
        """All of each part."""
        for file in self.parts.open(self.n):
            with np.load(file) as part:
                yield dict(part)


def write_npz(sink: BinaryIO, stored: Stored, names: Iterable[str]) -> None:
    """Writes the arrays of those names. In the place of `lengths` are `offsets`: where the vectors
    of each row begin and, one more, where the last ones end."""
    with zipfile.ZipFile(sink, "w") as archive:
        for name in names:
            (rows, *rest), dtype = _whole(stored, name)
            blocks = stored.arrays(name)
            if name == "lengths":
                name, rows, blocks = "offsets", rows + 1, _offsets(blocks)
            member = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            with archive.open(member, "w", force_zip64=True) as file:
                descr = np.lib.format.dtype_to_descr(dtype)
                header = {"descr": descr, "fortran_order": False, "shape": (rows, *rest)}
                np.lib.format.write_array_header_1_0(file, header)
                for block in blocks:
                    file.write(np.ascontiguousarray(block, dtype).view(np.uint8).data)


def _offsets(blocks: Iterator[ndarray]) -> Iterator[ndarray]:
    total = np.zeros(1, np.int64)
    yield total
    for block in blocks:
        ends = total[-1] + np.cumsum(block)
        yield ends
        total = ends[-1:]


def _whole(stored: Stored, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the arrays of that name put together, from their headers alone."""
    rows, rest, dtypes = 0, (), set[np.dtype]()
    for file in stored.parts.open(stored.n):
        with np.load(file) as part, part.zip.open(f"{name}.npy") as member:
            np.lib.format.read_magic(member)
            (length, *rest), _, dtype = np.lib.format.read_array_header_1_0(member)
        rows += length
        dtypes.add(dtype)
    return (rows, *rest), np.result_type(*dtypes)


def write_parquet(sink: BinaryIO, stored: Stored, names: Mapping[str, str]) -> None:
    """Writes a table of the arrays of those names, each as a column of the name it is given."""
    pa, parquet = _pyarrow()
    writer = None
    try:
        for table in stored.tables():
            group = pa.table({new: _column(pa, table, name) for name, new in names.items()})
            if writer is None:
                writer = parquet.ParquetWriter(sink, group.schema)
            writer.write_table(group, row_group_size=len(group))
    finally:
        if writer is not None:
            writer.close()


def _column(pa: Any, table: Mapping[str, ndarray], name: str) -> Any:
    """An array of pyarrow's: vectors as lists of their length; of rows with several, lists of
    those."""
    values = table[name]
    if values.ndim == 1:
        return pa.array(values)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    if "lengths" not in table:
        return vectors
    starts = np.concatenate([[0], np.cumsum(table["lengths"])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(starts), vectors)


def require_parquet() -> None:
    """Raises UserError without pyarrow."""
    _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "pyarrow is not installed, and Parquet is written with it; run pip install "
            "'genodiff[embed]', or write out=FILE.npz."
        ) from error
    return pyarrow, pyarrow.parquet
