"""The section on words: their divergence by length, and those that differ most."""

from genodiff.evaluation.comparison_page.cells import figure, listed, with_interval
from genodiff.evaluation.comparison_page.sets import LOOKS, Results, names_of
from genodiff.evaluation.figures.lines import Series, lines_svg
from genodiff.evaluation.report import Block, Figure, Table

_BITS = 1000.0  # shown are thousandths of a bit


def words(results: Results) -> list[Block]:
    """A line a set, the same as a table, and words."""
    names, found = names_of(results), results["words"]
    sets, ks = found["sets"], [*found["floors"]]
    series = [
        Series(
            names[key],
            [float(k) for k in ks],
            [_BITS * rows[k]["debiased"] for k in ks],
            LOOKS[key],
            [[_BITS * end for end in rows[k]["confidence_95"]] for k in ks],
        )
        for key, rows in sets.items()
    ]
    above = [y for one in series for y in one.y if y]
    svg = lines_svg(
        series,
        x_label="letters in a word",
        y_label="divergence, thousandths of a bit",
        x_ticks=[(float(k), k) for k in ks],
        lowest=max(min(above, default=1.0), 1e-4 * max(above, default=1.0)),
        apart=0.08,
    )
    longest = {names[key]: f"{_BITS * rows[ks[-1]]['debiased']:.3g}" for key, rows in sets.items()}
    alt = (
        "Jensen-Shannon divergence from the reference by the length of words, a line a set. In "
        f"thousandths of a bit at {ks[-1]} letters: {listed(longest)}."
    )
    caption = (
        "Jensen-Shannon divergence from the reference, without its sampling bias, with 95 % "
        "intervals; 0 is the same, 1,000 no word in common. A triangle that points down: less "
        "than the axis shows."
    )
    rows = [
        [
            k,
            *(
                with_interval(of[k]["debiased"], of[k]["confidence_95"], scale=_BITS)
                for of in sets.values()
            ),
            figure(_BITS * sets["samples"][k]["bits"]),
            figure(_BITS * found["floors"][k]["bits"]),
        ]
        for k in ks
    ]
    others = [names[key] for key in sets]
    note = (
        "Thousandths of a bit. As measured, which is what others publish, it is never 0 between "
        f"finite sets: the floor is what {found['floor_size']:,} sequences of the reference have "
        "against its others."
    )
    k, listed_words = found["most_different"]["k"], found["most_different"]["words"]
    different = [
        [row["word"], f"{1e6 * row['samples']:,.0f}", f"{1e6 * row['reference']:,.0f}"]
        for row in listed_words
    ]
    return [
        Figure(svg, alt, caption),
        Table(["letters", *others, "samples, as measured", "floor, as measured"], rows, note),
        Table(
            [f"word of {k}", "per million in samples", "per million in reference"],
            different,
            "The words that make up most of the difference",
        ),
    ]
