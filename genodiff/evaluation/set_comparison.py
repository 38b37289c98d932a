"""Sets of sequences against a reference: every figure of `genodiff compare`, as plain JSON values.

All sets are of sequences of one length. Each section is a function of `Compared` that returns what
belongs to it, with `sets`, the figures of each set; it raises UserError where there are too few
sequences for it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.composition import composition, composition_differences, gc_distance
from genodiff.evaluation.discriminator import (
    cnn_discriminator,
    feature_discriminator,
    kmer_discriminator,
)
from genodiff.evaluation.frechet import frechet, kmer_embedding
from genodiff.evaluation.motif_scan import Hits, Matrix, MotifScanner, background_of
from genodiff.evaluation.motifs import compare_motifs
from genodiff.evaluation.neighbours import (
    Neighbours,
    distinct_words,
    neighbour_differences,
    neighbours,
    neighbours_within,
)
from genodiff.evaluation.spectra import Spectrum, divergence, kmer_spectra, noise_floors

SAMPLES, REFERENCE, HELD_OUT = "samples", "reference", "held_out"
SHUFFLED, MARKOV = "shuffled", "markov"
"""The keys of sets: what is judged, what it is held against, and what is judged beside it."""

LISTED_K, LISTED_WORDS = 6, 12
WITHIN = 1000
"""Sequences of a set that are compared with one another, at most."""
P_OF_SITE = 1e-4
"""Of a motif's score at one site, on one strand, by chance."""
_NEAREST = 8


class OneSet(NamedTuple):
    """Sequences, and for each the number of what repeats independently. Sequences of two sets that
    have the same number are of the same unit."""

    sequences: Sequence[str]
    units: list[int]


class Vectors(NamedTuple):
    """What a network makes of some sequences of a set, and their units."""

    vectors: Float[ndarray, "n d"]
    units: list[int]


class Compared(NamedTuple):
    """What is compared, and with what.

    `sets` by key, in the order of the page, the reference among them. `training` gives the
    training sequences anew each time it is called; `vectors` are of each set. None: not known.
    """

    sets: Mapping[str, OneSet]
    training: Callable[[], Iterable[str]] | None
    motifs: Sequence[Matrix] | None
    vectors: Mapping[str, Vectors] | None
    seed: int

    @property
    def reference(self) -> OneSet:
        """What all others are held against."""
        return self.sets[REFERENCE]

    @property
    def others(self) -> dict[str, OneSet]:
        """All sets but the reference."""
        return {key: one for key, one in self.sets.items() if key != REFERENCE}


def word_figures(compared: Compared) -> dict[str, Any]:
    """Divergence of the words of 1 to 8 letters, its noise floor, and words that differ most."""
    reference, seed = compared.reference, compared.seed
    theirs = kmer_spectra(reference.sequences, units=reference.units, seed=seed)
    sets, listed = {}, []
    for key, one in compared.others.items():
        ours = kmer_spectra(one.sequences, units=one.units, seed=seed)
        sets[key] = {str(k): divergence(ours[k], theirs[k]).summary() for k in ours}
        if key == SAMPLES:
            listed = _most_different(ours[LISTED_K], theirs[LISTED_K])
    size = min(len(compared.sets[SAMPLES].sequences), len(reference.sequences) // 2)
    floors = noise_floors(reference.sequences, size=size, seed=seed)
    return {
        "sets": sets,
        "floors": {str(k): floor.summary() for k, floor in floors.items()},
        "floor_size": size,
        "most_different": {"k": LISTED_K, "words": listed},
    }


def composition_figures(compared: Compared) -> dict[str, Any]:
    """GC, CpG, dinucleotides, runs and low complexity of each set, and how they differ."""
    counted = {
        key: composition(one.sequences, units=one.units, seed=compared.seed)
        for key, one in compared.sets.items()
    }
    reference = counted[REFERENCE]
    sets = {key: one.summary() for key, one in counted.items()}
    for key in compared.others:
        differences = composition_differences(counted[key], reference)
        sets[key]["differences"] = {name: each.summary() for name, each in differences.items()}
        sets[key]["gc_distance"] = gc_distance(counted[key], reference).summary()
    return {"sets": sets}


def motif_figures(compared: Compared) -> dict[str, Any]:
    """Rates, spacing and placement of motifs in each set and in the reference."""
    if compared.motifs is None:
        raise UserError("motifs= was not given; give a MEME file of motifs, e.g. JASPAR's.")
    seed = compared.seed
    background = background_of(compared.reference.sequences)
    scanner = MotifScanner(compared.motifs, background, p_value=P_OF_SITE)

    def hits(one: OneSet) -> Hits:
        return scanner.hits(one.sequences, units=one.units, seed=seed)

    theirs = hits(compared.reference)
    sets = {
        key: compare_motifs(hits(one), theirs, seed=seed).summary()
        for key, one in compared.others.items()
    }
    return {"motifs": len(compared.motifs), "p_value": P_OF_SITE, "sets": sets}


def memorisation_figures(compared: Compared) -> dict[str, Any]:
    """How near each set comes to the training sequences; a real set is the yardstick."""
    if compared.training is None:
        raise UserError("train= was not given; give the FASTA that the model was trained with.")
    yardstick = HELD_OUT if HELD_OUT in compared.sets else REFERENCE
    near = {
        key: neighbours(one.sequences, compared.training, units=one.units)
        for key, one in compared.sets.items()
        if key in compared.others or key == yardstick
    }
    sets = {key: one.summary() | {"reach": _reach(one)} for key, one in near.items()}
    for key in near.keys() - {yardstick}:
        differences = neighbour_differences(near[key], near[yardstick])
        sets[key]["differences"] = {name: each.summary() for name, each in differences.items()}
    return {"yardstick": yardstick, "sets": sets, "nearest": _nearest(near[SAMPLES])}


def diversity_figures(compared: Compared) -> dict[str, Any]:
    """How alike the sequences of each set are, as many of each."""
    size = min(WITHIN, *(len(one.sequences) for one in compared.sets.values()))
    sets = {}
    for key, one in compared.sets.items():
        places = np.random.default_rng(compared.seed).permutation(len(one.sequences))[:size]
        drawn = [one.sequences[int(i)] for i in np.sort(places)]
        sets[key] = {
            "within": neighbours_within(drawn).summary(),
            "distinct_words": distinct_words(drawn).summary(),
        }
    return {"sequences": size, "sets": sets}


def classifier_figures(compared: Compared) -> dict[str, Any]:
    """How well classifiers tell each set from the reference."""
    reference, seed = compared.reference, compared.seed
    sets: dict[str, dict[str, Any]] = {}
    for key, one in compared.others.items():
        units = (one.units, reference.units)
        sets[key] = {
            name: classifier(one.sequences, reference.sequences, units=units, seed=seed).summary()
            for name, classifier in (("kmers", kmer_discriminator), ("cnn", cnn_discriminator))
        }
        if compared.vectors is not None:
            ours, theirs = compared.vectors[key], compared.vectors[REFERENCE]
            units = (ours.units, theirs.units)
            sets[key]["network"] = feature_discriminator(
                ours.vectors, theirs.vectors, units=units, seed=seed
            ).summary()
    return {"sets": sets}


def frechet_figures(compared: Compared) -> dict[str, Any]:
    """Frechet distance of each set's embeddings to the reference's."""
    embeddings: dict[str, Mapping[str, Vectors]] = {
        "kmers": {
            key: Vectors(kmer_embedding(one.sequences), one.units)
            for key, one in compared.sets.items()
        }
    }
    if compared.vectors is not None:
        embeddings["network"] = compared.vectors
    sets: dict[str, dict[str, Any]] = {key: {} for key in compared.others}
    for name, vectors in embeddings.items():
        for key in sets:
            ours, theirs = vectors[key], vectors[REFERENCE]
            sets[key][name] = frechet(
                ours.vectors,
                theirs.vectors,
                units=(ours.units, theirs.units),
                seed=compared.seed,
            ).summary()
    return {"sets": sets}


SECTIONS: Mapping[str, Callable[[Compared], dict[str, Any]]] = {
    "words": word_figures,
    "composition": composition_figures,
    "motifs": motif_figures,
    "memorisation": memorisation_figures,
    "diversity": diversity_figures,
    "classifier": classifier_figures,
    "frechet": frechet_figures,
}
"""By name, in the order of the page."""


def _most_different(ours: Spectrum, theirs: Spectrum) -> list[dict[str, Any]]:
    """The words that contribute most to the divergence."""
    p, q = ours.frequencies, theirs.frequencies
    weight = (p - q) ** 2 / np.where(p + q > 0, p + q, 1)
    return [
        {"word": ours.words[i], "samples": float(p[i]), "reference": float(q[i])}
        for i in np.argsort(-weight, kind="stable")[:LISTED_WORDS].tolist()
    ]


def _reach(near: Neighbours) -> dict[str, Any]:
    """Share of the sequences whose longest match has at least so many letters."""
    longest = int(max(near.letters.max(), 1))
    steps = np.unique(np.geomspace(12, max(longest, 13), 18).round().astype(int))
    return {
        "letters": steps.tolist(),
        "share": [float((near.longest >= step).mean()) for step in steps],
    }


def _nearest(near: Neighbours) -> list[dict[str, Any]]:
    """The samples with the most letters in common with their nearest stretch."""
    order = np.argsort(-(near.end - near.start) * near.identity, kind="stable")[:_NEAREST]
    fields = (
        *("letters", "longest", "start", "end", "record", "record_start", "record_end"),
        *("strand", "identity", "is_exact", "is_near"),
    )
    return [
        {"sample": i, **{name: getattr(near, name)[i].item() for name in fields}}
        for i in order.tolist()
        if near.record[i] >= 0
    ]
