"""The scores of many tasks and models as a Markdown page and as a picture.

Both are made of the contents of results.json files alone, one for each task and model, so they can
be made again at any time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from genodiff.errors import UserError
from genodiff.evaluation.audit import leakage_lines
from genodiff.evaluation.figures import BLUE, INK, LINE, SOFT, VERMILLION, rendered
from genodiff.evaluation.published_scores import PUBLISHED

Results = Mapping[str, Any]

_BASELINES = {
    "majority": "majority class",
    "length_only": "length alone",
    "kmer_logistic": "k-mer logistic regression",
}


def score_page(results: Sequence[Results], *, tests: Sequence[str] = ()) -> str:
    """A Markdown page: tasks across, models down, with baselines, published rows and the audit.

    A cell is the mean over runs ± the difference of the largest and the smallest, as the papers
    print it. `tests`: lines on paired tests between models, set below.

    Raises:
        UserError: nothing to show, or two results of one task and model.
    """
    cells = _by_task_and_model(results)
    tasks, models = _unique(cells, 0), _unique(cells, 1)
    first = {task: next(cells[key] for key in cells if key[0] == task) for task in tasks}

    def rows(name: str, cell: Callable[[str], str | None]) -> list[str]:
        """One row of the table, none where no task has the figure."""
        shown = [cell(task) for task in tasks]
        return [f"| {name} | " + " | ".join(text or "-" for text in shown) + " |"] * any(shown)

    def of_model(model: str, key: str | None) -> Callable[[str], str | None]:
        return lambda task: _spread(_part(cells.get((task, model)), key))

    lines = ["# Scores", "", *rows("", str), "|---" * (len(tasks) + 1) + "|"]
    for model in models:
        lines += rows(f"**{model}**", of_model(model, None))
        lines += rows(f"{model}, unseen items", of_model(model, "deduplicated"))
    for name, label in _BASELINES.items():
        lines += rows(label, lambda task, name=name: _baseline(first[task], name))
        lines += rows(
            f"{label}, unseen items",
            lambda task, name=name: _baseline(first[task]["deduplicated"], name),
        )
    for paper, of_paper in PUBLISHED.items():
        for model, scores in of_paper.items():
            lines += rows(
                f"*{model}* ({paper})",
                lambda task, scores=scores: _pair(*scores[task]) if task in scores else None,
            )
    lines += [
        *rows("test items", lambda task: _tested(first[task])),
        *rows("of them unseen", lambda task: _tested(first[task]["deduplicated"])),
        *rows("protocol", lambda task: _protocol(first[task])),
        "",
        "Accuracy, mean ± (largest - smallest) over runs. Baselines: accuracy (95 % interval over "
        "test items). Unseen items have no copy in the training set.",
        "",
        *(["## Paired tests", "", *(f"- {line}" for line in tests), ""] if tests else []),
        "## Audit",
    ]
    for task in tasks:
        lines += ["", f"### {task}", ""]
        lines += [f"- {line}" for line in leakage_lines(first[task]["leakage"])]
    return "\n".join(lines) + "\n"


def score_picture(results: Sequence[Results], *, picture: Literal["svg", "png"] = "svg") -> bytes:
    """Accuracies with their 95 % intervals, a panel a task: models as dots, the part of the test
    set that is unseen as open diamonds, baselines as squares. A file's contents.

    Raises:
        UserError: nothing to show, two results of one task and model, or no matplotlib.
    """
    cells = _by_task_and_model(results)
    tasks = _unique(cells, 0)
    rows = {task: _panel(task, cells) for task in tasks}

    def draw(figure: Any) -> None:
        heights = [len(rows[task]) for task in tasks]
        panels = figure.subplots(len(tasks), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, task in zip(panels, tasks, strict=True):
            for place, (_, kind, whole, unseen) in enumerate(rows[task]):
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
            axes.set_yticks(range(len(rows[task])), [name for name, *_ in rows[task]])
            axes.set_ylim(len(rows[task]) - 0.5, -0.5)
            axes.set_title(task, loc="left", fontsize=9, fontweight="bold", color=INK)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", color=LINE, linewidth=0.6)
            axes.set_axisbelow(True)
        panels[-1].set_xlabel("accuracy, 95 % interval; diamonds: unseen test items alone")

    height = 0.6 + sum(0.5 + 0.28 * len(rows[task]) for task in tasks)
    return rendered(draw, height=height, width=6.2, picture=picture, background="white")


Part = tuple[float, Sequence[float] | None] | None
"""An accuracy and its interval."""


def _panel(
    task: str, cells: Mapping[tuple[str, str], Results]
) -> list[tuple[str, str, Part, Part]]:
    """Name, kind, all test items and the unseen ones of each row of a panel."""
    rows = []
    for (name, model), result in cells.items():
        if name == task:
            parts = [
                None if part is None else (part["mean"], part["confidence_95"])
                for part in (result, result["deduplicated"])
            ]
            rows.append((model, "model", *parts))
    result = next(result for (name, _), result in cells.items() if name == task)
    for name, label in _BASELINES.items():
        parts = [
            None if row is None else (row["accuracy"], row["confidence_95"])
            for row in (_baseline_row(part, name) for part in (result, result["deduplicated"]))
        ]
        if any(parts):
            rows.append((label, "baseline", *parts))
    return rows


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


def _pair(mean: float, extent: float) -> str:
    return f"{mean:.3f} ± {extent:.3f}"


def _baseline_row(part: Results | None, name: str) -> Results | None:
    return None if part is None else part["baselines"].get(name)


def _baseline(part: Results | None, name: str) -> str | None:
    row = _baseline_row(part, name)
    if row is None:
        return None
    low, high = row["confidence_95"]
    return f"{row['accuracy']:.3f} ({low:.3f} to {high:.3f})"


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
