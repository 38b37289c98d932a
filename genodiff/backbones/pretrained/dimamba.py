"""DiMamba as published with MDLM (Sahoo et al. 2024, arXiv:2406.07524).

The published network hands no residual from layer to layer; its weights mean what they were
trained to mean only in a `DiMamba` with residual=False.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from genodiff.backbones.base import Backbone
from genodiff.backbones.dimamba import DiMamba
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
from genodiff.errors import UserError

# Ours to theirs, applied in this order.
_RENAMES = (
    (r"^time\.first\.", "sigma_map.mlp.0."),
    (r"^time\.second\.", "sigma_map.mlp.2."),
    (r"^unembedding\.", "model.lm_head."),
    (r"^embedding\.", "embeddings.word_embeddings."),
    (r"^norm\.", "norm_f."),
    (r"^modulation\.linear\.", "adaLN_modulation_final."),
    (r"^blocks\.", "layers."),
    (r"\.modulation\.linear\.", ".adaLN_modulation."),
    *MIXER_RENAMES,
    (r"^(?!sigma_map|model)", "model.bimamba.backbone."),
)
# The published code fixes these; ours may not differ.
_FIXED = {
    **{"residual": False, "n_classes": None, "bidirectional": True},
    **{"bidirectional_strategy": "add", "tie_projections": True, "norm": "rms"},
    **{"norm_eps": 1e-5, "d_state": 16, "d_conv": 4, "expand": 2, "dt_rank": "auto"},
    "pad_vocab_size_multiple": 1,
}


def dimamba_node(config: Mapping[str, Any]) -> dict[str, Any]:
    """The network of a published config as a config node of ours; it sees padding."""
    return {
        "_target_": "genodiff.backbones.DiMamba",
        **_arguments(config),
        "sees_padding": True,
    }


def load_dimamba_state(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> DiMamba:
    """The DiMamba of a published MDLM.

    `config` holds the fields of the checkpoint's `model` section and its `vocab_size`, mask
    included; `state` the tensors of its backbone.

    Raises UserError if a field is missing or not supported, or if names or shapes do not agree.
    """
    network = DiMamba(**_arguments(config))
    copy_in(state, dimamba_names(network.state_dict()), network)
    return network


def publish_dimamba(
    node: Mapping[str, Any], network: Backbone
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(the `model` section with vocab_size, tensors) of `network`, which `node` describes.

    Raises UserError if the published network cannot be this one.
    """
    if not is_node_of(node, DiMamba):
        raise UserError(
            f"layout=mdlm has no place for the backbone {node.get('_target_')}; it holds a "
            "genodiff.backbones.Transformer or DiMamba."
        )
    arguments = arguments_of(DiMamba, node)
    for key, value in _FIXED.items():
        if arguments[key] != value:
            raise UserError(
                f"layout=mdlm has no place for a DiMamba with {key}={arguments[key]}; the "
                f"published one has {value}."
            )
    concat = arguments["time_strategy"] == "concat"
    config = {
        "type": "dimamba",
        "vocab_size": arguments.get("vocab_size") or network.vocab_size,
        "hidden_size": arguments["d_model"],
        "n_blocks": arguments["n_layers"],
        "cond_dim": arguments["cond_dim"],
        "temb_strategy": arguments["time_strategy"],
        "tie_word_embeddings": arguments["tie_embeddings"],
    }
    rows = config["vocab_size"] + (config["cond_dim"] if concat else 0)
    if network.state_dict()["embedding.weight"].shape[0] != rows:
        raise UserError(
            f"layout=mdlm has no place for embedding_rows={arguments['embedding_rows']}; the "
            f"published DiMamba has {rows}."
        )
    return config, copy_out(network, dimamba_names(network.state_dict()))


def dimamba_names(own: Iterable[str]) -> Names:
    """The published names of each name of ours: more than one where a tensor is tied."""
    own = list(own)
    tied = "unembedding.weight" not in own
    return with_tied_projections(
        {
            name: (rename(name, _RENAMES), "model.lm_head.weight")
            if tied and name == "embedding.weight"
            else (rename(name, _RENAMES),)
            for name in own
        }
    )


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of `DiMamba`."""
    strategy, d_model = field(config, "temb_strategy"), field(config, "hidden_size")
    vocab_size = field(config, "vocab_size")
    # "add" needs a condition as wide as the embeddings, and has one whatever cond_dim says.
    cond_dim = d_model if strategy == "add" else field(config, "cond_dim")
    return {
        "vocab_size": vocab_size,
        "d_model": d_model,
        "n_layers": field(config, "n_blocks"),
        "cond_dim": cond_dim,
        "time_strategy": strategy,
        "residual": False,
        "embedding_rows": vocab_size + cond_dim if strategy == "concat" else None,
        "tie_embeddings": config.get("tie_word_embeddings", False),
        # Only the gated sum of "adaln" has one, of fixed rate.
        "dropout": 0.1 if strategy == "adaln" else 0.0,
    }
