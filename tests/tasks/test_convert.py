"""Published weights in and out: the same tensors, the same logits, and what cannot be read."""

import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from genodiff.backbones import (
    Backbone,
    DiMamba,
    Transformer,
    load_caduceus_state,
    load_dimamba_state,
    load_dit_state,
)
from genodiff.backbones.pretrained import (
    dimamba_names,
    dimamba_node,
    dit_node,
    publish_dimamba,
    publish_dit,
)
from genodiff.data import CharacterTokenizer, TokenIds, load_tokenizer
from genodiff.errors import UserError
from genodiff.tasks.convert import convert
from genodiff.tasks.model import load_model
from genodiff.tasks.publishing import write_caduceus
from genodiff.tasks.weights import plain, read_weights
from tests.backbones.toys import randomized, some_tokens
from tests.data.tiny_vocabularies import bert_folder, gpt2_folder
from tests.parity.cases import DATA, Case, read_cases
from tests.tasks.conftest import SMALL, Genodiff

State = dict[str, Tensor]
CADUCEUS = [case for case in read_cases(DATA) if case.kind == "cad_mlm"]
TRANSFORMERS = [
    case
    for case in read_cases(DATA)
    if case.kind == "mdlm_net" and case.config["net"] != "dimamba"
]
PS = next(case for case in CADUCEUS if case.file == "cad_mlm_ps_fused.npz")
PH = next(case for case in CADUCEUS if case.file == "cad_mlm_ph_fused.npz")
DIT = next(case for case in TRANSFORMERS if case.file == "mdlm_dit_a.npz")
AR = next(case for case in TRANSFORMERS if case.file == "mdlm_ar_a.npz")


def state_of(case: Case) -> State:
    return load_file(case.companion(".safetensors"))


def config_of(case: Case) -> dict[str, Any]:
    """What lies beside the weights: Caduceus' config.json, or that of MDLM's hub folder."""
    if case.kind == "cad_mlm":
        config = json.loads(case.companion("_config.json").read_text(encoding="utf-8"))
        return {"model_type": "caduceus", **config}
    model = case.config["model"]
    return {
        "model_type": "mdlm",
        "vocab_size": case.config["vocab_size"],
        "model_length": model["length"],
        "hidden_dim": model["hidden_size"],
        **{key: model[key] for key in ("cond_dim", "n_blocks", "n_heads", "dropout")},
        "time_conditioning": True,
        **({"causal": True} if case.config["net"] == "ar" else {}),
    }


def section_of(case: Case) -> dict[str, Any]:
    """What the backbones' own functions read."""
    return {**case.config["model"], "vocab_size": case.config["vocab_size"]}


def hub(folder: Path, config: dict[str, Any] | None, state: State) -> str:
    """A folder of the Hugging Face hub's layout, as `source=`."""
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors"
    )
    return f"source={folder}"


def stored_once(state: State) -> State:
    """Of tensors that are equal and tied, the one that the hub keeps."""
    dropped = ("mamba_rev.in_proj.weight", "mamba_rev.out_proj.weight", "lm_head.weight")
    kept: State = {}
    for name, tensor in state.items():
        tied = name.endswith(dropped) and any(
            torch.equal(tensor, other)
            for alias, other in state.items()
            if alias in (name.replace("_rev", "_fwd"),) or "word_embeddings" in alias
            if alias != name and other.shape == tensor.shape
        )
        if not tied:
            kept[name] = tensor
    return kept


Converted = Callable[..., str]


@pytest.fixture
def converted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[Converted]:
    """`converted("source=...", "out=...", ...)` without the command line, which takes ten times
    as long, in an empty folder: what was logged."""
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("genodiff")
    caplog.set_level(logging.INFO, logger.name)
    logger.addHandler(caplog.handler)  # a task takes away the root's

    def run(*words: str) -> str:
        caplog.clear()
        given = dict(word.split("=", 1) for word in words)
        options = {
            key: yaml.safe_load(given[key]) for key in given if key not in ("source", "out")
        }
        convert(Path(given["source"]), Path(given["out"]), **options)
        return caplog.text

    yield run
    logger.removeHandler(caplog.handler)


def refused(genodiff: Genodiff, message: str, *words: str) -> None:
    """Runs convert out=out, which must refuse with `message` in one line and leave nothing."""
    before = set(Path().iterdir())
    outcome = genodiff("convert", *words, "out=out")
    complaint = [line for line in outcome.stderr.splitlines() if line.startswith("genodiff ")]
    assert outcome.code == 2, outcome
    assert len(complaint) == 1 and message in complaint[0], outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert set(Path().iterdir()) == before  # no half folder, under whatever name


def network_of(folder: str) -> Backbone:
    network = load_model(Path(folder), torch.device("cpu")).denoiser.network
    assert isinstance(network, Backbone)
    return network


def assert_same_tensors(actual: State, expected: State) -> None:
    assert set(actual) == set(expected)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert all(actual[name].dtype == expected[name].dtype for name in expected)


# In and out


@pytest.mark.parametrize("case", CADUCEUS, ids=lambda case: case.file)
def test_a_caduceus_there_and_back(converted: Converted, tmp_path: Path, case: Case) -> None:
    state, config = state_of(case), config_of(case)
    log = converted(hub(tmp_path / "given", config, state), "out=model")
    assert "Mamba, left to right" in log if not config["bidirectional"] else "Caduceus-P" in log
    network = network_of("model")
    tokens = case.arrays["input_ids"]
    assert torch.equal(network(tokens), load_caduceus_state(config, state).eval()(tokens))

    converted("source=model", "out=back", "layout=caduceus")
    assert_same_tensors(load_file("back/model.safetensors"), stored_once(state))
    back = json.loads(Path("back/config.json").read_text())
    told = {**config, "vocab_size": 16, "complement_map": back["complement_map"]}
    if not config["rcps"]:
        told["fused_add_norm"] = True  # the same function, and the same names, with or without
    assert back == {**back, **told} and back["architectures"] == ["CaduceusForMaskedLM"]
    if config["rcps"]:
        table = case.arrays["complement_map"].tolist()
        assert list(back["complement_map"].items()) == [(str(i), j) for i, j in enumerate(table)]
    with safe_open("back/model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}

    converted("source=back", "out=again")
    first, again = (Path(name, "model.safetensors").read_bytes() for name in ("model", "again"))
    assert first == again


@pytest.mark.parametrize("case", TRANSFORMERS, ids=lambda case: case.file)
def test_a_transformer_of_mdlm_there_and_back(
    converted: Converted, tmp_path: Path, case: Case
) -> None:
    state, left_to_right = state_of(case), case.config["net"] == "ar"
    prefixed = {f"backbone.{name}": tensor for name, tensor in state.items()}
    mask_id = case.config.get("mask_index", case.config["vocab_size"] - 1)
    words = (hub(tmp_path / "given", config_of(case), prefixed), f"mask_id={mask_id}")
    log = converted(*words, "out=model")
    assert ("predicts the next token" in log) == left_to_right
    network, expected = network_of("model"), load_dit_state(section_of(case), state).eval()
    tokens = case.arrays["tokens"]
    assert torch.equal(network(tokens), expected(tokens))
    description = json.loads(Path("model/config.json").read_text())
    assert description["time_conditioning"] is not left_to_right
    # Its loss is of x_1 .. x_(l-1) given x_0, without a start.
    assert description["denoiser"].get("first_is_given", False) is left_to_right
    assert "tokenizer" not in description
    assert json.loads(Path("model/tokenizer.json").read_text())["mask_id"] == mask_id

    converted("source=model", "out=back", "layout=mdlm")
    assert_same_tensors(load_file("back/model.safetensors"), state if left_to_right else prefixed)
    back = json.loads(Path("back/config.json").read_text())
    if left_to_right:
        kept = ("hidden_size", "n_blocks", "n_heads", "dropout", "causal")
        model = {key: case.config["model"][key] for key in kept}
        assert back["config"]["model"] == {**back["config"]["model"], **model}
        assert (back["vocab_size"], back["mask_index"]) == (case.config["vocab_size"], mask_id)
    else:
        told = {**config_of(case), "model_length": 1024, "mask_index": mask_id}
        assert back == {**back, **told} and back["architectures"] == ["MDLM"]
    converted("source=back", "out=again")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert Path("model", name).read_bytes() == Path("again", name).read_bytes()


@pytest.mark.parametrize("strategy", ["adaln", "add", "concat"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_dimamba_of_a_lightning_checkpoint_there_and_back(
    converted: Converted, strategy: str, tied: bool
) -> None:
    config = {
        **{"hidden_size": 16, "n_blocks": 2, "cond_dim": 8, "vocab_size": 11},
        **{"temb_strategy": strategy, "tie_word_embeddings": tied},
    }
    node = dimamba_node(config)
    own = randomized(DiMamba(**{k: v for k, v in node.items() if k != "_target_"})).float()
    state = {
        alias: tensor[:, None] if name.endswith("conv_weight") else tensor
        for name, tensor in own.state_dict().items()
        for alias in dimamba_names(own.state_dict())[name]
    }
    contents = {"state_dict": {f"backbone.{name}": tensor for name, tensor in state.items()}}
    torch.save(contents, "dimamba.ckpt")  # no settings: the tensors tell all
    converted("source=dimamba.ckpt", "out=model")
    network, expected = network_of("model"), load_dimamba_state(config, state).eval()
    tokens = some_tokens() % 11
    assert torch.equal(network(tokens), expected(tokens))
    converted("source=model", "out=back", "layout=mdlm")
    once = load_file("back/model.safetensors")
    assert all(torch.equal(once[name], state[name]) for name in once)
    assert set(state) - set(once) == {
        name
        for name in state
        if "mamba_rev" in name and name.endswith("_proj.weight")
        if "in_proj" in name or "out_proj" in name
    } | ({"model.lm_head.weight"} if tied else set())
    converted("source=back", "out=again")
    for name in ("model.safetensors", "config.json"):
        assert Path("model", name).read_bytes() == Path("again", name).read_bytes()


def test_a_trained_model_is_given_away_and_taken_back(converted: Converted, trained: str) -> None:
    converted(f"source={trained}", "out=given", "layout=caduceus")
    converted("source=given", "out=back")
    tokens = some_tokens() % 4 + 7  # no padding, which a published network sees, and ours does not
    own = load_model(Path(trained), torch.device("cpu")).network
    assert torch.equal(network_of("back")(tokens), own(tokens))
    converted(f"source={trained}/checkpoints/best.ckpt", "out=portable")
    assert torch.equal(network_of("portable")(tokens), own(tokens))


def test_a_dit_of_dna_keeps_its_tokenizer(
    genodiff: Genodiff, converted: Converted, genome: tuple[str, str]
) -> None:
    words = (*genome, *SMALL, "backbone=dit", "out=run")
    assert genodiff("train", *words).code == 0
    converted("source=run", "out=given", "layout=mdlm")
    log = converted("source=given", "out=back")
    assert "mask_id" not in log
    assert json.loads(Path("back/tokenizer.json").read_text())["_target_"].endswith("DnaTokenizer")


# How weights are stored


@pytest.mark.parametrize("case", [PS, PH], ids=lambda case: case.file)
def test_whichever_name_a_tied_tensor_has(
    converted: Converted, tmp_path: Path, case: Case
) -> None:
    state, config = state_of(case), config_of(case)
    others = {
        name: tensor
        for name, tensor in state.items()
        if "word_embeddings.weight" not in name and "word_embeddings.embedding" not in name
        if not name.endswith(("mamba_fwd.in_proj.weight", "mamba_fwd.out_proj.weight"))
    }
    assert len(others) == len(state) - 5
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(state, folder / "pytorch_model.bin")
    sources = [hub(tmp_path / "once", config, stored_once(state)), f"source={folder}"]
    sources += [hub(tmp_path / "others", config, others), f"source={folder}/pytorch_model.bin"]
    models = []
    for i, source in enumerate(sources):
        converted(source, f"out=model{i}")
        models.append(Path(f"model{i}", "model.safetensors").read_bytes())
    assert len(set(models)) == 1


@pytest.mark.parametrize("name", ["model_config.json", "config.json", "inside"])
def test_a_lightning_checkpoint_of_caduceus(converted: Converted, name: str) -> None:
    config = {**config_of(PH), "bidirectional": "true,"}  # as the published YAML has it
    contents: dict[str, Any] = {
        "state_dict": {f"model.{key}": tensor for key, tensor in state_of(PH).items()},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}}],
    }
    whole = {"train": {"seed": 2222}, "model": {"_name_": "caduceus_lm", "config": config}}
    if name == "inside":
        contents["hyper_parameters"] = OmegaConf.create(whole)
        contents["hparams_type"] = type(contents["hyper_parameters"])
    Path("run/checkpoints").mkdir(parents=True)
    torch.save(contents, "run/checkpoints/last.ckpt")
    if name == "model_config.json":
        Path("run", name).write_text(json.dumps({"config": config}))
    elif name == "config.json":
        Path("run", name).write_text(json.dumps(whole))
    converted("source=run", "out=model")
    expected = load_caduceus_state(config_of(PH), state_of(PH)).eval()
    assert torch.equal(network_of("model")(some_tokens()), expected(some_tokens()))


def test_complements_are_kept_however_often_json_reorders_them(
    converted: Converted, tmp_path: Path
) -> None:
    hub(tmp_path / "round0", config_of(PS), state_of(PS))
    for i in range(3):
        path = Path(f"round{i}", "config.json")
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config, sort_keys=True))  # "10" before "2"
        assert list(json.loads(path.read_text())["complement_map"])[:3] == ["0", "1", "10"]
        converted(f"source=round{i}", f"out=round{i + 1}", "layout=caduceus")
    converted("source=round3", "out=model")
    rc, expected = PS.arrays["rc_input_ids"], PS.arrays["rc_logits"]
    torch.testing.assert_close(network_of("model")(rc), expected, atol=5e-5, rtol=1e-4)


# Lightning checkpoints of MDLM

HYDRA = {
    "backbone": "dit",
    "parameterization": "subs",
    "time_conditioning": False,
    "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
    "data": {"tokenizer_name_or_path": "gpt2", "block_size": "${model.length}"},
    "model": DIT.config["model"],
}


def lightning(path: str, settings: dict[str, Any] | None = None, **more: Any) -> str:
    """A checkpoint as MDLM's training leaves it; its average is the weights doubled."""
    state = state_of(DIT)
    shadow = [2 * tensor for name, tensor in state.items() if name != "rotary_emb.inv_freq"]
    contents = {
        "state_dict": {f"backbone.{name}": tensor for name, tensor in state.items()},
        "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": shadow},
        "loops": {"fit_loop": {"epoch_progress": {"current": {"completed": 0}}}},
        **more,
    }
    if settings is not None:
        contents["hyper_parameters"] = {"config": OmegaConf.create(settings)}
    torch.save(contents, path)
    return f"source={path}"


def test_the_averaged_weights_are_taken_unless_asked_otherwise(converted: Converted) -> None:
    source = lightning("mdlm.ckpt", HYDRA)
    assert "The averaged weights are taken" in converted(source, "out=a")
    assert "The last weights are taken" in converted(source, "ema=false", "out=b")
    converted(source, "ema=true", "out=c")
    weights = [Path(name, "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[2] != weights[1]
    averaged, last = network_of("a"), load_dit_state(section_of(DIT), state_of(DIT))
    for (_, ours), (_, theirs) in zip(
        averaged.named_parameters(), last.named_parameters(), strict=True
    ):
        assert torch.equal(ours, 2 * theirs)


def test_averages_that_do_not_fit_are_listed(genodiff: Genodiff, converted: Converted) -> None:
    shadow = [torch.zeros(1)] * 29
    source = lightning("mdlm.ckpt", HYDRA, ema={"shadow_params": shadow})
    refused(
        genodiff,
        "30 parameters and 29 averages; blocks.0.adaLN_modulation.bias is (192,), its average ",
        source,
    )
    source = lightning("mdlm.ckpt", HYDRA, ema={"decay": 1})
    refused(genodiff, "ema has no list shadow_params", source)
    converted(source, "ema=false", "out=model")


def test_averages_hold_a_tied_parameter_once(converted: Converted) -> None:
    config = {
        **{"hidden_size": 16, "n_blocks": 1, "cond_dim": 8, "vocab_size": 11},
        **{"temb_strategy": "adaln", "tie_word_embeddings": True},
    }
    node = dimamba_node(config)
    own = randomized(DiMamba(**{k: v for k, v in node.items() if k != "_target_"})).float()
    aliases = dimamba_names(own.state_dict())
    state, shadow = {}, []
    for name, tensor in own.state_dict().items():
        tensor = tensor[:, None] if name.endswith("conv_weight") else tensor
        shadow.append(2 * tensor)
        state |= {f"backbone.{alias}": tensor for alias in aliases[name]}
    torch.save({"state_dict": state, "ema": {"shadow_params": shadow}}, "dimamba.ckpt")
    converted("source=dimamba.ckpt", "out=model")
    for name, tensor in network_of("model").state_dict().items():
        assert torch.equal(tensor, 2 * own.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "parameterization", "schedule"),
    [
        ({}, {"_target_": "Subs"}, {"_target_": "LogLinear", "eps": 1e-3}),
        (
            {"parameterization": "d3pm", "subs_masking": True, "noise": {"type": "cosine"}},
            {"_target_": "Mean", "subs_masking": True},
            {"_target_": "Cosine", "eps": 1e-3},
        ),
        (
            {
                **{"parameterization": "sedd", "time_conditioning": True},
                "noise": {"type": "geometric", "sigma_min": 1e-4, "sigma_max": 20},
            },
            {"_target_": "Score"},
            {"_target_": "Geometric", "sigma_min": 1e-4, "sigma_max": 20.0},
        ),
    ],
)
def test_the_settings_in_a_checkpoint_are_read(
    converted: Converted,
    change: dict[str, Any],
    parameterization: dict[str, Any],
    schedule: dict[str, Any],
) -> None:
    settings = {**HYDRA, **change}
    converted(lightning("mdlm.ckpt", settings), "out=model")
    description = json.loads(Path("model/config.json").read_text())
    for key, node in (("parameterization", parameterization), ("schedule", schedule)):
        target = f"genodiff.diffusion.{node['_target_']}"
        assert description[key] == {**node, "_target_": target}
    assert description["time_conditioning"] is settings["time_conditioning"]


def test_a_noise_that_is_not_known_is_refused(genodiff: Genodiff) -> None:
    source = lightning("mdlm.ckpt", {**HYDRA, "noise": {"type": "learned"}})
    refused(genodiff, "noise.type=learned", source)


@pytest.mark.parametrize(
    ("tokenizer", "words", "mask_id", "assumed"),
    [
        ("gpt2", (), 16, True),
        ("text8", (), 4, False),
        ("gpt2", ("mask_id=5",), 5, False),
    ],
)
def test_which_id_the_mask_has(
    converted: Converted, tokenizer: str, words: tuple[str, ...], mask_id: int, assumed: bool
) -> None:
    settings = {**HYDRA, "data": {"tokenizer_name_or_path": tokenizer}}
    log = converted(lightning("mdlm.ckpt", settings), *words, "out=model")
    assert json.loads(Path("model/tokenizer.json").read_text())["mask_id"] == mask_id
    assert (f"mask_id={mask_id}, the last id, is taken" in log) == assumed


# Text tokenizers


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny vocabulary of GPT-2's kind, to which mask and padding are added."""
    return gpt2_folder(tmp_path_factory.mktemp("tokenizers") / "gpt2")


def of_gpt2(rows: int, name: str, folder: Path) -> str:
    """Published weights of a vocabulary without padding, as `source=`."""
    if name == "dimamba":
        config = {
            **{"hidden_size": 8, "n_blocks": 1, "cond_dim": 4, "vocab_size": rows},
            **{"temb_strategy": "concat", "tie_word_embeddings": False},
        }
        own: Backbone = randomized(load_target(DiMamba, dimamba_node(config))).float()
        section, state = publish_dimamba(dimamba_node(config), own)
    else:
        config = {
            **{"hidden_size": 16, "n_blocks": 1, "n_heads": 2, "cond_dim": 8, "dropout": 0.1},
            **{"vocab_size": rows, "causal": name == "ar"},
        }
        own = randomized(load_target(Transformer, dit_node(config))).float()
        section, state = publish_dit(dit_node(config), own)
    settings = {
        "parameterization": name if name in ("d3pm", "sedd") else "subs",
        "time_conditioning": name == "sedd",
        "T": 0,
        "vocab_size": rows,
        "model": {key: value for key, value in section.items() if key != "vocab_size"},
    }
    return hub(folder, settings, state)


def load_target(target: Callable[..., Backbone], node: dict[str, Any]) -> Backbone:
    return target(**{key: value for key, value in node.items() if key != "_target_"})


@pytest.mark.parametrize("name", ["subs", "d3pm", "sedd", "ar", "dimamba"])
def test_a_padding_of_its_own_changes_no_number(
    converted: Converted, tmp_path: Path, gpt2: Path, name: str
) -> None:
    tokenizer = load_tokenizer(str(gpt2))
    rows = tokenizer.vocab_size - 1
    source = of_gpt2(rows, name, tmp_path / "given")
    log = converted(source, "out=ids")
    assert "Its tokenizer is not part of it" in log and "the last id, is taken" in log
    log = converted(source, f"tokenizer={gpt2}", "out=text")
    assert "tokenizer" not in log and "mask_id" not in log
    ids, text = (load_model(Path(folder), torch.device("cpu")) for folder in ("ids", "text"))
    assert text.tokenizer == tokenizer == load_tokenizer("text")
    assert text.tokenizer.data_ids == ids.tokenizer.data_ids
    assert (ids.network.vocab_size, text.network.vocab_size) == (rows, rows + 1)
    x0 = torch.randint(rows - 1, (3, 20), generator=torch.Generator().manual_seed(1))
    sigma = torch.full((3, 1), 0.7) if text.network.has_time_input else None
    assert torch.equal(text.network(x0, sigma)[..., :-1], ids.network(x0, sigma))
    nats = [
        model.objective(model.denoiser, x0, generator=torch.Generator().manual_seed(2))
        for model in (ids, text)
    ]
    assert nats[0].abs().sum() > 1
    torch.testing.assert_close(nats[1], nats[0], rtol=1e-5, atol=1e-5)  # sums of one number more


@pytest.mark.parametrize("name", ["subs", "ar", "dimamba"])
def test_a_padding_of_its_own_is_not_published(
    converted: Converted, tmp_path: Path, gpt2: Path, name: str
) -> None:
    rows = load_tokenizer(str(gpt2)).vocab_size - 1
    source = of_gpt2(rows, name, tmp_path / "given")
    converted(source, f"tokenizer={gpt2}", "out=text")
    converted("source=text", "out=back", "layout=mdlm")
    given = load_file("given/model.safetensors")
    prefix = "backbone." if name == "subs" else ""
    expected = {f"{prefix}{key}": tensor for key, tensor in given.items()}
    assert_same_tensors(load_file("back/model.safetensors"), expected)
    config = json.loads(Path("back/config.json").read_text())
    assert (config["vocab_size"], config["mask_index"]) == (rows, rows - 1)
    converted("source=back", f"tokenizer={gpt2}", "out=again")
    for file in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert Path("text", file).read_bytes() == Path("again", file).read_bytes()


def test_a_model_folder_with_a_text_tokenizer(
    genodiff: Genodiff, converted: Converted, tmp_path: Path, gpt2: Path
) -> None:
    from tokenizers import Tokenizer

    rows = load_tokenizer(str(gpt2)).vocab_size - 1
    converted(of_gpt2(rows, "subs", tmp_path / "given"), f"tokenizer={gpt2}", "out=model")
    config = Path("model/config.json").read_text()
    assert "tokenizer" not in config and len(config) < 2000
    library = Tokenizer.from_file("model/tokenizer.json")
    assert library.decode([rows - 1], skip_special_tokens=False) == "[MASK]"
    words = ("checkpoint=model", "num_samples=2", "length=6", "steps=3", "out=-")
    outcome = genodiff("sample", *words, "prompt=the cat")
    assert outcome.code == 0 and outcome.stdout.count("the cat") == 2, outcome.stderr
    Path("model/tokenizer.json").write_text("{")
    outcome = genodiff("sample", *words)
    assert outcome.code == 2 and "checkpoint=model cannot be read" in outcome.stderr


def test_a_model_folder_of_the_former_form(converted: Converted) -> None:
    converted(lightning("mdlm.ckpt", HYDRA), "out=model")
    new = load_model(Path("model"), torch.device("cpu"))
    config = json.loads(Path("model/config.json").read_text())
    node = json.loads(Path("model/tokenizer.json").read_text())
    old = {**config, "format": 1, "tokenizer": node}
    Path("model/config.json").write_text(json.dumps(old))
    Path("model/tokenizer.json").unlink()
    former = load_model(Path("model"), torch.device("cpu"))
    assert former.description == new.description and former.tokenizer == new.tokenizer


def test_the_published_tokenizer_of_text8(converted: Converted, tmp_path: Path) -> None:
    source = of_gpt2(35, "subs", tmp_path / "given")
    settings = json.loads((tmp_path / "given" / "config.json").read_text())
    settings["data"] = {"tokenizer_name_or_path": "text8"}
    (tmp_path / "given" / "config.json").write_text(json.dumps(settings))
    converted(source, "tokenizer=text8", "out=model")
    model = load_model(Path("model"), torch.device("cpu"))
    assert model.tokenizer == CharacterTokenizer() == load_tokenizer("model")
    assert model.description["backbone"]["sees_padding"]  # it is one of the published tokens
    assert model.network.vocab_size == 35


def test_a_bert_with_its_tokenizer(converted: Converted, tmp_path: Path) -> None:
    words = bert_folder(tmp_path / "words")
    source = encoder(tmp_path / "bert", rows=120)
    log = converted(source, f"tokenizer={words}", "out=model")
    assert "Its tokenizer is not part" not in log
    model = load_model(Path("model"), torch.device("cpu"))
    assert model.tokenizer == load_tokenizer(str(words)) and model.tokenizer.mask_id == 4


def test_a_tokenizer_of_another_model(
    genodiff: Genodiff, converted: Converted, tmp_path: Path, gpt2: Path
) -> None:
    tokenizer = load_tokenizer(str(gpt2))
    rows, word = tokenizer.vocab_size - 1, f"tokenizer={gpt2}"
    right, small = (of_gpt2(n, "subs", tmp_path / str(n)) for n in (rows, rows - 1))
    refused(genodiff, f"has {rows + 1} tokens, and the weights are of {rows - 1}", small, word)
    refused(genodiff, f"weights is 5, and that of tokenizer= {rows - 1}", right, word, "mask_id=5")
    words = bert_folder(tmp_path / "words")
    source = encoder(tmp_path / "bert", rows=120, mask_token_id=7)
    refused(genodiff, "weights is 7, and that of tokenizer= 4", source, f"tokenizer={words}")
    source = encoder(tmp_path / "few", rows=60)
    refused(genodiff, "use the tokenizer that belongs to it", source, f"tokenizer={words}")
    source = of_gpt2(rows, "dimamba", tmp_path / "dimamba")
    config = json.loads((tmp_path / "dimamba" / "config.json").read_text())
    (tmp_path / "dimamba" / "config.json").write_text(
        json.dumps({**config, "parameterization": "sedd"})
    )
    refused(genodiff, "no bias by which sedd could leave it out", source, word)
    caduceus = hub(tmp_path / "caduceus", config_of(PS), state_of(PS))
    refused(genodiff, "tokenizer= is for models of text, and a Caduceus reads DNA", caduceus, word)
    converted(right, "out=model")
    refused(genodiff, "tokenizer= is for published weights", "source=model", word)
    refused(genodiff, "tokenizer=nowhere/at/all is no folder", right, "tokenizer=nowhere/at/all")


def test_settings_are_recovered_from_omegaconf_s_pickle(tmp_path: Path) -> None:
    settings = {**HYDRA, "list": [1, {"a": None}], "flag": True}
    lightning(str(tmp_path / "mdlm.ckpt"), settings)
    recovered = plain(read_weights(tmp_path / "mdlm.ckpt")["hyper_parameters"])
    assert recovered == {"config": settings}


# Nobody's code is run

FOREIGN = """
from pathlib import Path

Path("imported").touch()

class Tokenizer:
    def __init__(self, name):
        Path("constructed").touch()
        self.name, self.pieces = name, {"a": 1}

    def __setstate__(self, state):
        Path("restored").touch()

def factory(*arguments):
    Path("called").touch()

class Made:
    def __reduce__(self):
        return factory, (1, "two")
"""


def test_foreign_objects_in_a_checkpoint_are_neither_imported_nor_called(
    converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign_tokenizers.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("foreign_tokenizers")
    made = {"tokenizer": module.Tokenizer("gpt2"), "made": module.Made(), "path": Path("x")}
    source = lightning("mdlm.ckpt", hyper_parameters={**made, "config": OmegaConf.create(HYDRA)})
    marks = [Path(name) for name in ("imported", "constructed", "restored", "called")]
    for mark in marks:
        mark.unlink(missing_ok=True)
    del sys.modules["foreign_tokenizers"]
    safe = set(torch.serialization.get_safe_globals())
    converted(source, "out=model")
    assert "foreign_tokenizers" not in sys.modules
    assert not any(mark.exists() for mark in marks)
    assert set(torch.serialization.get_safe_globals()) == safe
    assert network_of("model")(some_tokens()).isfinite().all()


class Malicious:
    """Pickled, it is a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def test_a_malicious_checkpoint_does_nothing(genodiff: Genodiff) -> None:
    source = lightning("mdlm.ckpt", callbacks=Malicious(os.system, "touch owned"))
    refused(genodiff, "cannot be read", source)
    for function, argument in ((exec, "open('owned', 'w')"), (os.mkdir, "owned")):
        source = lightning("mdlm.ckpt", callbacks=Malicious(function, argument))
        genodiff("convert", source, "out=model", "overwrite=true")
        assert not Path("owned").exists()
    torch.save({"state_dict": Malicious(exec, "open('owned', 'w')")}, "evil.ckpt")
    refused(genodiff, "holds no state dict of tensors", "source=evil.ckpt")
    assert not Path("owned").exists()


# Encoders of transformers


def encoder(folder: Path, *, rows: int = 12, **changes: Any) -> str:
    """A tiny BERT in a hub folder, as `source=`."""
    from transformers import BertConfig, BertForMaskedLM

    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"vocab_size": rows, "intermediate_size": 32, "max_position_embeddings": 64}
    config = BertConfig(**sizes)
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    if changes:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return f"source={folder.name}"


def test_a_bert_is_fine_tuned_and_sampled(
    genodiff: Genodiff, converted: Converted, genome: tuple[str, str], tmp_path: Path
) -> None:
    text = converted(encoder(tmp_path / "bert"), "mask_id=3", "out=model")
    assert "bert, 3,820 parameters" in text and "the mask is 3" in text
    from transformers import BertForMaskedLM

    tokens = some_tokens()
    expected = BertForMaskedLM.from_pretrained(tmp_path / "bert").eval()(tokens).logits
    assert torch.equal(network_of("model")(tokens), expected)
    words = (*genome, *SMALL[2:], "init=model", "backbone=trained", "data.length=32")
    outcome = genodiff("train", *words, "trainer.max_steps=2", "out=run")
    assert outcome.code == 0, outcome.stderr
    outcome = genodiff("sample", "checkpoint=run", "num_samples=2", "length=32", "out=-")
    assert outcome.code == 0 and outcome.stdout.startswith(">sample_0"), outcome.stderr
    refused(genodiff, "layout=caduceus has no place", "source=model", "layout=caduceus")


def test_the_mask_of_a_bert_is_its_tokenizers(converted: Converted, tmp_path: Path) -> None:
    source = encoder(tmp_path / "bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "[MASK]", *"cdefg"]
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(words))
    assert "the mask is 6" in converted(source, "out=model")
    esm = encoder(tmp_path / "told", mask_token_id=5)
    assert "the mask is 5" in converted(esm, "out=other")


def test_an_encoder_whose_mask_is_not_known(genodiff: Genodiff, tmp_path: Path) -> None:
    source = encoder(tmp_path / "bert")
    refused(genodiff, "does not say which token is the mask; give mask_id=", source)
    refused(genodiff, "ema=true, but", source, "ema=true", "mask_id=3")


# What users get wrong


def test_a_source_that_is_none(genodiff: Genodiff, tmp_path: Path) -> None:
    refused(genodiff, "source=nowhere does not exist", "source=nowhere")
    (tmp_path / "empty").mkdir()
    refused(genodiff, "holds no weights (model.safetensors, ", "source=empty")
    state = {"transformer.wte.weight": torch.zeros(2, 2)}
    refused(genodiff, "holds no network that genodiff knows", hub(tmp_path / "gpt", None, state))
    source = hub(tmp_path / "llama", {"model_type": "llama", "n_layer": 2}, state_of(PH))
    refused(genodiff, "model_type=llama is no masked language model", source)
    refused(genodiff, "says model_type=llama, and such", f"{source}/model.safetensors")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    refused(genodiff, "config.json cannot be read", "source=broken")
    for name in ("a.ckpt", "b.ckpt"):
        torch.save({}, tmp_path / "empty" / name)
    refused(genodiff, "source=empty holds a.ckpt, b.ckpt; name one", "source=empty")


def test_a_caduceus_without_its_config(genodiff: Genodiff, tmp_path: Path) -> None:
    refused(genodiff, "has no config.json of a Caduceus", hub(tmp_path / "a", None, state_of(PH)))


def test_an_mdlm_whose_tensors_do_not_tell_all(genodiff: Genodiff, tmp_path: Path) -> None:
    state = {k: v for k, v in state_of(DIT).items() if k != "rotary_emb.inv_freq"}
    refused(genodiff, "the published config has no n_heads", hub(tmp_path / "a", None, state))
    state = {"model.bimamba.backbone.norm_f.weight": torch.ones(4)}
    refused(
        genodiff, "the published config has no temb_strategy", hub(tmp_path / "b", None, state)
    )


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "mdlm.ckpt"])
def test_a_truncated_file(genodiff: Genodiff, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "given"
    hub(folder, config_of(PH), state_of(PH))
    if name != "model.safetensors":
        (folder / "model.safetensors").unlink()
        torch.save(state_of(PH), folder / name)
    whole = (folder / name).read_bytes()
    for size in (len(whole) - 100, len(whole) // 2, 10, 0):
        (folder / name).write_bytes(whole[:size])
        refused(genodiff, f"{name} cannot be read", "source=given")


@pytest.mark.parametrize(
    ("config", "state", "message"),
    [
        ({}, {"caduceus.backbone.norm_f.weight": None}, "missing caduceus.backbone.norm_f.weight"),
        ({}, {"score.weight": torch.zeros(2, 16)}, "extra score.weight"),
        ({}, {"caduceus.backbone.norm_f.weight": torch.ones(3)}, "is (3,), not (16,)"),
        ({"n_layer": 3}, {}, "missing caduceus.backbone.layers.2"),
        ({"fused_add_norm": False}, {}, "fused_add_norm=False of the config contradicts"),
        ({"vocab_size": 4096}, {}, "vocab_size=4096 of the config is not that of"),
        ({"complement_map": {str(i): i for i in range(12)}}, {}, "complement_map=[0, 1, 2"),
        ({"d_model": "16"}, {}, "d_model=16 is not an integer"),
    ],
)
def test_weights_and_a_config_that_do_not_fit(
    genodiff: Genodiff,
    tmp_path: Path,
    config: dict[str, Any],
    state: dict[str, Tensor | None],
    message: str,
) -> None:
    tensors = {k: v for k, v in {**state_of(PS), **state}.items() if v is not None}
    refused(genodiff, message, hub(tmp_path / "given", {**config_of(PS), **config}, tensors))


def test_keys_that_mean_nothing_for_a_source(
    genodiff: Genodiff, converted: Converted, tmp_path: Path, trained: str
) -> None:
    caduceus = hub(tmp_path / "given", config_of(PS), state_of(PS))
    refused(genodiff, "mask_id=3 is for MDLM", caduceus, "mask_id=3")
    refused(genodiff, "has no averaged weights", caduceus, "ema=true")
    log = converted(caduceus, "ema=false", "out=model")
    assert "There are no averaged weights" in log
    refused(genodiff, "ema= is for published weights", f"source={trained}", "ema=true")
    refused(genodiff, "mask_id=99 is not in the vocabulary", lightning("m.ckpt"), "mask_id=99")


def test_a_layout_that_has_no_place_for_a_model(genodiff: Genodiff, trained: str) -> None:
    source = lightning("dit.ckpt", HYDRA)
    refused(genodiff, "layout=caduceus has no place for the backbone", source, "layout=caduceus")
    refused(
        genodiff, "layout=mdlm has no place for the backbone", f"source={trained}", "layout=mdlm"
    )
    sedd = {**HYDRA, "parameterization": "sedd"}
    source = lightning("sedd.ckpt", sedd)
    refused(genodiff, "has no place for the parameterization", source, "layout=mdlm")
    told = {**HYDRA, "time_conditioning": True, "noise": {"type": "cosine"}}
    source = lightning("told.ckpt", told)
    refused(genodiff, "has no place for the schedule Cosine", source, "layout=mdlm")
    refused(genodiff, "layout=hf is not one of genodiff, caduceus, mdlm", source, "layout=hf")


@pytest.mark.parametrize(("objective", "backbone"), [("mlm", "caduceus"), ("next_token", "mamba")])
def test_what_was_trained_like_a_published_model_is_published(
    genodiff: Genodiff, genome: tuple[str, str], objective: str, backbone: str
) -> None:
    words = (f"objective={objective}", f"backbone={backbone}", *SMALL, "out=run")
    outcome = genodiff("train", *genome, *words)
    assert outcome.code == 0, outcome.stderr
    outcome = genodiff("convert", "source=run", "out=given", "layout=caduceus")
    assert outcome.code == 0, outcome.stderr
    outcome = genodiff("convert", "source=given", "out=back")
    assert outcome.code == 0, outcome.stderr
    own, back = (load_model(Path(name), torch.device("cpu")) for name in ("run", "back"))
    tokens = some_tokens() % 4 + 7
    assert torch.equal(own.network(tokens), back.network(tokens))
    assert type(own.denoiser) is type(back.denoiser)


def test_a_caduceus_of_other_tokens_has_no_place(trained: str, tmp_path: Path) -> None:
    model = load_model(Path(trained), torch.device("cpu"))
    with pytest.raises(UserError, match="layout=caduceus has no place for TokenIds"):
        write_caduceus(model._replace(tokenizer=TokenIds(12, 3)), tmp_path)


def test_what_is_there_is_not_overwritten_unasked(
    genodiff: Genodiff, converted: Converted, tmp_path: Path
) -> None:
    source = hub(tmp_path / "given", config_of(PS), state_of(PS))
    converted(source, "out=model")
    before = Path("model/manifest.json").read_bytes()
    outcome = genodiff("convert", source, "out=model")
    assert outcome.code == 2 and "overwrite=true" in outcome.stderr
    outcome = genodiff("convert", "source=nowhere", "out=model", "overwrite=true")
    assert outcome.code == 2 and Path("model/manifest.json").read_bytes() == before
    converted(source, "out=model", "overwrite=true", "layout=caduceus")
    assert not Path("model/tokenizer.json").exists()
    # What was downloaded is not ours to replace.
    outcome = genodiff("convert", "source=model", "out=given", "overwrite=true")
    assert outcome.code == 2 and "was not written by genodiff" in outcome.stderr
    outcome = genodiff("convert", source, "out=given", "overwrite=true")
    assert outcome.code == 2 and "is source=" in outcome.stderr


def test_an_interrupted_convert_leaves_no_folder(
    genodiff: Genodiff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = hub(tmp_path / "given", config_of(PS), state_of(PS))

    def interrupted(*arguments: Any, **keywords: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("genodiff.tasks.publishing.save_file", interrupted)
    before = set(Path().iterdir())
    outcome = genodiff("convert", source, "out=model", "layout=caduceus")
    assert outcome.code == 130
    assert set(Path().iterdir()) == before


# What comes after


def test_a_published_folder_as_checkpoint_says_how_to_convert_it(
    genodiff: Genodiff, tmp_path: Path
) -> None:
    hub(tmp_path / "given", config_of(PS), state_of(PS))
    lightning("mdlm.ckpt", HYDRA)
    for path in ("given", "mdlm.ckpt"):
        outcome = genodiff("sample", f"checkpoint={path}", "out=-")
        assert outcome.code == 2 and outcome.stdout == ""
        assert f"genodiff convert source={path} out=DIR" in outcome.stderr


def test_a_published_caduceus_is_fine_tuned_sampled_and_evaluated(
    genodiff: Genodiff, converted: Converted, tmp_path: Path, genome: tuple[str, str]
) -> None:
    converted(hub(tmp_path / "given", config_of(PS), state_of(PS)), "out=model")
    small = [word for word in SMALL if not word.startswith("backbone.")]
    run = (*genome, *small, "init=model", "trainer.max_steps=1")
    outcome = genodiff("train", *run, "out=wrong")
    assert outcome.code == 2 and not Path("wrong").exists()
    assert "does not fit the network that backbone= gives" in outcome.stderr
    assert "backbone=trained" in outcome.stderr
    outcome = genodiff("train", *run, "backbone=trained", "out=run")
    assert outcome.code == 0, outcome.stderr
    outcome = genodiff("sample", "checkpoint=run", "num_samples=2", "length=20", "out=-")
    assert outcome.code == 0 and outcome.stdout.count(">sample_") == 2
    words = ("checkpoint=model", *genome, "data=fasta", "data.length=64", "baselines=false")
    outcome = genodiff("evaluate", *words, "out=-")
    assert outcome.code == 0, outcome.stderr
    assert json.loads(outcome.stdout)["nats_per_token"] > 1


def test_the_trained_backbone_needs_a_model_to_be_of(
    genodiff: Genodiff, genome: tuple[str, str]
) -> None:
    outcome = genodiff("train", *genome, "backbone=trained", "out=run")
    assert outcome.code == 2 and "backbone=trained is the network of init=" in outcome.stderr


def test_a_model_of_ids_is_sampled_as_ids(
    genodiff: Genodiff, converted: Converted, genome: tuple[str, str]
) -> None:
    converted(lightning("mdlm.ckpt", HYDRA), "mask_id=3", "out=model")
    words = ("checkpoint=model", "num_samples=3", "length=5", "steps=4")
    outcome = genodiff("sample", *words, "out=-")
    assert outcome.code == 0, outcome.stderr
    rows = [[int(word) for word in line.split()] for line in outcome.stdout.splitlines()]
    assert [len(row) for row in rows] == [5, 5, 5]
    assert all(0 <= i < 17 and i != 3 for row in rows for i in row)
    outcome = genodiff("sample", *words, "average_strands=true", "out=-")
    assert outcome.code == 2 and "TokenIds have no complement" in outcome.stderr
    outcome = genodiff("evaluate", "checkpoint=model", "data=fasta", *genome, "out=-")
    assert outcome.code == 2 and "reads tokens of TokenIds" in outcome.stderr
