"""The quality of sampled texts as a Markdown page and as a picture.

Both are made of the contents of a report of `genodiff judge` alone, so they can be made again at
any time. No figure stands without those that would show how it was bought: a perplexity without
entropy, distinct n-grams and repetition, or any of them without precision, temperature, nucleus
and what drawing cost.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from genodiff.errors import UserError
from genodiff.evaluation.figures import INK, LINE, SOFT, rendered

Report = Mapping[str, Any]
Row = Mapping[str, Any]

UNKNOWN = "unknown"
"""In the place of what no report says of a file of samples."""

# Okabe & Ito 2008, without yellow, which a page swallows.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1c2024")
_MARKERS, _DASHES = ("o", "s", "D", "^", "v", "P"), ("-", "--", "-.")

_POOLED = {"mean": "the mean over tokens", "last": "the state of the last token"}
_SAID = {
    "steps": "steps",
    "evaluations a sequence": "network_evaluations_per_sequence",
    "temperature": "temperature",
    "nucleus": "nucleus",
    "precision": "precision",
}
_ALSO_SAID = {"model": "checkpoint", "seed": "seed", "seconds": "seconds"}


class _Quantity(NamedTuple):
    """A measure, and where it is in a row. The chief ones are drawn, and in the first table."""

    title: str
    find: Callable[[Row], Mapping[str, Any] | None]
    is_chief: bool = False
    is_logarithmic: bool = False


_QUANTITIES = (
    _Quantity("generative perplexity", lambda row: row["generative_perplexity"], True, True),
    _Quantity("entropy of tokens (nats)", lambda row: row["entropy"], True),
    _Quantity("MAUVE", lambda row: row["mauve"], True),
    _Quantity("nats a byte", lambda row: row["generative_perplexity"]["nats_per_byte"]),
    _Quantity("pooled entropy (nats)", lambda row: row["pooled_entropy"]),
    *(
        _Quantity(f"distinct-{n}", lambda row, n=n: row["distinct"][str(n)], n in (1, 2))
        for n in (1, 2, 3, 4)
    ),
    *(
        _Quantity(f"repetition-{n}", lambda row, n=n: row["repetition"][str(n)], n == 4)
        for n in (1, 2, 3, 4)
    ),
)


def quality_page(report: Report) -> str:
    """A Markdown page: a row for each file of samples, and for the reference."""
    judge, embedding = report["language_model"], report["embedding"]
    rows = [*report["samples"], report["reference"]]
    chief = [quantity for quantity in _QUANTITIES if quantity.is_chief]
    rest = [quantity for quantity in _QUANTITIES if not quantity.is_chief]
    return "\n".join(
        [
            *("# Quality of texts", ""),
            *_table(
                ["sampler", *_SAID], lambda row: [_name(row), *_says(row, _SAID)], chief, rows
            ),
            "",
            "In brackets 95 % intervals over sequences. The last row is of real texts, which the "
            "figures of samples are to be like, neither less nor more; its MAUVE is of other "
            "texts of that file. All but nats a byte and MAUVE are of the language model's own "
            "tokens. Entropy: of the frequencies of tokens in a sequence, mean over sequences. "
            "Distinct-n: different n-grams of all sequences, as a share of all. Repetition-n: the "
            "share of n-grams that occurred before in their sequence, mean over sequences.",
            "",
            f"- Language model: {judge['name']}{_at(judge)}. {judge['counted']}",
            f"- MAUVE: embeddings of {embedding['name']}{_at(embedding)}, "
            f"{_POOLED[embedding['pooling']]}, of up to {embedding['tokens_at_most']} tokens; as "
            "many texts of the reference; mean over k-means from several seeds.",
            "",
            *_table(
                ["sequences", "tokens each", *_ALSO_SAID],
                lambda row: [*_numbers(row), *_says(row, _ALSO_SAID)],
                rest,
                rows,
            ),
            "",
        ]
    )


def quality_picture(report: Report, *, picture: Literal["svg", "png"] = "svg") -> bytes:
    """The chief measures against network evaluations a sequence, a line for each sampler, with
    95 % intervals and the reference as a dashed line. A file's contents.

    Lines are moved apart sideways by a little, so that their intervals can be told apart. Files of
    samples whose cost is unknown are dotted lines.

    Raises:
        UserError: the cost of no file is known, or no matplotlib.
    """
    require_known_cost([row["drawn"] for row in report["samples"]])
    curves = _curves(report["samples"])
    unknown = [row for row in report["samples"] if _evaluations(row) is None]
    drawn = [quantity for quantity in _QUANTITIES if quantity.is_chief]
    columns = 3

    def draw(figure: Any) -> None:
        panels = figure.subplots(-(-len(drawn) // columns), columns, sharex=True)
        for axes, quantity in zip(panels.flat, drawn, strict=True):
            axes.set_xscale("log", base=2)
            everywhere = [quantity.find(row) for row in [*report["samples"], report["reference"]]]
            values = [found["value"] for found in everywhere if found is not None]
            if quantity.is_logarithmic and max(values) > 3 * min(values):
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter("{x:g}")
            for place, ((name, rows), (colour, marker, dash)) in enumerate(
                zip(curves.items(), _styles(), strict=False)
            ):
                aside = 2 ** (0.08 * (place - (len(curves) - 1) / 2))
                points = [((_evaluations(row) or 1) * aside, quantity.find(row)) for row in rows]
                known = [(x, found) for x, found in points if found is not None]
                axes.plot(
                    [x for x, _ in known],
                    [found["value"] for _, found in known],
                    color=colour,
                    marker=marker,
                    linestyle=dash,
                    markersize=4.5,
                    linewidth=1.4,
                    label=name,
                )
                for x, found in known:
                    if found["confidence_95"] is not None:
                        axes.plot([x, x], found["confidence_95"], color=colour, linewidth=1)
            for row in unknown:
                found = quantity.find(row)
                if found is not None:
                    label = f"{row['file']} (cost unknown)"
                    axes.axhline(found["value"], color=SOFT, linestyle=":", label=label)
            found = quantity.find(report["reference"])
            if found is not None:
                if found["confidence_95"] is not None:
                    axes.axhspan(*found["confidence_95"], color=INK, alpha=0.1, linewidth=0)
                axes.axhline(
                    found["value"],
                    color=INK,
                    linestyle=(0, (6, 3)),
                    linewidth=1,
                    label="reference",
                )
            axes.set_title(quantity.title, loc="left", fontsize=9, color=INK)
            axes.grid(color=LINE, linewidth=0.5)
            axes.set_axisbelow(True)
            axes.xaxis.set_major_formatter("{x:g}")
        for axes in panels[-1]:
            axes.set_xlabel("network evaluations a sequence")
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)

    entries = len(curves) + len(unknown) + 1
    height = 4.6 + 0.18 * -(-entries // 2)
    return rendered(draw, height=height, width=8.4, picture=picture, background="white")


def require_known_cost(drawn: Sequence[Mapping[str, Any]]) -> None:
    """Raises UserError if the network evaluations of no file are known."""
    if all(_evaluations({"drawn": said}) is None for said in drawn):
        raise UserError(
            "no file of samples has a report beside it that says what drawing cost, so there is "
            "nothing to draw against it; leave plot= out."
        )


def _curves(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of known cost by the line they are on: alike but for numbers of the sampler, such as
    its steps. By cost."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    known = [row for row in rows if _evaluations(row) is not None]
    settings = [dict(_settings(row["drawn"]["sampler"])) for row in known]
    for row, own in zip(known, settings, strict=True):
        said = row["drawn"]
        # Settings that tell lines apart: those that samplers of this name do not share.
        alike = [o for r, o in zip(known, settings, strict=True) if _name(r) == _name(row)]
        apart = [f"{k} {v}" for k, v in own.items() if any(o.get(k) != v for o in alike)]
        apart += [
            f"{k} {said[k]}" for k in ("temperature", "nucleus") if said[k] not in (1, UNKNOWN)
        ]
        if any(r["drawn"]["checkpoint"] != said["checkpoint"] for r in known):
            apart.append(str(said["checkpoint"]))
        groups.setdefault((_name(row), *apart), []).append(row)
    return {
        ", ".join(map(str, key)): sorted(rows, key=lambda row: _evaluations(row) or 0)
        for key, rows in groups.items()
    }


def _settings(sampler: Any, within: str = "") -> Iterator[tuple[str, Any]]:
    """A sampler's settings that are words, those of the sampler inside it too."""
    if isinstance(sampler, Mapping):
        for key, value in sampler.items():
            if isinstance(value, Mapping):
                yield from _settings(value, f"{key}.")
            elif key != "name" and isinstance(value, str | bool):
                yield within + key, value


def _name(row: Row) -> str:
    """Of the sampler, and in brackets of the one inside it."""
    if row["drawn"] is None:
        return "**reference**"
    sampler = row["drawn"]["sampler"]
    if not isinstance(sampler, Mapping):
        return str(sampler)
    inner = sampler.get("sampler")
    inside = f"({_name({'drawn': {'sampler': inner}})})" if isinstance(inner, Mapping) else ""
    return f"{sampler['name']}{inside}"


def _evaluations(row: Row) -> float | None:
    value = row["drawn"]["network_evaluations_per_sequence"]
    return value if isinstance(value, int | float) else None


def _styles() -> Iterator[tuple[str, str, str]]:
    """A colour, a marker and a kind of line for each of many lines, no two alike."""
    for i in range(len(_COLOURS) * len(_MARKERS)):
        yield _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _DASHES[i % len(_DASHES)]


def _table(
    titles: Sequence[str],
    told: Callable[[Row], list[str]],
    quantities: Sequence[_Quantity],
    rows: Sequence[Row],
) -> list[str]:
    """The lines of a table: what is told of each row, and quantities."""
    heads = ["", *titles, *(quantity.title for quantity in quantities)]
    return [
        _cells(heads),
        "|---" * len(heads) + "|",
        *(
            _cells([f"`{row['file']}`", *told(row), *(_spelt(q.find(row)) for q in quantities)])
            for row in rows
        ),
    ]


def _says(row: Row, keys: Mapping[str, str]) -> list[str]:
    """What a file's report says; nothing of the reference."""
    said = row["drawn"]
    return [_plain(None if said is None else said[key]) for key in keys.values()]


def _spelt(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    interval = found["confidence_95"]
    ends = "" if interval is None else f" [{_plain(interval[0])}, {_plain(interval[1])}]"
    return _plain(found["value"]) + ends


def _numbers(row: Row) -> list[str]:
    """Sequences, and tokens in each."""
    judged, there = row["sequences"], row["sequences_in_file"]
    sequences = f"{judged:,}" + (f" of {there:,}" if there > judged else "")
    return [sequences, _plain(row["tokens_per_sequence"])]


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return "-" if value is None else str(value)


def _at(judge: Mapping[str, Any]) -> str:
    return "" if judge["revision"] is None else f" at {judge['revision']}"


def _cells(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
