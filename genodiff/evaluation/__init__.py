"""Functions (model, data) -> NamedTuple: likelihood, baselines, sample statistics, the report."""

from genodiff.evaluation.classification import Predictions, predict
from genodiff.evaluation.comparison import (
    Comparison,
    Difference,
    Strands,
    both_strands,
    compare_likelihoods,
    compare_with,
)
from genodiff.evaluation.estimators import (
    AnyOrder,
    ByExactObjective,
    ByObjective,
    Chain,
    CompleteChain,
    Estimator,
    centred,
    estimator_for,
    of_steps,
    published,
)
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
from genodiff.evaluation.likelihood import Likelihood, Settings, nelbo
from genodiff.evaluation.markov import MarkovLikelihood, MarkovModel, fit_markov
from genodiff.evaluation.uncertainty import bits, perplexity, ratio_standard_error

__all__ = [
    "AnyOrder",
    "ByExactObjective",
    "ByObjective",
    "Chain",
    "Comparison",
    "CompleteChain",
    "Difference",
    "Divergence",
    "Estimator",
    "GcContent",
    "Likelihood",
    "MarkovLikelihood",
    "MarkovModel",
    "NoiseFloor",
    "Predictions",
    "Settings",
    "Spectrum",
    "Strands",
    "bits",
    "both_strands",
    "centred",
    "compare_likelihoods",
    "compare_with",
    "divergence",
    "estimator_for",
    "fit_markov",
    "gc_content",
    "kmer_spectrum",
    "nelbo",
    "noise_floor",
    "of_steps",
    "perplexity",
    "predict",
    "published",
    "ratio_standard_error",
]
