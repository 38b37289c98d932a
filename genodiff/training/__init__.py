"""Training with Lightning: the module, the optimizer, the averaged weights, the run."""

from genodiff.training.callbacks import Score
from genodiff.training.checkpoints import Resumable, newest_checkpoint, read_checkpoint
from genodiff.training.classification import Classification, Regression, Standardised
from genodiff.training.compiling import compile_blocks
from genodiff.training.ema import ExponentialMovingAverage
from genodiff.training.fit import Fitted, Plan, fit
from genodiff.training.generative import DivergedError, GenerativeModule
from genodiff.training.optimizer import AdamWCosine
from genodiff.training.processes import Processes, cluster, processes_on
from genodiff.training.run_log import read_metrics

__all__ = [
    "AdamWCosine",
    "Classification",
    "DivergedError",
    "ExponentialMovingAverage",
    "Fitted",
    "GenerativeModule",
    "Plan",
    "Processes",
    "Regression",
    "Resumable",
    "Score",
    "Standardised",
    "cluster",
    "compile_blocks",
    "fit",
    "newest_checkpoint",
    "processes_on",
    "read_checkpoint",
    "read_metrics",
]
