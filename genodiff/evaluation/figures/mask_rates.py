"""What a masked token costs by the share that is masked."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from genodiff.errors import UserError
from genodiff.evaluation.figures.drawing import BLUE, LINE, VERMILLION, rendered
from genodiff.evaluation.mask_rates import MaskRate


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
