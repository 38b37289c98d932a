"""What the public functions share: the implementations' names, how one is chosen, and how inputs are checked."""

import functools
import logging
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from genodiff.errors import UserError

Implementation = Literal["auto", "reference", "chunked", "native", "mamba_ssm"]

_log = logging.getLogger(__name__)


def choose(function: str, wanted: str, obstacles: Mapping[str, str | None]) -> str:
    """The implementation to run.

    `obstacles` maps each name, in the order of preference of "auto", to None or to why it cannot run on these inputs
    and what to do about that. "reference" is only taken by name. The first use of each is logged.
    """
    if wanted == "auto":
        chosen = next(name for name, obstacle in obstacles.items() if obstacle is None and name != "reference")
    elif wanted not in obstacles:
        raise UserError(f"implementation={wanted!r} of {function} is unknown; use one of auto, {', '.join(obstacles)}")
    elif obstacle := obstacles[wanted]:
        raise UserError(f"implementation={wanted!r} of {function} cannot run: {obstacle}")
    else:
        chosen = wanted
    _announce(function, chosen)
    return chosen


@functools.cache
def _announce(function: str, implementation: str) -> None:
    _log.info("%s runs its %r implementation", function, implementation)


def check_inputs(tensors: Mapping[str, Tensor | None], shapes: Mapping[str, tuple[int, ...]], given: str) -> None:
    """Raise unless every tensor is floating, on one device, not empty, and of its shape; `given` names their origin."""
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    device = next(iter(present.values())).device
    for name, tensor in present.items():
        if not tensor.is_floating_point():
            raise TypeError(f"{name} is {tensor.dtype}; it must be floating point: convert it with .float()")
        if tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}, the others on {device}; move them to one device")
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; it must be {shapes[name]} for {given}; "
                "tensors are channel-last, transpose channel-first ones"
            )
        if tensor.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; no axis may be empty: skip empty batches")


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 where any input is, else float32: half precision is for storage."""
    return torch.float64 if any(x is not None and x.dtype == torch.float64 for x in tensors) else torch.float32
