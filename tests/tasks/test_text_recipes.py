"""The recipes of text: their papers' numbers, and a step of each."""

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from genodiff.config import config_dir
from tests.data.tiny_vocabularies import bert_folder
from tests.tasks.conftest import Genodiff
from tests.tasks.test_configs import OF_TEXT

RECIPES = sorted(
    path.stem
    for path in (config_dir() / "experiment").glob("*.yaml")
    if path.stem.startswith(OF_TEXT)
)
SMALL = ("backbone.d_model=16", "backbone.n_layers=1", "backbone.n_heads=2")
STEP = (
    *("trainer.max_steps=1", "trainer.validate_sequences=2", "data.length=32", "device=cpu"),
    *("data.batch_size=2", "data.num_workers=0"),
)
QUICK = ("lm1b_bd3lm", "lm1b_ar", "lm1b_ablation_no_carry_over")
# What `*_bd3lm` begins from.
FIRST = {name: f"{name}_pretrain" for name in RECIPES if name.endswith("_bd3lm")}


@cache
def composed(*overrides: str, task: str = "train") -> dict[str, Any]:
    """The config of a command, with its gaps."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = OmegaConf.to_container(compose(task, list(overrides)))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def test_there_is_a_recipe_of_each_objective_for_each_corpus() -> None:
    methods = ("mdlm", "sedd", "d3pm", "ar", "udlm", "bd3lm", "bd3lm_pretrain")
    corpora = ("lm1b", "owt", "text8")
    ablation = ("discrete", "no_carry_over", "no_zero_masking")
    expected = {f"{corpus}_{method}" for corpus in corpora for method in methods}
    expected |= {f"lm1b_ablation_{name}" for name in ablation} | {"c4_bert_mdlm"}
    assert set(RECIPES) == expected


@pytest.mark.parametrize("recipe", [name for name in RECIPES if not name.startswith("c4")])
def test_a_recipe_has_the_papers_numbers(recipe: str) -> None:
    config = composed(f"experiment={recipe}")
    corpus, _, method = recipe.partition("_")
    steps = {"ar": 500_000, "bd3lm": 150_000, "bd3lm_pretrain": 850_000}.get(method, 1_000_000)
    packed = "_packed" if corpus == "lm1b" and "bd3lm" in method else ""
    assert config["data"] == {
        **composed(f"data={corpus}{packed}")["data"],
        "batch_size": 512,
        "length": {"lm1b": 128, "owt": 1024, "text8": 256}[corpus],
        "num_workers": 2,
        "jitter": 256 if corpus == "text8" else 0,
    }
    trainer, optimizer, backbone = (config[key] for key in ("trainer", "optimizer", "backbone"))
    assert trainer["max_steps"] == steps
    assert (trainer["ema_decay"], trainer["gradient_clip"]) == (0.9999, 1.0)
    assert trainer["precision"] == "auto"  # bf16 where there is a GPU
    text8 = corpus == "text8"
    assert round(optimizer["warmup_fraction"] * steps) == (2000 if text8 else 2500)
    assert optimizer["lr"] == (5e-4 if text8 else 3e-4)
    assert optimizer["betas"] == [0.9, 0.999]
    assert optimizer["weight_decay"] == (0.03 if text8 else 0.0)
    assert optimizer["min_lr_ratio"] == (0.0 if text8 else 1.0)  # a cosine; a constant
    assert [backbone[key] for key in ("d_model", "n_layers", "n_heads")] == [768, 12, 12]
    assert backbone["dropout"] == (0.05 if text8 else 0.1)
    told = method in ("sedd", "d3pm", "udlm")
    assert config["time_conditioning"] is told
    assert (backbone["cond_dim"] is None) is (method == "ar" or "bd3lm" in method)


def test_the_ablation_takes_one_part_after_the_other_away() -> None:
    # MDLM's table 8: continuous time, then carry-over, then zero masking.
    rows = [
        composed(f"experiment=lm1b_{name}")
        for name in (
            *("mdlm", "ablation_discrete", "ablation_no_carry_over"),
            "ablation_no_zero_masking",
        )
    ]
    whole, discrete, no_carry_over, no_zero_masking = rows
    differ = [
        {key for key in before if before[key] != after[key]}
        for before, after in itertools.pairwise(rows)
    ]
    assert differ == [{"objective"}, {"objective", "parameterization"}, {"parameterization"}]
    assert whole["objective"]["_target_"].endswith("ContinuousNelbo")
    assert discrete["objective"]["_target_"].endswith("DiscreteNelbo")
    assert discrete["parameterization"]["_target_"].endswith("Subs")
    for row in (no_carry_over, no_zero_masking):
        assert row["parameterization"]["_target_"].endswith("Mean")
        assert row["objective"]["reconstruct"] is True
    assert all(row["objective"]["steps"] == 1000 for row in rows[1:])
    assert no_carry_over["parameterization"]["subs_masking"] is True
    assert no_zero_masking["parameterization"]["subs_masking"] is False


@pytest.fixture
def local(tmp_path: Path) -> tuple[str, ...]:
    """Local text and a tokenizer in the place of the corpus and its tokenizer."""
    bert_folder(tmp_path / "bert")
    for split in ("train", "valid"):
        text = "\n\n".join(f"the {split} cat sat on mat {i} and then it sat" for i in range(12))
        (tmp_path / f"{split}.txt").write_text(text, encoding="utf-8")
    return ("data=text", "data.train=train.txt", "data.valid=valid.txt", "data.tokenizer=bert")


@pytest.mark.parametrize(
    "recipe",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in RECIPES
        if name != "c4_bert_mdlm"
    ],
)
def test_every_recipe_takes_a_step(
    genodiff: Genodiff, local: tuple[str, ...], recipe: str
) -> None:
    words = (*local, *STEP, *SMALL)
    if recipe in FIRST:
        first = genodiff("train", f"experiment={FIRST[recipe]}", *words, "out=first")
        assert first.code == 0, first.stderr
        words = (*words, "init=first")
    outcome = genodiff("train", f"experiment={recipe}", *words, "out=run")
    assert outcome.code == 0, outcome.stderr


@pytest.mark.slow
def test_a_bert_goes_on_by_diffusion(genodiff: Genodiff, local: tuple[str, ...]) -> None:
    pytest.importorskip("transformers")
    bert = (
        *("backbone=bert", "backbone.config.hidden_size=16", "objective=mlm"),
        *("backbone.config.num_hidden_layers=1", "backbone.config.intermediate_size=16"),
    )
    first = genodiff("train", *local, *STEP, *bert, "out=first")
    assert first.code == 0, first.stderr
    outcome = genodiff("train", "experiment=c4_bert_mdlm", *local, *STEP, "init=first", "out=run")
    assert outcome.code == 0, outcome.stderr
    words = ("checkpoint=run", "data.split=valid", "device=cpu", "out=valid.json")
    assert genodiff("evaluate", *words).code == 0
    assert json.loads(Path("valid.json").read_text())["bound"] is True
