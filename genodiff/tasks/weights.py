"""Reading files of weights that others wrote, without running anything of theirs.

A `.safetensors` holds tensors and nothing else. A `.ckpt` or `.bin` is a pickle, which torch's
restricted unpickler reads (`weights_only=True`). Checkpoints of Lightning pickle foreign objects
beside the weights: settings of OmegaConf, a tokenizer. Whatever class or function such a file
names, nothing is imported or called: a `StandIn` takes its place.
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from genodiff.errors import UserError


class StandIn:
    """An object of a class that is not ours: the state its pickle gives it, and no behaviour."""

    state: Any = None

    def __new__(cls, *arguments: Any) -> "StandIn":
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        """Takes what any foreign class or function is given."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_weights(path: Path) -> dict[str, Any]:
    """The contents of a file of weights, on the CPU, with its tensors as `state_dict`.

    Raises UserError if it cannot be read or holds no tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return {"state_dict": load_file(path)}
        contents = _read_pickle(path)
    except Exception as error:  # a damaged file may fail in any way
        reason = str(error).strip().split("\n")[0][:160] or type(error).__name__
        raise UserError(
            f"source={path} cannot be read ({reason}); it is damaged, or no file of weights."
        ) from error
    if isinstance(contents, Mapping) and "state_dict" not in contents:
        contents = {"state_dict": contents}  # a .bin is the state dict itself
    state = contents["state_dict"] if isinstance(contents, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"source={path} holds no state dict of tensors; give another file.")
    return dict(contents)


def plain(value: Any) -> Any:
    """`value`, in which stand-ins of OmegaConf's containers are what they contain, others None."""
    if isinstance(value, StandIn):
        state = value.state if isinstance(value.state, dict) else {}
        return plain(state.get("_content", state.get("_val")))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) else None


def _read_pickle(path: Path) -> Any:
    foreign: list[str] = []
    if zipfile.is_zipfile(path):  # older files are read as they are, with torch's own list
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    inert: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        # Only real dicts can be filled, and OmegaConf keeps an empty defaultdict.
        (_empty_dict if name == "collections.defaultdict" else StandIn, name)
        for name in foreign
    ]
    with torch.serialization.safe_globals(inert):
        return torch.load(path, map_location="cpu", weights_only=True)


def _empty_dict(*arguments: Any) -> dict[Any, Any]:
    return {}
