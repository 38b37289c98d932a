"""A loss over the steps of a training."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.figures.drawing import BLUE, GREEN, SOFT, VERMILLION, svg_of
from genodiff.evaluation.figures.estimates import Estimate
from genodiff.evaluation.report import Figure, Table


class Curve(NamedTuple):
    """Values over steps."""

    steps: ndarray
    values: ndarray


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
    return Figure(svg_of(draw, height=3.6), alt, caption, table)


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
