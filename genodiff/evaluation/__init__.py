"""Functions (model, data) -> NamedTuple: likelihood, baselines, sample statistics, the report."""

from genodiff.evaluation.generation import (
    Divergence,
    GcContent,
    NoiseFloor,
    Spectrum,
    divergence,
    gc_content,
    kmer_spectrum,
    noise_floor,
)
from genodiff.evaluation.likelihood import Likelihood, nelbo
from genodiff.evaluation.markov import MarkovLikelihood, MarkovModel, fit_markov
from genodiff.evaluation.uncertainty import bits, perplexity, ratio_standard_error

__all__ = [
    "Divergence",
    "GcContent",
    "Likelihood",
    "MarkovLikelihood",
    "MarkovModel",
    "NoiseFloor",
    "Spectrum",
    "bits",
    "divergence",
    "fit_markov",
    "gc_content",
    "kmer_spectrum",
    "nelbo",
    "noise_floor",
    "perplexity",
    "ratio_standard_error",
]
