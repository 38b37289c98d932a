"""What a reader needs first: a few figures, and the verdict in words."""

from collections.abc import Iterator
from typing import Any

from genodiff.evaluation.comparison_page.cells import figure, percent
from genodiff.evaluation.comparison_page.sets import Results, names_of
from genodiff.evaluation.report import Block, Fact, Facts, Lines, Paragraph, Table
from genodiff.evaluation.verdict import LEVEL

_CLASSIFIERS = {
    "cnn": "AUROC on letters",
    "kmers": "AUROC on k-mers",
    "network": "AUROC, own features",
}


def summary(results: Results) -> list[Block]:
    """The blocks above all sections."""
    names, verdicts = names_of(results), results["verdict"]
    copying = verdicts["samples"]["copying"]
    blocks: list[Block] = [
        Paragraph(f"The samples are {verdicts['samples']['text']}"),
        Facts([*_facts(results)]),
        *([Paragraph(f"Of the samples, {copying}")] if copying else []),
        Table(
            ["judged against the reference", "told by", "which"],
            [
                [names[key], f"{each['told_by']} of {each['figures']}", _which(each)]
                for key, each in verdicts.items()
            ],
            "All sets are judged in the same way: the second real set shows what real sequences "
            "score",
        ),
        Paragraph(
            "A figure that tells a set apart may do so by little: the sections say by how much. "
            "One that does not has shown no more than that a difference is within its interval."
        ),
    ]
    if verdicts.get("held_out", {"told_by": 0})["told_by"]:
        blocks.append(
            Paragraph(
                "The second real set is told from the reference too, so the two differ for "
                "reasons that are no model's, such as the regions that they are of. Read what "
                "the samples have beside what that set has."
            )
        )
    if results["left_out"]:
        left_out = [
            f"{name.replace('_', ' ')}: {why}" for name, why in results["left_out"].items()
        ]
        blocks += [Paragraph("Left out:"), Lines(left_out)]
    return blocks


def _facts(results: Results) -> Iterator[Fact]:
    told = results["verdict"]["samples"]
    second = results["verdict"].get("held_out")
    note = f"of the held-out real: {second['told_by']}" if second else ""
    yield Fact(
        "figures that tell the samples apart", f"{told['told_by']} of {told['figures']}", note
    )
    for name, label in _CLASSIFIERS.items():
        rows = _rows(results, "classifier", name)
        if rows:
            low, high = rows["samples"]["confidence_95"]
            note = f"95 %: {low:.2f} to {high:.2f}" + _beside(
                rows, lambda row: f"{row['auroc']:.2f}"
            )
            yield Fact(label, f"{rows['samples']['auroc']:.2f}", note)
    rows = _rows(results, "words", "6")
    if rows:
        note = "thousandths of a bit" + _beside(rows, lambda row: figure(1000 * row["debiased"]))
        yield Fact("divergence of 6-mers", figure(1000 * rows["samples"]["debiased"]), note)
    rows = _rows(results, "composition", "gc")
    if rows:
        note = f"reference {percent(rows['reference']['value'])}"
        yield Fact("GC", percent(rows["samples"]["value"]), note)
    rows = _rows(results, "memorisation", "near")
    if rows:
        note = "of the samples" + _beside(rows, lambda row: percent(row["value"]))
        yield Fact("near copies of training", percent(rows["samples"]["value"]), note)


def _which(verdict: Results) -> str:
    names = [row["name"] for row in verdict["findings"] if row["p_corrected"] < LEVEL]
    return ", ".join(names) or "none"


def _rows(results: Results, section: str, name: str) -> dict[str, Any]:
    """A figure of a section, by set."""
    sets = results.get(section, {}).get("sets", {})
    return {key: found[name] for key, found in sets.items() if name in found}


def _beside(rows: dict[str, Any], spell: Any) -> str:
    return f"; held-out real {spell(rows['held_out'])}" if "held_out" in rows else ""
