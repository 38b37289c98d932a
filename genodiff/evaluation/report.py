"""A report: one HTML file that reads the same on screen, on paper and without a network.

A report is sections of blocks; a block is a paragraph, a row of key figures, a table, a figure, or
sequences in letters. All text is escaped. The page holds no script and loads nothing, and its
content security policy says so to the browser. `genodiff.evaluation.figures` draws the figures.
"""

import abc
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import final

from genodiff.errors import UserError
from genodiff.files import write_text

Cell = str | int | float | None
"""Text, a number, or nothing (shown as a dash)."""

_IS_NUMBER = ' class="number"'
_FIGURE = r"[-+<]?[\d.,]+(?:e[-+]\d+)?(?: %)?"
_NUMBER = re.compile(rf"{_FIGURE}( (to|of|±) {_FIGURE})?")
_WITH_INTERVAL = re.compile(rf"({_FIGURE}) \(({_FIGURE} to {_FIGURE})\)")


class Block(abc.ABC):
    """A part of a section."""

    @abc.abstractmethod
    def html(self) -> str:
        """The block as HTML, its text escaped."""


@final
@dataclass(frozen=True)
class Paragraph(Block):
    """A paragraph of plain text."""

    text: str

    def html(self) -> str:
        return f"<p>{escape(self.text)}</p>"


@final
@dataclass(frozen=True)
class Lines(Block):
    """A list of lines of plain text."""

    lines: Sequence[str]

    def html(self) -> str:
        return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in self.lines)}</ul>"


@final
@dataclass(frozen=True)
class Fact:
    """One key figure: what it is, the figure, and what to compare it with."""

    label: str
    value: str
    note: str = ""


@final
@dataclass(frozen=True)
class Facts(Block):
    """A row of key figures."""

    facts: Sequence[Fact]

    def html(self) -> str:
        tiles = (
            f"<div><dt>{escape(fact.label)}</dt><dd>{escape(fact.value)}</dd>"
            f'<dd class="note">{escape(fact.note)}</dd></div>'
            for fact in self.facts
        )
        return f'<dl class="facts">{"".join(tiles)}</dl>'


@final
@dataclass(frozen=True)
class Table(Block):
    """Rows of cells under column names.

    Numbers, also as text with "%", as "1.2 to 3.4", "1.2 ± 0.1" or "2.3 (1.2 to 3.4)", are set
    right; a float is shown in 4 digits.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"a row of {len(row)} cells under {len(self.columns)} columns; "
                    "give one cell a column."
                )

    def html(self) -> str:
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        cells = [[*map(_cell, row)] for row in self.rows]
        body = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
        are_numbers = [
            any(_IS_NUMBER in row[i] for row in cells) for i in range(len(self.columns))
        ]
        head = "".join(
            f'<th scope="col"{_IS_NUMBER if is_number else ""}>{escape(name)}</th>'
            for name, is_number in zip(self.columns, are_numbers, strict=True)
        )
        rows = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        return f'<div class="table"><table>{caption}{rows}</table></div>'


@final
@dataclass(frozen=True)
class Figure(Block):
    """A drawing with a caption and, beside it, the table of its numbers.

    `svg` is an `<svg>` element; `alt` says in words what is seen.
    """

    svg: str
    alt: str
    caption: str = ""
    table: Table | None = None

    def html(self) -> str:
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        drawing = f'<div role="img" aria-label="{escape(self.alt)}">{_own_ids(self.svg)}</div>'
        numbers = f'<div class="numbers">{self.table.html()}</div>' if self.table else ""
        return f'<figure><div class="drawing">{drawing}{numbers}</div>{caption}</figure>'


@final
@dataclass(frozen=True)
class SequencePreview(Block):
    """The beginnings of sequences, (name, letters), in tens."""

    records: Sequence[tuple[str, str]]
    letters: int = 200

    def html(self) -> str:
        items = []
        for name, sequence in self.records:
            shown = sequence[: self.letters]
            tens = [shown[i : i + 10] for i in range(0, len(shown), 10)]
            shown_note = f", the first {len(shown)} shown" if len(shown) < len(sequence) else ""
            items.append(
                f"<dt>{escape(name)} <span>{len(sequence):,} letters{shown_note}</span></dt>"
                f"<dd><code>{' '.join(map(_letters, tens))}</code></dd>"
            )
        return f'<dl class="sequences">{"".join(items)}</dl>'


@final
@dataclass(frozen=True)
class InfilledStretch(Block):
    """A masked stretch with its context: the truth and, aligned below it, what was written there.

    Letters equal to the truth are bold, others underlined (and in another colour).

    Args:
        before, after: the context that was given, shown as far as `context` letters.
        truth: what was masked.
        infills: (name, letters), each as long as `truth`.
        start: 0-based coordinate of the stretch's first letter.
        width: letters in a line.
    """

    before: str
    truth: str
    after: str
    infills: Sequence[tuple[str, str]]
    start: int = 0
    context: int = 20
    width: int = 100

    def __post_init__(self) -> None:
        for name, letters in self.infills:
            if len(letters) != len(self.truth):
                raise ValueError(
                    f"{name} has {len(letters)} letters for a stretch of {len(self.truth)}; "
                    "give one letter for each masked one."
                )

    def html(self) -> str:
        before = self.before[max(len(self.before) - self.context, 0) :]
        after = self.after[: self.context]
        masked = range(len(before), len(before) + len(self.truth))
        truth = before + self.truth + after
        rows = [("truth", truth), *((name, before + text + after) for name, text in self.infills)]
        margin = max(len(name) for name, _ in rows) + 2
        lines = []
        for left in range(0, len(truth), self.width):
            here = range(left, min(left + self.width, len(truth)))
            lines.append(f"{'':{margin}}{self.start - len(before) + left:,}")
            for name, text in rows:
                marks = [_mark(text[i], truth[i], i in masked) for i in here]
                label = f'<span class="given">{escape(name)}</span>{"":{margin - len(name)}}'
                lines.append(label + _marked(marks, text[left : here.stop]))
            lines.append("")
        equal = [
            f"{escape(name)}: {sum(map(str.__eq__, text, self.truth))} of {len(self.truth)} equal"
            for name, text in self.infills
        ]
        note = ". ".join(["Bold: equal to the truth. Underlined: different", *equal])
        text = "\n".join(lines).rstrip()
        return f'<pre class="infilled">{text}</pre><p class="note">{note}.</p>'


@final
@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Block]

    def html(self) -> str:
        """The section as HTML."""
        blocks = "\n".join(block.html() for block in self.blocks)
        return f"<section>\n<h2>{escape(self.title)}</h2>\n{blocks}\n</section>"


@final
@dataclass(frozen=True)
class Report:
    """Sections under a title; `subtitle` says of what, `footer` by what it was made."""

    title: str
    sections: Sequence[Section]
    subtitle: str = ""
    footer: str = ""

    def html(self) -> str:
        """The whole page."""
        sections = "\n".join(section.html() for section in self.sections)
        subtitle = f'<p class="subtitle">{escape(self.subtitle)}</p>' if self.subtitle else ""
        footer = f"<footer>{escape(self.footer)}</footer>" if self.footer else ""
        return _PAGE.format(
            title=escape(self.title), style=_STYLE, subtitle=subtitle, body=sections, footer=footer
        )

    def write(self, path: Path) -> None:
        """Writes the page to `path`, whole or not at all.

        Raises:
            UserError: the folder does not exist or cannot be written.
        """
        try:
            write_text(path, self.html())
        except OSError as error:
            raise UserError(
                f"the report {path} cannot be written ({error.strerror}); choose a folder you may "
                "write to."
            ) from error


def _cell(value: Cell) -> str:
    if value is None:
        return _number("-")
    if isinstance(value, str):
        if found := _WITH_INTERVAL.fullmatch(value):
            return _number(f"{escape(found[1])} <small>({escape(found[2])})</small>")
        text = escape(value)
        return _number(text) if _NUMBER.fullmatch(value) else f"<td>{text}</td>"
    return _number(f"{value:,}" if isinstance(value, int) else f"{value:.4g}")


def _number(text: str) -> str:
    return f"<td{_IS_NUMBER}>{text}</td>"


def _letters(text: str) -> str:
    """Bases in a colour each; the letters themselves tell them apart without it."""
    runs = re.findall(r"((.)\2*)", text)
    return "".join(
        f'<i class="{letter.upper()}">{run}</i>' if letter.upper() in "ACGT" else escape(run)
        for run, letter in runs
    )


def _mark(letter: str, true: str, masked: bool) -> str:
    if not masked:
        return "given"
    return "same" if letter == true else "other"


def _marked(marks: Sequence[str], letters: str) -> str:
    runs = groupby(zip(marks, letters, strict=True), key=itemgetter(0))
    return "".join(
        f'<span class="{mark}">{escape("".join(letter for _, letter in run))}</span>'
        for mark, run in runs
    )


def _own_ids(svg: str) -> str:
    """The drawing with ids of its own: matplotlib gives every drawing the same ones."""
    own = "f" + hashlib.blake2b(svg.encode(), digest_size=4).hexdigest() + "-"
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}", svg)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1>{subtitle}</header>
<main>
{body}
</main>
{footer}
</body>
</html>
"""

# Colours: Okabe & Ito 2008, distinct to colour-blind readers and as greys.
_STYLE = """
:root {
  --ink: #1c2024; --soft: #5b6470; --line: #d9dde2; --paper: #ffffff; --tint: #f5f7f9;
  --blue: #0072b2; --vermillion: #d55e00;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 64rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.55 var(--sans);
}
header { border-bottom: 3px solid var(--blue); padding-bottom: 1rem; margin-bottom: 2rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.3rem; margin: 0 0 .6rem; }
.subtitle { color: var(--soft); margin: .4rem 0 0; font-size: 1.05rem; }
section { margin: 0 0 2.75rem; }
p, ul { max-width: 46rem; margin: .5rem 0 1rem; }
ul { padding-left: 1.2rem; }
.note, figcaption, caption, footer { color: var(--soft); font-size: .875rem; }
.facts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .9rem;
  margin: 0 0 1rem;
}
.facts div { background: var(--tint); border-left: 4px solid var(--blue); padding: .7rem .9rem; }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.55rem; font-weight: 650; line-height: 1.25; }
.facts dd.note { font-size: .82rem; font-weight: 400; line-height: 1.4; }
figure { margin: 0 0 1.5rem; }
.drawing {
  display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 1.75rem; align-items: center;
}
.drawing > :only-child { grid-column: 1 / -1; max-width: 48rem; }
.drawing svg { display: block; width: 100%; height: auto; max-height: 30rem; }
.drawing > :only-child svg { max-height: 52rem; }
.drawing svg text { font-family: var(--sans) !important; }
figcaption { margin-top: .6rem; max-width: 46rem; }
.table { overflow-x: auto; margin: 0 0 1rem; }
.drawing .table { margin: 0; }
table { border-collapse: collapse; font-size: .83rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--ink); }
th, td { padding: .28rem 0 .28rem 1.1rem; vertical-align: top; }
:is(th, td):first-child { padding-left: 0; }
th { vertical-align: bottom; }
td:first-child { min-width: 7rem; }
.number { text-align: right; }
td.number { white-space: nowrap; }
:is(th, td):first-child { text-align: left; }
td small { display: block; color: var(--soft); font-size: .92em; }
tbody tr + tr td { border-top: 1px solid var(--line); }
code, pre { font-family: var(--mono); }
.sequences dt { font-weight: 600; font-size: .9rem; }
.sequences dt span { color: var(--soft); font-weight: 400; margin-left: .5em; }
.sequences dd { margin: .1rem 0 .9rem; font-size: .85rem; line-height: 1.5; }
code i { font-style: normal; }
i.A { color: #007a5a; } i.C { color: #0072b2; } i.G { color: #8a6100; } i.T { color: #b8450a; }
pre.infilled {
  background: var(--tint); padding: 1rem; font-size: .8rem; line-height: 1.35; overflow-x: auto;
}
.given { color: var(--soft); }
.same { font-weight: 700; }
.other { color: #a84300; text-decoration: underline; text-underline-offset: .15em; }
footer { border-top: 1px solid var(--line); padding-top: .8rem; }
@media (max-width: 46rem) { .drawing { grid-template-columns: 1fr; } }
@media print {
  @page { margin: 16mm 14mm; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  .facts { grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); }
  .drawing svg, .drawing > :only-child svg { max-height: 110mm; }
  .drawing .numbers { align-self: start; }
  h2 { break-after: avoid; }
  figure, table, .facts, .sequences dt, .sequences dd { break-inside: avoid; }
  table { font-size: 8pt; }
  pre.infilled { font-size: 6.8pt; overflow: hidden; }
  .facts div, pre.infilled { background: none; border: 1px solid var(--line); }
  .facts div { border-left: 4px solid var(--blue); }
}
"""
