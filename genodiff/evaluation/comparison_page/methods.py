"""What was compared, how, and every test: the end of the page."""

from genodiff.evaluation.comparison_page.cells import p_value
from genodiff.evaluation.comparison_page.sets import Results, names_of
from genodiff.evaluation.report import Block, Lines, Paragraph, SequencePreview, Table
from genodiff.evaluation.verdict import LEVEL


def preview(results: Results) -> list[Block]:
    """The beginnings of the first samples."""
    records = [
        (name if total == len(letters) else f"{name}, the beginning of {total:,} bases:", letters)
        for name, letters, total in results["preview"]
    ]
    return [SequencePreview(records)]


def tests(results: Results) -> list[Block]:
    """The figures of all sets, with corrected p-values."""
    names, verdicts = names_of(results), results["verdict"]
    rows: dict[str, list[str | None]] = {}
    for place, verdict in enumerate(verdicts.values()):
        for found in verdict["findings"]:
            row = rows.setdefault(found["name"], [None] * len(verdicts))
            row[place] = p_value(found["p_corrected"])
    return [
        Paragraph(
            f"A figure tells a set apart if its p-value is below {LEVEL}. Those shown are "
            "corrected by Holm's method over all figures of the set, so that a set of the "
            "reference's own law is told by any of them once in twenty times. Of motifs it is the "
            "least p-value of all, corrected for their number. Variety and copies are no tests."
        ),
        Table(
            ["p-value, corrected", *(names[key] for key in verdicts)],
            [[name, *cells] for name, cells in rows.items()],
        ),
    ]


def methods(results: Results) -> list[Block]:
    """Files, sets, what was left out, seeds, units."""
    names, inputs = names_of(results), results["inputs"]
    cut = [
        [
            name,
            of["path"],
            of["records"],
            of["too_short"],
            of["pieces"],
            of["too_many_n"],
            of["kept"],
        ]
        for name, of in inputs.items()
        if "kept" in of
    ]
    sets = [
        [names[key], of["says"], of["sequences"], of["units"]]
        for key, of in results["sets"].items()
    ]
    sums = [[name, of["path"], of.get("sha256", "")] for name, of in inputs.items()]
    return [
        Paragraph(
            f"All sequences have {results['length']:,} bases: records are cut into pieces from "
            "their beginning, what is left at the end is dropped, letters other than A, C, G, T "
            "count as N, and pieces of more than 5 % N are left out. Of more pieces than "
            "sequences= asks for, a random choice is kept."
        ),
        Table(
            ["", "file", "records", "too short", "pieces", "too many N", "kept"],
            cut,
            "What was read",
        ),
        Table(["set", "what it is", "sequences", "units"], sets, "What was compared"),
        Lines(_METHODS),
        Table(["", "file", "SHA-256"], sums, "Inputs"),
        Paragraph(f"Command: {' '.join(results['command'])}"),
        Paragraph(f"Seed {results['seed']}, genodiff {results['version']}."),
    ]


_METHODS = (
    "Units are what repeats independently: records, or stretches of those that have more than a "
    "twentieth of all pieces. All intervals and p-values are over units; those of words, "
    "composition and copies are of the Bayesian bootstrap.",
    "Without heldout=, the reference is divided into halves without a unit in common. The Markov "
    "chain is never fitted to the reference itself.",
    "Shuffled: each sequence of the second real set (or of the reference, without one) in an "
    "order drawn from all those with the same pairs of neighbours (Altschul and Erickson 1985).",
    "Words: Jensen-Shannon divergence (Lin 1991) of the spectra of the given strand. "
    "Dinucleotides: rho* (Burge et al. 1992). Low complexity: stretches of 64 bases that "
    "dustmasker would mask (Morgulis et al. 2006).",
    "Copies: the best local alignment without gaps, +1 for a base that is the same and -2 for one "
    "that is not, on both strands of every training record.",
)
