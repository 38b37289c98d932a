"""Text as data: documents, made into tokens once, and laid out in rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from genodiff.data.datamodule import SequenceData
from genodiff.data.detokenizers import detokenizer_named
from genodiff.data.documents import (
    MAX_DOCUMENT_BYTES,
    Documents,
    LocalDocuments,
    Unit,
    text_files,
)
from genodiff.data.hub_documents import HubDocuments
from genodiff.data.intervals import SPLITS, Split
from genodiff.data.packing import Ends, Layout, Packed, Padded, Published, TextRows
from genodiff.data.sources import StartMethod
from genodiff.data.text_tokenizers import TextTokenizer, load_tokenizer
from genodiff.data.token_store import TokenStore, default_text_cache, stored_tokens
from genodiff.errors import UserError

LayoutName = Literal["packed", "padded", "published"]
TextPath = str | Path | Sequence[str | Path]


def text_data(
    train: TextPath | None,
    valid: TextPath | None,
    test: TextPath | None = None,
    tokenizer: str = "bytes",
    length: int = 128,
    batch_size: int = 32,
    *,
    tokenizer_revision: str | None = None,
    documents: Unit = "paragraph",
    column: str = "text",
    detokenizer: str | None = None,
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
    """Rows of `length` tokens from local files, for each split a file, a folder or a list of them.

    Names that end in `.parquet` or `.jsonl` (also `.jsonl.gz`) are tables, a document a row, with
    the text in `column`; everything else is text in UTF-8, plain or gzip. Tokens are made once and
    kept in the cache; memory does not grow with the corpus.

    Args:
        tokenizer: `bytes`, `text8`, a folder, or a name of the Hub, as `load_tokenizer` says.
        tokenizer_revision: of a name of the Hub.
        documents: what a document of a text file is: what stands between blank lines, a line, or
            the file. They are clusters for standard errors.
        detokenizer: what takes the marks of a corpus out of its text: wt, lm1b, ptb, lambada,
            scientific_papers.
        layout: `packed`, all documents one after another, cut at equal distances; `padded`, a
            document a row; `published`, the packing of MDLM, remainders dropped. See `packing`.
        eos: the tokenizer's EOS behind every document; by default, if it has one. Without it, what
            stands between documents of a text file is part of the text, and rows of a table follow
            each other as they are.
        ends: BOS and EOS around each row, which leaves room for length - 2 tokens. Other layouts
            than `packed` have them anyway.
        jitter: of `packed` rows, training only: each is moved by up to so many tokens.
        max_document_bytes: a longer document is refused. One is held in memory at a time, with
            what the tokenizer needs for it: of sub-words about 120 bytes for each of its own.
        cache_dir: where tokens are kept; by default `default_text_cache()`.

    Raises `UserError` for files that cannot be read, are not UTF-8 or hold no text, and for two
    splits of the same text.
    """
    plan = TextPlan.of(
        load_tokenizer(tokenizer, tokenizer_revision),
        length,
        layout=layout,
        eos=eos,
        ends=ends,
        jitter=jitter,
        detokenizer=detokenizer,
        cache_dir=cache_dir,
        seed=seed,
    )
    paths: dict[Split, TextPath | None] = {"train": train, "valid": valid, "test": test}
    sources: dict[Split, Documents] = {
        split: LocalDocuments(
            text_files(path),
            documents,
            column,
            between=plan.keeps_between,
            max_document_bytes=max_document_bytes,
            digests=plan.cache_dir / "digests",
        )
        for split, path in paths.items()
        if path is not None
    }
    return plan.data(
        sources,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        num_workers=num_workers,
        start_method=start_method,
        pin_memory=pin_memory,
        seed=seed,
        missing=f"files are given for: {', '.join(sources) or 'no split'}; give one for it too, "
        "or use another split.",
    )


def hub_text_data(
    dataset: str,
    train: str | None = "train",
    valid: str | None = "validation",
    test: str | None = "test",
    tokenizer: str = "bytes",
    length: int = 128,
    batch_size: int = 32,
    *,
    name: str | None = None,
    revision: str | None = None,
    column: str = "text",
    tokenizer_revision: str | None = None,
    detokenizer: str | None = None,
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
    """Rows of a data set of the Hugging Face Hub, which the package `datasets` fetches once; the
    rest as `text_data`.

    Args:
        dataset: its name, or a folder of files as `datasets` reads them.
        train, valid, test: splits as `datasets` writes them, such as `train[:-100000]`.
        name: a configuration of the data set.
        revision: a branch, a tag or a commit of it.
    """
    plan = TextPlan.of(
        load_tokenizer(tokenizer, tokenizer_revision),
        length,
        layout=layout,
        eos=eos,
        ends=ends,
        jitter=jitter,
        detokenizer=detokenizer,
        cache_dir=cache_dir,
        seed=seed,
    )
    splits: dict[Split, str | None] = {"train": train, "valid": valid, "test": test}
    sources: dict[Split, Documents] = {
        split: HubDocuments(
            dataset,
            part,
            name,
            revision=revision,
            column=column,
            max_document_bytes=max_document_bytes,
        )
        for split, part in splits.items()
        if part is not None
    }
    return plan.data(
        sources,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        num_workers=num_workers,
        start_method=start_method,
        pin_memory=pin_memory,
        seed=seed,
        missing=f"{dataset} is asked for: {', '.join(sources) or 'no split'}; name one for it "
        "too, or use another split.",
    )


@final
@dataclass(frozen=True)
class TextPlan:
    """What becomes of documents: the choices of `text_data`, checked."""

    tokenizer: TextTokenizer
    length: int
    layout: LayoutName
    eos: bool
    ends: Ends
    jitter: int
    detokenizer: str | None
    cache_dir: Path
    seed: int

    @classmethod
    def of(
        cls,
        tokenizer: TextTokenizer,
        length: int,
        *,
        layout: LayoutName,
        eos: bool | None,
        ends: bool,
        jitter: int,
        detokenizer: str | None,
        cache_dir: str | Path | None,
        seed: int,
    ) -> "TextPlan":
        """Raises UserError for choices that do not go together, or not with the tokenizer."""
        if length < 1:
            raise UserError(f"length={length} is no number of tokens; give 1 or more.")
        if jitter < 0:
            raise UserError(f"jitter={jitter} is no number of tokens; give 0 or more.")
        if layout != "packed" and (eos is False or jitter):
            raise UserError(
                f"layout={layout} has BOS and EOS in every row and no jitter; leave out eos=false "
                "and jitter=, or use layout=packed."
            )
        detokenizer_named(detokenizer)
        name, has = type(tokenizer).__name__, {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
        if eos and has["eos"] is None:
            raise UserError(f"eos=true, but {name} has no EOS; leave it out.")
        if (ends or layout == "published") and None in has.values():
            asked, way_out = "ends=true", "leave it out"
            if layout == "published":
                asked, way_out = "layout=published", "use layout=packed"
            raise UserError(
                f"{asked} puts BOS and EOS around rows, and {name} has none; {way_out}."
            )
        around = (has["bos"], has["eos"]) if ends or layout != "packed" else (None, None)
        least = 1 + len(around) - around.count(None)
        if length < least:
            raise UserError(
                f"length={length} leaves no room for text between BOS and EOS; give {least} or "
                "more."
            )
        is_ended = has["eos"] is not None if eos is None else eos
        return cls(
            tokenizer,
            length,
            layout,
            eos=is_ended and layout != "padded",
            ends=around,
            jitter=jitter,
            detokenizer=detokenizer,
            cache_dir=default_text_cache() if cache_dir is None else Path(cache_dir),
            seed=seed,
        )

    @property
    def keeps_between(self) -> bool:
        """Whether what stands between two documents is text."""
        return self.layout == "packed" and not self.eos

    def data(
        self,
        sources: Mapping[Split, Documents],
        *,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int,
        start_method: StartMethod | None,
        pin_memory: bool,
        seed: int,
        missing: str,
    ) -> SequenceData:
        """Rows of these splits. One may be another, as where a corpus has no validation split;
        else two of the same text are refused."""
        stores: dict[Split, TokenStore] = {}
        for split, source in sources.items():
            twins = [store for of, store in stores.items() if sources[of] is source]
            stores[split] = twins[0] if twins else self._store(source)
        _check_different(sources, stores)
        train, valid, test = (
            self._rows(stores[split]) if split in stores else None for split in SPLITS
        )
        return SequenceData(
            train,
            valid,
            test,
            self.tokenizer,
            length=self.length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            start_method=start_method,
            pin_memory=pin_memory,
            seed=seed,
            source={
                "text": {
                    split: {"from": source.origin, **source.identity()}
                    for split, source in sources.items()
                },
                "eos_after_documents": self.eos,
                "detokenizer": self.detokenizer,
            },
            missing=missing,
        )

    def _store(self, source: Documents) -> TokenStore:
        return stored_tokens(
            source,
            self.tokenizer,
            eos=self.eos,
            detokenizer=self.detokenizer,
            keep_empty=self.layout == "published",
            cache_dir=self.cache_dir,
        )

    def _rows(self, store: TokenStore) -> TextRows:
        room = self.length - len(self.ends) + self.ends.count(None)
        layout: Layout
        if self.layout == "packed":
            layout = Packed(store, room, self.ends, jitter=self.jitter, seed=self.seed)
        else:
            layout = (Padded if self.layout == "padded" else Published)(store, room, self.ends)
        return TextRows(store, layout, self.tokenizer, self.length)


def _check_different(
    sources: Mapping[Split, Documents], stores: Mapping[Split, TokenStore]
) -> None:
    """Refuses two splits of the same text: what is measured on one was learnt from the other."""
    seen: dict[str, Split] = {}
    for split, store in stores.items():
        other = seen.setdefault(store.sha256, split)
        if other != split and sources[other] is not sources[split]:
            raise UserError(
                f"{other}={sources[other].origin} and {split}={sources[split].origin} hold the "
                "same text; give each split a text of its own."
            )
