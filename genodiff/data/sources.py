"""Data by name, for configurations: from files to `SequenceData`, with plain values for arguments."""

import hashlib
import json
import logging
from functools import partial
from pathlib import Path
from typing import Literal

from genodiff.data.datamodule import SequenceData
from genodiff.data.genome import Genome, default_cache_dir, file_sha256
from genodiff.data.intervals import (
    BedRow,
    Split,
    check_disjoint_splits,
    count_splits,
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
    """Windows of `length` bases of a FASTA (plain, bgzip, gzip), split by the fourth column of a BED.

    `split_policy="strict"` keeps each window inside its row, `stride` bases after the last (default: `length`), leaves out
    those with more than `max_n_fraction` of N, and refuses rows of two splits that overlap. `"caduceus"` reads the
    windows of the published loader, and N as padding.

    Training only: `reverse_complement` reads half of the windows on the other strand, `jitter` moves them by up to so many
    bases, `soft_mask_weight` is what a lower-case base counts in the loss. Validation and test see the
    reference strand, no jitter, and every base with weight 1.
    """
    if split_policy == "caduceus" and (stride is not None or jitter):
        raise UserError(
            f"stride={stride} and jitter={jitter} do not go with split_policy=caduceus, whose windows are as "
            "published; use split_policy=strict."
        )
    genome = Genome(fasta, cache_dir=cache_dir, reindex=reindex)
    strict = split_policy == "strict"
    rows = read_bed(bed, genome.lengths, check_ends=strict)
    if strict:
        check_disjoint_splits(rows, bed)
    tokenizer = DnaTokenizer(predict_n=predict_n)

    def tile(rows: list[BedRow]) -> Tiling:
        if not strict:
            return PublishedShifts(genome, rows, length)
        return InsideRows(genome, rows, length, stride_bp=stride, max_n_fraction=max_n_fraction)

    def windows(split: Split) -> GenomeWindows | None:
        rows_here = rows_of(rows, split)
        if not rows_here:
            return None
        build = partial(GenomeWindows, genome, tile(rows_here), tokenizer, n_as_padding=not strict)
        if split != "train":
            return build()
        return build(
            reverse_complement=reverse_complement,
            jitter_bp=jitter,
            soft_mask_weight=soft_mask_weight,
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
    """The human genome with the splits of Basenji, HyenaDNA and Caduceus, from `root`; the rest as `fasta_data`.

    `root` holds `hg38.ml.fa` and `human-sequences.bed`, either of them also as `.gz`, as `genodiff fetch dataset=hg38` leaves
    them.
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


def _find(root: Path, name: str) -> Path:
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"root={root} has no {name}, nor {name}.gz; get it with: genodiff fetch dataset=hg38 out={root}")
