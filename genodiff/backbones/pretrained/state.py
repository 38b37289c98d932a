"""State dicts under published names.

A published state dict is read by name. Every tensor of ours must be found, every tensor of theirs
used, all shapes must agree, and tensors that are one parameter under several names must be equal
wherever they appear. Written, each tensor stands under its first name only.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from genodiff.backbones.base import Backbone
from genodiff.errors import UserError

Names = Mapping[str, tuple[str, ...]]
"""The published names of each name of ours: more than one where a tensor is tied."""

MIXER_RENAMES = (
    (r"\.mixer\.(ssm|forward_ssm)\.", ".mixer.mamba_fwd."),
    (r"\.mixer\.reverse_ssm\.", ".mixer.mamba_rev."),
    (r"\.mixer\.(in|out)_proj\.", r".mixer.mamba_fwd.\1_proj."),
    (r"\.mixer\.reverse_(in|out)_proj\.", r".mixer.mamba_rev.\1_proj."),
    (r"\.conv_(weight|bias)$", r".conv1d.\1"),
)
"""Of a `Mamba` or `BiMamba`, ours to theirs."""

_LISTED = 8


def copy_in(state: Mapping[str, Tensor], names: Names, network: Backbone) -> None:
    """Copies a published `state` into `network`.

    Raises UserError, with a list, if names or shapes do not agree.
    """
    own = network.state_dict()
    loaded: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, aliases in names.items():
        present = [alias for alias in aliases if alias in state]
        if not present:
            wrong.append(f"missing {aliases[0]}")
            continue
        tensor = state[present[0]]
        if name.endswith("conv_weight") and tensor.ndim == 3:
            tensor = tensor.squeeze(1)  # nn.Conv1d's (channels, 1, taps)
        if tensor.shape != own[name].shape:
            wrong.append(f"{present[0]} is {tuple(tensor.shape)}, not {tuple(own[name].shape)}")
        wrong += [
            f"{alias} differs from {present[0]}, with which it is tied"
            for alias in present[1:]
            if not torch.equal(state[alias], state[present[0]])
        ]
        loaded[name] = tensor
    known = {alias for aliases in names.values() for alias in aliases}
    wrong += [f"extra {name}" for name in state if name not in known]
    if wrong:
        more = f"; and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise UserError(
            f"the weights do not fit the published config: {'; '.join(wrong[:_LISTED])}{more}. "
            "Give the config.json that belongs to them."
        )
    network.load_state_dict(loaded)


def copy_out(network: Backbone, names: Names) -> dict[str, Tensor]:
    """The network's tensors under their first published names, in published shapes."""
    return {
        names[name][0]: tensor.unsqueeze(1) if name.endswith("conv_weight") else tensor
        for name, tensor in network.state_dict().items()
    }


def rename(name: str, renames: Iterable[tuple[str, str]]) -> str:
    """`name` after every (pattern, replacement), in their order."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def with_tied_projections(names: Names) -> Names:
    """`names`, with the reverse direction's name too where projections serve both directions."""
    if not any("reverse_ssm" in name for name in names) or any(
        "reverse_in_proj" in name for name in names
    ):
        return names
    return {
        name: (*aliases, *(alias.replace("mamba_fwd", "mamba_rev") for alias in aliases))
        if re.search(r"\.(in|out)_proj\.", name)
        else aliases
        for name, aliases in names.items()
    }


def field(config: Mapping[str, Any], key: str) -> Any:
    """A field that a published config must have."""
    if key not in config:
        raise UserError(
            f"the published config has no {key}; give the checkpoint's own config.json."
        )
    return config[key]


def arguments_of(target: Callable[..., Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """What a config node gives to `target`, its defaults included."""
    parameters = inspect.signature(target).parameters
    return {
        **{key: p.default for key, p in parameters.items() if p.default is not p.empty},
        **{key: value for key, value in node.items() if key != "_target_"},
    }


def is_node_of(node: Mapping[str, Any], target: Callable[..., Any]) -> bool:
    """Whether a config node builds `target`, a public name of `genodiff.backbones`."""
    return node.get("_target_") == f"genodiff.backbones.{target.__name__}"
