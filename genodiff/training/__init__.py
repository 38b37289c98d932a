"""Training with Lightning: the module, the optimizer, the averaged weights, the run."""

from genodiff.training.checkpoints import read_checkpoint
from genodiff.training.ema import ExponentialMovingAverage
from genodiff.training.fit import Fitted, Plan, fit
from genodiff.training.generative import GenerativeModule
from genodiff.training.optimizer import AdamWCosine
from genodiff.training.run_log import DivergedError, read_metrics

__all__ = [
    "AdamWCosine",
    "DivergedError",
    "ExponentialMovingAverage",
    "Fitted",
    "GenerativeModule",
    "Plan",
    "fit",
    "read_checkpoint",
    "read_metrics",
]
