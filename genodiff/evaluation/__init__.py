"""Functions (model, data) -> NamedTuple: likelihood, baselines, sample statistics, the report."""

from genodiff.evaluation.audit import Audit, audit_task, leakage_lines
from genodiff.evaluation.classification import Predictions, predict
from genodiff.evaluation.comparison import (
    Comparison,
    Difference,
    Strands,
    both_strands,
    compare_likelihoods,
    compare_with,
)
from genodiff.evaluation.composition import (
    Composition,
    composition,
    composition_differences,
    gc_distance,
)
from genodiff.evaluation.conditional import (
    ConditionalLikelihood,
    Following,
    conditional_likelihood,
)
from genodiff.evaluation.discriminator import (
    Discrimination,
    cnn_discriminator,
    feature_discriminator,
    kmer_discriminator,
)
from genodiff.evaluation.embedding import Embedded, Pooling, embed, embed_sequences
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
from genodiff.evaluation.frechet import Frechet, frechet, frechet_distance, kmer_embedding
from genodiff.evaluation.label_baselines import (
    Labelled,
    kmer_logistic,
    length_only,
    majority,
    word_logistic,
)
from genodiff.evaluation.likelihood import Likelihood, Settings, nelbo
from genodiff.evaluation.markov import MarkovLikelihood, MarkovModel, fit_markov
from genodiff.evaluation.metrics import METRICS, are_numbers, wilson_95
from genodiff.evaluation.motif_scan import Hits, MotifScanner, background_of
from genodiff.evaluation.motifs import MotifComparison, compare_motifs
from genodiff.evaluation.neighbours import (
    Neighbours,
    distinct_words,
    neighbour_differences,
    neighbours,
    neighbours_within,
)
from genodiff.evaluation.resampling import SetDifference
from genodiff.evaluation.scores import (
    Figure,
    PairedTest,
    Run,
    Spread,
    benjamini_hochberg,
    compare_scores,
    holm,
    mcnemar,
    score_results,
    spread,
)
from genodiff.evaluation.spectra import (
    Divergence,
    NoiseFloor,
    Spectrum,
    divergence,
    kmer_spectra,
    kmer_spectrum,
    noise_floors,
)
from genodiff.evaluation.text_statistics import Measure, TextStatistics, text_statistics
from genodiff.evaluation.uncertainty import bits, perplexity, ratio_standard_error
from genodiff.evaluation.variants import VariantPair, VariantScore, score_variants

__all__ = [
    "METRICS",
    "AnyOrder",
    "Audit",
    "ByExactObjective",
    "ByObjective",
    "Chain",
    "Comparison",
    "CompleteChain",
    "Composition",
    "ConditionalLikelihood",
    "Difference",
    "Discrimination",
    "Divergence",
    "Embedded",
    "Estimator",
    "Figure",
    "Following",
    "Frechet",
    "Hits",
    "Labelled",
    "Likelihood",
    "MarkovLikelihood",
    "MarkovModel",
    "Measure",
    "MotifComparison",
    "MotifScanner",
    "Neighbours",
    "NoiseFloor",
    "PairedTest",
    "Pooling",
    "Predictions",
    "Run",
    "SetDifference",
    "Settings",
    "Spectrum",
    "Spread",
    "Strands",
    "TextStatistics",
    "VariantPair",
    "VariantScore",
    "are_numbers",
    "audit_task",
    "background_of",
    "benjamini_hochberg",
    "bits",
    "both_strands",
    "centred",
    "cnn_discriminator",
    "compare_likelihoods",
    "compare_motifs",
    "compare_scores",
    "compare_with",
    "composition",
    "composition_differences",
    "conditional_likelihood",
    "distinct_words",
    "divergence",
    "embed",
    "embed_sequences",
    "estimator_for",
    "feature_discriminator",
    "fit_markov",
    "frechet",
    "frechet_distance",
    "gc_distance",
    "holm",
    "kmer_discriminator",
    "kmer_embedding",
    "kmer_logistic",
    "kmer_spectra",
    "kmer_spectrum",
    "leakage_lines",
    "length_only",
    "majority",
    "mcnemar",
    "neighbour_differences",
    "neighbours",
    "neighbours_within",
    "nelbo",
    "noise_floors",
    "of_steps",
    "perplexity",
    "predict",
    "published",
    "ratio_standard_error",
    "score_results",
    "score_variants",
    "spread",
    "text_statistics",
    "wilson_95",
    "word_logistic",
]
