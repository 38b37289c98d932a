"""Variants of real DNA scored by a model: how fast, and whether mutations that are frequent in
evolution surprise it less.

    python benchmarks/variants.py --checkpoint runs/mdlm --genome chr2.fa.gz --out results.json

Positions are drawn at random, half of them anywhere and half at CpG, and all three alternatives of
each are scored by `genodiff score` (of a masked model one evaluation of each strand). Expected
are, of a model that has learnt what human DNA looks like,

- transitions above transversions, as the difference within a position. Frequencies of bases alone
  move it, as the three alternatives are not equally frequent; so the transition is also compared
  with the one transversion to a base as frequent (A>G with A>C, C>T with C>A, and so on on the
  other strand);
- variants of C and G at CpG, where methylated C decays and CpG is rare, above those of other C and
  G; and of them C>T and G>A, which that decay leaves, above the matched transversions.

Intervals are normal ones over positions. What is kept in --work is not scored again.
"""

import argparse
import csv
import json
import math
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from commands import genodiff
from measuring import machine
from torch import device

from genodiff.data import Genome
from genodiff.files import write_text

TRANSITION = {"A": "G", "G": "A", "C": "T", "T": "C"}
MATCHED = {"A": "C", "C": "A", "G": "T", "T": "G"}
"""The transversion to a base that is, on both strands, as frequent as that of the transition."""
HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


class Site(NamedTuple):
    """A position (1-based) with the scores of its alternatives."""

    is_cpg: bool
    ref: str
    transition: float
    matched: float
    """The transversion to a base as frequent."""
    transversions: float
    """The mean of both."""


def drawn(genome: Genome, count: int, seed: int) -> Iterator[str]:
    """Lines of a VCF: `count` positions, every second one at a CpG. The ID says which are."""
    generator = np.random.default_rng(seed)
    chroms = list(genome.lengths)
    lengths = np.array([genome.lengths[chrom] for chrom in chroms])
    wanted = [False, True] * (count // 2)
    while wanted:
        chrom = chroms[generator.choice(len(chroms), p=lengths / lengths.sum())]
        position = int(generator.integers(1, genome.lengths[chrom] - 1))
        before, ref, after = letters(genome, chrom, position - 1, position + 2)
        is_cpg = before + ref == "CG" or ref + after == "CG"
        if ref == "N" or (wanted[0] and not is_cpg):
            continue
        others = ",".join(base for base in "ACGT" if base != ref)
        name = "cpg" if is_cpg else "other"
        kind = "chosen" if wanted.pop(0) else "anywhere"
        yield f"{chrom}\t{position + 1}\t{kind}_{name}\t{ref}\t{others}\t.\t.\t.\n"


def letters(genome: Genome, chrom: str, start: int, end: int) -> str:
    return "".join("ACGTN"[code - 7] for code in genome.fetch(chrom, start, end))


def sites(table: Path) -> Iterator[tuple[str, Site]]:
    """The kind of each position, and its scores."""
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for first in range(0, len(rows), 3):
        alternatives = rows[first : first + 3]
        ref, (kind, name) = alternatives[0]["ref"], alternatives[0]["id"].split("_")
        scores = {row["alt"]: float(row["score"]) for row in alternatives}
        transition, matched = scores.pop(TRANSITION[ref]), scores[MATCHED[ref]]
        yield kind, Site(name == "cpg", ref, transition, matched, sum(scores.values()) / 2)


def mean(values: list[float]) -> dict[str, Any]:
    """With its 95 % interval."""
    x = np.array(values)
    error = float(x.std(ddof=1) / math.sqrt(len(x)))
    return {"n": len(x), **interval(float(x.mean()), error)}


def difference(values: list[float], others: list[float]) -> dict[str, Any]:
    """Of two means, of independent positions."""
    x, y = np.array(values), np.array(others)
    error = math.sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y))
    return {"n": [len(x), len(y)], **interval(float(x.mean() - y.mean()), error)}


def interval(value: float, error: float) -> dict[str, Any]:
    return {
        "nats": value,
        "standard_error": error,
        "confidence_95": [value - 1.96 * error, value + 1.96 * error],
    }


def compared(found: list[tuple[str, Site]]) -> dict[str, Any]:
    """What is expected to be above 0."""
    anywhere = [site for kind, site in found if kind == "anywhere"]
    of_c_or_g = [site for _, site in found if site.ref in "CG"]
    cpg = [site for site in of_c_or_g if site.is_cpg]
    other = [site for site in of_c_or_g if not site.is_cpg]

    def matched(sites: list[Site]) -> dict[str, Any]:
        return mean([site.transition - site.matched for site in sites])

    return {
        "transitions_minus_transversions": mean(
            [site.transition - site.transversions for site in anywhere]
        ),
        "transitions_minus_matched_transversions": {
            "all": matched([site for _, site in found]),
            "anywhere": matched(anywhere),
            "at_cpg": matched(cpg),
            "at_other_c_and_g": matched(other),
            "at_a_and_t": matched([site for _, site in found if site.ref in "AT"]),
        },
        "cpg_minus_other_c_and_g": {
            "transitions": difference(
                [site.transition for site in cpg], [site.transition for site in other]
            ),
            "transversions": difference(
                [site.transversions for site in cpg], [site.transversions for site in other]
            ),
        },
    }


def means(found: list[tuple[str, Site]]) -> dict[str, Any]:
    """Of the scores themselves."""
    kinds = {
        "anywhere": [site for kind, site in found if kind == "anywhere"],
        "at_cpg": [site for _, site in found if site.is_cpg],
    }
    return {
        name: {
            "transitions": mean([site.transition for site in sites]),
            "transversions": mean([site.transversions for site in sites]),
        }
        for name, sites in kinds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--genome", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("variants"), help="folder for VCFs")
    parser.add_argument("--sites", type=int, default=500, help="of each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file")
    arguments = parser.parse_args()
    cache = None if arguments.cache_dir is None else str(arguments.cache_dir)
    genome = Genome(arguments.genome, cache_dir=cache)
    arguments.work.mkdir(parents=True, exist_ok=True)
    found: dict[int, list[tuple[str, Site]]] = {}
    timed: dict[int, dict[str, float]] = {}
    for seed in arguments.seeds:
        asked = arguments.work / f"seed_{seed}.vcf"
        table = arguments.work / f"scored_{seed}.tsv"
        timing = arguments.work / f"timed_{seed}.json"
        if not table.exists():
            asked.write_text(HEADER + "".join(drawn(genome, arguments.sites, seed)))
            began = time.perf_counter(), children()
            genodiff(
                "score",
                f"checkpoint={arguments.checkpoint}",
                f"genome={arguments.genome}",
                f"variants={asked}",
                f"context={arguments.context}",
                f"device={arguments.device}",
                *(() if cache is None else (f"cache_dir={cache}",)),
                f"out={table}",
            )
            taken = {
                "sites": arguments.sites,
                "wall_seconds": time.perf_counter() - began[0],
                "cpu_seconds": children() - began[1],
            }
            write_text(timing, json.dumps(taken) + "\n")
        if timing.exists():
            timed[seed] = json.loads(timing.read_text())
        found[seed] = list(sites(table))
    every = [site for of_seed in found.values() for site in of_seed]
    report = {
        "checkpoint": arguments.checkpoint.name,
        "genome": arguments.genome.name,
        "context": arguments.context,
        "sites": len(every),
        "speed": {
            "of": "whole commands, all three alternatives of a site at once, both strands",
            **rates(timed),
            "runs": timed,
        },
        **compared(every),
        "means": means(every),
        "by_seed": {str(seed): compared(of_seed) for seed, of_seed in found.items()},
        "machine": machine(device(arguments.device)),
    }
    text = json.dumps(report, indent=2) + "\n"
    print(text, end="")
    if arguments.out is not None:
        write_text(arguments.out, text)


def rates(timed: dict[int, dict[str, float]]) -> dict[str, float]:
    """Sites a minute, by the clock on the wall and by the processors' time."""
    n = sum(run["sites"] for run in timed.values())
    return {
        f"sites_per_{clock}_minute": 60
        * n
        / sum(run[f"{clock}_seconds"] for run in timed.values())
        for clock in ("wall", "cpu")
        if timed
    }


def children() -> float:
    """Processor seconds of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
