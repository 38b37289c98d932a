"""Caduceus as published (Schiff et al. 2024, arXiv:2403.03234): Ph, PS and left to right.

A PS checkpoint with `fused_add_norm`, which is the published default, exchanges the strands in
every block (see `StrandExchange`); the config says so, and its norms have other names.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from genodiff.backbones.base import Backbone
from genodiff.backbones.caduceus import Caduceus
from genodiff.backbones.pretrained.state import (
    MIXER_RENAMES,
    Names,
    arguments_of,
    copy_in,
    copy_out,
    field,
    is_node_of,
    rename,
    with_tied_projections,
)
from genodiff.backbones.reverse_complement import ReverseComplementEquivariant, exchange_strands
from genodiff.errors import UserError

# Ours to theirs, applied in this order.
_RENAMES = (
    (r"^trunk\.", ""),
    (r"^embedding\.", "embeddings.word_embeddings."),
    (r"^norm\.", "norm_f."),
    (r"^blocks\.(\d+)\.(block\.)?", r"layers.\1."),
    *MIXER_RENAMES,
    (r"^(?!unembedding)", "caduceus.backbone."),
    (r"^unembedding\.", "lm_head."),
)
_SSM_FIELDS = ("d_state", "d_conv", "expand", "dt_rank")
# What only matters before training, and is not kept: the published values.
_SSM_INITIALISATION = {
    **{"dt_min": 0.001, "dt_max": 0.1, "dt_init": "random", "dt_scale": 1.0},
    "dt_init_floor": 1e-4,
}
_COMPLEMENT_BUFFERS = (
    "caduceus.backbone.embeddings.word_embeddings.complement_map",
    "lm_head.complement_map",
)


def caduceus_node(config: Mapping[str, Any]) -> dict[str, Any]:
    """The network of a published config.json as a config node of ours; it sees padding.

    The equivariant one takes its complement from the tokenizer; it has to be the config's (see
    `published_complement`). Raises UserError if a field is missing or not supported.
    """
    node = {
        "_target_": "genodiff.backbones.Caduceus",
        **_arguments(config),
        "sees_padding": True,
    }
    if not config.get("rcps", False):
        return node
    if config.get("fused_add_norm", True):
        node = {"_target_": "genodiff.backbones.exchange_strands", "trunk": node}
    return {"_target_": "genodiff.backbones.ReverseComplementEquivariant", "trunk": node}


def load_caduceus_state(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Backbone:
    """A published Caduceus: a `Caduceus` (Ph), or one that is made equivariant (PS).

    `config` holds the fields of the checkpoint's config.json, `state` the tensors of its
    model.safetensors.

    Raises UserError if a field is missing or not supported, or if names or shapes do not agree.
    """
    network: Backbone
    network = trunk = Caduceus(**_arguments(config))
    rcps, fused = config.get("rcps", False), config.get("fused_add_norm", True)
    if rcps:
        _check_norm_names(state, fused)
        network = ReverseComplementEquivariant(
            exchange_strands(trunk) if fused else trunk, published_complement(config)
        )
        state = _without_complement(state, network.complement)
    copy_in(state, caduceus_names(network.state_dict(), rcps=rcps, fused=fused), network)
    return network


def publish_caduceus(
    node: Mapping[str, Any], network: Backbone
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(config.json, tensors) of `network`, which the config node `node` describes.

    Raises UserError if the published layout has no place for such a network.
    """
    trunk, fused, complement = node, True, None
    if isinstance(network, ReverseComplementEquivariant):
        trunk, complement = node["trunk"], network.complement
        fused = is_node_of(trunk, exchange_strands)
        trunk = trunk["trunk"] if fused else trunk
    if not is_node_of(trunk, Caduceus):
        raise UserError(
            f"layout=caduceus has no place for the backbone {trunk.get('_target_')}; it holds a "
            "genodiff.backbones.Caduceus, alone or within ReverseComplementEquivariant."
        )
    config = _published_fields(arguments_of(Caduceus, trunk), rcps=complement is not None)
    config |= {
        "vocab_size": network.vocab_size,
        "fused_add_norm": fused,
        "complement_map": None
        if complement is None
        else {str(i): j for i, j in enumerate(complement.tolist())},
    }
    names = caduceus_names(network.state_dict(), rcps=complement is not None, fused=fused)
    state = copy_out(network, names)
    if complement is not None:
        state |= {name: complement.clone() for name in _COMPLEMENT_BUFFERS}
    return config, state


def caduceus_names(own: Iterable[str], *, rcps: bool, fused: bool) -> Names:
    """The published names of each name of ours: more than one where a tensor is tied.

    The equivariant network has another layout, in which the norms' names depend on `fused`.
    """
    own = list(own)
    tied_embedding = not any(name.endswith("unembedding.weight") for name in own)
    names: Names = {
        name: (rename(name, _RENAMES), "lm_head.weight")
        if tied_embedding and name.endswith("embedding.weight")
        else (rename(name, _RENAMES),)
        for name in own
    }
    names = with_tied_projections(names)
    if not rcps:
        return names
    return {
        name: tuple(_equivariant(alias, fused) for alias in aliases)
        for name, aliases in names.items()
    }


def published_complement(config: Mapping[str, Any]) -> list[int]:
    """The complement of each token, by number: JSON makes keys strings and may reorder them."""
    by_id = {
        int(key): int(value) for key, value in (field(config, "complement_map") or {}).items()
    }
    if not by_id or set(by_id) != set(range(len(by_id))):
        raise UserError(
            f"complement_map has the tokens {sorted(by_id)}; it must have each from 0 on; repair "
            "config.json."
        )
    return [by_id[i] for i in range(len(by_id))]


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of `Caduceus`."""
    ssm = config.get("ssm_cfg") or {}
    for key, supported in (("bias", False), ("conv_bias", True)):
        if ssm.get(key, supported) != supported:
            raise UserError(
                f"ssm_cfg.{key}={ssm[key]} is not supported; only {supported} was ever published."
            )
    return {
        "vocab_size": field(config, "vocab_size"),
        "d_model": field(config, "d_model"),
        "n_layers": field(config, "n_layer"),
        **{key: ssm[key] for key in _SSM_FIELDS if key in ssm},
        # Not always a bool: the published YAML says "true," (with a comma), which is a text.
        "bidirectional": bool(config.get("bidirectional", True)),
        "bidirectional_strategy": config.get("bidirectional_strategy") or "add",
        "tie_projections": config.get("bidirectional_weight_tie", True),
        "norm": "rms" if config.get("rms_norm", True) else "layer",
        "norm_eps": config.get("norm_epsilon", 1e-5),
        "pad_vocab_size_multiple": config.get("pad_vocab_size_multiple", 8),
        "tie_embeddings": config.get("rcps", False) or config.get("tie_word_embeddings", True),
    }


def _published_fields(arguments: Mapping[str, Any], *, rcps: bool) -> dict[str, Any]:
    """The inverse of `_arguments`."""
    if rcps and not arguments["tie_embeddings"]:
        raise UserError(
            "layout=caduceus has no place for tie_embeddings=False in an equivariant network; its "
            "head is the embedding."
        )
    return {
        "model_type": "caduceus",
        "architectures": ["CaduceusForMaskedLM"],
        "torch_dtype": "float32",
        "d_model": arguments["d_model"],
        "n_layer": arguments["n_layers"],
        "ssm_cfg": {
            **{key: arguments[key] for key in _SSM_FIELDS},
            **_SSM_INITIALISATION,
            **{"conv_bias": True, "bias": False, "use_fast_path": True},
        },
        "rms_norm": arguments["norm"] == "rms",
        "residual_in_fp32": False,
        "pad_vocab_size_multiple": arguments["pad_vocab_size_multiple"],
        "norm_epsilon": arguments["norm_eps"],
        "initializer_cfg": {
            "initializer_range": 0.02,
            "rescale_prenorm_residual": True,
            "n_residuals_per_layer": 1,
        },
        "bidirectional": arguments["bidirectional"],
        "bidirectional_strategy": arguments["bidirectional_strategy"],
        "bidirectional_weight_tie": arguments["tie_projections"],
        "rcps": rcps,
        "tie_word_embeddings": arguments["tie_embeddings"],
        "pad_token_id": 4,
    }


def _equivariant(published: str, fused: bool) -> str:
    """The name in the PS layout of a name in the Ph layout."""
    name = published.replace("word_embeddings.", "word_embeddings.embedding.")
    name = name.replace("lm_head.", "lm_head.lm_head.").replace(".mixer.", ".mixer.submodule.")
    return name if fused else re.sub(r"\.(norm|norm_f)\.", r".\1.submodule.", name)


def _check_norm_names(state: Mapping[str, Tensor], fused: bool) -> None:
    """Raises UserError if the norms of a PS network are named as with the other `fused`."""
    for name in state:
        found = re.search(r"\.norm(_f)?\.(submodule\.)?weight$", name)
        if found and (found.group(2) is None) != fused:
            raise UserError(
                f"fused_add_norm={fused} of the config contradicts the weights: {name} is how "
                f"fused_add_norm={not fused} names a norm, and the two are different functions; "
                "give the config.json that belongs to the weights."
            )


def _without_complement(state: Mapping[str, Tensor], complement: Tensor) -> dict[str, Tensor]:
    """The state without its own copies of the complement, which must agree with the config's."""
    for name, tensor in state.items():
        if name.endswith("complement_map") and tensor.tolist() != complement.tolist():
            raise UserError(
                f"{name}={tensor.tolist()} of the weights must be the config's complement_map, "
                f"{complement.tolist()}; repair config.json."
            )
    return {name: tensor for name, tensor in state.items() if not name.endswith("complement_map")}
