"""Several series over one axis: each a line with marks, and intervals where there are any."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from genodiff.evaluation.figures.drawing import LINE, Look, draw_legend, svg_of

Interval = Sequence[float]


class Series(NamedTuple):
    """Values y at x (None: nothing there), with their intervals."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    look: Look
    intervals: Sequence[Interval | None] | None = None


def lines_svg(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    x_range: tuple[float, float] | None = None,
    is_logarithmic: bool = False,
    lowest: float | None = None,
    stairs: bool = False,
    joined: bool = True,
    apart: float = 0.0,
    height: float = 3.2,
) -> str:
    """The drawing of several series.

    Args:
        x_ticks: places and their names, in the place of numbers.
        x_range: what of the x axis is shown; all if None.
        is_logarithmic: the x axis.
        lowest: makes the y axis logarithmic from there; what is less is drawn as a triangle at its
            foot that points down.
        stairs: level from each x to the next, without marks, for histograms.
        joined: marks by lines; not where the x axis has no order.
        apart: how far neighbouring series are moved apart sideways, in units of x.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for place, one in enumerate(series):
            aside = apart * (place - (len(series) - 1) / 2)
            known = [
                (x + aside, max(y, lowest) if lowest else y, i, bool(lowest and y < lowest))
                for i, (x, y) in enumerate(zip(one.x, one.y, strict=True))
                if y is not None
            ]
            xs, ys = [x for x, *_ in known], [y for _, y, *_ in known]
            options = one.look.of_line() | {"linewidth": 1.4, "label": one.name, "zorder": 2}
            if stairs:
                axes.step(xs, ys, where="post", **options)
                continue
            if joined:
                axes.plot(xs, ys, **options)
            for x, y, i, is_low in known:
                mark = one.look.of_mark() | ({"marker": "v"} if is_low else {})
                axes.plot(x, y, **mark, markersize=5, zorder=3)
                interval = one.intervals[i] if one.intervals else None
                if interval is not None:
                    low, high = (max(end, lowest) if lowest else end for end in interval)
                    axes.plot((x, x), (low, high), color=one.look.colour, linewidth=1.1, zorder=2)
        if lowest:
            axes.set_yscale("log")
            axes.set_ylim(bottom=lowest / 1.3)
            axes.yaxis.set_major_formatter("{x:g}")
        if is_logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter("")
        if x_range:
            axes.set_xlim(x_range)
        if x_ticks:
            axes.set_xticks([x for x, _ in x_ticks], [name for _, name in x_ticks])
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        draw_legend(figure, {one.name: one.look for one in series}, lines=joined, marks=not stairs)

    return svg_of(draw, height=height)
