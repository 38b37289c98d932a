"""The sections on copies: of training sequences, and within each set."""

from genodiff.evaluation.comparison_page.cells import measured, percent
from genodiff.evaluation.comparison_page.sets import LOOKS, Results, names_of
from genodiff.evaluation.figures.lines import Series, lines_svg
from genodiff.evaluation.report import Block, Figure, Paragraph, Table

_MEASURES = {
    "exact": ("whole copies", 100.0, " %"),
    "near": ("near copies", 100.0, " %"),
    "covered": ("bases in matches of 24 or more", 100.0, " %"),
    "aligned": ("bases of the nearest stretch", 100.0, " %"),
    "longest": ("longest match, bases", 1.0, ""),
}


def memorisation(results: Results) -> list[Block]:
    """How near sequences come to the training set, and the samples that come nearest."""
    names, found = names_of(results), results["memorisation"]
    sets, yardstick = found["sets"], found["yardstick"]
    series = [
        Series(
            names[key],
            [float(letters) for letters in of["reach"]["letters"]],
            [100 * share or None for share in of["reach"]["share"]],
            LOOKS[key],
        )
        for key, of in sets.items()
    ]
    letters = [x for one in series for x, y in zip(one.x, one.y, strict=True) if y]
    svg = lines_svg(
        series,
        x_label="longest match with a training sequence, bases (or more)",
        y_label="% of the sequences",
        x_ticks=[(float(x), f"{x:,}") for x in _ticks(max(letters, default=13))],
        is_logarithmic=True,
        lowest=min((y for one in series for y in one.y if y), default=1.0),
    )
    longest = {key: of["longest_quantiles"] for key, of in sets.items()}
    alt = (
        "Share of the sequences by the longest stretch they have in common with a training "
        "sequence, a line a set. The longest: "
        + ", ".join(f"{names[key]} {of['1']:,.0f}" for key, of in longest.items())
        + "."
    )
    caption = (
        "Longest exact match with the training set, on either strand. By chance alone it would "
        f"be {sets['samples']['longest_by_chance']:.0f} bases in a sample; genomes repeat "
        f"themselves, so what counts is the {names[yardstick]} set."
    )
    rows = [
        [names[key], *(measured(of[m], scale=s, unit=u) for m, (_, s, u) in _MEASURES.items())]
        for key, of in sets.items()
    ]
    columns = ["", *(label for label, _, _ in _MEASURES.values())]
    return [
        Figure(svg, alt, caption),
        Table(
            columns,
            rows,
            "Means over the sequences, with 95 % intervals. A near copy: half of the sequence or "
            "more, with 90 % of the bases the same, without gaps",
        ),
        _nearest(results),
    ]


def diversity(results: Results) -> list[Block]:
    """The same within each set."""
    names, found = names_of(results), results["diversity"]
    measures = {name: _MEASURES[name] for name in ("exact", "near", "covered", "longest")}
    rows = [
        [
            names[key],
            *(measured(of["within"][m], scale=s, unit=u) for m, (_, s, u) in measures.items()),
            measured(of["distinct_words"], scale=100.0, unit=" %"),
        ]
        for key, of in found["sets"].items()
    ]
    columns = ["", *(label for label, _, _ in measures.values()), "different words of 12"]
    return [
        Paragraph(
            f"{found['sequences']:,} sequences of each set, each against its nearest other one, "
            "on both strands. A generator that says the same again and again has more copies here "
            "than real sequences have, and fewer different words."
        ),
        Table(columns, rows, "With 95 % intervals"),
    ]


def _nearest(results: Results) -> Table:
    rows = [
        [
            row["sample_name"]
            + (f", from {row['sample_start']:,}" if row["sample_start"] else ""),
            f"{row['start']:,}-{row['end']:,}",
            f"{row['record_name']}:{row['record_start']:,}-{row['record_end']:,}",
            "+" if row["strand"] > 0 else "-",
            percent(row["identity"]),
            row["longest"],
            "whole" if row["is_exact"] else "near" if row["is_near"] else "no",
        ]
        for row in results["memorisation"]["nearest"]
    ]
    return Table(
        ["sample", "stretch", "in training", "strand", "same", "longest match", "copy"],
        rows,
        "The samples that come nearest to a training sequence (0-based, half-open)",
    )


def _ticks(longest: float) -> list[int]:
    """Doublings of 12."""
    return [12 * 2**i for i in range(20) if 12 * 2**i <= longest * 1.2]
