"""Names and errors; that loaded networks compute what published ones do is in tests/parity."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from genodiff.backbones import (
    ReverseComplementEquivariant,
    StrandExchange,
    exchange_strands,
    load_caduceus_state,
    load_dit_state,
)
from genodiff.backbones.pretrained import caduceus_names, dit_names
from genodiff.errors import UserError
from tests.backbones.toys import (
    COMPLEMENT,
    small_caduceus,
    small_transformer,
    some_tokens,
)

State = dict[str, Tensor]
PH = {
    "d_model": 12,
    "n_layer": 2,
    "vocab_size": 12,
    "ssm_cfg": {"d_state": 4, "dt_rank": "auto", "bias": False, "conv_bias": True},
    "fused_add_norm": True,
}
PS = {**PH, "rcps": True, "complement_map": {str(i): j for i, j in enumerate(COMPLEMENT)}}
DIT = {"hidden_size": 16, "n_blocks": 2, "n_heads": 2, "cond_dim": 8, "vocab_size": 12}


def published(own: State, names: dict[str, tuple[str, ...]]) -> State:
    """A state dict under every published name, convolutions in nn.Conv1d's shape."""
    state = {}
    for name, tensor in own.items():
        for alias in names[name]:
            state[alias] = tensor[:, None] if name.endswith("conv_weight") else tensor
    return {name: tensor.clone() for name, tensor in state.items()}


def ph_state() -> State:
    own = small_caduceus().state_dict()
    return published(own, caduceus_names(own, rcps=False, fused=True))


def ps_state(fused: bool = True) -> State:
    trunk = exchange_strands(small_caduceus()) if fused else small_caduceus()
    own = ReverseComplementEquivariant(trunk, COMPLEMENT).state_dict()
    state = published(own, caduceus_names(own, rcps=True, fused=fused))
    return {**state, "lm_head.complement_map": torch.tensor([*COMPLEMENT, 12, 13, 14, 15])}


def dit_state() -> State:
    own = small_transformer().state_dict()
    return published(own, dit_names(own))


def test_a_layer_has_the_published_names() -> None:
    names = ps_state(fused=False)
    layer = "caduceus.backbone.layers.1"
    expected = {f"{layer}.norm.submodule.weight"} | {
        f"{layer}.mixer.submodule.mamba_{direction}.{name}"
        for direction in ("fwd", "rev")
        for name in (
            *("A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias"),
            *("x_proj.weight", "dt_proj.weight", "dt_proj.bias", "out_proj.weight"),
        )
    }
    assert {name for name in names if name.startswith(layer)} == expected


def test_tied_tensors_may_be_there_once_or_under_every_name() -> None:
    state, tokens = ph_state(), some_tokens()
    assert len(state) == 41
    full = load_caduceus_state(PH, state)
    for name in ("lm_head.weight", *(n for n in state if "mamba_rev.out_proj" in n)):
        del state[name]
    del state["caduceus.backbone.layers.0.mixer.mamba_fwd.in_proj.weight"]
    once = load_caduceus_state(PH, state)
    expected = small_caduceus().float()(tokens)
    assert torch.equal(full(tokens), expected)
    assert torch.equal(once(tokens), expected)


def test_untied_embeddings_are_two_tensors() -> None:
    state = ph_state()
    state["lm_head.weight"] = torch.zeros(16, 12)
    network = load_caduceus_state({**PH, "tie_word_embeddings": False}, state)
    assert bool((network(some_tokens()) == 0).all())


@pytest.mark.parametrize("fused", [True, False])
def test_the_config_says_whether_strands_are_exchanged(fused: bool) -> None:
    network = load_caduceus_state({**PS, "fused_add_norm": fused}, ps_state(fused))
    exchanging = [isinstance(module, StrandExchange) for module in network.modules()]
    assert sum(exchanging) == (2 if fused else 0)


def test_a_config_of_the_other_norm_does_not_fit() -> None:
    with pytest.raises(UserError, match=r"missing .*norm\.submodule\.weight"):
        load_caduceus_state({**PS, "fused_add_norm": False}, ps_state(fused=True))


def test_the_complement_is_read_by_number_and_not_by_order() -> None:
    shuffled = dict(sorted(PS["complement_map"].items()))
    assert list(shuffled)[:4] == ["0", "1", "10", "11"]
    network = load_caduceus_state({**PS, "complement_map": shuffled}, ps_state())
    assert isinstance(network, ReverseComplementEquivariant)
    assert network.complement.tolist() == [*COMPLEMENT, 12, 13, 14, 15]


def drop(name: str) -> Callable[[State], object]:
    return lambda state: state.pop(name)


def put(name: str, value: Tensor) -> Callable[[State], object]:
    return lambda state: state.update({name: value})


EMBEDDING = "caduceus.backbone.embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("caduceus.backbone.norm_f.weight"), "missing caduceus.backbone.norm_f.weight"),
        (put("caduceus.head.bias", torch.zeros(1)), "extra caduceus.head.bias"),
        (put("caduceus.backbone.norm_f.weight", torch.ones(3)), r"is \(3,\), not \(12,\)"),
        (put("lm_head.weight", torch.zeros(16, 12)), f"lm_head.weight differs from {EMBEDDING}"),
        (lambda state: state.clear(), r"and \d+ more"),
    ],
)
def test_weights_that_do_not_fit_are_listed(edit: Callable[[State], object], message: str) -> None:
    state = ph_state()
    edit(state)
    with pytest.raises(UserError, match=rf"do not fit the published config.*{message}"):
        load_caduceus_state(PH, state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ssm_cfg": {"bias": True}}, "ssm_cfg.bias=True is not supported"),
        ({"ssm_cfg": {"conv_bias": False}}, "ssm_cfg.conv_bias=False is not supported"),
        ({"complement_map": {"0": 0, "2": 2}}, "complement_map has the tokens"),
        ({"complement_map": {"0": 1, "1": 0}}, "must be the config's complement_map"),
        ({"bidirectional_strategy": "mean"}, "bidirectional_strategy=mean is unknown"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_caduceus_state({**PS, **change}, ps_state())


@pytest.mark.parametrize("key", ["d_model", "n_layer", "vocab_size", "complement_map"])
def test_a_missing_field_is_named(key: str) -> None:
    config = {name: value for name, value in PS.items() if name != key}
    with pytest.raises(UserError, match=f"the published config has no {key}"):
        load_caduceus_state(config, ps_state())


def test_a_dit_comes_back_from_its_published_names() -> None:
    tokens = some_tokens()
    state = {**dit_state(), "rotary_emb.inv_freq": 1 / 10_000 ** (torch.arange(0, 8, 2) / 8)}
    network = load_dit_state(DIT, state).eval()
    assert torch.equal(network(tokens), small_transformer().float()(tokens))


def test_other_rotary_frequencies_are_refused() -> None:
    state = {**dit_state(), "rotary_emb.inv_freq": torch.ones(4)}
    with pytest.raises(UserError, match=r"inv_freq=.* is not of base 10000 and 8 channels a head"):
        load_dit_state(DIT, state)


def test_a_dit_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"missing blocks\.2\.attn_qkv\.weight|missing blocks\.2"):
        load_dit_state({**DIT, "n_blocks": 3}, dit_state())
    with pytest.raises(UserError, match=r"extra sigma_map\.mlp\.0\.weight"):
        load_dit_state({**DIT, "causal": True}, dit_state())
