"""GC content and k-mer divergence of sampled DNA against held-out windows of the genome.

    python benchmarks/sample_statistics.py --samples a.fa --fasta genome.fa.gz --bed splits.bed

Prints a table and, with --out, writes a JSON. Words on both strands count as one, because a BED
row's strand is arbitrary; the noise floor is what as many real windows score against the others.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from Bio import SeqIO

from genodiff.data import fasta_data
from genodiff.evaluation import composition, divergence, kmer_spectra, noise_floors
from genodiff.files import write_text


def main() -> None:
    """Parses the command line and prints."""
    parser = argparse.ArgumentParser(description="Sampled DNA against held-out windows.")
    parser.add_argument("--samples", required=True)
    parser.add_argument("--fasta", required=True)
    parser.add_argument("--bed", required=True)
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"))
    parser.add_argument("--out")
    arguments = parser.parse_args()
    samples = [str(record.seq) for record in SeqIO.parse(arguments.samples, "fasta")]
    report = statistics(samples, arguments.fasta, arguments.bed, arguments.split)
    for name, gc in report["gc"].items():
        print(f"GC of the {name:<8} {gc['share']:.4f} +- {gc['standard_error']:.4f} (s.e.)")
    for k, row in report["kmers"].items():
        print(
            f"{k}-mers: JS divergence {row['bits']:.2e} bits "
            f"(95 % {row['confidence_95'][0]:.2e} to {row['confidence_95'][1]:.2e}); "
            f"{len(samples)} real windows against the rest {row['noise_floor']:.2e} "
            f"({row['noise_floor_95'][0]:.2e} to {row['noise_floor_95'][1]:.2e})"
        )
    if arguments.out:
        write_text(Path(arguments.out), json.dumps(report, indent=2) + "\n")


def statistics(samples: list[str], fasta: str, bed: str, split: Any) -> dict[str, Any]:
    """The figures as plain values."""
    data = fasta_data(fasta, bed, length=len(samples[0]))
    ids = data.tokenizer.data_ids[:4]
    windows = [row for batch in data.eval_loader(split) for row in batch.tokens.numpy()]
    made = {"samples": composition(samples), "windows": composition(windows, data_ids=ids)}
    ks, kmers = (1, 2, 3, 4, 6), {}
    sampled = kmer_spectra(samples, ks, both_strands=True)
    real = kmer_spectra(windows, ks, data_ids=ids, both_strands=True)
    floors = noise_floors(windows, ks, size=len(samples), data_ids=ids, both_strands=True)
    for k in ks:
        kmers[k] = {
            **divergence(sampled[k], real[k]).summary(),
            "noise_floor": floors[k].bits,
            "noise_floor_95": list(floors[k].range_95),
        }
    return {
        "samples": len(samples),
        "windows": len(windows),
        "split": split,
        "length": len(samples[0]),
        "gc": {
            name: {
                "share": value.measures["gc"].value,
                "standard_error": value.measures["gc"].standard_error,
                "sd_between": value.measures["gc_spread"].value,
            }
            for name, value in made.items()
        },
        "kmers": kmers,
    }


if __name__ == "__main__":
    main()
