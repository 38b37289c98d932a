"""The figures of a report, drawn with matplotlib, as SVG with a table of their numbers.

Light background, colours that colour-blind readers tell apart (Okabe & Ito 2008), and never colour
alone: shapes, line styles and labels say the same. matplotlib is the extra `report`; it is
imported when a figure is drawn, and neither pyplot nor its global state is used.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.generation import Divergence, NoiseFloor, Spectrum
from genodiff.evaluation.mask_rates import MaskRate
from genodiff.evaluation.report import Figure, Table

INK, SOFT, LINE = "#1c2024", "#5b6470", "#d9dde2"
BLUE, VERMILLION, GREEN = "#0072b2", "#d55e00", "#009e73"
_STYLE: Any = {  # matplotlib types the keys as a Literal of its own
    "svg.fonttype": "none",  # text stays text: it can be selected, and takes the page's font
    "svg.hashsalt": "genodiff",  # the same figure gives the same file
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.size": 9.0,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
}


class Estimate(NamedTuple):
    """A figure with its 95 % interval. `kind`: what is judged, or what it is judged against."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    kind: Literal["model", "baseline"] = "baseline"


class Curve(NamedTuple):
    """Values over steps."""

    steps: ndarray
    values: ndarray


def require_matplotlib() -> None:
    """Raises UserError where matplotlib is missing: for tasks that draw only at their end."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(
            "matplotlib is not installed, and figures are drawn with it; "
            "run pip install 'genodiff[report]'."
        ) from error


def likelihood_figure(
    estimates: Sequence[Estimate], *, truth: Estimate | None = None, quantity: str = "perplexity"
) -> Figure:
    """Estimates of a likelihood side by side, best first, and the truth as a line where known.

    `quantity` names the axis; less is better. The truth's interval is its own precision.
    """
    ranked = sorted(estimates, key=lambda estimate: estimate.value)
    if not ranked:
        raise UserError("no estimate to draw; give one or more.")

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for row, estimate in enumerate(ranked):
            ours = estimate.kind == "model"
            colour = BLUE if ours else SOFT
            if estimate.interval is not None:
                axes.plot(estimate.interval, (row, row), color=colour, linewidth=2, zorder=2)
            axes.plot(
                estimate.value,
                row,
                marker="o" if ours else "s",
                markersize=8 if ours else 5.5,
                color=colour,
                zorder=3,
            )
            axes.annotate(
                f"{estimate.value:.3f}",
                (estimate.value, row),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                fontweight="bold" if ours else "normal",
                color=colour if ours else INK,
            )
        axes.set_yticks(range(len(ranked)), [estimate.name for estimate in ranked])
        for label, estimate in zip(axes.get_yticklabels(), ranked, strict=True):
            label.set(color=INK, fontweight="bold" if estimate.kind == "model" else "normal")
        axes.set_ylim(len(ranked) - 0.5, -0.9)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.margins(x=0.08)
        axes.set_xlabel(f"{quantity} (less is better)")
        if truth is not None:
            if truth.interval is not None:
                axes.axvspan(*truth.interval, color=VERMILLION, alpha=0.25, linewidth=0, zorder=0)
            axes.axvline(truth.value, color=VERMILLION, linewidth=1.5, linestyle="--", zorder=1)
            axes.annotate(
                f"{truth.name} {truth.value:.3f}",
                (truth.value, 1.0),
                xycoords=axes.get_xaxis_transform(),
                xytext=(4, 2),
                textcoords="offset points",
                color=VERMILLION,
                fontsize=8,
            )

    svg = _svg(draw, height=1.1 + 0.36 * len(ranked))
    best = ranked[0]
    alt = f"{quantity} of {len(ranked)} models, least {best.value:.3f} for {best.name}" + (
        f"; {truth.name} is {truth.value:.3f}." if truth else "."
    )
    rows = [
        [item.name, f"{item.value:.4f}", _spell(item.interval)]
        for item in ([truth] if truth else []) + ranked
    ]
    return Figure(svg, alt, table=Table(["", quantity, "95 % interval"], rows))


def loss_figure(
    train: Curve,
    valid: Curve | None = None,
    *,
    baselines: Sequence[Estimate] = (),
    truth: Estimate | None = None,
    quantity: str = "nats per base",
    caption: str = "",
) -> Figure:
    """Loss over optimizer steps, with lines for what it is judged against.

    Training loss is shown as it is and as a running mean; `valid` as points that are joined.
    """
    if not len(train.values):
        raise UserError("no step of training to draw; give a curve with one or more.")
    smooth = _running_mean(train.values)
    levels = [*baselines, *([truth] if truth else [])]
    shown = [smooth, *([valid.values] if valid else []), np.array([e.value for e in levels])]
    low, high = min(v.min() for v in shown if len(v)), max(v.max() for v in shown if len(v))

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.plot(train.steps, train.values, color=BLUE, alpha=0.22, linewidth=0.7)
        axes.plot(train.steps, smooth, color=BLUE, linewidth=1.6, label="training, running mean")
        if valid is not None and len(valid.values):
            axes.plot(
                *valid,
                color=GREEN,
                marker="D",
                markersize=4,
                linewidth=1.2,
                linestyle="-.",
                label="validation",
            )
        margin = 0.06 * (high - low) or 0.05
        axes.set_ylim(low - margin, high + margin)
        texts = []
        for level in levels:
            is_truth = level is truth
            colour = VERMILLION if is_truth else SOFT
            axes.axhline(
                level.value,
                color=colour,
                linewidth=1.4 if is_truth else 0.9,
                linestyle="--" if is_truth else ":",
                zorder=1,
            )
            texts.append((level.value, level.name, colour))
        for height, (_, name, colour) in zip(
            _apart([value for value, _, _ in texts], 0.055 * (high - low + 2 * margin)),
            texts,
            strict=True,
        ):
            axes.annotate(
                name,
                (1.0, height),
                xycoords=axes.get_yaxis_transform(),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=colour,
                annotation_clip=False,
            )
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(quantity)
        axes.legend(loc="upper right", fontsize=8)

    picked = np.unique(np.linspace(0, len(train.values) - 1, 7).round().astype(int))
    rows = [
        [int(train.steps[i]), f"{smooth[i]:.4f}", _nearest(valid, float(train.steps[i]))]
        for i in picked
    ]
    alt = (
        f"{quantity} over {int(train.steps[-1]):,} steps: training falls from {smooth[0]:.3f} to "
        f"{smooth[-1]:.3f}"
        + (f", validation ends at {valid.values[-1]:.3f}" if valid and len(valid.values) else "")
        + "".join(f"; {level.name} is {level.value:.3f}" for level in levels)
        + "."
    )
    table = Table(["step", "training, mean", "validation"], rows)
    return Figure(_svg(draw, height=3.6), alt, caption, table)


def mask_rate_picture(
    rates: Sequence[MaskRate],
    against: Sequence[MaskRate] = (),
    *,
    names: tuple[str, str] = ("checkpoint", "against"),
    picture: Literal["svg", "png"] = "svg",
) -> bytes:
    """What a masked token costs by the share that is masked, with 95 % intervals, as a file's
    contents. The bound is the area under the curve. `against`: a second model's curve.
    """
    if not rates:
        raise UserError(
            "this likelihood does not go by the share that is masked; use estimator=exactly_k."
        )

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for parts, colour, line, marker, name in (
            (rates, BLUE, "-", "o", names[0]),
            (against, VERMILLION, "--", "s", names[1]),
        ):
            if parts:
                x = np.array([(part.low + part.high) / 2 for part in parts])
                y = np.array([part.nats_per_token for part in parts])
                low, high = np.array([part.confidence_95 for part in parts]).T
                axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
                axes.plot(
                    x, y, color=colour, linestyle=line, marker=marker, markersize=4, label=name
                )
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of tokens masked")
        axes.set_ylabel("nats per masked token")
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        if against:
            axes.legend(loc="upper left", fontsize=8)

    return rendered(draw, height=3.2, width=6.2, picture=picture, background="white")


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
    return Figure(_svg(draw, height=4.6, width=4.9), alt, f"{caption} {words}".strip(), table)


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


def _svg(draw: Callable[[Any], None], *, height: float, width: float = 6.2) -> str:
    """What `draw` puts on a figure of that size in inches, as one `<svg>` element without size."""
    contents = rendered(draw, height=height, width=width, picture="svg", background="none")
    svg = contents.decode("utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest.strip()


def rendered(
    draw: Callable[[Any], None],
    *,
    height: float,
    width: float,
    picture: Literal["svg", "png"],
    background: str,
) -> bytes:
    """A file of what `draw` puts on a figure of that size in inches."""
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = Canvas(figsize=(width, height), layout="constrained", facecolor=background)
        draw(figure)
        metadata: Any = {"Date": None} if picture == "svg" else None
        figure.savefig(buffer, format=picture, metadata=metadata, dpi=200)
    return buffer.getvalue()


def _percent(share: float) -> str:
    """Two digits: 12 %, 1.2 %, 0.012 %."""
    digits = 1 - math.floor(math.log10(100 * share)) if share > 0 else 0
    return f"{100 * share:.{max(digits, 0)}f} %"


def _spell(interval: tuple[float, float] | None) -> str | None:
    return None if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _running_mean(values: ndarray) -> ndarray:
    """Mean over a window of a fiftieth of the curve, shorter at its beginning."""
    window = max(1, len(values) // 50)
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _nearest(curve: Curve | None, step: float) -> str | None:
    """The last value at or before `step`."""
    if curve is None:
        return None
    before = np.flatnonzero(np.asarray(curve.steps) <= step)
    return f"{curve.values[before[-1]]:.4f}" if len(before) else None


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved as little as needed for labels to be `gap` apart, in the same order."""
    placed = np.array(heights, dtype=np.float64)
    order = np.argsort(placed)
    for _ in range(100):
        for lower, upper in pairwise(order):
            short = gap - (placed[upper] - placed[lower])
            if short > 1e-9:
                placed[lower] -= short / 2
                placed[upper] += short / 2
    return placed.tolist()
