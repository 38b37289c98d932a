"""The sections on what learned figures say: classifiers, and distances of embeddings."""

from genodiff.evaluation.comparison_page.cells import figure, with_interval
from genodiff.evaluation.comparison_page.sets import LOOKS, Results, names_of
from genodiff.evaluation.figures.estimates import Mark, panels_svg
from genodiff.evaluation.report import Block, Figure, Paragraph, Table
from genodiff.evaluation.verdict import CLASSIFIERS, EMBEDDINGS


def classifier(results: Results) -> list[Block]:
    """Areas under the curve, a panel a classifier."""
    names, sets = names_of(results), results["classifier"]["sets"]
    kinds = [kind for kind in CLASSIFIERS if kind in sets["samples"]]
    panels = {
        CLASSIFIERS[kind]: [
            (names[key], [Mark(of[kind]["auroc"], of[kind]["confidence_95"], LOOKS[key])])
            for key, of in sets.items()
        ]
        for kind in kinds
    }
    svg = panels_svg(panels, "area under the ROC curve", equal=0.5, on_one_scale=True)
    of_samples = "; ".join(
        f"{CLASSIFIERS[kind]}: {figure(sets['samples'][kind]['auroc'])}" for kind in kinds
    )
    rows = [
        [
            names[key],
            CLASSIFIERS[kind],
            with_interval(row["auroc"], row["confidence_95"]),
            row["sequences_each"],
        ]
        for key, of in sets.items()
        for kind, row in of.items()
    ]
    return [
        Paragraph(
            "Given one sequence of the set and one of the reference, how often a classifier that "
            "was trained on others gives the former the higher score: 0.5 is guessing, 1 is "
            "always. Cross-validated, so that pieces of one record are never on both sides."
        ),
        Figure(svg, f"Areas under the ROC curve with 95 % intervals. Samples, {of_samples}."),
        Table(["", "classifier", "AUROC", "sequences of each"], rows, "With 95 % intervals"),
    ]


def frechet(results: Results) -> list[Block]:
    """Distances with and without the bias of few sequences."""
    names, sets = names_of(results), results["frechet"]["sets"]
    rows = [
        [
            names[key],
            EMBEDDINGS[kind],
            with_interval(row["excess"], row["confidence_95"]),
            figure(row["distance"]),
            figure(row["between"]),
            figure(row["floor"]),
            row["dimensions"],
            row["sequences"],
        ]
        for key, of in sets.items()
        for kind, row in of.items()
    ]
    panels = {
        EMBEDDINGS[kind]: [
            (names[key], [Mark(of[kind]["excess"], of[kind]["confidence_95"], LOOKS[key])])
            for key, of in sets.items()
        ]
        for kind in EMBEDDINGS
        if kind in sets["samples"]
    }
    svg = panels_svg(panels, "squared Frechet distance, without bias", equal=0.0)
    of_samples = "; ".join(
        f"{EMBEDDINGS[kind]}: {figure(row['excess'])}" for kind, row in sets["samples"].items()
    )
    columns = [
        *("", "embedding", "without bias", "as measured", "of halves", "floor"),
        *("dimensions", "sequences"),
    ]
    return [
        Paragraph(
            "Squared Frechet distance of the embeddings of a set and of the reference. As "
            "measured it is never 0, and larger the fewer sequences there are: halves of the set "
            "and of the reference have the distance of halves, two halves of the reference the "
            "floor. Without bias, equal laws have 0."
        ),
        Figure(svg, f"Frechet distances with 95 % intervals. Samples, {of_samples}."),
        Table(columns, rows, "With 95 % intervals"),
    ]
