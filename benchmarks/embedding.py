"""What chunks change in the states of a network, on real DNA: against whole windows in one pass.

    python benchmarks/embedding.py --checkpoint RUN --fasta genome.fa.gz --bed splits.bed \\
        --windows 2 --out embedding_hg38_windows.json

Test rows of the BED are embedded base by base, both strands averaged, in one pass and in chunks.
Of each chunk and overlap: the difference of a base's state, as its root mean square over channels
in units of that of all states (the largest, the 99.9th percentile and the mean over bases); that
of the mean of a row, relative to its norm; what `embed` reports at the seams; and the bases of
sequence a second, with what is read twice in them. Peak memory is the process's, whatever came
before, so chunks go from the shortest to the longest and the whole comes last.
"""

import argparse
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, seconds_of
from numpy import ndarray

from genodiff.data import Genome, read_bed, rows_of
from genodiff.evaluation import Embedded, embed
from genodiff.evaluation.embedding import windows
from genodiff.files import write_text
from genodiff.tasks.model import Model, load_model

CHUNKS = ((8192, 2048), (16_384, 4096), (32_768, 8192), (32_768, 16_384), (65_536, 16_384))


def main() -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name in ("checkpoint", "fasta", "bed"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--cache_dir", type=Path)
    parser.add_argument("--windows", type=int, default=2, help="test rows that are embedded")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    model = load_model(arguments.checkpoint, device)
    genome = Genome(arguments.fasta, cache_dir=arguments.cache_dir)
    rows = rows_of(read_bed(arguments.bed, genome.lengths), "test")[: arguments.windows]
    tokens = [genome.fetch(row.chrom, row.start, row.end) for row in rows]
    longest = max(map(len, tokens))
    cases = [*CHUNKS, (longest, 2)]
    found = [embedded(model, tokens, *case) for case in cases]
    whole = found[-1][0].vectors
    report = {
        "rows": [f"{row.chrom}:{row.start}-{row.end}" for row in rows],
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "cases": [
            {"chunk": chunk, "overlap": overlap, **figures(states, whole, tokens), **cost}
            for (chunk, overlap), (states, cost) in zip(cases, found, strict=True)
        ],
        "machine": machine(device),
    }
    for case in report["cases"]:
        print(
            "chunk {chunk:>7,} overlap {overlap:>6,}: largest {largest:.1e}, 99.9 % "
            "{percentile_99_9:.1e}, mean {mean:.1e}; of pooled rows {pooled:.1e}; at seams "
            "{largest_seam:.1e}; {bases_a_second:,.0f} bases/s".format(**case)
        )
    if arguments.out:
        write_text(arguments.out, json.dumps(report, indent=2) + "\n")


def embedded(
    model: Model, tokens: list[ndarray], chunk: int, overlap: int
) -> tuple[Embedded, dict[str, Any]]:
    """States of all bases, and what they cost."""
    found: list[Embedded] = []

    def once() -> None:
        found.append(
            embed(
                model.network,
                tokens,
                data_ids=model.tokenizer.data_ids,
                complement=model.tokenizer.complement,
                pooling="none",
                chunk=chunk,
                overlap=overlap,
            )
        )

    with torch.no_grad():
        seconds = seconds_of(once, next(model.network.parameters()).device)
    bases = sum(map(len, tokens))
    read = sum(w.end - w.start for row in tokens for w in windows(len(row), chunk, overlap))
    return found[0], {
        "seconds": seconds,
        "bases_a_second": bases / seconds,
        "read_a_base": read / bases,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def figures(states: Embedded, whole: ndarray, tokens: list[ndarray]) -> dict[str, float]:
    """How far the states are from those of one pass."""
    error = np.sqrt(np.mean(np.square(states.vectors - whole), 1)) / np.sqrt(np.mean(whole**2))
    ends = np.cumsum([len(row) for row in tokens])[:-1]
    pooled = [
        np.linalg.norm(a.mean(0) - b.mean(0)) / np.linalg.norm(b.mean(0))
        for a, b in zip(np.split(states.vectors, ends), np.split(whole, ends), strict=True)
    ]
    return {
        "largest": float(error.max()),
        "percentile_99_9": float(np.percentile(error, 99.9)),
        "mean": float(error.mean()),
        "pooled": float(np.max(pooled)),
        "largest_seam": float(states.seams.max(initial=0)),
    }


if __name__ == "__main__":
    main()
