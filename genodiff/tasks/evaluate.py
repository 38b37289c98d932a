"""Measure a model's likelihood on held-out windows, beside Markov models.

usage: genodiff evaluate checkpoint=RUN out=FILE.json [key=value ...]

example:
  genodiff evaluate checkpoint=runs/a data.split=test out=test.json

keys:
  checkpoint=PATH     a run folder (its best weights), a .ckpt or a model folder
  data=NAME           default: what the model was trained on; or fasta, hg38, synthetic
  data.split=test     train, valid or test
  estimator=exactly_k exactly k masked tokens, k stratified over all windows: the smallest error;
                      or paper: one stratified t a window, as published
  samples_per_sequence=1  network evaluations a window
  max_sequences=N     only N windows, spread evenly over the split
  average_strands=true  average the predictions of both strands (Caduceus-Ph); twice the cost
  baselines=false     leave the Markov models of order 0 to 11 out
  batch_size= seed= device=auto|cpu|cuda overwrite=true
  out=FILE.json|-     nats per token with standard error and 95 % interval, perplexity, baselines
"""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from genodiff import __version__
from genodiff.data import SequenceData
from genodiff.errors import UserError
from genodiff.evaluation import Likelihood, fit_markov, nelbo
from genodiff.files import claim_file, write_text
from genodiff.tasks.build import Node, build, select_device
from genodiff.tasks.launch import launch
from genodiff.tasks.model import data_of, load_model, strand_averaged

log = logging.getLogger(__name__)

Split = Literal["train", "valid", "test"]


def main(
    *,
    checkpoint: str,
    out: str,
    data: Node,
    estimator: Literal["exactly_k", "paper"],
    samples_per_sequence: int,
    batch_size: int,
    max_sequences: int | None,
    average_strands: bool,
    baselines: bool,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    overwrite: bool,
) -> None:
    """Evaluates and writes the JSON."""
    target = None if out == "-" else claim_file(Path(out), overwrite=overwrite)
    chosen = select_device(device)
    model = load_model(Path(checkpoint), chosen)
    node = dict(data)
    split = node.pop("split", "test")
    if split not in ("train", "valid", "test"):
        raise UserError(f"data.split={split} must be train, valid or test.")
    if "_target_" not in node:
        node = {**data_of(Path(checkpoint)), **{k: v for k, v in node.items() if v is not None}}
    node["eval_batch_size"] = batch_size
    sequences: SequenceData = build(node, where="data", seed=seed)
    if type(model.tokenizer) is not type(sequences.tokenizer):
        raise UserError(
            f"checkpoint={checkpoint} reads tokens of {type(model.tokenizer).__name__}, and the "
            f"data have those of {type(sequences.tokenizer).__name__}; give data of its own kind."
        )
    likelihood = nelbo(
        strand_averaged(model) if average_strands else model.denoiser,
        sequences.eval_loader(split, max_sequences=max_sequences),
        estimator=estimator,
        samples_per_sequence=samples_per_sequence,
        seed=seed,
        device=chosen,
        progress=_lines(seconds=20),
        clusters=sequences.cluster_ids(split, max_sequences=max_sequences).tolist(),
    )
    report = {
        **likelihood.summary(),
        "baselines": markov_baselines(sequences, split, max_sequences) if baselines else {},
        "average_strands": average_strands,
        "checkpoint": checkpoint,
        "data": {"split": split, **sequences.describe()},
        "seed": seed,
        "version": __version__,
    }
    text = json.dumps(report, indent=2) + "\n"
    if target is None:
        sys.stdout.write(text)
    else:
        write_text(target, text)
        log.info("%s", headline(likelihood, split, report["baselines"]))


def markov_baselines(
    data: SequenceData, split: Split, max_sequences: int | None
) -> dict[str, Any]:
    """Likelihood of the same windows under Markov models fitted on the training split, both
    strands counted."""
    tokenizer = data.tokenizer
    bases = tokenizer.data_ids[:4]  # N, where it is predicted, is no context to count
    model = fit_markov(_windows(data, "train"), data_ids=bases, complement=tokenizer.complement)
    result = model.nats(
        _windows(data, split, max_sequences),
        clusters=data.cluster_ids(split, max_sequences=max_sequences).tolist(),
    )
    table: dict[str, Any] = {"uniform": {"nats_per_token": math.log(4), "perplexity": 4.0}}
    for order, nats in enumerate(result.nats_per_token):
        table[f"markov_{order}"] = {
            "nats_per_token": float(nats),
            "perplexity": float(result.perplexity[order]),
            "standard_error_data": None
            if result.standard_error_data is None
            else float(result.standard_error_data[order]),
        }
    return table


def headline(likelihood: Likelihood, split: str, baselines: Node) -> str:
    """What a person reads first."""
    low, high = likelihood.perplexity_95
    text = (
        f"{split}: perplexity {likelihood.perplexity:.4f} (95 % {low:.4f} to {high:.4f}; "
        "Monte-Carlo), "
        f"{likelihood.nats_per_token:.4f} nats/token, {likelihood.sequences} sequences"
    )
    orders = [
        f"{name.removeprefix('markov_')}: {row['perplexity']:.3f}"
        for name, row in baselines.items()
        if name.startswith("markov_")
    ]
    return text + ("\nMarkov models by order: " + "  ".join(orders) if orders else "")


def _lines(seconds: float) -> Callable[[int, int], None]:
    """Says how far the evaluation has come, every so many seconds."""
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            log.info("%d of %d network evaluations", done, total)

    return show


def _windows(data: SequenceData, split: Split, max_sequences: int | None = None) -> Iterator[Any]:
    for batch in data.eval_loader(split, max_sequences=max_sequences):
        yield from batch.tokens.numpy()


if __name__ == "__main__":
    launch("evaluate", main)
