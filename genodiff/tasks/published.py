"""Reading models that others published: folders and checkpoints of Caduceus and MDLM.

Read are the folders of the Hugging Face hub (`config.json` beside `model.safetensors` or
`pytorch_model.bin`) and the Lightning checkpoints of both projects, whose settings lie beside them
(`config.json`, `model_config.json`) or inside. None of their code is run. Any other folder of the
hub is left to `encoders`.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genodiff.backbones import Backbone
from genodiff.backbones.pretrained import (
    caduceus_node,
    dimamba_names,
    dimamba_node,
    dit_names,
    dit_node,
    load_caduceus_state,
    load_dimamba_state,
    load_dit_state,
    published_complement,
)
from genodiff.data import DnaTokenizer, TextTokenizer
from genodiff.diffusion.process import LOG_ZERO
from genodiff.errors import UserError
from genodiff.tasks.encoders import (
    TO_FINE_TUNE,
    TOKENIZER_LEFT_OUT,
    read_encoder,
    require_mask,
)
from genodiff.tasks.formulation import D3PM, LEFT_TO_RIGHT, SEDD, SUBS
from genodiff.tasks.model import Model, build_model, load_model, tokenizer_node
from genodiff.tasks.sources import (
    MODEL_TYPES,
    config_beside,
    is_ours,
    model_type_of,
    section_with,
    value_of,
    weights_file,
)
from genodiff.tasks.weights import plain, read_weights

log = logging.getLogger(__name__)

DNA_TOKENIZER = "CaduceusTokenizer"
"""What published configs call `DnaTokenizer`."""


class _Network(NamedTuple):
    """A network of MDLM."""

    title: str
    node: Callable[[Mapping[str, Any]], dict[str, Any]]
    load: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Backbone]
    names: Callable[[Iterable[str]], Mapping[str, tuple[str, ...]]]


_MDLM = {
    "dit": _Network("DiT", dit_node, load_dit_state, dit_names),
    "dimamba": _Network("DiMamba", dimamba_node, load_dimamba_state, dimamba_names),
}
# A part of its tensors' names by which a network is known; what stands before it is a prefix.
_MARKS = {
    "caduceus": "caduceus.backbone.",
    "dimamba": "model.bimamba.backbone.",
    "dit": "vocab_embed.embedding",
}
_FORMULATIONS = {"subs": SUBS, "d3pm": D3PM, "sedd": SEDD, "ar": LEFT_TO_RIGHT}
_SCHEDULES: dict[str, dict[str, Any]] = {
    "loglinear": {"_target_": "genodiff.diffusion.LogLinear", "eps": 1e-3},
    "cosine": {"_target_": "genodiff.diffusion.Cosine", "eps": 1e-3},
    "cosinesqr": {"_target_": "genodiff.diffusion.CosineSquared", "eps": 1e-3},
    "linear": {"_target_": "genodiff.diffusion.Linear"},
    "geometric": {"_target_": "genodiff.diffusion.Geometric"},
}
_LEFT_TO_RIGHT = (
    "It predicts the next token, and was trained without genodiff's start of a sequence, the mask."
)
_FIRST_IS_GIVEN = (
    "It predicts the next token of a sequence whose first is given: that one is not scored, and "
    "to sample give prompt=."
)
# Tokenizers that have a mask token of their own; MDLM adds one, the last, to any other.
_MASK_IDS = {"bert-base-uncased": 103, "text8": 4}


def read_model(
    source: Path,
    *,
    ema: bool | None = None,
    mask_id: int | None = None,
    tokenizer: TextTokenizer | None = None,
) -> Model:
    """The model at `source`: published, or one of genodiff's.

    Args:
        source: a folder or a file of weights.
        ema: whether to take the averaged weights; None takes them where there are any.
        mask_id: of a published MDLM or encoder; None for what its settings say, or else, of an
            MDLM, the last id.
        tokenizer: of a published MDLM or encoder of text; None leaves it with bare ids.

    Raises:
        UserError: there is no such model, it is damaged, its weights do not fit its config, or
            the tokenizer is another model's.
    """
    given = {"ema": ema, "mask_id": mask_id, "tokenizer": tokenizer}
    if is_ours(source):
        return _load_ours(source, given)
    if model_type_of(source) not in (None, *MODEL_TYPES):
        _takes_average(None, ema, source)
        return read_encoder(source, mask_id, tokenizer)
    weights = weights_file(source)
    config = config_beside(weights)
    contents = read_weights(weights)
    if "genodiff" in contents:
        return _load_ours(weights, given)
    kind, state = _recognized(contents["state_dict"], source)
    settings = config or plain(contents.get("hyper_parameters"))
    settings = settings if isinstance(settings, dict) else {}
    average = contents.get("ema") if kind in _MDLM else None
    if kind in _MDLM:
        plan = _plan_mdlm(kind, settings, state, mask_id, tokenizer)
    elif mask_id is not None:
        raise UserError(f"mask_id={mask_id} is for MDLM; the mask of a Caduceus is 3.")
    elif tokenizer is not None:
        raise UserError(
            "tokenizer= is for models of text, and a Caduceus reads DNA; leave it out."
        )
    else:
        plan = _plan_caduceus(settings, source)
    model = build_model(plan.description)  # holds the config to the types of our parameters
    network = plan.load(plan.config, state)
    if _takes_average(average, ema, source):
        names = _MDLM[kind].names(network.state_dict())
        network = plan.load(plan.config, _averaged(state, average, names, source))
    model.network.load_state_dict(_with_padding(network, model.network))
    count = sum(parameter.numel() for parameter in network.parameters())
    log.info("%s: %s, %s parameters.", source, plan.title, f"{count:,}")
    for note in plan.notes:
        log.info("%s", note)
    return model


class _Plan(NamedTuple):
    """How a published network is read, and what is known of the model it belongs to."""

    title: str
    config: Mapping[str, Any]
    load: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Backbone]
    description: dict[str, Any]
    notes: list[str]


def _plan_caduceus(settings: Mapping[str, Any], source: Path) -> _Plan:
    config = section_with("n_layer", settings)
    if config is None:
        raise UserError(
            f"source={source} has no config.json of a Caduceus (d_model, n_layer, ssm_cfg, ...), "
            "and its weights do not say all of it; put the checkpoint's own beside them."
        )
    tokens = DnaTokenizer.vocab_size
    if config.get("vocab_size", tokens) not in (tokens, 16):
        raise UserError(
            f"vocab_size={config['vocab_size']} of the config is not that of the published "
            f"tokenizer, {tokens} tokens, padded to 16; only its models can be read."
        )
    rcps = config.get("rcps", False)
    ours = [*DnaTokenizer.complement, *range(tokens, 16)]
    if rcps and (theirs := published_complement(config)) != ours[: len(theirs)]:
        raise UserError(
            f"complement_map={theirs} is not that of the published tokenizer, "
            f"{list(DnaTokenizer.complement)}; only its models can be read."
        )
    title, notes = "Caduceus-PS" if rcps else "Caduceus-Ph", [TO_FINE_TUNE]
    if not config.get("bidirectional", True):
        title, notes = "Mamba, left to right", [_LEFT_TO_RIGHT]
    description = {
        "backbone": caduceus_node(config),
        "schedule": _SCHEDULES["loglinear"],
        **(SUBS if config.get("bidirectional", True) else LEFT_TO_RIGHT),
        "time_conditioning": False,
        "tokenizer": {"_target_": "genodiff.data.DnaTokenizer", "predict_n": False},
    }
    return _Plan(title, config, load_caduceus_state, description, notes)


def _plan_mdlm(
    kind: str,
    settings: Mapping[str, Any],
    state: Mapping[str, Tensor],
    mask_id: int | None,
    text: TextTokenizer | None,
) -> _Plan:
    config = {**_sizes(kind, state), **_model_section(settings)}
    backbone = _MDLM[kind].node(config)  # says which fields are missing
    tokens = config["vocab_size"]
    tokenizer, notes = _mdlm_tokenizer(settings, tokens, mask_id, text)
    left_to_right = kind == "dit" and config["causal"]
    run = section_with("parameterization", settings) or settings
    name = "ar" if left_to_right else run.get("parameterization", "subs")
    noise = run.get("noise") or {}
    if name not in _FORMULATIONS or noise.get("type", "loglinear") not in _SCHEDULES:
        raise UserError(
            f"the settings have parameterization={name} and noise.type={noise.get('type')}; use a "
            f"model with one of {', '.join(_FORMULATIONS)} and of {', '.join(_SCHEDULES)}."
        )
    formulation = dict(_FORMULATIONS[name])
    if name == "d3pm":
        subs_masking = bool(run.get("subs_masking", False))
        formulation["parameterization"] = {
            **D3PM["parameterization"],
            "subs_masking": subs_masking,
        }
        if steps := int(value_of("T", settings) or 0):
            formulation["objective"] = {**D3PM["objective"], "steps": steps}
    if text is not None and text.vocab_size > tokens:
        # A padding that the weights do not know makes the network larger: `_with_padding`.
        backbone = _MDLM[kind].node({**config, "vocab_size": text.vocab_size})
        backbone["sees_padding"] = False
        if kind == "dimamba" and name in ("d3pm", "sedd"):
            raise UserError(
                "tokenizer= has a padding that these weights do not know, and the logits of a "
                f"DiMamba have no bias by which {name} could leave it out; leave tokenizer= out."
            )
        if name == "sedd":  # its scores are scaled by the number of tokens
            formulation["parameterization"] = {**SEDD["parameterization"], "vocab_size": tokens}
    schedule = dict(_SCHEDULES[noise.get("type", "loglinear")])
    if "eps" not in schedule:
        schedule |= {key: float(noise[key]) for key in ("sigma_min", "sigma_max") if key in noise}
    if left_to_right:
        formulation["denoiser"] = {**formulation["denoiser"], "first_is_given": True}
        notes.append(_FIRST_IS_GIVEN)
    description = {
        "backbone": backbone,
        "schedule": schedule,
        **formulation,
        # Its settings may say so, but the left-to-right network has no time input.
        "time_conditioning": not left_to_right and bool(value_of("time_conditioning", settings)),
        "tokenizer": tokenizer,
    }
    title = "autoregressive transformer" if left_to_right else _MDLM[kind].title
    return _Plan(f"{title} of MDLM", config, _MDLM[kind].load, description, notes)


def _mdlm_tokenizer(
    settings: Mapping[str, Any], vocab_size: int, mask_id: int | None, text: TextTokenizer | None
) -> tuple[dict[str, Any], list[str]]:
    """The tokenizer's config node, and what to say about it."""
    if settings.get("tokenizer_class") == DNA_TOKENIZER:
        if text is not None:
            raise UserError("tokenizer= is for models of text, and this one reads DNA.")
        return {"_target_": "genodiff.data.DnaTokenizer", "predict_n": False}, []
    notes = []
    if mask_id is None:
        mask_id = value_of("mask_index", settings)
    if mask_id is None:
        mask_id = _MASK_IDS.get(str(value_of("tokenizer_name_or_path", settings)))
    if text is not None:
        require_mask(text, mask_id)
        own_padding = text.pad_id == text.vocab_size - 1
        if text.vocab_size not in (vocab_size, vocab_size + own_padding):
            raise UserError(
                f"tokenizer= has {text.vocab_size} tokens, and the weights are of {vocab_size}, "
                "mask included; give the one they were trained with."
            )
        return tokenizer_node(text), []
    if mask_id is None:
        mask_id = vocab_size - 1
        notes.append(
            f"mask_id={mask_id}, the last id, is taken for the mask: right for GPT-2's tokenizer; "
            "give mask_id=103 for bert-base-uncased, mask_id=4 for text8."
        )
    notes.append(TOKENIZER_LEFT_OUT)
    node = {"_target_": "genodiff.data.TokenIds", "vocab_size": vocab_size, "mask_id": mask_id}
    return node, notes


def _model_section(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the settings say of the network, under the names of MDLM's `model` section."""
    section = dict(section_with("n_blocks", settings) or {})
    if "hidden_dim" in section:  # as the hub's folders call it
        section["hidden_size"] = section["hidden_dim"]
    known = (
        *("vocab_size", "hidden_size", "n_blocks", "n_heads", "cond_dim", "dropout", "causal"),
        *("temb_strategy", "tie_word_embeddings"),
    )
    return {key: section[key] for key in known if section.get(key) is not None}


def _sizes(kind: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the tensors of an MDLM tell of it."""
    layer = re.compile(r"(?:^blocks|\.layers)\.(\d+)\.")
    numbers = [int(found.group(1)) for name in state if (found := layer.search(name))]
    sizes: dict[str, Any] = {"n_blocks": 1 + max(numbers, default=-1)}
    time = state.get("sigma_map.mlp.2.weight")
    if time is not None:
        sizes["cond_dim"] = len(time)
    if kind == "dit":
        rows, d_model = state["vocab_embed.embedding"].shape
        rotary = state.get("rotary_emb.inv_freq")
        if rotary is not None:
            sizes["n_heads"] = d_model // (2 * len(rotary))
        return {**sizes, "vocab_size": rows, "hidden_size": d_model, "causal": time is None}
    head = state.get("model.lm_head.weight")
    embedding = state.get("model.bimamba.backbone.embeddings.word_embeddings.weight", head)
    if embedding is None:
        return sizes
    rows, d_model = embedding.shape
    width = len(state.get("model.bimamba.backbone.norm_f.weight", embedding[0]))
    adapted = any("adaLN_modulation" in name for name in state)
    strategy = "concat" if width > d_model else "adaln" if adapted else "add"
    return {
        **sizes,
        "vocab_size": rows - (width - d_model),
        "hidden_size": d_model,
        "temb_strategy": strategy,
        "tie_word_embeddings": head is None or torch.equal(head, embedding),
    }


def _averaged(
    state: Mapping[str, Tensor],
    average: Any,
    names: Mapping[str, tuple[str, ...]],
    source: Path,
) -> dict[str, Tensor]:
    """`state` with its parameters replaced by the checkpoint's average of them, which has them in
    the order of the state, each once however many names it has, and no buffers."""
    shadow = average.get("shadow_params") if isinstance(average, Mapping) else None
    if not isinstance(shadow, list) or not all(isinstance(t, Tensor) for t in shadow):
        raise UserError(
            f"source={source}: ema has no list shadow_params of tensors; ema=false takes the last "
            "weights."
        )
    owners = {alias: name for name, aliases in names.items() for alias in aliases}
    groups: dict[str, list[str]] = {}
    for alias in state:
        if alias in owners:
            groups.setdefault(owners[alias], []).append(alias)
    wrong = [
        f"{aliases[0]} is {tuple(state[aliases[0]].shape)}, its average {tuple(tensor.shape)}"
        for aliases, tensor in zip(groups.values(), shadow, strict=False)
        if state[aliases[0]].shape != tensor.shape
    ]
    if len(groups) != len(shadow):
        wrong.insert(0, f"there are {len(groups)} parameters and {len(shadow)} averages")
    if wrong:
        raise UserError(
            f"source={source}: the averaged weights do not fit: {'; '.join(wrong[:5])}. "
            "ema=false takes the last weights."
        )
    replaced = {
        alias: tensor
        for aliases, tensor in zip(groups.values(), shadow, strict=True)
        for alias in aliases
    }
    return {**state, **replaced}


def _takes_average(average: Any, ema: bool | None, source: Path) -> bool:
    """Whether the averaged weights are taken; says which are."""
    if average is None:
        if ema:
            raise UserError(
                f"ema=true, but source={source} has no averaged weights; leave it out."
            )
        if ema is False:
            log.info("There are no averaged weights, with or without ema=false.")
        return False
    if ema is False:
        log.info("The last weights are taken, not their average.")
        return False
    log.info("The averaged weights are taken; ema=false takes the last ones.")
    return True


def _recognized(state: Mapping[str, Tensor], source: Path) -> tuple[str, dict[str, Tensor]]:
    """Which network it is, and its tensors without the prefix of whatever held it."""
    for kind, mark in _MARKS.items():
        for name in state:
            prefix, found, _ = name.partition(mark)
            if found:
                return kind, {key.removeprefix(prefix): value for key, value in state.items()}
    few = ", ".join(list(state)[:3]) or "none"
    raise UserError(
        f"source={source} holds no network that genodiff knows (its tensors: {few}); give weights "
        "of Caduceus or of MDLM."
    )


def _with_padding(published: Backbone, own: Backbone) -> dict[str, Tensor]:
    """The published tensors, with a last row for the padding where `own` has one token more.

    Its embedding is zero; the bias of its logit keeps it from being drawn and adds nothing to a
    softmax over the whole vocabulary.
    """
    state = published.state_dict()
    for name, tensor in own.state_dict().items():
        if tensor.shape != state[name].shape:
            row = state[name].new_zeros(1, *tensor.shape[1:])
            row = row + LOG_ZERO if tensor.ndim == 1 else row
            state[name] = torch.cat([state[name], row])
    return state


def _load_ours(path: Path, given: Mapping[str, Any]) -> Model:
    for key, value in given.items():
        if value is not None:
            raise UserError(
                f"{key}= is for published weights, and {path} is genodiff's; leave it out."
            )
    return load_model(path, torch.device("cpu"))
