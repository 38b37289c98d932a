"""Sequences to `TokenBatch`: genomes, text, windows, splits, loaders."""

from genodiff.data.byte_tokenizer import ByteTokenizer
from genodiff.data.character_tokenizer import CharacterTokenizer
from genodiff.data.corpora import CORPORA, Corpus, corpus_data
from genodiff.data.datamodule import (
    EvalBatches,
    SequenceData,
    TokenDataset,
    Tokenizer,
    TrainBatches,
)
from genodiff.data.detokenizers import DETOKENIZERS
from genodiff.data.documents import Documents, LocalDocuments
from genodiff.data.fasta import SOFT_MASK
from genodiff.data.folds import Fold, PaperSplit, paper_split, stratified_group_folds
from genodiff.data.genome import Genome, default_cache_dir, file_sha256
from genodiff.data.genomic_benchmarks import (
    GENOMIC_BENCHMARKS,
    GenomicBenchmark,
    genomic_benchmarks_task,
)
from genodiff.data.glue import GLUE, GlueTask, glue_task
from genodiff.data.hub_documents import HubDocuments
from genodiff.data.interval_matches import IntervalMatches, interval_matches
from genodiff.data.intervals import SPLITS, BedRow, Split, check_disjoint_splits, read_bed, rows_of
from genodiff.data.labelled import ClassificationTask, LabelledSequences, LabelledWindows
from genodiff.data.labelled_files import labelled_task
from genodiff.data.motifs import MotifMatrix, read_motifs
from genodiff.data.near_duplicates import Matches, clusters, matches, matches_within
from genodiff.data.packing import TextRows
from genodiff.data.patterns import BASES, Motif, allowed_tokens, parse_motif
from genodiff.data.pooled import Pooled, pooled_data
from genodiff.data.regions import Cover, Region, read_regions
from genodiff.data.sequence_records import SequenceRecord, read_fasta
from genodiff.data.sources import fasta_data, hg38_data, synthetic_data
from genodiff.data.stretches import Stretch, Stretches
from genodiff.data.subword_tokenizer import SubwordTokenizer
from genodiff.data.synthetic import EntropyEstimate, SyntheticGenome
from genodiff.data.text import hub_text_data, text_data
from genodiff.data.text_lines import json_lines, read_texts, text_lines
from genodiff.data.text_tokenizers import TextTokenizer, fingerprint, load_tokenizer
from genodiff.data.tiling import InsideRows, Places, PublishedShifts, Tiling
from genodiff.data.token_ids import TokenIds
from genodiff.data.token_store import TokenStore, default_text_cache, stored_tokens
from genodiff.data.tokenizer import DnaTokenizer
from genodiff.data.variants import (
    REASONS,
    AlleleWindows,
    Variant,
    allele_windows,
    alleles,
    check_variants,
)
from genodiff.data.vcf import VariantFile, VariantRecord
from genodiff.data.windows import GenomeWindows, Window

__all__ = [
    "BASES",
    "CORPORA",
    "DETOKENIZERS",
    "GENOMIC_BENCHMARKS",
    "GLUE",
    "REASONS",
    "SOFT_MASK",
    "SPLITS",
    "AlleleWindows",
    "BedRow",
    "ByteTokenizer",
    "CharacterTokenizer",
    "ClassificationTask",
    "Corpus",
    "Cover",
    "DnaTokenizer",
    "Documents",
    "EntropyEstimate",
    "EvalBatches",
    "Fold",
    "Genome",
    "GenomeWindows",
    "GenomicBenchmark",
    "GlueTask",
    "HubDocuments",
    "InsideRows",
    "IntervalMatches",
    "LabelledSequences",
    "LabelledWindows",
    "LocalDocuments",
    "Matches",
    "Motif",
    "MotifMatrix",
    "PaperSplit",
    "Places",
    "Pooled",
    "PublishedShifts",
    "Region",
    "SequenceData",
    "SequenceRecord",
    "Split",
    "Stretch",
    "Stretches",
    "SubwordTokenizer",
    "SyntheticGenome",
    "TextRows",
    "TextTokenizer",
    "Tiling",
    "TokenDataset",
    "TokenIds",
    "TokenStore",
    "Tokenizer",
    "TrainBatches",
    "Variant",
    "VariantFile",
    "VariantRecord",
    "Window",
    "allele_windows",
    "alleles",
    "allowed_tokens",
    "check_disjoint_splits",
    "check_variants",
    "clusters",
    "corpus_data",
    "default_cache_dir",
    "default_text_cache",
    "fasta_data",
    "file_sha256",
    "fingerprint",
    "genomic_benchmarks_task",
    "glue_task",
    "hg38_data",
    "hub_text_data",
    "interval_matches",
    "json_lines",
    "labelled_task",
    "load_tokenizer",
    "matches",
    "matches_within",
    "paper_split",
    "parse_motif",
    "pooled_data",
    "read_bed",
    "read_fasta",
    "read_motifs",
    "read_regions",
    "read_texts",
    "rows_of",
    "stored_tokens",
    "stratified_group_folds",
    "synthetic_data",
    "text_data",
    "text_lines",
]
