"""Data by name, for configurations: from files and plain values to `SequenceData`."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from genodiff.data.datamodule import SequenceData
from genodiff.data.genome import Genome, default_cache_dir, file_sha256
from genodiff.data.intervals import (
    BedRow,
    Split,
    check_disjoint_splits,
    count_splits,
    merge_overlaps,
    read_bed,
    rows_of,
)
from genodiff.data.synthetic import SyntheticGenome
from genodiff.data.tiling import MAX_N_FRACTION, InsideRows, PublishedShifts, Tiling
from genodiff.data.tokenizer import DnaTokenizer
from genodiff.data.windows import GenomeWindows
from genodiff.errors import UserError

log = logging.getLogger(__name__)

StartMethod = Literal["fork", "spawn", "forkserver"]


def fasta_data(
    fasta: str | Path,
    bed: str | Path,
    length: int = 1024,
    batch_size: int = 32,
    *,
    eval_batch_size: int | None = None,
    split_policy: Literal["strict", "caduceus"] = "strict",
    stride: int | None = None,
    max_n_fraction: float = MAX_N_FRACTION,
    soft_mask_weight: float = 1.0,
    reverse_complement: bool = False,
    jitter: int = 0,
    predict_n: bool = False,
    num_workers: int = 0,
    start_method: StartMethod | None = None,
    pin_memory: bool = False,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    reindex: bool = False,
) -> SequenceData:
    """Windows of a FASTA (plain, bgzip, gzip), split by the fourth column of a BED.

    `split_policy="strict"` keeps each window inside its row, `stride` bases after the last
    (default: `length`), leaves out those with more than `max_n_fraction` of N, refuses rows of two
    splits that overlap, and merges those of one, so that an epoch sees no base twice; what is left
    at the end of a row and shorter than a window is seen with `jitter` alone.
    `"caduceus"` reads the windows of the published loader, and N as padding.

    Training only: `reverse_complement` reads half of the windows on the other strand, `jitter`
    moves them by up to so many bases, `soft_mask_weight` is what a lower-case base counts in the
    loss. Validation and test see the reference strand, no jitter, and every base with weight 1.
    """
    if split_policy == "caduceus" and (stride is not None or jitter):
        raise UserError(
            f"stride={stride} and jitter={jitter} do not go with split_policy=caduceus, whose "
            "windows are as published; use split_policy=strict."
        )
    genome = Genome(fasta, cache_dir=cache_dir, reindex=reindex)
    strict = split_policy == "strict"
    rows = read_bed(bed, genome.lengths, check_ends=strict)
    if strict:
        check_disjoint_splits(rows, bed)
        rows = _merged(rows, bed)
    tokenizer = DnaTokenizer(predict_n=predict_n)

    def tile(rows: list[BedRow]) -> Tiling:
        if not strict:
            return PublishedShifts(genome, rows, length)
        return InsideRows(genome, rows, length, stride_bp=stride, max_n_fraction=max_n_fraction)

    def windows(split: Split) -> GenomeWindows | None:
        rows_here = rows_of(rows, split)
        if not rows_here:
            return None
        return GenomeWindows(
            genome,
            tile(rows_here),
            tokenizer,
            reverse_complement=reverse_complement,
            jitter_bp=jitter,
            soft_mask_weight=soft_mask_weight,
            n_as_padding=not strict,
            seed=seed,
        )

    return SequenceData(
        windows("train"),
        windows("valid"),
        windows("test"),
        tokenizer,
        length=length,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        num_workers=num_workers,
        start_method=start_method,
        pin_memory=pin_memory,
        seed=seed,
        source={
            "fasta": {
                "path": str(fasta),
                "sha256": genome.sha256,
                "records": len(genome.lengths),
                "bases": sum(genome.lengths.values()),
            },
            "bed": {"path": str(bed), "sha256": file_sha256(Path(bed))},
            "split_policy": split_policy,
        },
        missing=f"{bed} has rows for: {count_splits(rows)}; add rows, or use another split.",
    )


def hg38_data(
    root: str | Path,
    length: int = 1024,
    batch_size: int = 1024,
    *,
    eval_batch_size: int | None = None,
    split_policy: Literal["strict", "caduceus"] = "strict",
    stride: int | None = None,
    max_n_fraction: float = MAX_N_FRACTION,
    soft_mask_weight: float = 1.0,
    reverse_complement: bool = False,
    jitter: int = 0,
    predict_n: bool = False,
    num_workers: int = 0,
    start_method: StartMethod | None = None,
    pin_memory: bool = False,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    reindex: bool = False,
) -> SequenceData:
    """The human genome with the splits of Basenji, HyenaDNA and Caduceus, from `root`; the rest as
    `fasta_data`.

    `root` holds `hg38.ml.fa` and `human-sequences.bed`, either of them also as `.gz`, as `genodiff
    fetch dataset=hg38` leaves them.
    """
    return fasta_data(
        _find(Path(root), "hg38.ml.fa"),
        _find(Path(root), "human-sequences.bed"),
        length,
        batch_size,
        eval_batch_size=eval_batch_size,
        split_policy=split_policy,
        stride=stride,
        max_n_fraction=max_n_fraction,
        soft_mask_weight=soft_mask_weight,
        reverse_complement=reverse_complement,
        jitter=jitter,
        predict_n=predict_n,
        num_workers=num_workers,
        start_method=start_method,
        pin_memory=pin_memory,
        seed=seed,
        cache_dir=cache_dir,
        reindex=reindex,
    )


def synthetic_data(
    length: int = 1024,
    batch_size: int = 8,
    *,
    train_records: int = 64,
    valid_records: int = 4,
    test_records: int = 8,
    record_length: int = 65536,
    n_motifs: int = 4,
    motif_length: int = 32,
    motif_fraction: float = 0.7,
    mutation_rate: float = 0.05,
    gc: float = 0.41,
    genome_seed: int = 0,
    eval_batch_size: int | None = None,
    stride: int | None = None,
    reverse_complement: bool = False,
    num_workers: int = 0,
    start_method: StartMethod | None = None,
    pin_memory: bool = False,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> SequenceData:
    """Windows of a genome drawn from `SyntheticGenome`, written once to the cache and read as any
    other FASTA.

    `genome_seed` decides the motifs and the bases; `seed`, as elsewhere, order and augmentation.
    """
    law = {
        "n_motifs": n_motifs,
        "motif_length": motif_length,
        "motif_fraction": motif_fraction,
        "mutation_rate": mutation_rate,
        "gc": gc,
        "seed": genome_seed,
    }
    records: dict[Split, int] = {
        "train": train_records,
        "valid": valid_records,
        "test": test_records,
    }
    if record_length < 1 or min(records.values()) < 0:
        raise UserError(
            f"record_length={record_length}, with {train_records}, {valid_records} and "
            f"{test_records} records: give a length of 1 or more, and no negative number."
        )
    recipe = json.dumps([law, records, record_length, np.__version__])
    cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir)
    folder = cache_dir / f"synthetic-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        _draw_into(folder, SyntheticGenome(**law), records, record_length, genome_seed)
    return fasta_data(
        folder / "genome.fa",
        folder / "genome.bed",
        length,
        batch_size,
        eval_batch_size=eval_batch_size,
        stride=stride,
        reverse_complement=reverse_complement,
        num_workers=num_workers,
        start_method=start_method,
        pin_memory=pin_memory,
        seed=seed,
        cache_dir=cache_dir,
    )


def _merged(rows: list[BedRow], bed: str | Path) -> list[BedRow]:
    """The rows without overlaps; says what that changes."""
    merged = merge_overlaps(rows)
    before, after = (sum(row.end - row.start for row in each) for each in (rows, merged))
    if before != after:
        log.info(
            "%s: rows of one split overlap; the %s bases of %d rows are %s of the genome, none "
            "read twice an epoch",
            *(bed, f"{before:,}", len(rows), f"{after:,}"),
        )
    return merged


def _draw_into(
    folder: Path,
    law: SyntheticGenome,
    records: Mapping[Split, int],
    record_length: int,
    seed: int,
) -> None:
    """Draw a genome into a folder that appears when it is complete; another process may be doing
    the same."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        drawn = Path(temporary) / "drawn"
        law.write(drawn, records, record_length, np.random.default_rng([seed, 1]))
        try:
            drawn.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def _find(root: Path, name: str) -> Path:
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(
        f"root={root} has no {name}, nor {name}.gz; get it with: genodiff fetch dataset=hg38 "
        f"out={root}"
    )
