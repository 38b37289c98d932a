"""What the public functions share: how an implementation is chosen and how inputs are checked."""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from genodiff.errors import UserError

Implementation = Literal["auto", "reference", "chunked", "native", "triton", "mamba_ssm"]

_log = logging.getLogger("genodiff.ops")


class Candidate(NamedTuple):
    """A function, and what keeps it from running on the inputs, with a way out, or None."""

    run: Callable[..., Tensor]
    obstacle: str | None


def choose(
    function: str, wanted: str, candidates: Mapping[str, Candidate]
) -> Callable[..., Tensor]:
    """The candidate named `wanted`, or for "auto" the first that can run.

    Candidates come in order of preference. The first choice of each is logged. Raises UserError
    for an unknown name and for a named candidate that cannot run.
    """
    if wanted == "auto":
        name = next(name for name, candidate in candidates.items() if candidate.obstacle is None)
    elif wanted in candidates:
        name = wanted
    else:
        raise UserError(
            f"implementation={wanted!r} of {function} is unknown; "
            f"use one of auto, {', '.join(candidates)}"
        )
    run, obstacle = candidates[name]
    if obstacle is not None:
        raise UserError(f"implementation={name!r} of {function} cannot run: {obstacle}")
    _announce(function, name)
    return run


@functools.cache
def _announce(function: str, implementation: str) -> None:
    _log.info("%s: implementation=%s", function, implementation)


def check_inputs(
    tensors: Mapping[str, Tensor | None], shapes: Mapping[str, tuple[int, ...]], given: str
) -> None:
    """Raise unless all tensors are floating, on one device, not empty and of their shapes.

    `given` names the inputs that the shapes follow from.
    """
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    device = next(iter(present.values())).device
    for name, tensor in present.items():
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point():
            raise TypeError(f"{name} is {tensor.dtype}, not floating point; convert it: .float()")
        if tensor.device != device:
            raise ValueError(
                f"{name} is on {tensor.device}, other inputs on {device}; move them to one device"
            )
        if shape != shapes[name]:
            raise ValueError(
                f"{name} has shape {shape}, but {shapes[name]} follows from {given}; "
                "tensors are channel-last: transpose channel-first ones"
            )
        if tensor.numel() == 0:
            raise ValueError(f"{name} has shape {shape}, an empty axis; skip empty batches")


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 where any input is, else float32: half precision is for storage."""
    double = any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if double else torch.float32
