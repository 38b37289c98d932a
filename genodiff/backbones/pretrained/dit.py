"""The transformers of MDLM as published (Sahoo et al. 2024, arXiv:2406.07524): the DiT, and with
`causal` its autoregressive baseline, which has no time input.

The autoregressive network of MDLM also sets the mask's logit to -1000 and normalises; here logits
stay logits.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from genodiff.backbones.attention import frequencies
from genodiff.backbones.base import Backbone
from genodiff.backbones.pretrained.state import (
    Names,
    arguments_of,
    copy_in,
    copy_out,
    field,
    is_node_of,
    rename,
)
from genodiff.backbones.transformer import Transformer
from genodiff.errors import UserError

# Ours to theirs, applied in this order.
_RENAMES = (
    (r"^embedding\.weight$", "vocab_embed.embedding"),
    (r"^time\.first\.", "sigma_map.mlp.0."),
    (r"^time\.second\.", "sigma_map.mlp.2."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.mlp_norm\.", ".norm2."),
    (r"\.attention\.(qkv|out)\.", r".attn_\1."),
    (r"^norm\.", "output_layer.norm_final."),
    (r"^unembedding\.", "output_layer.linear."),
    (r"^modulation\.linear\.", "output_layer.adaLN_modulation."),
    (r"\.modulation\.linear\.", ".adaLN_modulation."),
)
_ROTARY = "rotary_emb.inv_freq"


def dit_node(config: Mapping[str, Any]) -> dict[str, Any]:
    """The network of a published config as a config node of ours; it sees padding."""
    return {
        "_target_": "genodiff.backbones.Transformer",
        **_arguments(config),
        "sees_padding": True,
    }


def load_dit_state(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Transformer:
    """The transformer of a published MDLM, or with `causal` its autoregressive baseline.

    `config` holds the fields of the checkpoint's `model` section and its `vocab_size`, mask
    included; `state` the tensors of its backbone.

    Raises UserError if a field is missing, or if names or shapes do not agree.
    """
    network = Transformer(**_arguments(config))
    ours = frequencies(network.d_model // network.n_heads)
    theirs = state.get(_ROTARY)
    if theirs is not None and not (
        theirs.shape == ours.shape and torch.allclose(theirs.double(), ours, rtol=1e-5, atol=0)
    ):
        raise UserError(
            f"{_ROTARY}={theirs.tolist()} is not of base 10000 and {2 * len(ours)} "
            "channels a head; check n_heads in the config."
        )
    state = {name: tensor for name, tensor in state.items() if name != _ROTARY}
    copy_in(state, dit_names(network.state_dict()), network)
    return network


def publish_dit(
    node: Mapping[str, Any], network: Backbone
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(the `model` section with vocab_size, tensors) of `network`, which `node` describes.

    Raises UserError if the published network cannot be this one.
    """
    if not is_node_of(node, Transformer) or not isinstance(network, Transformer):
        raise UserError(
            f"layout=mdlm has no place for the backbone {node.get('_target_')}; it holds a "
            "genodiff.backbones.Transformer or DiMamba."
        )
    arguments = arguments_of(Transformer, node)
    causal, cond_dim = arguments["causal"], arguments["cond_dim"]
    if arguments["n_classes"] is not None:
        raise UserError(
            f"layout=mdlm has no place for n_classes={arguments['n_classes']}; its networks are "
            "not told a class."
        )
    if causal == (cond_dim is not None):
        raise UserError(
            f"layout=mdlm has no place for causal={causal} with cond_dim={cond_dim}; its DiT is "
            "told the time, and its causal transformer is not."
        )
    config = {
        "vocab_size": network.vocab_size,
        "hidden_size": arguments["d_model"],
        "n_blocks": arguments["n_layers"],
        "n_heads": arguments["n_heads"],
        "cond_dim": cond_dim,
        "dropout": arguments["dropout"],
        "causal": causal,
    }
    state = copy_out(network, dit_names(network.state_dict()))
    d_head = network.d_model // network.n_heads
    # As published, in float32: `frequencies` differs from it in the last bit.
    state[_ROTARY] = 1.0 / (10_000 ** (torch.arange(0, d_head, 2).float() / d_head))
    return config, state


def dit_names(own: Iterable[str]) -> Names:
    """The published name of each name of ours."""
    return {name: (rename(name, _RENAMES),) for name in own}


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of `Transformer`."""
    causal = config.get("causal", False)
    return {
        "vocab_size": field(config, "vocab_size"),
        "d_model": field(config, "hidden_size"),
        "n_layers": field(config, "n_blocks"),
        "n_heads": field(config, "n_heads"),
        "cond_dim": None if causal else field(config, "cond_dim"),
        "dropout": config.get("dropout", 0.1),
        "causal": causal,
    }
