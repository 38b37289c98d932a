"""The page of `genodiff compare`, made of the contents of its JSON file alone."""

from collections.abc import Callable, Mapping

from genodiff.evaluation.comparison_page.composition import composition
from genodiff.evaluation.comparison_page.copies import diversity, memorisation
from genodiff.evaluation.comparison_page.distances import classifier, frechet
from genodiff.evaluation.comparison_page.methods import methods, preview, tests
from genodiff.evaluation.comparison_page.motifs import motifs
from genodiff.evaluation.comparison_page.sets import Results
from genodiff.evaluation.comparison_page.summary import summary
from genodiff.evaluation.comparison_page.words import words
from genodiff.evaluation.report import Block, Report, Section

_SECTIONS: Mapping[str, tuple[str, Callable[[Results], list[Block]]]] = {
    "words": ("Words of 1 to 8 letters", words),
    "composition": ("Composition", composition),
    "motifs": ("Motifs", motifs),
    "memorisation": ("Copies of training sequences", memorisation),
    "diversity": ("Variety within each set", diversity),
    "classifier": ("A classifier between the set and the reference", classifier),
    "frechet": ("Distance of embeddings", frechet),
}


def comparison_page(results: Results) -> Report:
    """The page of what `genodiff compare` found: the contents of its JSON file.

    Raises UserError where matplotlib is missing.
    """
    samples, reference = (results["inputs"][name]["path"] for name in ("samples", "reference"))
    seconds = results["seconds"]["all"]
    return Report(
        "Synthetic DNA against real DNA",
        [
            Section("In short", summary(results)),
            *(
                Section(title, blocks(results))
                for name, (title, blocks) in _SECTIONS.items()
                if name in results
            ),
            Section("The first samples", preview(results)),
            Section("Every test", tests(results)),
            Section("How this was made", methods(results)),
        ],
        subtitle=f"{samples} against {reference}",
        footer=f"genodiff {results['version']}, seed {results['seed']}, {seconds:.0f} seconds",
    )


__all__ = ["comparison_page"]
