"""Estimates side by side, each with its interval."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from genodiff.errors import UserError
from genodiff.evaluation.figures.drawing import (
    BLUE,
    INK,
    LINE,
    SOFT,
    VERMILLION,
    Look,
    draw_legend,
    svg_of,
)
from genodiff.evaluation.report import Figure, Table

MODEL, BASELINE = Look(BLUE, "o"), Look(SOFT, "s")


class Estimate(NamedTuple):
    """A figure with its 95 % interval. `kind`: what is judged, or what it is judged against."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    kind: Literal["model", "baseline"] = "baseline"


class Mark(NamedTuple):
    """A value with its interval, in a row of a panel."""

    value: float
    interval: Sequence[float] | None
    look: Look


Rows = Sequence[tuple[str, Sequence[Mark]]]
"""Names of rows, from the top, and what stands in each."""


def draw_panel(axes: Any, rows: Rows) -> None:
    """Rows of marks with their intervals; several in one row are set a little apart."""
    for place, (_, marks) in enumerate(rows):
        for i, mark in enumerate(marks):
            y = place + 0.7 * ((i + 0.5) / len(marks) - 0.5)
            if mark.interval is not None:
                axes.plot(mark.interval, (y, y), color=mark.look.colour, linewidth=1.6, zorder=2)
            axes.plot(mark.value, y, markersize=5.5, zorder=3, **mark.look.of_mark())
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)


def draw_panels(
    figure: Any, panels: Mapping[str, Rows], quantity: str, *, on_one_scale: bool = False
) -> None:
    """Panels under one another, each with its title, and `quantity` below the last."""
    heights = [_rows_height(rows) for rows in panels.values()]
    places = figure.subplots(
        len(heights), 1, squeeze=False, height_ratios=heights, sharex=on_one_scale
    )[:, 0]
    for axes, (title, rows) in zip(places, panels.items(), strict=True):
        draw_panel(axes, rows)
        axes.set_title(title, loc="left", fontsize=9, fontweight="bold", color=INK)
    places[-1].set_xlabel(quantity)


def panels_height(panels: Mapping[str, Rows]) -> float:
    """Inches that they take."""
    return 0.6 + sum(0.5 + _rows_height(rows) for rows in panels.values())


def panels_svg(
    panels: Mapping[str, Rows],
    quantity: str,
    looks: Mapping[str, Look] | None = None,
    *,
    equal: float | None = None,
    on_one_scale: bool = False,
) -> str:
    """The drawing of panels, and above them what marks are, where rows do not say it. `equal`: a
    line at that value."""

    def draw(figure: Any) -> None:
        draw_panels(figure, panels, quantity, on_one_scale=on_one_scale)
        for axes in figure.axes if equal is not None else ():
            axes.axvline(equal, color=SOFT, linewidth=1, zorder=1)
        if looks is not None:
            draw_legend(figure, looks, lines=False)

    return svg_of(draw, height=panels_height(panels) + (0.3 if looks else 0))


def _rows_height(rows: Rows) -> float:
    return sum(max(0.28, 0.13 * len(marks)) for _, marks in rows)


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
        looks = [MODEL if estimate.kind == "model" else BASELINE for estimate in ranked]
        draw_panel(
            axes,
            [
                (estimate.name, [Mark(estimate.value, estimate.interval, look)])
                for estimate, look in zip(ranked, looks, strict=True)
            ],
        )
        for row, (estimate, label) in enumerate(zip(ranked, axes.get_yticklabels(), strict=True)):
            ours = estimate.kind == "model"
            weight = "bold" if ours else "normal"
            label.set(fontweight=weight)
            axes.annotate(
                f"{estimate.value:.3f}",
                (estimate.value, row),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                fontweight=weight,
                color=BLUE if ours else INK,
            )
        axes.set_ylim(len(ranked) - 0.5, -0.9)
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

    svg = svg_of(draw, height=1.1 + 0.36 * len(ranked))
    best = ranked[0]
    alt = f"{quantity} of {len(ranked)} models, least {best.value:.3f} for {best.name}" + (
        f"; {truth.name} is {truth.value:.3f}." if truth else "."
    )
    rows = [
        [item.name, f"{item.value:.4f}", _spell(item.interval)]
        for item in ([truth] if truth else []) + ranked
    ]
    return Figure(svg, alt, table=Table(["", quantity, "95 % interval"], rows))


def _spell(interval: tuple[float, float] | None) -> str | None:
    return None if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
