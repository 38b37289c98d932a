"""Where published weights lie, and the settings that belong to them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genodiff.errors import UserError
from genodiff.training.shares import holds_shares

MODEL_TYPES = ("caduceus", "mdlm")


def weights_file(source: Path) -> Path:
    """The file of weights that `source` means."""
    if source.is_file():
        return source
    if not source.exists():
        raise UserError(f"source={source} does not exist; give a folder or a file of weights.")
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (source / name).is_file():
            return source / name
    found = sorted([*source.glob("*.ckpt"), *source.glob("checkpoints/*.ckpt")])
    if len(found) > 1:
        listed = ", ".join(str(path.relative_to(source)) for path in found[:4])
        raise UserError(f"source={source} holds {listed}; name one: source={found[0]}.")
    if not found:
        raise UserError(
            f"source={source} holds no weights (model.safetensors, pytorch_model.bin or *.ckpt); "
            "give the folder that has them."
        )
    return found[0]


def model_type_of(source: Path) -> str | None:
    """What a hub folder says that it holds."""
    path = source / "config.json"
    return _json(path).get("model_type") if path.is_file() else None


def config_beside(weights: Path) -> dict[str, Any] | None:
    """The settings beside a file of weights, or above it in a run folder.

    Raises UserError if they are another model's.
    """
    folders = [weights.parent]
    if weights.parent.name == "checkpoints":
        folders.append(weights.parent.parent)
    for folder in folders:
        for path in (folder / "config.json", folder / "model_config.json"):
            config = _json(path) if path.is_file() else {}
            model_type = config.get("model_type")
            if model_type not in (None, *MODEL_TYPES):
                raise UserError(
                    f"{path} says model_type={model_type}, and such weights are read from their "
                    f"whole folder; give source={path.parent}."
                )
            if any(section_with(key, config) is not None for key in ("n_layer", "n_blocks")):
                return config
    return None


def section_with(key: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The outermost section of nested settings that has `key`."""
    if key in settings:
        return dict(settings)
    for value in settings.values():
        found = section_with(key, value) if isinstance(value, Mapping) else None
        if found is not None:
            return found
    return None


def value_of(key: str, settings: Mapping[str, Any]) -> Any:
    """The value of `key` in the outermost section that has it, or None."""
    return (section_with(key, settings) or {}).get(key)


def is_ours(source: Path) -> bool:
    """Whether a folder is a model folder, a run or a checkpoint in shares of genodiff's."""
    if holds_shares(source):
        return True
    if (source / "config.yaml").is_file() and (source / "checkpoints").is_dir():
        return True
    path = source / "config.json"
    return path.is_file() and "format" in _json(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); repair it.") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is no table of settings; give the checkpoint's own.")
    return config
