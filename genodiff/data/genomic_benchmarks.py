"""The nine tasks of Genomic Benchmarks (Gresova et al. 2023, BMC Genomic Data 24:25), by every
road that leads to them, each held to the published numbers of sequences.

Classes are in alphabetical order and sequences in that of their class and id, whatever order a
file system lists them in. What was read from hundreds of thousands of small files is kept in one
(`genodiff.data.labelled_store`), `ROOT/NAME.task`, from which it is read from then on.
"""

import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from genodiff.data.genome import Genome, default_cache_dir, file_sha256
from genodiff.data.intervals import Split, parse_place
from genodiff.data.labelled import ClassificationTask
from genodiff.data.labelled_rows import LabelledRow, encode_row, task_of
from genodiff.data.labelled_store import kept
from genodiff.data.labelled_tables import read_table
from genodiff.data.regions import Region
from genodiff.data.tokenizer import DnaTokenizer
from genodiff.errors import OutsideError, UserError

_SPLITS: tuple[Split, ...] = ("train", "test")
_MEMBER = re.compile(r"(?:.*/)?(train|test)/([^/.][^/]*)/([^/.][^/]*)\.txt")
_VERSION = re.compile(r"\.[0-9]+$")
# None is given for half of human_ocr_ensembl and for all of human_ensembl_regulatory.
_STRANDS: Mapping[str, Literal["+", "-"]] = {"+": "+", "-": "-", "": "+", ".": "+", "nan": "+"}


class GenomicBenchmark(NamedTuple):
    """What is published of a task: the numbers of sequences and, where the package's `info` was at
    hand, those of each class, in the order of `classes`.

    `max_length` is Caduceus' (Schiff et al. 2024, arXiv:2403.03234); None for the task that is not
    among its eight.
    """

    classes: tuple[str, ...]
    train: int
    test: int
    max_length: int | None
    train_by_class: tuple[int, ...] | None = None
    test_by_class: tuple[int, ...] | None = None


_SIGNED = ("negative", "positive")
GENOMIC_BENCHMARKS: Mapping[str, GenomicBenchmark] = {
    "demo_coding_vs_intergenomic_seqs": GenomicBenchmark(
        ("coding_seqs", "intergenomic_seqs"), 75_000, 25_000, 200
    ),
    "demo_human_or_worm": GenomicBenchmark(("human", "worm"), 75_000, 25_000, 200),
    "drosophila_enhancers_stark": GenomicBenchmark(_SIGNED, 5_184, 1_730, None),
    "dummy_mouse_enhancers_ensembl": GenomicBenchmark(_SIGNED, 968, 242, 1024),
    "human_enhancers_cohn": GenomicBenchmark(
        _SIGNED, 20_843, 6_948, 500, (10_422, 10_421), (3_474, 3_474)
    ),
    "human_enhancers_ensembl": GenomicBenchmark(
        _SIGNED, 123_872, 30_970, 512, (61_936, 61_936), (15_485, 15_485)
    ),
    "human_ensembl_regulatory": GenomicBenchmark(
        *(("enhancer", "ocr", "promoter"), 231_348, 57_713, 512),
        *((85_512, 69_902, 75_934), (21_378, 17_476, 18_859)),
    ),
    "human_nontata_promoters": GenomicBenchmark(
        _SIGNED, 27_097, 9_034, 251, (12_355, 14_742), (4_119, 4_915)
    ),
    "human_ocr_ensembl": GenomicBenchmark(
        _SIGNED, 139_804, 34_952, 512, (69_902, 69_902), (17_476, 17_476)
    ),
}


def genomic_benchmarks_task(
    name: str,
    root: str | Path | None = None,
    *,
    intervals: str | Path | None = None,
    fasta: str | Path | Mapping[str, str | Path] | None = None,
    hub: str | None = None,
    package: bool = False,
    check_counts: bool = True,
    cache_dir: str | Path | None = None,
) -> ClassificationTask:
    """One of `GENOMIC_BENCHMARKS`, from the first of these that is given or there:

    1. `intervals` and `fasta`: the folder `datasets` of the benchmarks' repository, with
       `NAME/{train,test}/CLASS.csv.gz`, and the genome that they are cut from; of classes from
       several genomes, one for each, `{human: FILE, worm: FILE}`. Names of records may differ by
       `chr` in front and a version behind. Regions are kept, by the names in the CSV and, of
       several genomes, the checksum of theirs. The letters
       besides A, C, G, T and N are N here, as in any `Genome`, and [UNK] on the other roads.
    2. `hub`: the account of a mirror on the Hugging Face Hub, `HUB/Genomic_Benchmarks_NAME`, read
       by the package `datasets`. Classes are called as there, usually 0 and 1.
    3. `ROOT/NAME/{train,test}/CLASS/ID.txt`, as the package `genomic-benchmarks` leaves it.
    4. `ROOT/NAME_v0.zip`, as `genodiff fetch dataset=genomic_benchmarks` leaves it.
    5. `ROOT/NAME.task`, the one file that 3, 4 and 6 are kept in, without its source. Those of 1
       and 2 are `NAME.intervals.task` and `NAME.hub.task`.
    6. `package`: a download by the package `genomic-benchmarks`.

    Args:
        root: the folder of 3 to 5, and where the one file is written; a changed source is noticed
            by the times of its folders or of its zip, not inside small files.
        check_counts: refuse what does not have the published numbers of sequences.
        cache_dir: where the one file is looked for and written instead, and encoded genomes.

    Raises:
        UserError: for an unknown name, missing, damaged and malformed files, packages that are
            not installed, and numbers that are not the published ones.
        OutsideError: a download failed.
    """
    if name not in GENOMIC_BENCHMARKS:
        raise UserError(
            f"data.name={name} is no task of Genomic Benchmarks; it has "
            f"{', '.join(GENOMIC_BENCHMARKS)}."
        )
    tokenizer = DnaTokenizer()
    folder = Path(cache_dir or root or default_cache_dir().with_name("tasks"))
    if intervals is not None or fasta is not None:
        source = _intervals(name, intervals, fasta, cache_dir)
    elif hub is not None:
        source = _hub(f"{hub}/Genomic_Benchmarks_{name}")
    else:
        source = _local(name, root, folder, package)

    def make() -> ClassificationTask:
        splits: dict[Split, list[LabelledRow]] = {"train": [], "test": []}
        for split, row in source.rows(tokenizer):
            splits[split].append(row)
        places: dict[Split, str] = {split: f"{split} of {source.place}" for split in _SPLITS}
        about = {"benchmark": name, "read_from": source.place}
        return checked(task_of(name, splits, tokenizer, places, about))

    def checked(task: ClassificationTask) -> ClassificationTask:
        if check_counts:
            _check_counts(task, GENOMIC_BENCHMARKS[name])
        return task

    return checked(kept(folder / f"{name}{source.kind}.task", tokenizer, source.stamp, make))


class _Source(NamedTuple):
    """Where a task is read from.

    `kind` is part of the name of the one file, `place` is for messages, `stamp` tells this state
    of the source from others (None: that file comes first, whatever it was made from).
    """

    kind: str
    place: str
    stamp: Mapping[str, Any] | None
    rows: Callable[[DnaTokenizer], Iterator[tuple[Split, LabelledRow]]]


class _Text(NamedTuple):
    """A small file that holds one sequence."""

    split: Split
    label: str
    where: str
    content: bytes


def _local(name: str, root: str | Path | None, folder: Path, package: bool) -> _Source:
    if root is not None:
        tree, archive = Path(root) / name, Path(root) / f"{name}_v0.zip"
        if tree.is_dir():
            stamp = {f"{split}/{of.name}": of.stat().st_mtime_ns for split, of in _classes(tree)}
            return _Source("", str(tree), stamp, lambda dna: _encoded(_tree(tree), dna))
        if archive.is_file():
            state = archive.stat()
            stamp = {"zip": [state.st_size, state.st_mtime_ns]}
            return _Source("", str(archive), stamp, lambda dna: _encoded(_zip(archive), dna))
    if package or (folder / f"{name}.task").is_file():
        place = f"{name} of the package genomic-benchmarks"
        return _Source("", place, None, lambda dna: _encoded(_download(name), dna))
    raise UserError(
        f"data.root={root} has neither the folder {name}, nor {name}_v0.zip, nor {name}.task; get "
        f"the zip with genodiff fetch dataset=genomic_benchmarks out={root or 'DIR'}, or give "
        "data.intervals= and data.fasta=, data.hub=, or data.package=true."
    )


def _encoded(texts: Iterable[_Text], dna: DnaTokenizer) -> Iterator[tuple[Split, LabelledRow]]:
    for text in texts:
        ids = encode_row([text.content.decode("ascii", "replace")], dna, text.where)
        yield text.split, LabelledRow(text.where, ids, text.label)


def _classes(tree: Path) -> list[tuple[Split, Path]]:
    """The folder of each class in each split of a prepared folder."""
    try:
        return [
            (split, path)
            for split in _SPLITS
            for path in sorted((tree / split).iterdir())
            if path.is_dir() and not path.name.startswith(".")
        ]
    except OSError as error:
        raise _unreadable(error) from error


def _tree(tree: Path) -> Iterator[_Text]:
    try:
        for split, of in _classes(tree):
            for path in sorted(of.glob("[!.]*.txt"), key=lambda path: _by_id(path.stem)):
                yield _Text(split, of.name, str(path), path.read_bytes())
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> UserError:
    return UserError(
        f"{error.filename} cannot be read ({error.strerror}); a prepared folder has "
        "NAME/{train,test}/CLASS/ID.txt."
    )


def _zip(path: Path) -> Iterator[_Text]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [(_MEMBER.fullmatch(info.filename), info) for info in archive.infolist()]
            found = [(match, info) for match, info in members if match]
            for match, info in sorted(found, key=lambda each: (each[0][2], _by_id(each[0][3]))):
                split: Split = "train" if match[1] == "train" else "test"
                yield _Text(split, match[2], f"{path}: {match[0]}", archive.read(info))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(
            f"{path} is truncated or is not a valid zip ({error}); fetch it again with "
            "overwrite=true."
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); check its permissions."
        ) from error


def _download(name: str) -> Iterator[_Text]:
    """By the published package, unpacked for the moment."""
    loc2seq = _optional("genomic_benchmarks.loc2seq", "data.package=true", "genomic-benchmarks")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            tree = Path(loc2seq.download_dataset(name, version=0, dest_path=scratch))
        except Exception as error:  # whatever it raises: it documents nothing
            raise OutsideError(
                f"genomic-benchmarks could not get {name} ({_reason(error)}); try later, or use "
                "genodiff fetch dataset=genomic_benchmarks, which resumes."
            ) from error
        yield from _tree(tree)


def _hub(repository: str) -> _Source:
    def rows(dna: DnaTokenizer) -> Iterator[tuple[Split, LabelledRow]]:
        datasets = _optional("datasets", f"data.hub={repository.partition('/')[0]}", "datasets")
        for split in _SPLITS:
            try:
                held = datasets.load_dataset(repository, split=split)
                columns = zip(held["seq"], held["label"], strict=True)
                names = getattr(held.features["label"], "names", None)
            except Exception as error:  # the loader's own are many, and change with its releases
                raise OutsideError(
                    f"{split} of {repository} could not be read from the Hub ({_reason(error)}); "
                    "check the name, try later, or use another road: data.root=."
                ) from error
            for i, (text, label) in enumerate(columns):
                where = f"{split} of {repository}, row {i}"
                word = names[label] if names else str(label)
                yield split, LabelledRow(where, encode_row([text], dna, where), word)

    return _Source(".hub", repository, {"hub": repository}, rows)


def _optional(module: str, key: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"{key} needs the package {package} ({error}); install it with pip install {package}."
        ) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _intervals(
    name: str,
    intervals: str | Path | None,
    fasta: str | Path | Mapping[str, str | Path] | None,
    cache_dir: str | Path | None,
) -> _Source:
    if intervals is None or fasta is None:
        raise UserError(
            f"data.intervals={intervals} and data.fasta={fasta}: intervals are cut from a FASTA; "
            "give both, or neither."
        )
    folder = Path(intervals) / name
    tables: dict[tuple[Split, str], Path] = {
        (split, path.name.partition(".csv")[0]): path
        for split in _SPLITS
        for suffix in (".csv", ".csv.gz")
        for path in (folder / split).glob(f"[!.]*{suffix}")
    }
    classes = sorted({label for _, label in tables})
    if not tables:
        raise UserError(
            f"data.intervals={intervals} has no {name}/{{train,test}}/CLASS.csv.gz; give the "
            "folder datasets of the repository of the benchmarks."
        )
    paths = fasta if isinstance(fasta, Mapping) else dict.fromkeys(classes, fasta)
    if sorted(paths) != classes:
        raise UserError(
            f"data.fasta= names {', '.join(sorted(paths))}, and {name} has the classes "
            f"{', '.join(classes)}; give one FASTA for each, or one for all."
        )
    opened = {path: Genome(path, cache_dir=cache_dir) for path in {*map(str, paths.values())}}
    genomes = {label: opened[str(path)] for label, path in paths.items()}
    digests = {genome.sha256 for genome in opened.values()}

    def rows(dna: DnaTokenizer) -> Iterator[tuple[Split, LabelledRow]]:
        for (split, label), path in sorted(tables.items()):
            # The X of a worm is not that of a human.
            within = f" of {genomes[label].sha256[:8]}" if len(digests) > 1 else ""
            for row in _cut(path, label, genomes[label], dna, within):
                yield split, row

    stamp = {
        "intervals": {f"{split}/{of}": file_sha256(path) for (split, of), path in tables.items()},
        "fasta": {label: genome.sha256 for label, genome in genomes.items()},
    }
    return _Source(".intervals", str(folder), stamp, rows)


def _cut(
    path: Path, label: str, genome: Genome, dna: DnaTokenizer, within: str
) -> list[LabelledRow]:
    """The intervals of a class, in the order of their ids. `within` ends the names of their
    chromosomes."""
    table = read_table(path)
    places = table.place(("id", "region", "start", "end", "strand"))
    records = _records(genome.lengths)
    complement = np.array(dna.complement, np.uint8)
    rows = []
    for line, cells in table.rows:
        where = f"{path}, line {line}"
        name, region, start_text, end_text, sign = (cells[i].strip() for i in places)
        strand = _STRANDS.get(sign.lower())
        if strand is None:
            raise UserError(f"{where}: strand {sign!r} is none of +, - and nothing; correct it.")
        record = records.get(region, region)
        chrom, start, end = parse_place((record, start_text, end_text), where, genome.lengths)
        ids = genome.fetch(chrom, start, end)
        ids = complement[ids[::-1]] if strand == "-" else ids
        row = LabelledRow(where, ids, label, Region(f"{region}{within}", start, end, name, strand))
        rows.append((_by_id(name), row))
    return [row for _, row in sorted(rows, key=lambda each: each[0])]


def _records(lengths: Mapping[str, int]) -> dict[str, str]:
    """The record of each name that may stand for it: as the FASTA has it, with "chr" in front or
    without, and without a version behind (transcripts of Ensembl)."""
    names = {_VERSION.sub("", name): name for name in lengths}
    for name in lengths:
        names[name.removeprefix("chr") if name.startswith("chr") else f"chr{name}"] = name
    return names | {name: name for name in lengths}


def _by_id(name: str) -> tuple[int, str]:
    """Numbers in their order, whatever else there is in some order."""
    return len(name), name


def _check_counts(task: ClassificationTask, published: GenomicBenchmark) -> None:
    """Refuses what is not all there: a folder whose unpacking was interrupted looks complete."""
    way_out = "get the data again, or read them as they are with data.check_counts=false."
    is_named = task.classes == published.classes
    if not is_named and not all(label.isdecimal() for label in task.classes):
        raise UserError(
            f"{task.name} has the classes {', '.join(task.classes)} here, and "
            f"{', '.join(published.classes)} are published; {way_out}"
        )
    for split, sequences, total, by_class in (
        ("train", task.train, published.train, published.train_by_class),
        ("test", task.test, published.test, published.test_by_class),
    ):
        found = tuple(np.bincount(sequences.labels, minlength=len(task.classes)).tolist())
        if len(sequences) != total:
            differs = f"{len(sequences):,}, and {total:,} are published"
        elif is_named and by_class and found != by_class:
            differs = f"{found} of the classes, and {by_class} are published"
        else:
            continue
        raise UserError(f"{task.name}: the sequences of {split} are {differs}; {way_out}")
