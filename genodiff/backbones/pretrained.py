"""Published weights in our networks: Caduceus (Schiff et al. 2024), MDLM (Sahoo et al. 2024).

A published state dict is read by name. Every tensor of ours must be found, every tensor of theirs
used, all shapes must agree, and tensors that are one parameter under several names must be equal
wherever they appear.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from genodiff.backbones.attention import frequencies
from genodiff.backbones.base import Backbone
from genodiff.backbones.caduceus import Caduceus
from genodiff.backbones.reverse_complement import ReverseComplementEquivariant, exchange_strands
from genodiff.backbones.transformer import Transformer
from genodiff.errors import UserError

# Ours to theirs, applied in this order.
_CADUCEUS_RENAMES = (
    (r"^trunk\.", ""),
    (r"^embedding\.", "embeddings.word_embeddings."),
    (r"^norm\.", "norm_f."),
    (r"^blocks\.(\d+)\.(block\.)?", r"layers.\1."),
    (r"\.mixer\.(ssm|forward_ssm)\.", ".mixer.mamba_fwd."),
    (r"\.mixer\.reverse_ssm\.", ".mixer.mamba_rev."),
    (r"\.mixer\.(in|out)_proj\.", r".mixer.mamba_fwd.\1_proj."),
    (r"\.mixer\.reverse_(in|out)_proj\.", r".mixer.mamba_rev.\1_proj."),
    (r"\.conv_(weight|bias)$", r".conv1d.\1"),
    (r"^(?!unembedding)", "caduceus.backbone."),
    (r"^unembedding\.", "lm_head."),
)
_DIT_RENAMES = (
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
_LISTED = 8


def load_caduceus_state(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Backbone:
    """A published Caduceus: a `Caduceus` (Ph), or one that is made equivariant (PS).

    `config` holds the fields of the checkpoint's config.json, `state` the tensors of its
    model.safetensors. A PS checkpoint with fused_add_norm, which is the published default,
    exchanges the strands in every block (see `StrandExchange`).

    Raises UserError if a field is missing or not supported, or if names or shapes do not agree.
    """
    ssm = config.get("ssm_cfg") or {}
    for key, supported in (("bias", False), ("conv_bias", True)):
        if ssm.get(key, supported) != supported:
            raise UserError(
                f"ssm_cfg.{key}={ssm[key]} is not supported; only {supported} was ever published."
            )
    rcps = config.get("rcps", False)
    network: Backbone
    network = trunk = Caduceus(
        _field(config, "vocab_size"),
        _field(config, "d_model"),
        _field(config, "n_layer"),
        **{key: ssm[key] for key in ("d_state", "d_conv", "expand", "dt_rank") if key in ssm},
        bidirectional=config.get("bidirectional", True),
        bidirectional_strategy=config.get("bidirectional_strategy", "add"),
        tie_projections=config.get("bidirectional_weight_tie", True),
        norm="rms" if config.get("rms_norm", True) else "layer",
        norm_eps=config.get("norm_epsilon", 1e-5),
        pad_vocab_size_multiple=config.get("pad_vocab_size_multiple", 8),
        tie_embeddings=rcps or config.get("tie_word_embeddings", True),
    )
    fused = config.get("fused_add_norm", True)
    if rcps:
        network = ReverseComplementEquivariant(
            exchange_strands(trunk) if fused else trunk, _complement(config)
        )
        state = _without_complement(state, network.complement)
    _copy(state, caduceus_names(network.state_dict(), rcps=rcps, fused=fused), network)
    return network


def load_dit_state(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Transformer:
    """The transformer of a published MDLM, or with `causal` its autoregressive baseline.

    `config` holds the fields of the checkpoint's `model` section and its `vocab_size`, mask
    included; `state` the tensors of its backbone. The autoregressive network of MDLM also sets the
    mask's logit to -1000 and normalises; here logits stay logits.

    Raises UserError if a field is missing, or if names or shapes do not agree.
    """
    causal = config.get("causal", False)
    network = Transformer(
        _field(config, "vocab_size"),
        _field(config, "hidden_size"),
        _field(config, "n_blocks"),
        _field(config, "n_heads"),
        cond_dim=None if causal else _field(config, "cond_dim"),
        dropout=config.get("dropout", 0.1),
        causal=causal,
    )
    ours = frequencies(network.d_model // network.n_heads)
    theirs = state.get("rotary_emb.inv_freq")
    if theirs is not None and not (
        theirs.shape == ours.shape and torch.allclose(theirs.double(), ours, rtol=1e-5, atol=0)
    ):
        raise UserError(
            f"rotary_emb.inv_freq={theirs.tolist()} is not of base 10000 and {2 * len(ours)} "
            "channels a head; check n_heads in the config."
        )
    state = {name: tensor for name, tensor in state.items() if name != "rotary_emb.inv_freq"}
    _copy(state, dit_names(network.state_dict()), network)
    return network


def caduceus_names(own: Iterable[str], *, rcps: bool, fused: bool) -> dict[str, tuple[str, ...]]:
    """The published names of each name of ours: more than one where a tensor is tied.

    The equivariant network has another layout, in which the norms' names depend on `fused`.
    """
    own = list(own)
    tied_embedding = not any(name.endswith("unembedding.weight") for name in own)
    tied_projections = any("reverse_ssm" in name for name in own) and not any(
        "reverse_in_proj" in name for name in own
    )
    names: dict[str, tuple[str, ...]] = {}
    for name in own:
        published = _rename(name, _CADUCEUS_RENAMES)
        names[name] = (published,)
        if tied_embedding and name.endswith("embedding.weight"):
            names[name] = (published, "lm_head.weight")
        if tied_projections and re.search(r"\.(in|out)_proj\.", name):
            names[name] = (published, published.replace("mamba_fwd", "mamba_rev"))
    if rcps:
        names = {
            name: tuple(_equivariant(alias, fused) for alias in aliases)
            for name, aliases in names.items()
        }
    return names


def dit_names(own: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The published name of each name of ours."""
    return {name: (_rename(name, _DIT_RENAMES),) for name in own}


def _rename(name: str, renames: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _equivariant(published: str, fused: bool) -> str:
    """The name in the PS layout of a name in the Ph layout."""
    name = published.replace("word_embeddings.", "word_embeddings.embedding.")
    name = name.replace("lm_head.", "lm_head.lm_head.").replace(".mixer.", ".mixer.submodule.")
    return name if fused else re.sub(r"\.(norm|norm_f)\.", r".\1.submodule.", name)


def _field(config: Mapping[str, Any], key: str) -> Any:
    if key not in config:
        raise UserError(
            f"the published config has no {key}; give the checkpoint's own config.json."
        )
    return config[key]


def _complement(config: Mapping[str, Any]) -> list[int]:
    """The complement of each token, by number: JSON makes keys strings and may reorder them."""
    by_id = {
        int(key): int(value) for key, value in (_field(config, "complement_map") or {}).items()
    }
    if set(by_id) != set(range(len(by_id))):
        raise UserError(
            f"complement_map has the tokens {sorted(by_id)}; it must have each from 0 on; repair "
            "config.json."
        )
    return [by_id[i] for i in range(len(by_id))]


def _without_complement(state: Mapping[str, Tensor], complement: Tensor) -> dict[str, Tensor]:
    """The state without its own copies of the complement, which must agree with the config's."""
    for name, tensor in state.items():
        if name.endswith("complement_map") and tensor.tolist() != complement.tolist():
            raise UserError(
                f"{name}={tensor.tolist()} of the weights must be the config's complement_map, "
                f"{complement.tolist()}; repair config.json."
            )
    return {name: tensor for name, tensor in state.items() if not name.endswith("complement_map")}


def _copy(
    state: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]], network: Backbone
) -> None:
    """Copies `state` into `network`; `names` are the published names of each of the network's."""
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
