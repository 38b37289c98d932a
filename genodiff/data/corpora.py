"""The corpora of the field, with the splits, columns and detokenizers of its papers.

`CORPORA` says of each what is read from where. Where the published data set is a script, which the
package `datasets` does not run any more, its files are those that the Hub converted from it.
"""

import contextlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

from genodiff.data.datamodule import SequenceData
from genodiff.data.documents import (
    MAX_DOCUMENT_BYTES,
    Documents,
    LocalDocuments,
    Part,
    opened,
    text_files,
)
from genodiff.data.genome import file_sha256
from genodiff.data.hub_documents import HubDocuments
from genodiff.data.intervals import SPLITS, Split
from genodiff.data.sources import StartMethod
from genodiff.data.text import LayoutName, TextPlan
from genodiff.data.text_tokenizers import load_tokenizer
from genodiff.errors import UserError

_CONVERTED = "refs/convert/parquet"
_SPLIT = re.compile(r"(\w+)(?:\[(-?\d+)?:(-?\d+)?\])?")
_TEXT8_PIECE = 1 << 16


class Corpus(NamedTuple):
    """What `corpus_data` reads.

    `splits` are those of the data set, as `datasets` writes them, for train, valid and test;
    `files` is where the files of a split lie in the repository, `unit` what a document is of local
    text files.
    """

    hub: str
    splits: tuple[str, str, str]
    revision: str
    name: str | None = None
    files: str | None = None
    column: str = "text"
    detokenizer: str | None = None
    unit: Literal["line", "row"] = "line"


_THREE = ("train", "validation", "test")
_TAIL = ("train[:-100000]", "train[-100000:]", "train[-100000:]")
_WITHOUT_VALIDATION = ("train", "test", "test")


def _wikitext(name: str) -> Corpus:
    revision = "b08601e04326c79dfdd32d625aee71d232d685c3"
    return Corpus(*("Salesforce/wikitext", _THREE, revision, name), detokenizer="wt", unit="row")


def _papers(name: str) -> Corpus:
    return Corpus(
        *("armanc/scientific_papers", _THREE, _CONVERTED),
        files=f"{name}/{{split}}/*.parquet",
        column="article",
        detokenizer="scientific_papers",
    )


CORPORA: Mapping[str, Corpus] = {
    "lm1b": Corpus(
        *("billion-word-benchmark/lm1b", _WITHOUT_VALIDATION),
        "8d52bfd3cc2819fc1166dbb8144c328e2690de3e",  # of refs/convert/parquet
        files="plain_text/{split}/*.parquet",
        detokenizer="lm1b",
    ),
    "owt": Corpus("Skylion007/openwebtext", _TAIL, "79d93d786212f7344586290adb811d4ae6a1762c"),
    "wikitext2": _wikitext("wikitext-2-raw-v1"),
    "wikitext103": _wikitext("wikitext-103-raw-v1"),
    "ptb": Corpus(
        *("ptb-text-only/ptb_text_only", _THREE, _CONVERTED),
        files="penn_treebank/{split}/*.parquet",
        column="sentence",
        detokenizer="ptb",
    ),
    "ag_news": Corpus(
        *("fancyzhx/ag_news", _WITHOUT_VALIDATION, "eb185aade064a813bc0b7f42de02595523103ca4")
    ),
    "arxiv": _papers("arxiv"),
    "pubmed": _papers("pubmed"),
    "fineweb_edu": Corpus(
        *("HuggingFaceFW/fineweb-edu", _TAIL, "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9"),
        name="sample-10BT",
    ),
}
"""Those of the Hub; besides them there are `text8` and `lambada`, which are files."""

_NAMES = (*CORPORA, "text8", "lambada")
_LAMBADA = "lambada_test.jsonl"
_TEXT8: Mapping[Split, tuple[int, int]] = {
    "train": (0, 90_000_000),
    "valid": (90_000_000, 95_000_000),
    "test": (95_000_000, 100_000_000),
}


def corpus_data(
    corpus: str,
    tokenizer: str,
    length: int = 1024,
    batch_size: int = 512,
    *,
    root: str | Path | None = None,
    splits: Sequence[str] = SPLITS,
    revision: str | None = None,
    tokenizer_revision: str | None = None,
    layout: LayoutName = "packed",
    eos: bool | None = None,
    ends: bool = False,
    jitter: int = 0,
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
    cache_dir: str | Path | None = None,
    eval_batch_size: int | None = None,
    num_workers: int = 0,
    start_method: StartMethod | None = None,
    pin_memory: bool = False,
    seed: int = 0,
) -> SequenceData:
    """Rows of a corpus by its name: lm1b, owt, text8, wikitext2, wikitext103, ptb, lambada,
    ag_news, arxiv, pubmed, fineweb_edu; the rest as `text_data`.

    Documents are detokenized as `CORPORA` says. OpenWebText and FineWeb-Edu (its sample of 10
    billion tokens) have their last 100,000 documents as valid and test, as published of the first.
    LM1B and AG News have no validation split: their test split, which papers validate on, stands
    for it. LAMBADA (GPT-2's) is a test split alone, for both. text8 has no documents: pieces of
    65,536 characters stand for them, and, with layout=published, of `length`, as published.

    Args:
        root: a folder with local copies, in place of the Hub. A split is the files (or the folder)
            there whose names begin with its name, such as train-00000-of-00080.parquet,
            valid.jsonl.gz, test.txt: .parquet and .jsonl with the column of the data set, or .txt
            with a document a line. text8 and lambada are always read from there, as `genodiff
            fetch dataset=text8` (or lambada) leaves them.
        splits: those that are wanted; others are not fetched or read.
        revision: of the data set, in place of that of `CORPORA`.

    Raises `UserError` as `text_data`, and for an unknown corpus or split.
    """
    if corpus not in _NAMES:
        raise UserError(f"corpus={corpus} is unknown; there are {', '.join(_NAMES)}.")
    if strange := sorted({*splits} - {*SPLITS}):
        raise UserError(f"splits={strange} are none; use some of {', '.join(SPLITS)}.")
    known = CORPORA.get(corpus)
    plan = TextPlan.of(
        load_tokenizer(tokenizer, tokenizer_revision),
        length,
        layout=layout,
        eos=eos,
        ends=ends,
        jitter=jitter,
        detokenizer=known.detokenizer if known else "lambada" if corpus == "lambada" else None,
        cache_dir=cache_dir,
        seed=seed,
    )
    reader = _Reader(corpus, None if root is None else Path(root), plan, max_document_bytes)
    wanted: list[Split] = [split for split in SPLITS if split in splits]
    sources: dict[Split, Documents]
    if known is not None:
        named: dict[Split, str] = {split: known.splits[SPLITS.index(split)] for split in wanted}
        asked = known._replace(revision=revision or known.revision)
        by_name = {name: reader.of_table(asked, name) for name in named.values()}
        sources = {split: by_name[name] for split, name in named.items()}
    elif corpus == "text8":
        sources = {split: reader.of_text8(split) for split in wanted}
    else:
        lambada = reader.of_lambada()
        sources = {split: lambada for split in wanted if split != "train"}
    return plan.data(
        sources,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        num_workers=num_workers,
        start_method=start_method,
        pin_memory=pin_memory,
        seed=seed,
        missing=f"{corpus} is read for: {', '.join(sources) or 'no split'}; use one of these, or "
        "ask for more with splits=.",
    )


class _Reader(NamedTuple):
    """How the documents of a corpus are read."""

    corpus: str
    root: Path | None
    plan: TextPlan
    max_document_bytes: int

    def of_table(self, corpus: Corpus, split: str) -> Documents:
        """A split of a data set, from the Hub or from `root`."""
        match = _SPLIT.fullmatch(split)
        assert match is not None  # they are in this file
        name, *ends = match.groups()
        if self.root is None:
            return HubDocuments(
                corpus.hub,
                split,
                corpus.name,
                files=corpus.files and corpus.files.format(split=name),
                revision=corpus.revision,
                column=corpus.column,
                max_document_bytes=self.max_document_bytes,
            )
        local = self._local(self._files(self.root, name), corpus.unit, corpus.column)
        start, stop = (None if end is None else int(end) for end in ends)
        return local if start is stop is None else Part(local, start, stop)

    def of_text8(self, split: Split) -> Documents:
        """A split of text8."""
        path = self._file("text8", "text8.zip", "text8", "text8.gz")
        published = self.plan.layout == "published"
        piece = self.plan.length if published else _TEXT8_PIECE
        return Text8(path, *_TEXT8[split], piece, whole=published)

    def of_lambada(self) -> Documents:
        """The test set of GPT-2."""
        return self._local((self._file("lambada", _LAMBADA, f"{_LAMBADA}.gz"),), "line", "text")

    def _local(
        self, paths: tuple[Path, ...], unit: Literal["line", "row"], column: str
    ) -> LocalDocuments:
        return LocalDocuments(
            paths,
            unit,
            column,
            between=self.plan.keeps_between,
            max_document_bytes=self.max_document_bytes,
            digests=self.plan.cache_dir / "digests",
        )

    def _file(self, dataset: str, *names: str) -> Path:
        found = [path for name in names if self.root and (path := self.root / name).is_file()]
        if found:
            return found[0]
        raise UserError(
            f"root={self.root} has no {' or '.join(names)}; get it with: genodiff fetch "
            f"dataset={dataset} out={self.root or 'DIR'}, and give root=."
        )

    def _files(self, root: Path, name: str) -> tuple[Path, ...]:
        """The files of a split."""
        begins = ("valid", "validation") if name == "validation" else (name,)
        try:
            found = sorted(
                path for path in root.iterdir() if re.split(r"[-._]", path.name)[0] in begins
            )
        except OSError as error:
            raise UserError(
                f"root={root} cannot be read ({error.strerror}); give the folder of {self.corpus}."
            ) from error
        if not found:
            raise UserError(
                f"root={root} has no files of {self.corpus} whose names begin with {name}, such "
                f"as {name}.parquet, {name}.jsonl.gz or {name}.txt."
            )
        return text_files(found)


@final
@dataclass(frozen=True)
class Text8:
    """Characters `start` to `stop` of text8 (plain, gzip, or in its zip), in pieces of `piece`;
    with `whole` a shorter one at the end is left out."""

    path: Path
    start: int
    stop: int
    piece: int
    whole: bool = False

    @property
    def origin(self) -> str:
        """The file, and the characters."""
        return f"{self.path}[{self.start}:{self.stop}]"

    def identity(self) -> dict[str, Any]:
        """SHA-256 of the file, and the characters."""
        cut = {"start": self.start, "stop": self.stop, "piece": self.piece, "whole": self.whole}
        return {"text8": self._sha256, **cut}

    @cached_property
    def _sha256(self) -> str:
        return file_sha256(self.path)

    def documents(self, first: int = 0) -> Iterator[str]:
        """See `Documents`. Raises UserError if the file is shorter, or is no text8."""
        with self._opened() as file:
            at, begin = 0, self.start + first * self.piece
            while at < begin:
                at += self._size(file.read(min(1 << 20, begin - at)))
            while at < self.stop:
                piece = file.read(min(self.piece, self.stop - at))
                at += self._size(piece)
                if len(piece) == self.piece or not self.whole:
                    yield piece.decode("ascii", "replace")

    def count(self) -> int:
        """See `Documents`."""
        return sum(1 for _ in self.documents())

    def _size(self, piece: bytes) -> int:
        if not piece:
            raise UserError(
                f"{self.path} ends before character {self.stop}, so it is not text8; get it with: "
                "genodiff fetch dataset=text8"
            )
        return len(piece)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[io.BufferedReader]:
        if self.path.suffix != ".zip":
            with opened(self.path) as file:
                yield file
            return
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open("text8") as member:
                content: Any = member
                yield io.BufferedReader(content, 1 << 20)
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
            raise UserError(
                f"{self.path} is truncated or has no text8 ({error}); fetch it again with "
                "overwrite=true."
            ) from error
