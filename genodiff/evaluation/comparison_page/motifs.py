"""The section on motifs: how often they occur, how far apart, and where along the sequences."""

from typing import Any

from genodiff.evaluation.comparison_page.cells import figure, p_value, with_interval
from genodiff.evaluation.comparison_page.sets import LOOKS, Results, looks_of, names_of
from genodiff.evaluation.figures.estimates import Mark, panels_svg
from genodiff.evaluation.report import Block, Figure, Paragraph, Table

SHOWN = 12
"""Rows of each table; the JSON file has all."""


def motifs(results: Results) -> list[Block]:
    """The motifs of which the samples have most to tell, and the same of all other sets."""
    names, found = names_of(results), results["motifs"]
    sets = found["sets"]
    ours = sets["samples"]
    chosen = [row["name"] for row in ours["contents"][:SHOWN]]
    by_name = {key: {r["name"]: r for r in of["contents"]} for key, of in sets.items()}
    low = {key: sum(row["q_value"] < 0.05 for row in of["contents"]) for key, of in sets.items()}
    alt = (
        f"Rates of {len(chosen)} motifs over those in the reference, a mark a set, on a scale of "
        "doublings. Motifs whose rate differs (q < 0.05): "
        + ", ".join(f"{names[key]} {n}" for key, n in low.items())
        + "."
    )
    blocks: list[Block] = [
        Paragraph(
            f"{found['motifs']:,} motifs were looked for on both strands, at sites that a base "
            f"order without structure reaches with a probability of {found['p_value']:g}. "
            f"Motifs of which no site is so improbable: {len(ours['silent'])}. q-values are "
            "Benjamini and Hochberg's over all motifs."
        )
    ]
    if chosen:
        rows = [
            (_named(by_name["samples"][name]), _marks(by_name, name, "log2_ratio"))
            for name in chosen
        ]
        quantity = "log2 of rate over rate in the reference"
        svg = panels_svg({"": rows}, quantity, looks_of(results, reference=False), equal=0.0)
        caption = (
            "The motifs whose rate in the samples differs most surely, with 95 % intervals: at 1 "
            "twice as many as in the reference, at -1 half as many."
        )
        blocks += [Figure(svg, alt, caption), _contents(ours["contents"][:SHOWN])]
    blocks.append(_overview(results, low))
    blocks += [*_spacings(ours["spacings"]), *_placements(ours["placements"])]
    return blocks


def _marks(by_name: dict[str, Any], name: str, what: str) -> list[Mark]:
    return [
        Mark(of[name][what], of[name][f"{what}_95"], LOOKS[key])
        for key, of in by_name.items()
        if name in of
    ]


def _contents(rows: list[Any]) -> Table:
    return Table(
        ["motif", "samples", "reference", "log2 ratio", "p", "q"],
        [
            [
                _named(row),
                *(
                    with_interval(row[side]["per_10kb"], row[side]["confidence_95"])
                    for side in ("samples", "reference")
                ),
                with_interval(row["log2_ratio"], row["log2_ratio_95"]),
                p_value(row["p_value"]),
                p_value(row["q_value"]),
            ]
            for row in rows
        ],
        "Sites in 10,000 bases",
    )


def _overview(results: Results, low: dict[str, int]) -> Table:
    names, rows = names_of(results), []
    for key, of in results["motifs"]["sets"].items():
        agreement = of["agreement"] or {}
        correlations = [
            figure(agreement[name]) if name in agreement else None
            for name in ("pearson", "pearson_of_halves", "spearman", "spearman_of_halves")
        ]
        others = [
            sum(row["q_value"] < 0.05 for row in of[kind]) for kind in ("spacings", "placements")
        ]
        rows.append([names[key], low[key], *others, *correlations])
    return Table(
        [
            *("", "motifs, q < 0.05", "spacings, q < 0.05", "placements, q < 0.05", "Pearson"),
            *("real against real", "Spearman", "real against real"),
        ],
        rows,
        "How many figures of motifs differ from the reference, and how the rates of all motifs "
        "correlate with the reference's (of logarithms), beside as many real sequences",
    )


def _spacings(rows: list[Any]) -> list[Block]:
    shown = [
        [
            " and ".join(dict.fromkeys(row["motifs"])),
            row["strands"],
            row["gap"],
            row["more_in"],
            sum(row["samples"]),
            sum(row["reference"]),
            p_value(row["q_value"]),
        ]
        for row in rows[:SHOWN]
    ]
    columns = ["motifs", "strands", "gap", "more in", "pairs, samples", "reference", "q"]
    caption = "Gaps between neighbouring sites: the one that differs most, for pairs of motifs"
    return [Table(columns, shown, caption)] if shown else []


def _placements(rows: list[Any]) -> list[Block]:
    shown = [
        [row["name"], figure(row["distance"]), p_value(row["p_value"]), p_value(row["q_value"])]
        for row in rows[:SHOWN]
    ]
    caption = "Where along the sequences sites are: distance of the distributions over its tenths"
    return [Table(["motif", "distance", "p", "q"], shown, caption)] if shown else []


def _named(row: Results) -> str:
    return f"{row['name']} {row['alternate']}".strip()
