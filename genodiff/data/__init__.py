"""Sequences to `TokenBatch`: genomes, windows, splits, loaders."""

from genodiff.data.datamodule import EvalBatches, SequenceData, TokenDataset, TrainBatches
from genodiff.data.genome import Genome, default_cache_dir
from genodiff.data.intervals import SPLITS, BedRow, Split, check_disjoint_splits, read_bed, rows_of
from genodiff.data.sources import fasta_data, hg38_data, synthetic_data
from genodiff.data.synthetic import EntropyEstimate, SyntheticGenome
from genodiff.data.tiling import InsideRows, Places, PublishedShifts, Tiling
from genodiff.data.token_ids import TokenIds
from genodiff.data.tokenizer import DnaTokenizer
from genodiff.data.windows import GenomeWindows, Window

__all__ = [
    "SPLITS",
    "BedRow",
    "DnaTokenizer",
    "EntropyEstimate",
    "EvalBatches",
    "Genome",
    "GenomeWindows",
    "InsideRows",
    "Places",
    "PublishedShifts",
    "SequenceData",
    "Split",
    "SyntheticGenome",
    "Tiling",
    "TokenDataset",
    "TokenIds",
    "TrainBatches",
    "Window",
    "check_disjoint_splits",
    "default_cache_dir",
    "fasta_data",
    "hg38_data",
    "read_bed",
    "rows_of",
    "synthetic_data",
]
