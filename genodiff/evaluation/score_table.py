"""The scores of many tasks and models as a Markdown page and as a picture.

Both are made of the contents of results.json files alone, one for each task and model, so they can
be made again at any time.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from genodiff.errors import UserError
from genodiff.evaluation.audit import leakage_lines
from genodiff.evaluation.figures import BLUE, INK, LINE, SOFT, VERMILLION, rendered
from genodiff.evaluation.metrics import METRICS
from genodiff.evaluation.published_scores import NOTES, PUBLISHED

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


def score_page(results: Sequence[Results], *, tests: Sequence[str] = ()) -> str:
    """A Markdown page: figures of tasks across, models down, with baselines, published rows and
    the audit.

    A cell is the mean over runs ± the difference of the largest and the smallest, as the papers
    print it. `tests`: lines on paired tests between models, set below.

    Raises:
        UserError: nothing to show, or two results of one task and model.
    """
    cells = _by_task_and_model(results)
    tasks, models = _unique(cells, 0), _unique(cells, 1)
    first = {task: next(cells[key] for key in cells if key[0] == task) for task in tasks}
    columns = [column for task in tasks for column in _columns(first[task])]

    def rows(name: str, cell: Callable[[_Column], str | None]) -> list[str]:
        """One row of the table, none where no column has the figure."""
        shown = [cell(column) for column in columns]
        return [f"| {name} | " + " | ".join(text or "-" for text in shown) + " |"] * any(shown)

    def of_model(model: str, key: str | None) -> Callable[[_Column], str | None]:
        return lambda column: _spread(_part(column.of(cells.get((column.task, model))), key))

    def of_first(key: str | None) -> Callable[[_Column], Results | None]:
        return lambda column: _part(column.of(first[column.task]), key)

    lines = ["# Scores", "", *rows("", lambda column: column.label)]
    lines += ["|---" * (len(columns) + 1) + "|"]
    for model in models:
        lines += rows(f"**{model}**", of_model(model, None))
        lines += rows(f"{model}, unseen items", of_model(model, "deduplicated"))
    for name, label in _BASELINES.items():
        for title, key in ((label, None), (f"{label}, unseen items", "deduplicated")):
            part = of_first(key)
            lines += rows(
                title, lambda column, name=name, part=part: _baseline(part(column), name)
            )
    for paper, of_paper in PUBLISHED.items():
        for model, scores in of_paper.items():
            lines += rows(
                f"*{model}* ({paper})",
                lambda column, scores=scores: (
                    _pair(*scores[column.label]) if column.label in scores else None
                ),
            )
    whole, unseen = of_first(None), of_first("deduplicated")
    lines += [
        *rows("test items", lambda column: _tested(whole(column))),
        *rows("of them unseen", lambda column: _tested(unseen(column))),
        *rows("protocol", lambda column: _protocol(first[column.task])),
        "",
        "Accuracy unless a column names another figure: mean ± (largest - smallest) over runs. "
        "Baselines: with the 95 % interval over test items. Unseen items have no copy in the "
        "training set.",
        "",
        *(f"{note}\n" for note in _notes([column.label for column in columns])),
        *(["## Paired tests", "", *(f"- {line}" for line in tests), ""] if tests else []),
        "## Audit",
    ]
    for task in tasks:
        lines += ["", f"### {task}", ""]
        lines += [f"- {line}" for line in leakage_lines(first[task]["leakage"])]
    return "\n".join(lines) + "\n"


def score_picture(results: Sequence[Results], *, picture: Literal["svg", "png"] = "svg") -> bytes:
    """Scores with their 95 % intervals, a panel a figure of a task: models as dots, the part of
    the test set that is unseen as open diamonds, baselines as squares. A file's contents.

    Raises:
        UserError: nothing to show, two results of one task and model, or no matplotlib.
    """
    cells = _by_task_and_model(results)
    columns = [
        column
        for task in _unique(cells, 0)
        for column in _columns(next(cells[key] for key in cells if key[0] == task))
    ]
    panels_of = {column.label: _panel(column, cells) for column in columns}

    def draw(figure: Any) -> None:
        heights = [len(rows) for rows in panels_of.values()]
        panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, rows) in zip(panels, panels_of.items(), strict=True):
            for place, (_, kind, whole, unseen) in enumerate(rows):
                colour = BLUE if kind == "model" else SOFT
                marker = "o" if kind == "model" else "s"
                for part, shift, options in (
                    (whole, -0.12, {"marker": marker, "color": colour}),
                    (unseen, 0.2, {"marker": "D", "color": VERMILLION, "mfc": "white"}),
                ):
                    if part is not None:
                        value, interval = part
                        if interval is not None:
                            axes.plot(interval, [place + shift] * 2, color=options["color"])
                        axes.plot(value, place + shift, markersize=5, **options)
            axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.set_title(title, loc="left", fontsize=9, fontweight="bold", color=INK)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", color=LINE, linewidth=0.6)
            axes.set_axisbelow(True)
        panels[-1].set_xlabel("score, 95 % interval; diamonds: unseen test items alone")

    height = 0.6 + sum(0.5 + 0.28 * len(rows) for rows in panels_of.values())
    return rendered(draw, height=height, width=6.2, picture=picture, background="white")


Part = tuple[float, Sequence[float] | None] | None
"""A score and its interval."""


def _columns(result: Results) -> list[_Column]:
    """The figures of a task: named where they are several, or another than accuracy."""
    task, name = result["task"], result.get("figure", "accuracy")
    others = result.get("also", {})
    label = task if name == "accuracy" and not others else f"{task}, {name}"
    return [_Column(task, None, label), *(_Column(task, o, f"{task}, {o}") for o in others)]


def _panel(
    column: _Column, cells: Mapping[tuple[str, str], Results]
) -> list[tuple[str, str, Part, Part]]:
    """Name, kind, all test items and the unseen ones of each row of a panel."""
    rows, found = [], []
    for (task, model), result in cells.items():
        if task == column.task and (figure := column.of(result)) is not None:
            found.append(figure)
            parts = [
                None if part is None else (part["mean"], part["confidence_95"])
                for part in (figure, figure["deduplicated"])
            ]
            rows.append((model, "model", *parts))
    for name, label in _BASELINES.items():
        parts = [
            None if row is None else (_value(row), row["confidence_95"])
            for row in (_baseline_row(part, name) for part in (found[0], found[0]["deduplicated"]))
        ]
        if any(parts):
            rows.append((label, "baseline", *parts))
    return rows


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


def _unique(cells: Mapping[tuple[str, str], Results], part: int) -> list[str]:
    return list(dict.fromkeys(key[part] for key in cells))


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
