"""What the sets of a comparison are called, and how they are drawn."""

from collections.abc import Mapping
from typing import Any

from genodiff.evaluation.figures.drawing import BLUE, GREEN, INK, PURPLE, VERMILLION, Look

Results = Mapping[str, Any]

LOOKS = {
    "samples": Look(BLUE, "o"),
    "reference": Look(INK, "P", (0, (6, 1.5, 1, 1.5)), is_filled=False),
    "held_out": Look(GREEN, "D", "-."),
    "shuffled": Look(VERMILLION, "s", "--"),
    "markov": Look(PURPLE, "^", ":"),
}


def names_of(results: Results) -> dict[str, str]:
    """The name of each set that there is, by key."""
    names = {
        "samples": "samples",
        "reference": "reference",
        "held_out": "held-out real",
        "shuffled": "shuffled real",
        "markov": f"Markov, order {results['markov_order']}",
    }
    return {key: names[key] for key in results["sets"]}


def looks_of(results: Results, *, reference: bool) -> dict[str, Look]:
    """How each set is drawn, by its name."""
    return {
        name: LOOKS[key]
        for key, name in names_of(results).items()
        if reference or key != "reference"
    }
