"""How every drawing looks, and how it becomes a file or an element of a page.

Light background, colours that colour-blind readers tell apart (Okabe & Ito 2008), and never colour
alone: shapes, line styles and labels say the same. matplotlib is the extra `report`; it is
imported when a figure is drawn, and neither pyplot nor its global state is used.
"""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from genodiff.errors import UserError

INK, SOFT, LINE = "#1c2024", "#5b6470", "#d9dde2"
BLUE, VERMILLION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
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


class Look(NamedTuple):
    """How a series is told from others: by its colour, and without it by mark and line."""

    colour: str
    marker: str
    line: Any = "-"  # as matplotlib takes it: a name, or lengths of dashes
    is_filled: bool = True

    def of_line(self) -> dict[str, Any]:
        """Options of a line."""
        return {"color": self.colour, "linestyle": self.line}

    def of_mark(self) -> dict[str, Any]:
        """Options of a mark."""
        face = self.colour if self.is_filled else "white"
        return {"marker": self.marker, "color": self.colour, "markerfacecolor": face}


def draw_legend(
    figure: Any, looks: Mapping[str, Look], *, lines: bool = True, marks: bool = True
) -> None:
    """The names of series above the drawing, where they hide nothing."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=look.colour,
            linewidth=1.4,
            linestyle=look.line if lines else "none",
            marker=look.marker if marks else "",
            markerfacecolor=look.of_mark()["markerfacecolor"],
            markersize=5,
            label=name,
        )
        for name, look in looks.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=5,
        fontsize=8,
        handlelength=2.8 if lines else 1,
        columnspacing=1.2,
    )


def require_matplotlib() -> None:
    """Raises UserError where matplotlib is missing: for tasks that draw only at their end."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(
            "matplotlib is not installed, and figures are drawn with it; "
            "run pip install 'genodiff[report]'."
        ) from error


def svg_of(draw: Callable[[Any], None], *, height: float, width: float = 6.2) -> str:
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
