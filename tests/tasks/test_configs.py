"""Every file of configs/ composes, and everything that can be trained takes a step."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from genodiff.cli import SHARED_KEYS, TASKS
from genodiff.config import config_dir
from tests.tasks.conftest import Genodiff

Genome = tuple[str, str]
ONE_STEP = (
    *("trainer.max_steps=1", "trainer.validate_sequences=2", "data.length=32", "device=cpu"),
    *("data.batch_size=2",),
)
SMALL = ("backbone.d_model=16", "backbone.n_layers=1")
TRANSFORMER = (*SMALL, "backbone.n_heads=2")
SIZES = {
    "ar_medium": TRANSFORMER,
    "ar_small": TRANSFORMER,
    "ar_tiny": TRANSFORMER,
    "bert": ("backbone.config.hidden_size=16", "backbone.config.num_hidden_layers=1"),
    "caduceus": SMALL,
    "caduceus_ps": ("backbone.trunk.d_model=16", "backbone.trunk.n_layers=1"),
    "dimamba": (*SMALL, "time_conditioning=true"),
    "dimamba_tiny": (*SMALL, "time_conditioning=true"),
    "dit": SMALL,
    "dit_medium": TRANSFORMER,
    "dit_small": TRANSFORMER,
    "dit_tiny": TRANSFORMER,
    "mamba": SMALL,
    "trained": ("init=first",),
}


def options(group: str) -> list[str]:
    found = sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
    assert found, group
    return found


def test_every_task_has_its_config_and_every_config_its_task() -> None:
    at_root = {path.stem for path in config_dir().glob("*.yaml")}
    assert at_root == {*TASKS, "base", *SHARED_KEYS}


def test_every_group_is_tested_here() -> None:
    groups = {path.name for path in config_dir().iterdir() if path.is_dir()}
    tested = {"backbone", "schedule", "objective", "data", "sampler", "experiment"}
    # dataset, head: tests of fetch, finetune; hydra: needs SLURM; the others come with every
    # run below
    assert groups == tested | {"optimizer", "trainer", "dataset", "head", "hydra"}


@pytest.mark.parametrize("backbone", options("backbone"))
def test_every_backbone_takes_a_step(genodiff: Genodiff, genome: Genome, backbone: str) -> None:
    if backbone == "trained":
        first = genodiff("train", *genome, *ONE_STEP, *SIZES["caduceus"], "out=first")
        assert first.code == 0, first.stderr
    words = (*genome, *ONE_STEP, *SIZES[backbone], f"backbone={backbone}")
    outcome = genodiff("train", *words, "out=run")
    assert outcome.code == 0, outcome.stderr


@pytest.mark.parametrize("schedule", options("schedule"))
def test_every_schedule_takes_a_step(genodiff: Genodiff, genome: Genome, schedule: str) -> None:
    words = (*genome, *ONE_STEP, *SIZES["caduceus"], f"schedule={schedule}")
    outcome = genodiff("train", *words, "out=run")
    assert outcome.code == 0, outcome.stderr


OBJECTIVES = {
    "block_diffusion": (*SMALL, "backbone.block_length=8"),
    "next_token": ("backbone=mamba", *SMALL),
}


@pytest.mark.parametrize("objective", options("objective"))
def test_every_objective_takes_a_step_and_is_evaluated(
    genodiff: Genodiff, genome: Genome, objective: str
) -> None:
    words = OBJECTIVES.get(objective, SIZES["caduceus"])
    outcome = genodiff("train", *genome, *ONE_STEP, f"objective={objective}", *words, "out=run")
    assert outcome.code == 0, outcome.stderr
    outcome = genodiff("evaluate", "checkpoint=run", "data.split=valid", "out=valid.json")
    assert outcome.code == 0, outcome.stderr
    report = json.loads(Path("valid.json").read_text(encoding="utf-8"))
    assert report["bound"] is (objective != "next_token")
    # One step from nothing known: uniform over four bases, and a bound of that; D3PM has to tell
    # every token of sixteen once more.
    assert 1.2 < report["nats_per_token"] < 6.0


def test_a_schedule_that_does_nothing_is_refused(genodiff: Genodiff, genome: Genome) -> None:
    words = ("objective=next_token", "backbone=mamba", "schedule=cosine", "out=run")
    outcome = genodiff("train", *genome, *ONE_STEP, *words)
    assert outcome.code == 2
    assert "schedule=cosine does nothing: NextToken has no schedule; leave it" in outcome.stderr
    assert not Path("run").exists()


def test_a_network_that_sees_later_tokens_has_no_left_to_right_likelihood(
    genodiff: Genodiff, genome: Genome
) -> None:
    words = ("objective=next_token", *SIZES["caduceus"], "out=run")
    outcome = genodiff("train", *genome, *ONE_STEP, *words)
    assert outcome.code == 2
    assert "this Caduceus sees later tokens" in outcome.stderr


@pytest.mark.parametrize("data", options("data"))
def test_every_data_set_takes_a_step(genodiff: Genodiff, genome: Genome, data: str) -> None:
    small = (*ONE_STEP, *SIZES["caduceus"])
    if data == "fasta":
        words = genome
    elif data == "hg38":
        words = ("data=hg38", hg38())
    elif data == "synthetic":
        records = ("data.train_records=1", "data.valid_records=1", "data.test_records=1")
        words = ("data=synthetic", "data.record_length=512", *records)
    elif data == "text":
        Path("train.txt").write_text("one for training")
        Path("valid.txt").write_text("another to validate")
        words = ("data=text", "data.train=train.txt", "data.valid=valid.txt")
    elif data == "species":
        paths = (word.removeprefix("data.") for word in genome for _ in range(2))
        parts = zip(("human", "mouse") * 2, paths, strict=True)
        words = ("data=species", *(f"data.parts.{part}.{path}" for part, path in parts))
    elif data in ("labelled", "genomic_benchmarks", "glue"):
        return  # tests of finetune
    elif data == "hub_text" or "corpus:" in (config_dir() / "data" / f"{data}.yaml").read_text():
        return  # tests/data/test_corpora.py
    else:
        assert data == "trained"  # of evaluate alone
        return
    outcome = genodiff("train", *words, *small, "out=run")
    assert outcome.code == 0, outcome.stderr


OF_TEXT = ("lm1b_", "owt_", "text8_", "c4_")
"""What experiments begin with that test_text_recipes.py runs."""


@pytest.mark.parametrize(
    "experiment", [name for name in options("experiment") if not name.startswith(OF_TEXT)]
)
def test_every_experiment_takes_a_step(
    genodiff: Genodiff, genome: Genome, experiment: str
) -> None:
    if experiment == "glue":
        return  # tests of finetune
    words = [f"experiment={experiment}", *ONE_STEP, "data.num_workers=0"]
    if experiment == "human_cpu":
        words += genome
    elif experiment == "species_mdlm":
        words += [
            word.replace("data.", f"data.parts.{part}.", 1)
            for part in ("human", "mouse")
            for word in genome
        ]
        words += SMALL
    else:
        words.append(hg38())
    if experiment.startswith("hg38_") and experiment not in STAGE_ONE:
        stage_one = "hg38_ar_pretrain" if experiment == "hg38_ar" else "hg38_mlm"
        first = (f"experiment={stage_one}", *words[1:], *SMALL, "out=first")
        assert genodiff("train", *first).code == 0
        words.append("init=first")
    elif experiment in STAGE_ONE:
        words += SMALL
    outcome = genodiff("train", *words, "out=run")
    assert outcome.code == 0, outcome.stderr


def hg38() -> str:
    """The genome of the tests as `fetch` would leave it."""
    Path("root").mkdir()
    Path("genome.fa").rename("root/hg38.ml.fa")
    Path("genome.bed").rename("root/human-sequences.bed")
    return "data.root=root"


STAGE_ONE = ("hg38_mlm", "hg38_ar_pretrain", "hg38_mlm_8k", "hg38_mlm_32k", "hg38_mlm_131k")


def test_a_second_stage_needs_a_first_one(genodiff: Genodiff, genome: Genome) -> None:
    outcome = genodiff("train", "experiment=hg38_mdlm", hg38(), *ONE_STEP, "out=run")
    assert outcome.code == 2
    assert "backbone=trained is the network of init=; give init=" in outcome.stderr


def test_a_missing_hg38_says_how_to_get_it(genodiff: Genodiff) -> None:
    outcome = genodiff("train", "data=hg38", "data.root=.", *ONE_STEP, "out=run")
    assert outcome.code == 2 and "hg38.ml.fa" in outcome.stderr


def test_every_key_of_a_group_that_the_readme_names_is_one() -> None:
    root = Path(__file__).parents[2]
    named = set(
        re.findall(
            r"\b(backbone|data|optimizer|sampler|schedule|trainer)\.(\w+)=",
            (root / "README.md").read_text(encoding="utf-8"),
        )
    )
    known = set()
    for path in (root / "configs").rglob("*.yaml"):
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        groups = {path.parent.name: settings, **settings}
        known |= {
            (group, key)
            for group, keys in groups.items()
            if isinstance(keys, dict)
            for key in keys
        }
    assert len(named) > 20 and named <= known


def test_the_readme_s_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    state = torch.get_rng_state()
    exec(compile(block, "README.md", "exec"), {})
    torch.set_rng_state(state)
    assert re.fullmatch("[ACGT]{128}\n", capsys.readouterr().out)


def test_labels_need_a_network_that_is_told_classes(genodiff: Genodiff, genome: Genome) -> None:
    words = [
        word.replace("data.", f"data.parts.{part}.", 1)
        for part in ("human", "mouse")
        for word in genome
    ]
    words += ["data=species", "data.labelled=true", *ONE_STEP, *SIZES["caduceus"]]
    outcome = genodiff("train", *words, "out=run")
    assert outcome.code == 2
    assert "the data have 2 labels, and this Caduceus is told no such classes" in outcome.stderr
    assert not Path("run").exists()
