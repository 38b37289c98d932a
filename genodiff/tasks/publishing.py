"""Writing models in the layouts others publish in: a hub folder of Caduceus or of MDLM.

Tied tensors are stored once, as the hub's own tools do. A layout has no place for the noise
schedule and none for how a model was trained.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from genodiff.backbones import Backbone
from genodiff.backbones.pretrained import publish_caduceus, publish_dimamba, publish_dit
from genodiff.data import DnaTokenizer, SubwordTokenizer
from genodiff.diffusion import LogLinear
from genodiff.errors import UserError
from genodiff.files import write_text
from genodiff.tasks.build import build
from genodiff.tasks.formulation import LEFT_TO_RIGHT, SUBS
from genodiff.tasks.model import Model
from genodiff.tasks.published import DNA_TOKENIZER


def write_caduceus(model: Model, folder: Path) -> None:
    """`config.json` and `model.safetensors` of a CaduceusForMaskedLM.

    Raises UserError if the model is none.
    """
    # Its networks are pre-trained by masked language modelling, which reads them as `Mean`.
    masked_modelling = {"_target_": "genodiff.diffusion.Mean", "subs_masking": True}
    _require_published(model, "caduceus", masked_modelling)
    config, state = publish_caduceus(model.description["backbone"], model.network)
    if not isinstance(model.tokenizer, DnaTokenizer):
        raise UserError(
            f"layout=caduceus has no place for {type(model.tokenizer).__name__}; its tokenizer is "
            "DnaTokenizer's."
        )
    _write(folder, config, state)


def write_mdlm(model: Model, folder: Path) -> None:
    """`config.json` and `model.safetensors` of MDLM's network.

    The DiT is written as the hub's MDLM is. The others never had a hub folder; they are written as
    their own classes' `from_pretrained` reads them, with the `model` section of MDLM's settings.

    Raises UserError if the model is none of them.
    """
    _require_published(model, "mdlm")
    node, network = _without_padding(model)
    mask = {"mask_index": model.tokenizer.mask_id}
    if isinstance(model.tokenizer, DnaTokenizer):
        mask["tokenizer_class"] = DNA_TOKENIZER
    time = {"time_conditioning": model.description["time_conditioning"]}
    if time["time_conditioning"] and model.description["schedule"] is not None:
        schedule = build(model.description["schedule"], where="schedule")
        if schedule != LogLinear(eps=1e-3):
            raise UserError(
                f"layout=mdlm has no place for the schedule {schedule} of a network that is told "
                "the time; it means LogLinear(eps=0.001)."
            )
    if node["_target_"] == "genodiff.backbones.DiMamba":
        section, state = publish_dimamba(node, network)
        vocab_size = section.pop("vocab_size")
        config = {
            "config": {
                "backbone": "dimamba",
                "parameterization": "subs",
                **time,
                "model": section,
            },
            "vocab_size": vocab_size,
            "pad_token_id": model.tokenizer.pad_id,
            **mask,
        }
        _write(folder, config, state)
        return
    section, state = publish_dit(node, network)
    vocab_size = section.pop("vocab_size")
    # Its networks take any length; MDLM's own default is written.
    length = 1024
    if section["causal"]:
        model_section = {**section, "length": length, "scale_by_sigma": True}
        config = {
            "config": {"backbone": "ar", "parameterization": "ar", **time, "model": model_section},
            "vocab_size": vocab_size,
            **mask,
        }
        _write(folder, config, state)
        return
    config = {
        "model_type": "mdlm",
        "architectures": ["MDLM"],
        "torch_dtype": "float32",
        "vocab_size": vocab_size,
        "model_length": length,
        "hidden_dim": section["hidden_size"],
        **{key: section[key] for key in ("cond_dim", "n_blocks", "n_heads", "dropout")},
        **time,
        **mask,
    }
    _write(folder, config, {f"backbone.{name}": tensor for name, tensor in state.items()})


def _without_padding(model: Model) -> tuple[dict[str, Any], Backbone]:
    """The network and its node. MDLM adds the mask to a vocabulary that has none, as its last
    token; a padding appended behind it is ours and is cut off."""
    node, network, tokenizer = model.description["backbone"], model.network, model.tokenizer
    tokens = tokenizer.vocab_size
    appended = isinstance(tokenizer, SubwordTokenizer) and (
        (tokenizer.mask_id, tokenizer.pad_id) == (tokens - 2, tokens - 1)
    )
    if not appended or network.vocab_size != tokens:
        return node, network
    node = {**node, "vocab_size": tokens - 1}
    if node.get("embedding_rows") is not None:
        node["embedding_rows"] -= 1
    smaller: Backbone = build(node, where="backbone")
    rows = {name: len(tensor) for name, tensor in smaller.state_dict().items()}
    smaller.load_state_dict(
        {name: tensor[: rows[name]] for name, tensor in network.state_dict().items()}
    )
    return node, smaller


def _require_published(model: Model, layout: str, *more: Mapping[str, Any]) -> None:
    """Refuses what a layout would silently turn into something else; `more` nodes are none of
    it."""
    for part in ("process", "parameterization", "denoiser"):
        node = model.description[part]
        known = [SUBS[part], LEFT_TO_RIGHT[part]]
        targets = [other["_target_"] for other in known if other is not None]
        if node is not None and node["_target_"] not in targets and node not in more:
            raise UserError(
                f"layout={layout} has no place for the {part} {node['_target_']}; its networks "
                "predict the token behind a mask (genodiff.diffusion.Subs), or the next one."
            )


def _write(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
