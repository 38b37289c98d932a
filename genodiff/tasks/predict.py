"""Tell the class of each sequence by a fine-tuned classifier, with the probability of every class.

usage: genodiff predict checkpoint=RUN sequences=FILE out=FILE.tsv [key=value ...]

example:
  genodiff predict checkpoint=runs/promoters sequences=candidates.fa out=predicted.tsv
  genodiff predict checkpoint=scores/a/fold_1 genome=hg38.fa regions=peaks.bed out=peaks.csv

keys:
  checkpoint=PATH     a classifier: a run folder of finetune, one of crossvalidate's (its best
                      weights), or a .ckpt of one
  sequences=FILE      what is told: records of a FASTA, or rows of a table (CSV, TSV, JSON lines,
                      parquet) with the columns of data=labelled, without labels; plain or gzip; or
  genome=FASTA regions=BED  regions of a genome; a row on the minus strand is read there
  columns=[A,B]       of a table, the columns of the sequence (default: those of its training, or
                      the usual names)
  names=COLUMN        of a table, the column that tells rows apart (default: id or name, where
                      there is one; else rows are numbered from 1)
  out=FILE|-          .tsv or .csv, or .gz of either: a row a sequence, in the order given, with
                      its name (of regions chrom, start, end, strand too), predicted, the class
                      that is most probable, and p_CLASS, the probability of each; of a regression
                      predicted alone, the number. FILE.json beside it has counts and settings
  batch_size=         sequences at once (that of the training)
  devices=            how many processes share the sequences, one a device: auto (all GPUs; one
                      process on a CPU; what torchrun or SLURM has started) or a number
  cache_dir= seed= device=auto|cpu|cuda overwrite=true

Sequences are read as in the tests of the training: on the strands of its strands=, cut to its
length on the right, and padded on its side. FILE.json counts those that are cut. Nothing is
random: seed= changes nothing. Stopped anywhere, the same command goes on.
"""

import csv
import io
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from genodiff import __version__
from genodiff.data import DnaTokenizer, LabelledSequences, read_fasta
from genodiff.data.labelled import frame_length, texts_of
from genodiff.data.labelled_files import FASTAS, sequence_columns
from genodiff.data.labelled_rows import TextRow, encode_rows
from genodiff.data.labelled_tables import TABLES, read_table, suffix_of
from genodiff.data.vcf import open_sink
from genodiff.errors import UserError
from genodiff.evaluation import predict
from genodiff.evaluation.borrowed import borrowed
from genodiff.files import atomic_path, write_text
from genodiff.parts import claim_outputs, parts_of
from genodiff.tasks.build import select_device
from genodiff.tasks.classifiers import Classifier, load_classifier
from genodiff.tasks.draw import sha256_of
from genodiff.tasks.launch import launch
from genodiff.tasks.sequence_input import Item, sequence_input
from genodiff.tasks.sharing import sharing

log = logging.getLogger(__name__)

ITEMS = 1024
"""Sequences of a part."""

_DELIMITERS = {".tsv": "\t", ".tsv.gz": "\t", ".csv": ",", ".csv.gz": ","}


def main(
    *,
    checkpoint: str,
    sequences: str | None,
    genome: str | None,
    regions: str | None,
    columns: Sequence[str] | None,
    names: str | None,
    out: str,
    cache_dir: str | None,
    batch_size: int | None,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    devices: int | Literal["auto"],
    overwrite: bool,
) -> None:
    """Tells and writes."""
    asked = dict(locals())
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1; leave it out.")
    target, suffix = _claim(out, devices, overwrite=overwrite)
    chosen = select_device(device)
    classifier = load_classifier(Path(checkpoint), batch_size=batch_size)
    _require_kind(classifier, checkpoint, sequences)
    source = sequence_input(
        *(sequences, genome, regions, cache_dir),
        name="name",
        read=_reader(classifier, columns, names, sequences),
        kind="FILE",
    )
    items = source.items
    wanted = {name: asked[name] for name in asked if name not in ("out", "overwrite")}
    wanted["batch_size"] = classifier.reading.batch_size
    made_of = {
        "device": chosen.type,
        "checkpoint_sha256": sha256_of(classifier.description, classifier.model),
        **source.digests,
        "version": __version__,
    }
    # None of these changes a number.
    work = {k: v for k, v in wanted.items() if k not in ("devices", "cache_dir", "seed")}
    work |= {"format": suffix, "records_in_a_part": ITEMS, **made_of}
    began = told = time.monotonic()
    with (
        sharing(devices, chosen) as (ranks, here),
        parts_of(target, work, overwrite=overwrite, ranks=ranks) as parts,
        borrowed(classifier.model, here),
    ):
        count, header = 0, [""]
        for count, block in enumerate(_blocks(items()), start=1):
            header = _header(block[0], classifier)
            if not parts.mine(count - 1):
                continue
            rows, tally = _told(block, classifier)
            parts.write(count - 1, _table(rows, _DELIMITERS[suffix]), tally)
            if time.monotonic() - told >= 20:
                told = time.monotonic()
                log.info("%d sequences told", count * ITEMS)
        parts.wait()
        if ranks.rank:
            return  # the first one writes
        head = _table([header], _DELIMITERS[suffix])
        if target is None:
            sys.stdout.buffer.write(head)
            parts.join(sys.stdout.buffer, count)
            sys.stdout.buffer.flush()
        else:
            with (
                atomic_path(target) as temporary,
                open_sink(temporary, bgzip=target.suffix == ".gz") as sink,
            ):
                sink.write(head)
                parts.join(sink, count)
        counts = _counts(parts.tally(count), classifier)
        _say(counts, classifier.reading.length)
        if target is not None:
            report: dict[str, Any] = {
                **wanted,
                **counts,
                "length": classifier.reading.length,
                "strands": classifier.reading.strands,
                "processes": ranks.size,
                "seconds": time.monotonic() - began,
                **made_of,
            }
            write_text(_report(target, suffix), json.dumps(report, indent=2) + "\n")


def _claim(
    out: str, devices: int | Literal["auto"], *, overwrite: bool
) -> tuple[Path | None, str]:
    """The file that out= names, None for standard output, and the suffix of its format. Raises
    UserError if it cannot be written."""
    if out == "-":
        if devices not in ("auto", 1):
            raise UserError(
                f"out=- is of one process, and devices={devices}; give a file, or devices=1."
            )
        return None, ".tsv"
    target = Path(out)
    suffix = next((suffix for suffix in _DELIMITERS if target.name.endswith(suffix)), None)
    if suffix is None:
        raise UserError(f"out={out} must end in {', '.join(_DELIMITERS)}; or give out=-.")
    return claim_outputs(target, _report(target, suffix), overwrite=overwrite), suffix


def _report(target: Path, suffix: str) -> Path:
    return target.with_name(f"{target.name.removesuffix(suffix)}.json")


def _require_kind(classifier: Classifier, checkpoint: str, sequences: str | None) -> None:
    """Raises UserError for DNA files of a classifier of text, and regions of one of pairs."""
    tokenizer, texts = classifier.reading.tokenizer, classifier.texts
    is_table = sequences is not None and suffix_of(Path(sequences)) in TABLES
    if not is_table and not isinstance(tokenizer, DnaTokenizer):
        raise UserError(
            f"checkpoint={checkpoint} reads the tokens of {type(tokenizer).__name__}, and FASTA "
            "and regions are DNA; give sequences= a CSV, TSV, JSON lines or parquet."
        )
    if not is_table and texts > 1:
        raise UserError(
            f"checkpoint={checkpoint} was trained with {texts} texts a row; give sequences= a "
            "table with as many columns of them."
        )


def _reader(
    classifier: Classifier,
    columns: Sequence[str] | None,
    names: str | None,
    sequences: str | None,
) -> Callable[[str], Iterator[Item]]:
    """What reads the file `sequences`."""
    path = Path(sequences or "")
    suffix = suffix_of(path)
    if sequences is not None and suffix not in (*TABLES, *FASTAS):
        raise UserError(
            f"sequences={sequences}: the suffix {suffix!r} names no format; use one of "
            f"{', '.join((*TABLES, *FASTAS))}, with or without .gz."
        )
    if suffix not in TABLES:
        for key, value in (("columns", columns), ("names", names)):
            if value is not None:
                raise UserError(f"{key}={value} is of a table; leave it out, or give one.")
        rows = _fasta_rows
    else:
        data = classifier.description["classifier"]["data"]
        rows = partial(_table_rows, columns=columns, names=names, trained=data.get("columns"))

    def read(path: str) -> Iterator[Item]:
        encoded = encode_rows(rows(Path(path)), classifier.reading.tokenizer)
        for row in encoded:
            _require_texts(row.where, row.ids, classifier)
            yield Item({"name": row.label}, row.ids)

    return read


def _require_texts(where: str, ids: np.ndarray, classifier: Classifier) -> None:
    texts = len(texts_of(ids, classifier.reading.tokenizer))
    if texts != classifier.texts:
        raise UserError(
            f"{where}: {texts} texts a row, and the classifier was trained with "
            f"{classifier.texts}; give columns= as many."
        )


def _fasta_rows(path: Path) -> Iterator[TextRow]:
    """In the place of the label stands the name."""
    for number, record in enumerate(read_fasta(path), start=1):
        yield TextRow(f"{path}, record {number}", [record.letters], record.name)


def _table_rows(
    path: Path,
    columns: Sequence[str] | None,
    names: str | None,
    trained: Sequence[str] | None,
) -> Iterator[TextRow]:
    """In the place of the label stands the name."""
    table = read_table(path)
    if columns is None and trained and all(name.lower() in table.header for name in trained):
        columns = trained
    texts = table.place(columns or sequence_columns(table, "columns=[NAME]"))
    named = names or next((name for name in ("id", "name") if name in table.header), None)
    name_at = None if named is None else table.place([named])[0]
    number = 0
    for number, (line, cells) in enumerate(table.rows, start=1):
        name = str(number) if name_at is None else cells[name_at]
        yield TextRow(f"{path}, line {line}", [cells[i] for i in texts], name)
    if not number:
        raise UserError(f"{path} has no rows; give it sequences.")


def _blocks(items: Iterator[Item]) -> Iterator[list[Item]]:
    """The items of each part."""
    while block := list(islice(items, ITEMS)):
        yield block


def _told(block: Sequence[Item], classifier: Classifier) -> tuple[list[list[str]], Counter[str]]:
    """A row for each item, and what is counted of them."""
    reading, classes = classifier.reading, classifier.classes
    # Labels are not known, and count nowhere.
    none = [0] * len(block) if classes else [0.0] * len(block)
    held = LabelledSequences.of((item.tokens for item in block), none)
    found = predict(classifier.model, reading.readings(held))
    told = found.told.tolist()
    tally = Counter(sequences=len(block))
    tally["cut"] = int((held.lengths > reading.length - frame_length(reading.tokenizer)).sum())
    abouts = [[*map(str, item.about.values())] for item in block]
    if not classes:
        return [[*a, _number(x)] for a, x in zip(abouts, told, strict=True)], tally
    tally.update(f"class {i}" for i in told)
    shares = torch.from_numpy(found.logits).softmax(-1).tolist()
    rows = [
        [*about, classes[i], *map(_number, share)]
        for about, i, share in zip(abouts, told, shares, strict=True)
    ]
    return rows, tally


def _number(x: float) -> str:
    return f"{x:.6g}"


def _header(item: Item, classifier: Classifier) -> list[str]:
    return [*item.about, "predicted", *(f"p_{name}" for name in classifier.classes)]


def _table(rows: Sequence[Sequence[str]], delimiter: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _counts(tally: Counter[str], classifier: Classifier) -> dict[str, Any]:
    """As the report has them."""
    counts: dict[str, Any] = {"n_sequences": int(tally["sequences"]), "n_cut": int(tally["cut"])}
    if classifier.classes:
        told = enumerate(classifier.classes)
        counts["predicted"] = {name: int(tally[f"class {i}"]) for i, name in told}
    return counts


def _say(counts: dict[str, Any], length: int) -> None:
    told = ", ".join(f"{name} {n}" for name, n in counts.get("predicted", {}).items())
    log.info("%d sequences%s", counts["n_sequences"], f": {told}" if told else "")
    if counts["n_cut"]:
        log.warning(
            "%d of them are longer than the %d tokens that the classifier reads, and were cut",
            *(counts["n_cut"], length),
        )


if __name__ == "__main__":
    launch("predict", main)
