"""Documents of a data set of the Hugging Face Hub, which the package `datasets` fetches once and
maps into memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from genodiff.data.documents import MAX_DOCUMENT_BYTES, check_document, column_error
from genodiff.errors import OutsideError, UserError

_ROWS = 1000


@final
@dataclass(frozen=True)
class HubDocuments:
    """The texts of one column.

    Args:
        path: the name on the Hub, or a folder of files as `datasets` reads them.
        split: as `datasets` writes it, such as `train[:-100000]`.
        name: a configuration of it.
        files: the files of the split, such as `arxiv/train/*.parquet`; nothing else is fetched
            then.
        revision: a branch, a tag or a commit. The branch `refs/convert/parquet` has the files, by
            configuration and split, of data sets that are a script, which `datasets` does not run
            any more.

    Nothing is fetched before it is needed. Raises UserError for a data set, split or column that
    does not exist and if `datasets` is missing, OutsideError if the Hub cannot be reached.
    """

    path: str
    split: str
    name: str | None = None
    files: str | None = None
    revision: str | None = None
    column: str = "text"
    max_document_bytes: int = MAX_DOCUMENT_BYTES

    @property
    def origin(self) -> str:
        """Name, configuration, files and split."""
        parts = (self.path, self.name, self.files, self.split)
        return " ".join(part for part in parts if part)

    def identity(self) -> dict[str, Any]:
        """What was asked for, and the fingerprint that `datasets` gives what it fetched."""
        return {
            **{"hub": self.path, "name": self.name, "files": self.files},
            **{"revision": self.revision, "split": self.split, "column": self.column},
            "fingerprint": self._table._fingerprint,  # of the data set, its files and the split
        }

    def documents(self, first: int = 0) -> Iterator[str]:
        """See `Documents`."""
        for start in range(first, self.count(), _ROWS):
            for i, text in enumerate(self._texts[start : start + _ROWS][self.column]):
                where = f"{self.origin}, row {start + i} (counted from 0)"
                if not isinstance(text, str | None):
                    raise UserError(
                        f"{where}: {self.column} is {type(text).__name__}, not text; give column=."
                    )
                yield check_document(text or "", self.max_document_bytes, where)

    def count(self) -> int:
        """See `Documents`."""
        return len(self._table)

    @cached_property
    def _texts(self) -> Any:
        return self._table.select_columns([self.column])

    @cached_property
    def _table(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise UserError(
                f"{self.path} is fetched by the package datasets, which is not installed; pip "
                "install 'genodiff[text]', or read local files."
            ) from error
        files = None if self.files is None else {self.split.partition("[")[0]: self.files}
        try:
            table = datasets.load_dataset(
                self.path,
                self.name,
                data_files=files,
                revision=self.revision,
                split=self.split,
            )
        except (FileNotFoundError, ValueError) as error:
            raise UserError(
                f"{self.origin} is not on the Hugging Face Hub ({_reason(error)}); check the "
                "name, the configuration and the split."
            ) from error
        except Exception as error:  # its own are many, and change with its releases
            raise OutsideError(
                f"{self.origin} could not be fetched from the Hugging Face Hub "
                f"({_reason(error)}); try again, or read local files."
            ) from error
        if self.column not in table.column_names:
            raise column_error(self.origin, self.column, table.column_names)
        return table


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
