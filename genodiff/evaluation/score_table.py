"""The scores of many tasks and models as a Markdown page, as a picture and as an HTML page.

All are made of the contents of results.json files alone, one for each task and model, so they can
be made again at any time.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from genodiff.errors import UserError
from genodiff.evaluation.audit import leakage_lines
from genodiff.evaluation.figures.drawing import VERMILLION, Look, rendered, svg_of
from genodiff.evaluation.figures.estimates import (
    BASELINE,
    MODEL,
    Mark,
    Rows,
    draw_panels,
    panels_height,
)
from genodiff.evaluation.metrics import METRICS
from genodiff.evaluation.published_scores import NOTES, PUBLISHED
from genodiff.evaluation.report import Figure, Lines, Paragraph, Report, Section, Table

Results = Mapping[str, Any]

_BASELINES = {
    "majority": "majority class",
    "mean": "mean of training",
    "length_only": "length alone",
    "kmer_logistic": "k-mer logistic regression",
    "kmer_ridge": "k-mer ridge regression",
    "word_logistic": "bag-of-words logistic regression",
    "word_ridge": "bag-of-words ridge regression",
}


class _Column(NamedTuple):
    """A task and one of its figures, None for the first."""

    task: str
    figure: str | None
    label: str

    def of(self, result: Results | None) -> Results | None:
        """This figure of a result of the task."""
        if result is None or self.figure is None:
            return result
        return result.get("also", {}).get(self.figure)


_EXPLAINED = (
    "Accuracy unless a column names another figure: mean ± (largest - smallest) over runs. "
    "Baselines: with the 95 % interval over test items. Unseen items have no copy in the training "
    "set."
)
_UNSEEN = Look(VERMILLION, "D", is_filled=False)


class _Row(NamedTuple):
    """A row of the table: a name with a note behind it, and a cell a column (None: no figure).
    `emphasis` is Markdown's, of the name."""

    name: str
    cells: Sequence[str | None]
    note: str = ""
    emphasis: str = ""


def score_page(results: Sequence[Results], *, tests: Sequence[str] = ()) -> str:
    """A Markdown page: figures of tasks across, models down, with baselines, published rows and
    the audit.

    A cell is the mean over runs ± the difference of the largest and the smallest, as the papers
    print it. `tests`: lines on paired tests between models, set below.

    Raises:
        UserError: nothing to show, or two results of one task and model.
    """
    scores = _Scores(results)
    columns = [column.label for column in scores.columns]
    head, *table = [
        f"| {row.emphasis}{row.name}{row.emphasis}{row.note} | "
        + " | ".join(text or "-" for text in row.cells)
        + " |"
        for row in (_Row("", columns), *scores.rows())
    ]
    lines = ["# Scores", "", head, "|---" * (len(columns) + 1) + "|", *table, "", _EXPLAINED, ""]
    lines += [f"{note}\n" for note in _notes(columns)]
    lines += ["## Paired tests", "", *(f"- {line}" for line in tests), ""] if tests else []
    lines.append("## Audit")
    for task, result in scores.first.items():
        lines += ["", f"### {task}", ""]
        lines += [f"- {line}" for line in leakage_lines(result["leakage"])]
    return "\n".join(lines) + "\n"


def score_report(
    results: Sequence[Results], *, tests: Sequence[str] = (), footer: str = ""
) -> Report:
    """What `score_page` and `score_picture` show, as one HTML page.

    Raises:
        UserError: nothing to show, two results of one task and model, or no matplotlib.
    """
    scores = _Scores(results)
    columns = [column.label for column in scores.columns]
    panels = scores.panels()
    table = Table(["", *columns], [[row.name + row.note, *row.cells] for row in scores.rows()])
    alt = f"Scores of {', '.join(scores.models)}, with baselines, on {', '.join(panels)}."
    figure = Figure(
        svg_of(_drawing(panels), height=panels_height(panels)),
        alt,
        "Circles: models. Squares: baselines. Open diamonds: unseen test items alone.",
    )
    return Report(
        "Scores",
        [
            Section("Scores with their 95 % intervals", [figure]),
            Section("As numbers", [table, *map(Paragraph, [_EXPLAINED, *_notes(columns)])]),
            *([Section("Paired tests", [Lines(tests)])] if tests else []),
            *(
                Section(f"Audit of {task}", [Lines(leakage_lines(result["leakage"]))])
                for task, result in scores.first.items()
            ),
        ],
        subtitle=f"{', '.join(scores.models)} on {', '.join(scores.first)}",
        footer=footer,
    )


def score_picture(results: Sequence[Results], *, picture: Literal["svg", "png"] = "svg") -> bytes:
    """Scores with their 95 % intervals, a panel a figure of a task: models as dots, the part of
    the test set that is unseen as open diamonds, baselines as squares. A file's contents.

    Raises:
        UserError: nothing to show, two results of one task and model, or no matplotlib.
    """
    panels = _Scores(results).panels()
    return rendered(
        _drawing(panels),
        height=panels_height(panels),
        width=6.2,
        picture=picture,
        background="white",
    )


def _drawing(panels: Mapping[str, Rows]) -> Callable[[Any], None]:
    return lambda figure: draw_panels(
        figure, panels, "score, 95 % interval; diamonds: unseen test items alone"
    )


class _Scores:
    """Results by task and model, with the columns, rows and panels that show them."""

    def __init__(self, results: Sequence[Results]):
        self.cells = _by_task_and_model(results)
        self.models = [*dict.fromkeys(model for _, model in self.cells)]
        self.first: dict[str, Results] = {}
        for (task, _), result in self.cells.items():
            self.first.setdefault(task, result)
        self.columns = [column for result in self.first.values() for column in _columns(result)]

    def rows(self) -> list[_Row]:
        """Models, baselines, published rows and what was tested, without rows of no figure."""
        found = []
        for model in self.models:
            whole, unseen = (self._of_model(model, key) for key in (None, "deduplicated"))
            found.append(_Row(model, whole, emphasis="**"))
            found.append(_Row(model, unseen, ", unseen items"))
        for name, label in _BASELINES.items():
            for note, key in (("", None), (", unseen items", "deduplicated")):
                cells = [_baseline(part, name) for part in self._of_first(key)]
                found.append(_Row(label, cells, note))
        for paper, of_paper in PUBLISHED.items():
            for model, scores in of_paper.items():
                pairs = [scores.get(column.label) for column in self.columns]
                cells = [None if pair is None else _pair(*pair) for pair in pairs]
                found.append(_Row(model, cells, f" ({paper})", "*"))
        found.append(_Row("test items", [*map(_tested, self._of_first(None))]))
        found.append(_Row("of them unseen", [*map(_tested, self._of_first("deduplicated"))]))
        found.append(_Row("protocol", [_protocol(self.first[c.task]) for c in self.columns]))
        return [row for row in found if any(row.cells)]

    def panels(self) -> dict[str, Rows]:
        """A panel a column."""
        return {column.label: self._panel(column) for column in self.columns}

    def _panel(self, column: _Column) -> Rows:
        found = {
            model: column.of(result)
            for (task, model), result in self.cells.items()
            if task == column.task
        }
        rows = [
            (model, _marks(MODEL, [_mean(result), _mean(result["deduplicated"])]))
            for model, result in found.items()
            if result is not None
        ]
        first = next(result for result in found.values() if result is not None)
        for name, label in _BASELINES.items():
            parts = [_baseline_row(part, name) for part in (first, first["deduplicated"])]
            if any(parts):
                rows.append((label, _marks(BASELINE, [*map(_value_95, parts)])))
        return rows

    def _of_model(self, model: str, key: str | None) -> list[str | None]:
        return [
            _spread(_part(column.of(self.cells.get((column.task, model))), key))
            for column in self.columns
        ]

    def _of_first(self, key: str | None) -> list[Results | None]:
        return [_part(column.of(self.first[column.task]), key) for column in self.columns]


Part = tuple[float, Sequence[float] | None] | None
"""A score and its interval."""


def _marks(look: Look, parts: Sequence[Part]) -> list[Mark]:
    """Of all test items, and of the unseen ones."""
    looks = (look, _UNSEEN)
    return [Mark(*part, look) for part, look in zip(parts, looks, strict=True) if part]


def _mean(part: Results | None) -> Part:
    return None if part is None else (part["mean"], part["confidence_95"])


def _value_95(row: Results | None) -> Part:
    return None if row is None else (_value(row), row["confidence_95"])


def _columns(result: Results) -> list[_Column]:
    """The figures of a task: named where they are several, or another than accuracy."""
    task, name = result["task"], result.get("figure", "accuracy")
    others = result.get("also", {})
    label = task if name == "accuracy" and not others else f"{task}, {name}"
    return [_Column(task, None, label), *(_Column(task, o, f"{task}, {o}") for o in others)]


def _value(row: Results) -> float:
    """Of a baseline, whatever it is called."""
    return next(row[metric] for metric in METRICS if metric in row)


def _notes(labels: Collection[str]) -> list[str]:
    """What has to be said of the published rows that are shown."""
    return [
        f"{paper}: {note}"
        for paper, note in NOTES.items()
        if any(label in scores for scores in PUBLISHED[paper].values() for label in labels)
    ]


def _by_task_and_model(results: Sequence[Results]) -> dict[tuple[str, str], Results]:
    if not results:
        raise UserError("no results to show; give the results.json of one run or more.")
    cells: dict[tuple[str, str], Results] = {}
    for result in results:
        key = (result["task"], result["model"])
        if key in cells:
            raise UserError(
                f"two results of {key[1]} on {key[0]}; give one, or name the models apart."
            )
        cells[key] = result
    return cells


def _part(result: Results | None, key: str | None) -> Results | None:
    return result if result is None or key is None else result[key]


def _spread(part: Results | None) -> str | None:
    return None if part is None else _pair(part["mean"], part["max_minus_min"])


def _pair(mean: float, extent: float | None) -> str:
    return f"{mean:.3f}" if extent is None else f"{mean:.3f} ± {extent:.3f}"


def _baseline_row(part: Results | None, name: str) -> Results | None:
    return None if part is None else part["baselines"].get(name)


def _baseline(part: Results | None, name: str) -> str | None:
    row = _baseline_row(part, name)
    if row is None:
        return None
    low, high = row["confidence_95"]
    return f"{_value(row):.3f} ({low:.3f} to {high:.3f})"


def _tested(part: Results | None) -> str | None:
    """Items of a run: of several folds, of the smallest and the largest."""
    if part is None:
        return "0"
    numbers = np.unique([fold["n_test"] for fold in part["folds"]]).tolist()
    return f"{numbers[0]:,}" + (f" to {numbers[-1]:,}" if len(numbers) > 1 else "")


def _protocol(result: Results) -> str:
    folds = result["folds"]
    seeds = ", ".join(str(seed) for seed in sorted({fold["seed"] for fold in folds}))
    return f"{result['protocol']}, {len(folds)} runs, seeds {seeds}"
