import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from genodiff.errors import UserError
from genodiff.evaluation import divergence, kmer_spectrum, noise_floors
from genodiff.evaluation.figures import (
    Curve,
    Estimate,
    likelihood_figure,
    loss_figure,
    mask_rate_picture,
    spectrum_figure,
)
from genodiff.evaluation.figures.drawing import Look
from genodiff.evaluation.figures.estimates import Mark, panels_svg
from genodiff.evaluation.figures.lines import Series, lines_svg
from genodiff.evaluation.mask_rates import MaskRate
from genodiff.evaluation.report import Figure, Report, Section

HOSTILE = "<b> & $x_$"
MODEL = Estimate("ours", 3.65, (3.64, 3.66), "model")
TRUTH = Estimate("true entropy", 3.6, (3.599, 3.601))
STEPS = np.arange(1, 301)


def likelihood() -> Figure:
    baselines = [Estimate(f"order {k} {HOSTILE}", 3.9 - 0.1 * k) for k in range(3)]
    return likelihood_figure([*baselines, MODEL], truth=TRUTH)


def loss() -> Figure:
    valid = Curve(STEPS[49::50], np.linspace(1.4, 1.3, 6))
    return loss_figure(
        Curve(STEPS, 1.3 + 1 / STEPS),
        valid,
        baselines=[Estimate(HOSTILE, 1.36), Estimate("order 3", 1.359)],
        truth=TRUTH._replace(value=1.28),
    )


def spectrum(k: int) -> Figure:
    random = np.random.default_rng(k)
    ours, theirs = (
        ["".join(random.choice(list("ACGT"), size=400)) for _ in range(8)] for _ in range(2)
    )
    sample, reference = (kmer_spectrum(each, k, resamples=20) for each in (ours, theirs))
    return spectrum_figure(
        sample,
        reference,
        divergence=divergence(sample, reference),
        floor=noise_floors(theirs, (k,), splits=5)[k],
        names=(HOSTILE, "genome"),
    )


@pytest.mark.parametrize(
    "figure", [likelihood, loss, lambda: spectrum(3), lambda: spectrum(6)], ids=list("abcd")
)
def test_figures_are_whole_drawings_that_load_nothing(figure: Callable[[], Figure]) -> None:
    drawn = figure()
    assert drawn.svg.startswith("<svg") and drawn.svg.endswith("</svg>")
    assert "viewBox" in drawn.svg.split(">")[0] and "width=" not in drawn.svg.split(">")[0]
    assert not re.search(r'(?:href|src)="(?!#|data:)', drawn.svg)
    assert "<metadata" not in drawn.svg
    assert len(drawn.alt) > 20
    assert drawn.table is not None and drawn.table.rows
    html = Report("r", [Section("s", [drawn])]).html()
    assert HOSTILE not in html


def test_the_same_numbers_give_the_same_drawing() -> None:
    assert loss() == loss()


def test_likelihoods_are_ranked_and_the_truth_comes_first_in_the_table() -> None:
    figure = likelihood()
    assert figure.table is not None
    names = [str(row[0]).split(" <")[0] for row in figure.table.rows]
    assert names == ["true entropy", "ours", "order 2", "order 1", "order 0"]
    assert figure.table.rows[1] == ["ours", "3.6500", "3.6400 to 3.6600"]
    assert "least 3.650 for ours; true entropy is 3.600" in figure.alt


def test_the_loss_table_pairs_training_with_the_last_validation() -> None:
    table = loss().table
    assert table is not None
    assert [row[0] for row in table.rows] == [1, 51, 101, 151, 200, 250, 300]
    assert [row[2] for row in table.rows] == [
        None,
        *("1.4000", "1.3800", "1.3600", "1.3400", "1.3200", "1.3000"),
    ]


def test_a_loss_may_stand_alone() -> None:
    assert loss_figure(Curve(np.array([1]), np.array([1.4]))).alt.startswith(
        "nats per base over 1"
    )


def test_words_that_one_side_lacks_are_drawn_too() -> None:
    figure = spectrum_figure(kmer_spectrum(["AAAAAC"], 2), kmer_spectrum(["AAAAAG"], 2))
    assert figure.table is not None
    rows = {row[0]: row[1:] for row in figure.table.rows}
    assert rows["AC"] == ["20 %", "0 %"]
    assert rows["AG"] == ["0 %", "20 %"]


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(UserError, match="no estimate to draw"):
        likelihood_figure([])
    with pytest.raises(UserError, match="no step of training"):
        loss_figure(Curve(np.array([]), np.array([])))
    with pytest.raises(UserError, match="cannot be drawn together"):
        spectrum_figure(kmer_spectrum(["ACGT"], 1), kmer_spectrum(["ACGT"], 2))


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'genodiff\[report\]'"):
        likelihood()


def test_mask_rates_are_drawn_as_files() -> None:
    rates = [
        MaskRate(low, low + 0.5, 1.2 + low, 0.01, (1.18 + low, 1.22 + low), 9)
        for low in (0.0, 0.5)
    ]
    alone, both = mask_rate_picture(rates), mask_rate_picture(rates, rates, names=("a", "b"))
    assert b"share of tokens masked" in alone and b">b<" not in alone
    assert b">a<" in both and b">b<" in both
    assert mask_rate_picture(rates, picture="png").startswith(b"\x89PNG")
    with pytest.raises(UserError, match="use estimator=exactly_k"):
        mask_rate_picture([])


LOOK = Look("#0072b2", "o", "--")


def test_lines_and_panels_are_drawings_whose_text_is_text() -> None:
    one = Series("a & b", [1.0, 2.0, 3.0], [10.0, None, 0.01], LOOK, [(5.0, 20.0), None, None])
    svg = lines_svg([one], x_label="x", y_label="y", lowest=0.1)
    assert svg.startswith("<svg") and svg.endswith("</svg>")
    assert ">a &amp; b<" in svg and ">10<" in svg and "mathdefault" not in svg
    panels = {"one": [("first", [Mark(0.5, (0.4, 0.6), LOOK), Mark(0.7, None, LOOK)])]}
    svg = panels_svg(panels, "quantity", {"set": LOOK}, equal=0.5)
    for name in ("one", "first", "quantity", "set"):
        assert f">{name}<" in svg


def test_what_is_below_a_logarithmic_axis_is_marked_at_its_foot() -> None:
    def marks(lowest: float | None, y: float) -> list[Any]:
        drawn: list[Any] = []
        original = Axes.plot

        def plot(self: Any, *args: Any, **options: Any) -> Any:
            if options.get("marker"):
                drawn.append((args[1], options["marker"]))
            return original(self, *args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Axes, "plot", plot)
            lines_svg([Series("a", [1.0], [y], LOOK)], x_label="", y_label="", lowest=lowest)
        return drawn

    assert marks(0.1, 0.0) == [(0.1, "v")]
    assert marks(0.1, 0.2) == [(0.2, "o")]
    assert marks(None, -0.3) == [(-0.3, "o")]
