"""Models from configs, checkpoints and model folders.

A model's description is plain data: the config nodes of its parts, of the objective it was trained
with and of its tokenizer. It is stored in every checkpoint and in every model folder, there as
`config.json` and, the tokenizer, `tokenizer.json`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genodiff import __version__
from genodiff.backbones import Backbone, StrandAveraged
from genodiff.data import SubwordTokenizer, Tokenizer
from genodiff.data.tokenizer_files import read_subword_tokenizer
from genodiff.diffusion import (
    CausalModel,
    Denoiser,
    NetworkDenoiser,
    Objective,
    PlaidModel,
    Score,
)
from genodiff.errors import UserError
from genodiff.files import atomic_path, write_text
from genodiff.tasks.build import build, told_by
from genodiff.training import read_checkpoint
from genodiff.training.shares import holds_shares

FORMAT = 2
"""Of a model folder. Raised when an older genodiff could not read what a newer one writes: format
1 had the tokenizer in config.json too."""

MODEL_KEYS = (
    "backbone",
    "schedule",
    "process",
    "parameterization",
    "denoiser",
    "time_conditioning",
    "objective",
)
"""The keys of a training config that make a model. Of `schedule`, `process` and `parameterization`
those are null that a model has none of."""

_PARTS = (*MODEL_KEYS, "tokenizer")


class Model(NamedTuple):
    """A denoiser, or another generative model, with the tokenizer it was trained with and its
    description."""

    denoiser: Denoiser | CausalModel | PlaidModel
    tokenizer: Any
    description: dict[str, Any]

    @property
    def objective(self) -> Objective:
        """What it was trained to minimise."""
        return build(
            self.description["objective"],
            where="objective",
            mask_id=self.tokenizer.mask_id,
            data_ids=self.tokenizer.data_ids,
        )

    @property
    def network(self) -> Backbone:
        """The network inside."""
        network = self.denoiser.network
        assert isinstance(network, Backbone)  # by build_model
        return network

    def require_denoiser(self, asker: str) -> Denoiser:
        """The denoiser. Raises UserError, in the name of `asker`, of a model that has none."""
        if not isinstance(self.denoiser, Denoiser):
            raise UserError(
                f"{asker} draws by masks or noised tokens, and this is a "
                f"{type(self.denoiser).__name__}; use a checkpoint of another objective."
            )
        return self.denoiser


def describe(config: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The description of the model of a training config."""
    parts = {name: config[name] for name in MODEL_KEYS}
    return {**parts, "tokenizer": tokenizer_node(tokenizer)}


def tokenizer_node(tokenizer: Any) -> dict[str, Any]:
    """The config node of a tokenizer."""
    return {"_target_": f"genodiff.data.{type(tokenizer).__name__}", **asdict(tokenizer)}


def build_model(description: Mapping[str, Any]) -> Model:
    """A model with fresh weights from its description.

    Raises UserError if a part is missing or cannot be built.
    """
    missing = [name for name in _PARTS if name not in description]
    if missing:
        raise UserError(
            f"the model's description lacks {', '.join(missing)}; it is not genodiff's."
        )
    tokenizer = build(description["tokenizer"], where="tokenizer")
    context = told_by(tokenizer)
    backbone: Backbone = build(description["backbone"], where="backbone", **context)
    if description["time_conditioning"] and not backbone.has_time_input:
        raise UserError(
            f"time_conditioning=true, but {type(backbone).__name__} has no time input; leave it "
            "out, or use backbone=dimamba or dit."
        )
    context |= {
        "vocab_size": backbone.vocab_size,
        "network": backbone,
        "time_conditioning": description["time_conditioning"],
    }
    for name in ("schedule", "process", "parameterization"):
        if description[name] is not None:
            context[name] = build(description[name], where=name, **context)
    model = build(description["denoiser"], where="denoiser", **context)
    return Model(model, tokenizer, dict(description))


def load_model(path: Path, device: torch.device) -> Model:
    """The model of a run folder (its best weights), a `.ckpt` (averaged weights) or a model
    folder.

    Raises UserError if there is none, or it is damaged or foreign.
    """
    model = _load_folder(path) if _is_folder(path) else _load_checkpoint(checkpoint_file(path))
    model.denoiser.to(device).eval()
    return model


@contextmanager
def told_as(key: str) -> Iterator[None]:
    """Says `key`= in place of checkpoint= where a model is refused that another key names."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("checkpoint=", f"{key}=", 1)) from error


def description_of(path: Path) -> dict[str, Any]:
    """The description of the model that `load_model(path)` loads."""
    if _is_folder(path):
        return _read_folder_config(path)
    return _read_generative(checkpoint_file(path))["genodiff"]["model"]


def checkpoint_file(path: Path) -> Path:
    """The `.ckpt` that `checkpoint=path` means."""
    if not path.is_dir() or holds_shares(path):
        return path
    for name in ("best.ckpt", "last.ckpt", "previous.ckpt"):
        if (path / "checkpoints" / name).exists():
            return path / "checkpoints" / name
    raise UserError(
        f"checkpoint={path} holds neither checkpoints/best.ckpt nor config.json; give a run "
        "folder, a .ckpt file or a model folder."
    )


def strand_averaged(model: Model) -> NetworkDenoiser:
    """The model's denoiser with the predictions of both strands averaged (Caduceus-Ph at
    evaluation)."""
    denoiser = model.denoiser
    if not isinstance(denoiser, NetworkDenoiser) or isinstance(denoiser.parameterization, Score):
        raise UserError(
            "average_strands=true averages what a network says of a token from both its sides, "
            f"which a {type(denoiser).__name__} of this objective does not; leave it out."
        )
    complement = getattr(model.tokenizer, "complement", None)
    if complement is None:
        raise UserError(
            "average_strands=true is for DNA, and the tokens of "
            f"{type(model.tokenizer).__name__} have no complement; leave it out."
        )
    return NetworkDenoiser(
        StrandAveraged(model.network, complement, model.tokenizer.data_ids),
        denoiser.process,
        denoiser.parameterization,
        denoiser.time_conditioning,
        told=denoiser.told,
    )


def require_length(model: Model, length: int, key: str) -> None:
    """Raises UserError if the model cannot take sequences of the `length` that `key` gives."""
    limit = model.network.max_length
    if limit is not None and length > limit:
        raise UserError(
            f"{key}={length}, but this model has {limit} positions; use {limit} or less, or a "
            "model with more."
        )


def require_tokens(model: Model, tokenizer: Tokenizer, what: str) -> None:
    """Raises UserError if an id is another token to the model, which `what` names, than to the
    data's `tokenizer`."""
    own, theirs = type(model.tokenizer).__name__, type(tokenizer).__name__
    if own != theirs:
        raise UserError(
            f"{what} reads tokens of {own}, and the data have those of {theirs}; give data of its "
            "own kind."
        )
    if isinstance(tokenizer, SubwordTokenizer):
        difference = model.tokenizer.difference(tokenizer)
        if difference is not None:
            raise UserError(
                f"{what} was not trained with the data's tokenizer: of the two, {difference}; "
                "give data.tokenizer= the one that belongs to it."
            )


def data_of(path: Path) -> dict[str, Any]:
    """The data config a checkpoint was trained with."""
    if _is_folder(path):
        raise UserError(
            f"checkpoint={path} is a model folder and does not know its data; give data=fasta "
            "data.fasta= data.bed=, or data=text data.test=."
        )
    return _read_generative(checkpoint_file(path))["genodiff"]["data"]


def save_model(model: Model, folder: Path) -> None:
    """Writes a portable model folder: `config.json`, `model.safetensors`, `tokenizer.json`.

    A `SubwordTokenizer` is written as other programs read it, in two files; any other as its node.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: part for name, part in model.description.items() if name != "tokenizer"}
    config = {"format": FORMAT, "version": __version__, **parts}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    if isinstance(model.tokenizer, SubwordTokenizer):
        model.tokenizer.save(folder)
    else:
        node = model.description["tokenizer"]
        write_text(folder / "tokenizer.json", json.dumps(node, indent=2) + "\n")
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(_untied(model.denoiser), temporary)


def load_weights(
    denoiser: torch.nn.Module, weights: Mapping[str, Tensor], complaint: str, way_out: str = ""
) -> None:
    """Copies `weights` into `denoiser`; a missing, extra or misshapen name is a UserError, which
    begins with `complaint` and ends with `way_out`."""
    own = denoiser.state_dict()
    wrong = [
        *(f"missing {name}" for name in own if name not in weights),
        *(f"extra {name}" for name in weights if name not in own),
        *(
            f"{name} is {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ),
    ]
    if wrong:
        listed = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise UserError(f"{complaint}: {listed}.{way_out}")
    denoiser.load_state_dict(weights)


def load_averaged(module: torch.nn.Module, contents: Mapping[str, Any], complaint: str) -> None:
    """Copies the averaged weights of a checkpoint into the module that was trained, as
    `load_weights` does."""
    weights = {
        name.removeprefix("model."): value
        for name, value in contents["state_dict"].items()
        if name.startswith("model.")
    }
    load_weights(module, weights, complaint)
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter, average in zip(parameters, contents["ema"]["shadow"], strict=True):
        parameter.data.copy_(average)


def _load_checkpoint(path: Path) -> Model:
    contents = _read_generative(path)
    model = build_model(contents["genodiff"]["model"])
    load_averaged(model.denoiser, contents, f"checkpoint={path} does not fit its own description")
    return model


def _read_generative(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint that is no classifier's, which raises UserError."""
    contents = read_checkpoint(path)
    if "classifier" in contents["genodiff"]:
        origin = contents["genodiff"]["classifier"]["checkpoint"]
        way_out = "" if origin is None else f", such as {origin}, which it was fine-tuned from"
        raise UserError(
            f"checkpoint={path} is a classifier, of {len(contents['genodiff']['classes'])} "
            f"classes; give a generative model{way_out}."
        )
    return contents


def _is_folder(path: Path) -> bool:
    return path.is_dir() and (path / "config.json").is_file()


def _read_folder_config(path: Path) -> dict[str, Any]:
    """The description in a model folder."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint={path} cannot be read ({error}); it is damaged.") from error
    if not isinstance(config, dict) or "format" not in config:
        raise UserError(
            f"checkpoint={path} is not a model folder of genodiff's; convert it first: genodiff "
            f"convert source={path} out=DIR."
        )
    if config["format"] not in (1, FORMAT):
        raise UserError(
            f"checkpoint={path} has format {config['format']}, and this genodiff reads {FORMAT}; "
            "use the genodiff that wrote it, or a newer one."
        )
    if config["format"] > 1:
        config["tokenizer"] = _read_tokenizer(path)
    return {name: config[name] for name in _PARTS if name in config}


def _read_tokenizer(folder: Path) -> dict[str, Any]:
    """The node of a model folder's tokenizer."""
    try:
        node = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint={folder} cannot be read ({error}); it is damaged.") from error
    if isinstance(node, dict) and "_target_" in node:
        return node
    return tokenizer_node(read_subword_tokenizer(folder))


def _load_folder(path: Path) -> Model:
    model = build_model(_read_folder_config(path))
    try:
        weights = load_file(path / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"checkpoint={path} cannot be read ({error}); it is damaged.") from error
    own = model.denoiser.state_dict()
    tied = set(own) - set(_untied(model.denoiser))
    load_weights(
        model.denoiser,
        {**{name: own[name] for name in tied}, **weights},
        f"checkpoint={path} does not fit its own description",
    )
    return model


def _untied(denoiser: torch.nn.Module) -> dict[str, Tensor]:
    """The state dict with every shared tensor under its first name only, as safetensors asks."""
    seen: set[int] = set()
    kept: dict[str, Tensor] = {}
    for name, value in denoiser.state_dict().items():
        if value.data_ptr() not in seen or value.numel() == 0:
            seen.add(value.data_ptr())
            kept[name] = value.contiguous()
    return kept
