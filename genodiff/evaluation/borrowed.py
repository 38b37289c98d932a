"""Using a model that belongs to someone else: it is given back as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


@contextmanager
def borrowed(model: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Puts `model` in evaluation mode on `device` and without gradients; afterwards every module
    has its mode back.

    `device` None leaves the model where it is. Yields the device its inputs belong on. A model is
    moved as a whole and back as a whole: its parameters must lie on one device.
    """
    own = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None)
    modes = [(module, module.training) for module in model.modules()]
    here = torch.device(device) if device is not None else own or torch.device("cpu")
    try:
        model.eval().to(here)
        with torch.no_grad():
            yield here
    finally:
        if own is not None:
            model.to(own)
        for module, mode in modes:
            module.training = mode
