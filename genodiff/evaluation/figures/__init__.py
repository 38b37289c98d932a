"""The figures of a report, drawn with matplotlib, as SVG with a table of their numbers."""

from genodiff.evaluation.figures.drawing import (
    BLUE,
    GREEN,
    INK,
    LINE,
    SOFT,
    VERMILLION,
    rendered,
    require_matplotlib,
)
from genodiff.evaluation.figures.estimates import Estimate, likelihood_figure
from genodiff.evaluation.figures.mask_rates import mask_rate_picture
from genodiff.evaluation.figures.spectrum import spectrum_figure
from genodiff.evaluation.figures.training import Curve, loss_figure

__all__ = [
    "BLUE",
    "GREEN",
    "INK",
    "LINE",
    "SOFT",
    "VERMILLION",
    "Curve",
    "Estimate",
    "likelihood_figure",
    "loss_figure",
    "mask_rate_picture",
    "rendered",
    "require_matplotlib",
    "spectrum_figure",
]
