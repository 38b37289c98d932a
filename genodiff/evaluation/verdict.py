"""Whether a set can be told from the reference, and by which figures.

Every figure of `set_comparison` that has a value for "no difference" is a test of it: divergences,
differences and Frechet distances of 0, an area under the curve of 1/2; of the many motifs one test
for each kind of figure, after Simes (1986). All tests of a set are corrected together by Holm's
method, so that a set of the reference's own law is called different by any of them in at most one
of twenty cases. A second real set is judged in the same way: where it is told as well, the sets
differ for reasons that are no model's.

A small p-value says that there is a difference, not that it matters: with enough sequences there
always is one. How large it is the figure says, with its interval.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from genodiff.evaluation.scores import holm

Results = Mapping[str, Any]

LEVEL = 0.05
COMPOSITION = {
    "gc": "GC content",
    "gc_spread": "spread of GC between sequences",
    "cpg_observed_expected": "CpG observed/expected",
    "homopolymers": "bases in runs of 6 or more",
    "homopolymers_at": "bases in runs of 6 or more A or T",
    "homopolymers_gc": "bases in runs of 6 or more C or G",
    "low_complexity": "stretches of low complexity",
}
CLASSIFIERS = {
    "kmers": "logistic regression on k-mers",
    "cnn": "convolutional network on letters",
    "network": "logistic regression on the model's own features",
}
EMBEDDINGS = {"kmers": "4-mer frequencies", "network": "the model's own features"}
MOTIFS = {
    "contents": "motif content",
    "spacings": "motif spacing",
    "placements": "motif placement",
}
_OF_MOTIFS = {"contents": "log2_ratio", "spacings": "statistic", "placements": "distance"}


class Finding(NamedTuple):
    """A figure of a set as a test: of which section, its name, its value with a 95 % interval, and
    the p-value of no difference."""

    section: str
    name: str
    value: float
    confidence_95: list[float] | None
    p_value: float


def verdict(results: Results) -> dict[str, Any]:
    """For each set but the reference: its findings with corrected p-values, and the verdict in
    words, as the end of a sentence."""
    return {key: _verdict(results, key) for key in results["sets"] if key != "reference"}


def composition_label(name: str) -> str:
    """What a figure of `composition` is called."""
    return COMPOSITION.get(name) or f"{name.removeprefix('rho_')} dinucleotides"


def findings(results: Results, key: str) -> Iterator[Finding]:
    """All tests of a set, in the order of the page."""
    for k, row in _of(results, "words", key).items():
        yield Finding("words", f"{k}-mers", row["debiased"], row["confidence_95"], row["p_value"])
    for name, row in _of(results, "composition", key).get("differences", {}).items():
        label = composition_label(name)
        yield Finding("composition", label, row["value"], row["confidence_95"], row["p_value"])
    of_motifs = _of(results, "motifs", key)
    for kind, label in MOTIFS.items():
        if of_motifs.get(kind):
            first = min(of_motifs[kind], key=lambda row: row["q_value"])
            value, interval = first[_OF_MOTIFS[kind]], first.get("log2_ratio_95")
            yield Finding("motifs", label, value, interval, first["q_value"])
    for name, row in _of(results, "classifier", key).items():
        p_value = _p_above(row["auroc"] - 0.5, row["standard_error"])
        label = CLASSIFIERS[name]
        yield Finding("classifier", label, row["auroc"], row["confidence_95"], p_value)
    for name, row in _of(results, "frechet", key).items():
        p_value = _p_above(row["excess"], row["standard_error"])
        label = f"Frechet distance of {EMBEDDINGS[name]}"
        yield Finding("frechet", label, row["excess"], row["confidence_95"], p_value)


def _verdict(results: Results, key: str) -> dict[str, Any]:
    found = list(findings(results, key))
    corrected = holm([each.p_value for each in found])
    rows = [{**each._asdict(), "p_corrected": p} for each, p in zip(found, corrected, strict=True)]
    told = [row for row in rows if row["p_corrected"] < LEVEL]
    return {
        "figures": len(rows),
        "told_by": len(told),
        "text": _text(rows, told),
        "copying": _copying(results, key),
        "findings": rows,
    }


def _text(rows: list[dict[str, Any]], told: list[dict[str, Any]]) -> str:
    if not rows:
        return "too few for any figure."
    if not told:
        return f"not distinguishable from the reference by any of {len(rows)} figures."
    return f"distinguishable from the reference by {len(told)} of {len(rows)} figures."


def _copying(results: Results, key: str) -> str | None:
    """How many copies of training sequences there are, beside the yardstick's."""
    found, yardstick = _of(results, "memorisation", key), results.get("memorisation", {})
    if "differences" not in found:
        return None
    theirs = yardstick["sets"][yardstick["yardstick"]]
    whole, near = (
        f"{100 * found[name]['value']:.1f} % ({100 * theirs[name]['value']:.1f} %)"
        for name in ("exact", "near")
    )
    row = found["differences"]["near"]
    is_more = row["p_value"] < LEVEL and row["value"] > 0
    return (
        f"whole copies of training sequences: {whole}; near copies: {near}. In brackets those "
        f"of real sequences that were not trained with, {'fewer' if is_more else 'no fewer'}."
    )


def _of(results: Results, section: str, key: str) -> Results:
    return results.get(section, {}).get("sets", {}).get(key, {})


def _p_above(excess: float, error: float) -> float:
    """One-sided, by the normal approximation."""
    if error <= 0:
        return float(excess <= 0)
    return math.erfc(excess / error / math.sqrt(2)) / 2
