"""The section on composition: GC, dinucleotides, runs of a letter, low complexity."""

from collections.abc import Iterable, Sequence

from genodiff.evaluation.comparison_page.cells import figure, listed, measured, p_value, percent
from genodiff.evaluation.comparison_page.sets import LOOKS, Results, names_of
from genodiff.evaluation.figures.lines import Series, lines_svg
from genodiff.evaluation.report import Block, Figure, Table
from genodiff.evaluation.verdict import composition_label

_RUNS = {"runs_at": "A or of T", "runs_gc": "C or of G"}
_IN_PERCENT = (
    *("gc", "gc_spread", "low_complexity"),
    *("homopolymers", "homopolymers_at", "homopolymers_gc"),
)


def composition(results: Results) -> list[Block]:
    """Figures of all sets, the reference among them, and their tables."""
    names, sets = names_of(results), results["composition"]["sets"]
    distances = [
        [
            names[key],
            f"{100 * row['value']:.2f} %",
            f"{100 * row['noise']:.2f} %",
            p_value(row["p_value"]),
        ]
        for key, row in ((key, found.get("gc_distance")) for key, found in sets.items())
        if row
    ]
    single = [
        name
        for name, row in sets["reference"].items()
        if isinstance(row, dict) and "standard_error" in row
    ]
    rows = [
        [composition_label(name), *(_cell(found.get(name), name) for found in sets.values())]
        for name in single
    ]
    return [
        _gc(results),
        Table(
            ["", "distance", "by chance", "p"],
            distances,
            "GC of the sequences: distance of each distribution from the reference's (earth "
            "mover's, in GC)",
        ),
        _dinucleotides(results),
        *(_runs(results, kind) for kind in _RUNS),
        Table(["", *(names[key] for key in sets)], rows, "With 95 % intervals"),
    ]


def _gc(results: Results) -> Figure:
    names, sets = names_of(results), results["composition"]["sets"]
    series = []
    for key, found in sets.items():
        bins = found["gc_histogram"]
        shares = [*(100 * share for share in bins["values"]), 0.0]
        series.append(Series(names[key], [100 * e for e in bins["edges"]], shares, LOOKS[key]))
    held = [x for one in series for x, y in zip(one.x, one.y, strict=True) if y]
    svg = lines_svg(
        series,
        x_label="GC of a sequence, %",
        y_label="% of the sequences",
        x_range=(min(held) - 4, max(held) + 6),
        stairs=True,
    )
    means = {names[key]: percent(found["gc"]["value"]) for key, found in sets.items()}
    alt = f"Distribution of the GC content of sequences, a line a set. Of all: {listed(means)}."
    return Figure(svg, alt, "Share of the sequences by their own GC, in bins of 2 %.")


def _dinucleotides(results: Results) -> Figure:
    names, sets = names_of(results), results["composition"]["sets"]
    pairs = [name for name in sets["reference"] if name.startswith("rho_")]
    places = [float(i) for i in range(len(pairs))]
    series = []
    for key, found in sets.items():
        rows = [found.get(name, {"value": None, "confidence_95": None}) for name in pairs]
        values, intervals = ([row[what] for row in rows] for what in ("value", "confidence_95"))
        series.append(Series(names[key], places, values, LOOKS[key], intervals))
    svg = lines_svg(
        series,
        x_label="dinucleotide",
        y_label="observed/expected",
        x_ticks=[(x, name.removeprefix("rho_")) for x, name in zip(places, pairs, strict=True)],
        apart=0.15,
        joined=False,
    )
    of_cpg = {
        names[key]: figure(found["rho_CG"]["value"])
        for key, found in sets.items()
        if "rho_CG" in found
    }
    return Figure(
        svg,
        f"Odds ratios of the ten dinucleotides, a mark a set. Of CG: {listed(of_cpg)}.",
        "Dinucleotides over what their letters make without order (rho*, both strands as one), "
        "with 95 % intervals.",
    )


def _runs(results: Results, kind: str) -> Figure:
    names, sets = names_of(results), results["composition"]["sets"]
    of = _RUNS[kind]
    series = [
        Series(
            names[key],
            found[kind]["edges"][:-1],
            [y or None for y in found[kind]["values"]],
            LOOKS[key],
            [*zip(found[kind]["low"], found[kind]["high"], strict=True)],
        )
        for key, found in sets.items()
    ]
    longest = max((x for one in series for x, y in zip(one.x, one.y, strict=True) if y), default=1)
    svg = lines_svg(
        series,
        x_label=f"length of a run of {of} (20: or more)",
        y_label="runs per 1,000 bases",
        x_ticks=[(x, f"{x:.0f}") for x in series[0].x if x == 1 or (x % 5 == 0 and x <= longest)],
        lowest=_least(one.y for one in series),
        apart=0.1,
    )
    return Figure(svg, f"Runs of {of} per 1,000 bases by their length, a line a set.")


def _least(values: Iterable[Sequence[float | None]]) -> float:
    return min((y for ys in values for y in ys if y), default=1e-3)


def _cell(row: Results | None, name: str) -> str | None:
    if row is None:
        return None
    return measured(row, scale=100.0, unit=" %") if name in _IN_PERCENT else measured(row)
