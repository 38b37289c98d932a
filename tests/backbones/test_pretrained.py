"""Names and errors; that loaded networks compute what published ones do is in tests/parity."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from genodiff.backbones import (
    Backbone,
    Caduceus,
    DiMamba,
    ReverseComplementEquivariant,
    StrandExchange,
    Transformer,
    exchange_strands,
    load_caduceus_state,
    load_dimamba_state,
    load_dit_state,
)
from genodiff.backbones.pretrained import (
    caduceus_names,
    caduceus_node,
    dimamba_names,
    dimamba_node,
    dit_names,
    dit_node,
    publish_caduceus,
    publish_dimamba,
    publish_dit,
)
from genodiff.errors import UserError
from tests.backbones.toys import (
    COMPLEMENT,
    randomized,
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
DIMAMBA = {"hidden_size": 16, "n_blocks": 2, "cond_dim": 8, "vocab_size": 12}
DIT = {"hidden_size": 16, "n_blocks": 2, "n_heads": 2, "cond_dim": 8, "vocab_size": 12}


def published(own: State, names: Mapping[str, tuple[str, ...]]) -> State:
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


def dimamba_state(strategy: str, *, tied: bool) -> State:
    config = {**DIMAMBA, "temb_strategy": strategy, "tie_word_embeddings": tied}
    node = dimamba_node(config)
    own = randomized(DiMamba(**{k: v for k, v in node.items() if k != "_target_"})).state_dict()
    return published(own, dimamba_names(own))


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
    for fused in (True, False):
        message = rf"fused_add_norm={not fused} of the config contradicts the weights: .*norm\."
        with pytest.raises(UserError, match=message):
            load_caduceus_state({**PS, "fused_add_norm": not fused}, ps_state(fused))


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


def test_published_networks_see_padding() -> None:
    trunk = caduceus_node(PS)["trunk"]["trunk"]
    nodes = [trunk, caduceus_node(PH), dit_node(DIT)]
    nodes.append(dimamba_node({**DIMAMBA, "temb_strategy": "adaln"}))
    assert [node["sees_padding"] for node in nodes] == [True] * 4


def test_other_rotary_frequencies_are_refused() -> None:
    state = {**dit_state(), "rotary_emb.inv_freq": torch.ones(4)}
    with pytest.raises(UserError, match=r"inv_freq=.* is not of base 10000 and 8 channels a head"):
        load_dit_state(DIT, state)


def test_a_dit_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"missing blocks\.2\.attn_qkv\.weight|missing blocks\.2"):
        load_dit_state({**DIT, "n_blocks": 3}, dit_state())
    with pytest.raises(UserError, match=r"extra sigma_map\.mlp\.0\.weight"):
        load_dit_state({**DIT, "causal": True}, dit_state())


@pytest.mark.parametrize("strategy", ["adaln", "add", "concat"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_dimamba_comes_back_from_its_published_names(strategy: str, tied: bool) -> None:
    config = {**DIMAMBA, "temb_strategy": strategy, "tie_word_embeddings": tied}
    state = dimamba_state(strategy, tied=tied)
    layer = "model.bimamba.backbone.layers.1"
    expected = {f"{layer}.mixer.mamba_{d}.in_proj.weight" for d in ("fwd", "rev")}
    expected |= {"sigma_map.mlp.2.bias", "model.bimamba.backbone.norm_f.weight"}
    assert expected <= set(state) and "model.lm_head.weight" in state
    assert (f"{layer}.adaLN_modulation.bias" in state) == (strategy == "adaln")
    network = load_dimamba_state(config, state)
    assert all(not block.residual for block in network.blocks)
    back, once = publish_dimamba(dimamba_node(config), network)
    assert all(torch.equal(once[name], state[name].float()) for name in once)
    assert ("model.lm_head.weight" in once) != tied
    again = load_dimamba_state(back, once).eval()
    tokens = some_tokens()
    assert torch.equal(again(tokens), network.eval()(tokens))


@pytest.mark.parametrize(
    ("rcps", "fused", "options"),
    [
        (False, True, {}),
        (False, True, {"bidirectional": False}),
        (False, True, {"rms_norm": False, "tie_word_embeddings": False, "norm_epsilon": 1e-6}),
        (False, True, {"bidirectional_strategy": "ew_multiply", "pad_vocab_size_multiple": 1}),
        (True, True, {}),
        (True, False, {"bidirectional_weight_tie": False}),
    ],
)
def test_a_published_caduceus_is_what_was_read(
    rcps: bool, fused: bool, options: dict[str, Any]
) -> None:
    given = {**(PS if rcps else PH), "fused_add_norm": fused, **options}
    given["ssm_cfg"] = {"d_state": 4, "d_conv": 3, "expand": 3, "dt_rank": 5}
    network = randomized(built(given)).float()
    config, once = publish_caduceus(caduceus_node(given), network)
    told = {"rcps": False, "bidirectional_strategy": "add", **given, "vocab_size": 16}
    if options.get("pad_vocab_size_multiple") == 1:
        told["vocab_size"] = 12
    told["ssm_cfg"] = {**config["ssm_cfg"], **given["ssm_cfg"]}
    assert config == {**config, **told, "complement_map": config["complement_map"]}
    tokens = some_tokens()
    again = load_caduceus_state(config, once).eval()
    assert torch.equal(again(tokens), network(tokens))
    assert list(config["complement_map"] or {}) == [str(i) for i in range(16 if rcps else 0)]


def built(config: dict[str, Any]) -> Backbone:
    """The network of a published config, with fresh weights."""
    node = caduceus_node(config)
    trunk = node["trunk"] if config.get("rcps") else node
    exchanged = trunk["_target_"].endswith("exchange_strands")
    inner = trunk["trunk"] if exchanged else trunk
    network = Caduceus(**{k: v for k, v in inner.items() if k != "_target_"})
    if not config.get("rcps"):
        return network
    return ReverseComplementEquivariant(
        exchange_strands(network) if exchanged else network, COMPLEMENT
    )


def test_a_published_dit_has_the_rotary_buffer_and_no_more() -> None:
    network = load_dit_state(DIT, dit_state())
    config, state = publish_dit(dit_node(DIT), network)
    assert set(state) == {*dit_state(), "rotary_emb.inv_freq"}
    assert config == {**DIT, "dropout": 0.1, "causal": False}
    again = load_dit_state(config, state).eval()
    assert torch.equal(again(some_tokens()), network.eval()(some_tokens()))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Transformer(12, 16, 1, 2, cond_dim=8, n_classes=2), "n_classes=2"),
        (Transformer(12, 16, 1, 2, cond_dim=None), "causal=False with cond_dim=None"),
        (Transformer(12, 16, 1, 2, cond_dim=8, causal=True), "causal=True with cond_dim=8"),
    ],
)
def test_a_transformer_that_was_never_published_is_refused(
    network: Transformer, message: str
) -> None:
    node = {
        "_target_": "genodiff.backbones.Transformer",
        **{"d_model": 16, "n_layers": 1, "n_heads": 2, "causal": "causal=True" in message},
        "cond_dim": None if network.time is None else 8,
        "n_classes": None if network.classes is None else 2,
    }
    with pytest.raises(UserError, match=rf"layout=mdlm has no place for .*{message}"):
        publish_dit(node, network)


def test_a_dimamba_with_a_residual_stream_is_not_the_published_one() -> None:
    node = {"_target_": "genodiff.backbones.DiMamba", "d_model": 16, "n_layers": 1}
    with pytest.raises(UserError, match="no place for a DiMamba with residual=True"):
        publish_dimamba(node, DiMamba(12, 16, 1))


def test_another_backbone_has_no_place_in_a_layout() -> None:
    node = {"_target_": "genodiff.backbones.DiMamba"}
    for publish in (publish_caduceus, publish_dit):
        with pytest.raises(UserError, match=r"no place for the backbone genodiff\..*DiMamba"):
            publish(node, DiMamba(12, 16, 1))
    node = {
        "_target_": "genodiff.backbones.ReverseComplementEquivariant",
        "trunk": {"_target_": "genodiff.backbones.Caduceus", "tie_embeddings": False},
    }
    network = ReverseComplementEquivariant(Caduceus(12, 16, 1, tie_embeddings=False), COMPLEMENT)
    with pytest.raises(UserError, match="no place for tie_embeddings=False"):
        publish_caduceus(node, network)


@pytest.mark.parametrize(
    ("d_model", "n_layer", "bidirectional", "parameters"),
    [
        (118, 4, True, 470_702),
        (256, 4, True, 1_934_592),
        (256, 16, True, 7_725_312),
        (128, 4, False, 468_608),
    ],
)
def test_parameters_are_as_many_as_published(
    d_model: int, n_layer: int, bidirectional: bool, parameters: int
) -> None:
    for rcps in (False, True):
        config = {**PS, "rcps": rcps, "d_model": d_model, "n_layer": n_layer, "ssm_cfg": {}}
        network = built({**config, "bidirectional": bidirectional})
        assert sum(p.numel() for p in network.parameters()) == parameters
