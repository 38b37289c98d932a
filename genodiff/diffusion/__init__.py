"""The mathematics of masked diffusion, from noise schedules to samplers. torch only."""

from genodiff.diffusion.categorical import draw, reference_draw
from genodiff.diffusion.denoiser import (
    Cached,
    Counting,
    Denoiser,
    NetworkDenoiser,
    Rescheduled,
    Tweedie,
)
from genodiff.diffusion.objective import (
    ContinuousNelbo,
    DiscreteNelbo,
    ExactlyK,
    Objective,
    mean_nats,
)
from genodiff.diffusion.parameterization import Mean, Parameterization, Score, Subs
from genodiff.diffusion.process import Absorbing, Process
from genodiff.diffusion.sampling import Analytic, Ancestral, FirstHitting, Sampler
from genodiff.diffusion.schedule import (
    ConstantWeight,
    Cosine,
    CosineSquared,
    Geometric,
    Linear,
    LogLinear,
    NoiseSchedule,
    Polynomial,
)
from genodiff.diffusion.times import (
    AntitheticTimes,
    ImportanceTimes,
    Times,
    TimeSample,
    UniformTimes,
)

__all__ = [
    "Absorbing",
    "Analytic",
    "Ancestral",
    "AntitheticTimes",
    "Cached",
    "ConstantWeight",
    "ContinuousNelbo",
    "Cosine",
    "CosineSquared",
    "Counting",
    "Denoiser",
    "DiscreteNelbo",
    "ExactlyK",
    "FirstHitting",
    "Geometric",
    "ImportanceTimes",
    "Linear",
    "LogLinear",
    "Mean",
    "NetworkDenoiser",
    "NoiseSchedule",
    "Objective",
    "Parameterization",
    "Polynomial",
    "Process",
    "Rescheduled",
    "Sampler",
    "Score",
    "Subs",
    "TimeSample",
    "Times",
    "Tweedie",
    "UniformTimes",
    "draw",
    "mean_nats",
    "reference_draw",
]
