"""Train a classifier on labelled sequences, from a trained network or a new one, and test it once.

usage: genodiff finetune checkpoint=RUN data=labelled data.train=FILE data.test=FILE out=RUN

example:
  genodiff finetune checkpoint=runs/a data=labelled data.train=train.csv data.test=test.csv \\
      epochs=10 out=runs/promoters

keys:
  out=RUN             folder for config.yaml, manifest.json, metrics.csv, checkpoints and, at the
                      end, metrics.json (test scores), predictions.npz (logits, labels) and
                      audit.json: copies between training and test, the score without them, and
                      what the majority and the length alone tell
  resume=RUN          go on with an interrupted run: its own config, nothing else to give
  split_seed=         of the 10 % of the training sequences that choose the weights (1), where the
                      data have no validation split of their own
{classifying}
  seed= device=auto|cpu|cuda overwrite=true
"""

import json
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from genodiff.data import ClassificationTask
from genodiff.errors import UserError
from genodiff.evaluation import Run as ScoredRun
from genodiff.evaluation import score_results
from genodiff.evaluation.scores import headline
from genodiff.files import claim_folder, write_text
from genodiff.ranks import is_first
from genodiff.tasks.build import Node, select_device
from genodiff.tasks.classifying import (
    Parts,
    Split,
    StrandUse,
    Tested,
    figures_of,
    held_out,
    plain_config,
    run_classifier,
    task_of,
)
from genodiff.tasks.cross_validation import Fold
from genodiff.tasks.facts import facts_of
from genodiff.tasks.launch import launch, user_overrides
from genodiff.tasks.provenance import provenance

log = logging.getLogger(__name__)


def main(
    *,
    out: str | None,
    resume: str | None,
    split_seed: int,
    data: Node,
    checkpoint: str | None,
    backbone: Node,
    head: Node,
    length: int | None,
    pad: Literal["left", "right"],
    append_sep: bool,
    pool_padding: bool,
    strands: StrandUse,
    probe: bool,
    batch_size: int,
    epochs: int,
    max_steps: int | None,
    optimizer: Node,
    trainer: Node,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    overwrite: bool,
) -> int:
    """Trains and tests. Returns 130 if a signal ended it before its last step."""
    asked: dict[str, Any] = dict(locals())
    if resume is not None:
        run = Path(resume)
        config = _resumed(run)
    elif out is None:
        raise UserError(
            "out= is required: the folder of the run (or resume=RUN to go on with one)."
        )
    else:
        run = Path(out)
        config = {**plain_config(asked), "split_seed": split_seed}
    task = task_of(config)
    chosen = select_device(device)
    split = held_out(task, config["split_seed"])
    parts = Parts(config, task, split)
    parts.fit_to(chosen)
    if resume is None and is_first():
        claim_folder(run, overwrite=overwrite)
        parameters = sum(p.numel() for p in parts.module.parameters())
        manifest = provenance(
            seed=seed,
            device=chosen,
            parameters=parameters,
            data=parts.module.description["data"],
        )
        write_text(run / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    tested = run_classifier(run, parts, chosen)
    if tested is None:
        log.info("stopped; go on with: genodiff finetune resume=%s", run)
        return 130
    if is_first():
        _audit(run, task, split, tested, parts)
        metric, found = task.metrics[0], tested.metrics
        log.info(
            "%s: test %s %.4f of %d sequences; validation %.4f of %d, which chose.",
            *(task.name, metric, found[metric], found["n_test"]),
            *(found[f"valid_{metric}"], found["n_valid"]),
        )
    return 0


def _audit(
    run: Path, task: ClassificationTask, split: Split, tested: Tested, parts: Parts
) -> None:
    """Says and writes what stands beside the score."""
    fold = Fold(1, parts.config["seed"], split, np.arange(len(task.test)))
    facts = facts_of(task, [fold], "paper", parts.length, words=False)
    told, labels = tested.predictions.told, tested.predictions.labels
    results = score_results(
        *(task.name, run.name, "paper"),
        [ScoredRun(1, fold.seed, len(split.train), fold.items, told, labels)],
        unseen=facts.unseen,
        baselines=facts.baselines,
        leakage=facts.audit.summary(),
        figures=figures_of(task),
    )
    kept = {key: results[key] for key in ("deduplicated", "baselines", "leakage")}
    write_text(run / "audit.json", json.dumps(kept, indent=2) + "\n")
    for line in (*facts.audit.lines(), headline(results)):
        log.info("%s", line)


def _resumed(run: Path) -> dict[str, Any]:
    foreign = [w for w in user_overrides() if w.partition("=")[0] not in ("resume", "device")]
    if foreign:
        raise UserError(
            f"{foreign[0]} does not go with resume=, which continues {run} with its own config; "
            "leave it out."
        )
    if not (run / "config.yaml").is_file():
        raise UserError(f"resume={run} is not a run folder (no config.yaml in it).")
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    if "head" not in config:
        raise UserError(
            f"resume={run} is no classifier's run; go on with it by genodiff train resume={run}."
        )
    if "split_seed" not in config:
        raise UserError(
            f"resume={run} is a run of a cross-validation, whose own command goes on with it: "
            "give that again."
        )
    return config


if __name__ == "__main__":
    launch("finetune", main)
