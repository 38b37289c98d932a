"""Stretches of held-out DNA written anew, beside what stood there.

    python benchmarks/infill.py --checkpoint runs/mdlm --fasta genome.fa.gz --bed splits.bed \\
        --out results.json

Regions are drawn at random inside the test rows of the BED, on either strand, with all of their
flanks inside the row, and go through `genodiff infill`. What share of the designed bases equals
the reference is compared with that of other ways to fill the gap: letters drawn with the
frequencies of the same flanks (their exact expectation), a Markov model of the training split that
goes on from the left flank, and a shuffle of the reference itself that keeps its dinucleotides,
which has seen the answer. Chance alone gives a quarter; DNA that is not repeated is nearly as hard
to guess. GC content is compared with the region's and with the flanks'. Intervals are of 95 % over
regions, the designs of one region being averaged first.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from measuring import machine
from numpy import ndarray

from genodiff.data import BedRow, DnaTokenizer, Genome, read_bed, rows_of
from genodiff.evaluation import MarkovModel, fit_markov
from genodiff.evaluation.shuffles import shuffled
from genodiff.evaluation.uncertainty import student_975
from genodiff.files import write_text

LETTERS = np.array(list("ACGT"))
FILLS = 20
"""Fills of each gap by a Markov model, and shuffles; they cost nothing."""


def main() -> None:
    arguments = parse()
    genome = Genome(arguments.fasta, cache_dir=arguments.cache_dir)
    rows = read_bed(arguments.bed, genome.lengths)
    regions = draw_regions(genome, rows, arguments)
    began = time.monotonic()
    designs, cost = infilled(regions, arguments)
    windows = [
        letters_of(genome, region, arguments.context, arguments.context) for region in regions
    ]
    truth = np.stack([window[arguments.context : -arguments.context] for window in windows])
    flanks = np.stack([outside(window, arguments.context) for window in windows])
    drawn = np.stack([[list(design) for design in designs[region[0]]] for region in regions])
    markov = fit_markov(
        (genome.fetch(row.chrom, row.start, row.end) for row in rows_of(rows, "train")),
        data_ids=DnaTokenizer().data_ids,
        complement=DnaTokenizer().complement,
        max_order=arguments.order,
    )
    random = np.random.default_rng(arguments.seed)
    continued = np.stack(
        [go_on(markov, window[: arguments.context], truth.shape[1], random) for window in windows]
    )
    mixed = np.stack(
        [
            [list(text) for text in shuffled(["".join(region)] * FILLS, seed=arguments.seed + i)]
            for i, region in enumerate(truth)
        ]
    )
    same = {
        "designs": share_same(drawn, truth),
        "flank_frequencies": expected_same(flanks, truth),
        f"markov_{arguments.order}_from_the_left_flank": share_same(continued, truth),
        "dinucleotide_shuffle_of_the_reference": share_same(mixed, truth),
    }
    gc, gc_truth, gc_flanks = (gc_of(letters) for letters in (drawn, truth, flanks))
    gc_designs = gc.mean(1)
    result: dict[str, Any] = {
        "regions": len(regions),
        "designs_a_region": arguments.designs,
        "region_bp": arguments.size,
        "context_bp": arguments.context,
        "same_as_reference": {name: interval(share) for name, share in same.items()},
        "same_more_than": {
            name: interval(same["designs"] - share)
            for name, share in same.items()
            if name != "designs"
        },
        "gc": {
            "designs": interval(gc_designs),
            "reference": interval(gc_truth),
            "designs_less_reference": interval(gc_designs - gc_truth),
            "absolute_difference": interval(np.abs(gc - gc_truth[:, None]).mean(1)),
            "absolute_difference_of_flanks": interval(np.abs(gc_flanks - gc_truth)),
            "correlation": correlation(gc_designs, gc_truth),
            "correlation_of_flanks": correlation(gc_flanks, gc_truth),
        },
        "seconds": round(time.monotonic() - began, 1),
        "infill": cost,
        "machine": machine(torch.device(arguments.device)),
    }
    print(json.dumps(result, indent=2))
    if arguments.out is not None:
        write_text(arguments.out, json.dumps(result, indent=2) + "\n")


Place = tuple[str, str, int, int, str]
"""Name, chromosome, start, end, strand."""


def draw_regions(genome: Genome, rows: list[BedRow], arguments: argparse.Namespace) -> list[Place]:
    """Regions whose windows are inside a test row and hold no N."""
    random = np.random.default_rng(arguments.seed)
    margin, found = arguments.context + arguments.size, list[Place]()
    tests = [row for row in rows_of(rows, "test") if row.end - row.start > margin + margin]
    while len(found) < arguments.count:
        row = tests[random.integers(len(tests))]
        start = int(random.integers(row.start + arguments.context, row.end - margin))
        strand = "+-"[random.integers(2)]
        place = (f"r{len(found)}", row.chrom, start, start + arguments.size, strand)
        if "N" not in letters_of(genome, place, arguments.context, arguments.context):
            found.append(place)
    return found


def letters_of(genome: Genome, place: Place, before: int, behind: int) -> ndarray:
    """The letters of a region and its flanks, on its strand."""
    _, chrom, start, end, strand = place
    tokens = genome.fetch(chrom, start - before, end + behind).astype(np.int64)
    if strand == "-":
        tokens = np.array(DnaTokenizer().complement)[tokens][::-1]
    return np.array(list(DnaTokenizer().decode(tokens)))


def outside(window: ndarray, context: int) -> ndarray:
    """The flanks."""
    return np.concatenate([window[:context], window[-context:]])


def infilled(
    regions: list[Place], arguments: argparse.Namespace
) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The designs of each region by its name, on its strand, and what they cost."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = (f"{c}\t{start}\t{end}\t{r}\t0\t{s}\n" for r, c, start, end, s in regions)
        (folder / "regions.bed").write_text("".join(lines))
        words = {
            "checkpoint": arguments.checkpoint,
            "genome": arguments.fasta,
            "regions": folder / "regions.bed",
            "out": folder / "designs.fa",
            "context": arguments.context,
            "num_samples": arguments.designs,
            "steps": arguments.steps,
            "seed": arguments.seed,
            "device": arguments.device,
            "cache_dir": "null" if arguments.cache_dir is None else arguments.cache_dir,
        }
        command = [sys.executable, "-m", "genodiff", "infill"]
        subprocess.run([*command, *(f"{key}={word}" for key, word in words.items())], check=True)
        designs: dict[str, list[str]] = {}
        for record in (folder / "designs.fa").read_text().split(">")[1:]:
            header, letters = record.split("\n", 1)
            stretch = letters.replace("\n", "")
            design = stretch[arguments.context : -arguments.context]
            designs.setdefault(header.split("_")[0], []).append(design)
        report = json.loads((folder / "designs.json").read_text())
    cost = (
        *("checkpoint", "sampler", "seed", "batch_size", "network_calls", "network_evaluations"),
        *("seconds", "seconds_outside_the_network", "checkpoint_sha256", "genome_sha256"),
    )
    return designs, {key: report[key] for key in cost}


def go_on(
    model: MarkovModel, before: ndarray, length: int, random: np.random.Generator
) -> ndarray:
    """Fills of a gap by a model that has seen the letters before it, (FILLS, length)."""
    codes = np.searchsorted(LETTERS, before)
    history = np.tile(codes[-model.max_order :], (FILLS, 1))
    for _ in range(length):
        p = np.full((FILLS, 4), 0.25)
        for k, counts in enumerate(model.counts):
            context = history[:, history.shape[1] - k :] @ 4 ** np.arange(k)[::-1]
            count = counts.reshape(-1, 4)[context]
            strength = model.concentrations[k]
            p = (count + strength * p) / (count.sum(1, keepdims=True) + strength)
        letter = (random.random((FILLS, 1)) > p.cumsum(1)[:, :3]).sum(1)
        history = np.concatenate([history, letter[:, None]], 1)
    return LETTERS[history[:, -length:]]


def share_same(fills: ndarray, truth: ndarray) -> Float[ndarray, " r"]:
    """Of each region: the share of the bases of its fills (r, n, l) that are the reference's."""
    return (fills == truth[:, None]).mean((1, 2))


def expected_same(flanks: ndarray, truth: ndarray) -> Float[ndarray, " r"]:
    """Of each region: the expected share for letters drawn as often as they are in its flanks."""
    return (frequencies(flanks) * frequencies(truth)).sum(1)


def frequencies(letters: ndarray) -> Float[ndarray, "r 4"]:
    return (letters[..., None] == LETTERS).mean(1)


def gc_of(letters: ndarray) -> Float[ndarray, "..."]:
    return np.isin(letters, ["G", "C"]).mean(-1)


def interval(values: Float[ndarray, " r"]) -> dict[str, Any]:
    """Mean over regions, with its 95 % interval."""
    half = student_975(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = values.mean()
    return {"mean": round(float(mean), 5), "confidence_95": spread(mean - half, mean + half)}


def correlation(a: Float[ndarray, " r"], b: Float[ndarray, " r"]) -> dict[str, Any]:
    """Pearson's, with its 95 % interval by Fisher's transformation."""
    value = np.corrcoef(a, b)[0, 1]
    half = 1.96 / np.sqrt(len(a) - 3)
    ends = np.tanh(np.arctanh(value) + np.array([-half, half]))
    return {"value": round(float(value), 5), "confidence_95": spread(*ends)}


def spread(low: float, high: float) -> list[float]:
    return [round(float(low), 5), round(float(high), 5)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--fasta", type=Path, required=True)
    parser.add_argument("--bed", type=Path, required=True, help="with a column train/valid/test")
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--count", type=int, default=200, help="regions")
    parser.add_argument("--size", type=int, default=200, help="bases of a region")
    parser.add_argument("--context", type=int, default=412, help="bases on each side")
    parser.add_argument("--designs", type=int, default=2, help="a region")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--order", type=int, default=8, help="of the Markov model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
