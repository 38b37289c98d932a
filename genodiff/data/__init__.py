"""Sequences to `TokenBatch`: genomes, text, windows, splits, loaders."""

from genodiff.data.byte_tokenizer import ByteTokenizer
from genodiff.data.datamodule import (
    EvalBatches,
    SequenceData,
    TokenDataset,
    Tokenizer,
    TrainBatches,
)
from genodiff.data.fasta import SOFT_MASK
from genodiff.data.folds import Fold, PaperSplit, paper_split, stratified_group_folds
from genodiff.data.genome import Genome, default_cache_dir
from genodiff.data.genomic_benchmarks import (
    GENOMIC_BENCHMARKS,
    GenomicBenchmark,
    genomic_benchmarks_task,
)
from genodiff.data.interval_matches import IntervalMatches, interval_matches
from genodiff.data.intervals import SPLITS, BedRow, Split, check_disjoint_splits, read_bed, rows_of
from genodiff.data.labelled import ClassificationTask, LabelledSequences, LabelledWindows
from genodiff.data.labelled_files import labelled_task
from genodiff.data.near_duplicates import Matches, clusters, matches, matches_within
from genodiff.data.patterns import BASES, Motif, allowed_tokens, parse_motif
from genodiff.data.pooled import Pooled, pooled_data
from genodiff.data.regions import Region, overlaps, read_regions
from genodiff.data.sources import fasta_data, hg38_data, synthetic_data
from genodiff.data.synthetic import EntropyEstimate, SyntheticGenome
from genodiff.data.text import TextChunks, text_data
from genodiff.data.tiling import InsideRows, Places, PublishedShifts, Tiling
from genodiff.data.token_ids import TokenIds
from genodiff.data.tokenizer import DnaTokenizer
from genodiff.data.windows import GenomeWindows, Window

__all__ = [
    "BASES",
    "GENOMIC_BENCHMARKS",
    "SOFT_MASK",
    "SPLITS",
    "BedRow",
    "ByteTokenizer",
    "ClassificationTask",
    "DnaTokenizer",
    "EntropyEstimate",
    "EvalBatches",
    "Fold",
    "Genome",
    "GenomeWindows",
    "GenomicBenchmark",
    "InsideRows",
    "IntervalMatches",
    "LabelledSequences",
    "LabelledWindows",
    "Matches",
    "Motif",
    "PaperSplit",
    "Places",
    "Pooled",
    "PublishedShifts",
    "Region",
    "SequenceData",
    "Split",
    "SyntheticGenome",
    "TextChunks",
    "Tiling",
    "TokenDataset",
    "TokenIds",
    "Tokenizer",
    "TrainBatches",
    "Window",
    "allowed_tokens",
    "check_disjoint_splits",
    "clusters",
    "default_cache_dir",
    "fasta_data",
    "genomic_benchmarks_task",
    "hg38_data",
    "interval_matches",
    "labelled_task",
    "matches",
    "matches_within",
    "overlaps",
    "paper_split",
    "parse_motif",
    "pooled_data",
    "read_bed",
    "read_regions",
    "rows_of",
    "stratified_group_folds",
    "synthetic_data",
    "text_data",
]
