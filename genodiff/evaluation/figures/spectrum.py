"""The words of two sets of sequences, each by its share in one and in the other."""

import math
from typing import Any

import numpy as np

from genodiff.errors import UserError
from genodiff.evaluation.figures.drawing import BLUE, INK, LINE, VERMILLION, svg_of
from genodiff.evaluation.report import Figure, Table
from genodiff.evaluation.spectra import Divergence, NoiseFloor, Spectrum


def spectrum_figure(
    sample: Spectrum,
    reference: Spectrum,
    *,
    divergence: Divergence | None = None,
    floor: NoiseFloor | None = None,
    names: tuple[str, str] = ("samples", "reference"),
    caption: str = "",
) -> Figure:
    """Each word's frequency in the samples over that in the reference, on logarithmic axes.

    Words on the diagonal are as frequent in both. Words that one side never has lie on its edge.
    The table names the words that differ most, by their contribution to the divergence.
    """
    if sample.words != reference.words:
        raise UserError(
            f"spectra of {len(sample.words)} (k={sample.k}) and {len(reference.words)} words "
            f"(k={reference.k}) cannot be drawn together; use the same k and both_strands."
        )
    p, q = sample.frequencies, reference.frequencies
    smallest = min(p[p > 0].min(), q[q > 0].min()) / 1.6
    largest = max(p.max(), q.max()) * 1.6
    missing = (p == 0) ^ (q == 0)
    unlike = np.argsort(-np.abs(p - q) / np.sqrt(np.maximum(p + q, smallest)))[:8]
    many = len(p) > 300

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log")
        span = np.array([smallest, largest])
        axes.fill_between(span, span / 1.25, span * 1.25, color=LINE, alpha=0.55, linewidth=0)
        axes.plot(span, span, color=VERMILLION, linewidth=1.2, linestyle="--")
        both = (p > 0) & (q > 0)
        size, alpha = (7, 0.35) if many else (26, 0.8)
        # thousands of points as paths would make the page slow to print
        axes.scatter(
            q[both], p[both], s=size, color=BLUE, alpha=alpha, linewidths=0, rasterized=many
        )
        edge = (np.maximum(q[missing], smallest), np.maximum(p[missing], smallest))
        axes.scatter(*edge, s=size, marker="x", color=INK, linewidths=0.8, rasterized=many)
        axes.set(xlim=span, ylim=span, aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
            axis.set_minor_formatter("")
        axes.grid(color=LINE, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.set_xlabel(f"share of all words: {names[1]}")
        axes.set_ylabel(f"share of all words: {names[0]}")
        if not many:
            labelled: list[int] = []
            for i in unlike[:6]:
                if any(abs(np.log(q[i] / q[j])) < 0.2 for j in labelled if q[i] and q[j]):
                    continue  # too near for two names
                labelled.append(i)
                above = p[i] > q[i]
                axes.annotate(
                    sample.words[i],
                    (max(q[i], smallest), max(p[i], smallest)),
                    xytext=(-4, 4) if above else (4, -4),
                    textcoords="offset points",
                    ha="right" if above else "left",
                    va="bottom" if above else "top",
                    fontsize=8,
                )

    title = f"{sample.k}-mers" + (", both strands as one" if sample.both_strands else "")
    rows = [[sample.words[i], _percent(float(p[i])), _percent(float(q[i]))] for i in unlike]
    table = Table([title, *names], rows, "Words that differ most")
    words = _divergence_words(divergence, floor)
    alt = (
        f"Scatter of {len(p)} {title}: share in {names[0]} against share in {names[1]}, "
        f"with the diagonal. {words}"
    )
    return Figure(svg_of(draw, height=4.6, width=4.9), alt, f"{caption} {words}".strip(), table)


def _divergence_words(divergence: Divergence | None, floor: NoiseFloor | None) -> str:
    words = []
    if divergence is not None:
        low, high = divergence.confidence_95
        words.append(
            f"Jensen-Shannon divergence {divergence.bits:.2g} bits as measured, "
            f"{divergence.debiased:.2g} without its sampling bias (95 %: {low:.2g} to {high:.2g})."
        )
    if floor is not None:
        low, high = floor.range_95
        words.append(
            "The reference against itself, as measured: "
            f"{floor.bits:.2g} ({low:.2g} to {high:.2g})."
        )
    return " ".join(words)


def _percent(share: float) -> str:
    """Two digits: 12 %, 1.2 %, 0.012 %."""
    digits = 1 - math.floor(math.log10(100 * share)) if share > 0 else 0
    return f"{100 * share:.{max(digits, 0)}f} %"
