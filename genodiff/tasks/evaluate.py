"""Measure a model's likelihood on held-out windows, beside Markov models or another checkpoint.

usage: genodiff evaluate checkpoint=RUN out=FILE.json [key=value ...]

example:
  genodiff evaluate checkpoint=runs/a data.split=test half_width=0.001 out=test.json

keys:
  checkpoint=PATH     a run folder (its best weights), a .ckpt or a model folder
  against=PATH        a second one: its likelihood on the same masks, and the difference
  data=NAME           default: what the model was trained on; or fasta, hg38, synthetic
  data.split=test     train, valid or test
  estimator=auto      what fits the model: exactly_k for masking, exact for left-to-right models,
                      else the bound of its objective. Or by name:
                      exactly_k  k masked tokens, k stratified over all windows: the least error
                      objective  the bound the model was trained with, both ends counted
                      paper      one stratified t a window, as published
                      steps      the bound of a chain of steps= steps
                      chain      -log p in one order of the tokens, order=left_to_right or random
  samples_per_sequence=1  rounds of evaluations; with estimator=chain also all: every token
  half_width=0.001    go on until the 95 % interval is the figure +- so many nats per token, or
  max_evaluations=N   that many evaluations are made
  strands=both        the likelihood of the reverse complements too, and the difference
  average_strands=true  average the predictions of both strands (Caduceus-Ph); twice the cost
  max_sequences=N     only N windows, spread evenly over the split
  baselines=false     leave the Markov models of order 0 to 11 out
  plot=FILE.svg|.png  nats by the share of tokens that is masked
  batch_size= seed= device=auto|cpu|cuda overwrite=true
  devices=            how many processes share the work, one a device: auto (all GPUs; one process
                      on a CPU; what torchrun or SLURM has started) or a number
  out=FILE.json|-     nats per token with standard error and 95 % interval, perplexity, what was
                      counted, nats by the share masked, baselines
"""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from genodiff import __version__
from genodiff.data import DnaTokenizer, SequenceData
from genodiff.diffusion import DenoisingObjective
from genodiff.errors import UserError
from genodiff.evaluation import (
    AnyOrder,
    ByExactObjective,
    ByObjective,
    Chain,
    Comparison,
    CompleteChain,
    Estimator,
    Likelihood,
    Settings,
    Strands,
    both_strands,
    centred,
    compare_likelihoods,
    estimator_for,
    fit_markov,
    nelbo,
    of_steps,
    published,
)
from genodiff.files import atomic_path, claim_file, write_text
from genodiff.tasks.build import Node, build_data, select_device
from genodiff.tasks.launch import launch, user_overrides
from genodiff.tasks.model import (
    Model,
    data_of,
    load_model,
    require_tokens,
    strand_averaged,
    told_as,
)
from genodiff.tasks.sharing import sharing

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
OF_ESTIMATOR = {"steps": "steps", "order": "chain"}
"""Keys of one estimator alone."""

Split = Literal["train", "valid", "test"]
EstimatorName = Literal["auto", "exactly_k", "objective", "paper", "steps", "chain", "exact"]
Order = Literal["left_to_right", "random"]
Samples = int | Literal["all"]


def main(
    *,
    checkpoint: str,
    against: str | None,
    out: str,
    plot: str | None,
    data: Node,
    estimator: EstimatorName,
    steps: int,
    order: Order,
    samples_per_sequence: Samples,
    half_width: float | None,
    max_evaluations: int | None,
    strands: Literal["given", "both"],
    average_strands: bool,
    batch_size: int,
    max_sequences: int | None,
    baselines: bool,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    devices: int | Literal["auto"],
    overwrite: bool,
) -> None:
    """Evaluates and writes the JSON."""
    target = None if out == "-" else claim_file(Path(out), overwrite=overwrite)
    picture = None if plot is None else claim_plot(plot, overwrite=overwrite)
    if against is not None and strands == "both":
        raise UserError("against= and strands=both are two questions; ask one at a time.")
    if samples_per_sequence == "all" and estimator != "chain":
        raise UserError(
            "samples_per_sequence=all is every token of the chain; use estimator=chain with it, "
            "or a number."
        )
    _refuse_idle(estimator, half_width)
    chosen = select_device(device)
    model = load_model(Path(checkpoint), CPU)
    node = dict(data)
    split = node.pop("split", "test")
    if split not in ("train", "valid", "test"):
        raise UserError(f"data.split={split} must be train, valid or test.")
    if "_target_" not in node:
        node = {**data_of(Path(checkpoint)), **{k: v for k, v in node.items() if v is not None}}
    node["eval_batch_size"] = batch_size
    sequences = build_data(node, SequenceData, seed=seed)
    require_tokens(model, sequences.tokenizer, f"checkpoint={checkpoint}")

    def asked(of: Model) -> tuple[Any, Estimator]:
        named = named_estimator(of, estimator, steps, order, samples_per_sequence)
        return strand_averaged(of) if average_strands else of.denoiser, named

    batches = sequences.eval_loader(split, max_sequences=max_sequences)
    denoiser, own = asked(model)
    if picture is not None and not isinstance(own, AnyOrder):
        raise UserError(
            f"plot={plot} is of nats by the share masked, and estimator={own.name} does not go by "
            "it; use estimator=exactly_k, or leave plot= out."
        )
    other = None
    if against is not None:
        with told_as("against"):
            other = load_model(Path(against), CPU)
        require_tokens(other, sequences.tokenizer, f"against={against}")
    complement = getattr(model.tokenizer, "complement", None) if strands == "both" else None
    if strands == "both" and complement is None:
        raise UserError(
            f"strands=both is for DNA, and the tokens of {type(model.tokenizer).__name__} have no "
            "complement; leave it out."
        )
    settings: Settings = {
        "samples_per_sequence": 1 if samples_per_sequence == "all" else samples_per_sequence,
        "half_width": half_width,
        "max_evaluations": max_evaluations,
        "seed": seed,
        "progress": progress_lines(seconds=20),
        "clusters": sequences.cluster_ids(split, max_sequences=max_sequences).tolist(),
    }
    extra: dict[str, Any] = {}
    second: Likelihood | None = None
    with sharing(devices, chosen) as (ranks, here):
        settings |= {"ranks": ranks, "device": here}
        if other is not None:
            rival, its = asked(other)
            compared = compare_likelihoods(
                denoiser, rival, batches, estimators=(own, its), **settings
            )
            likelihood, second = compared.first, compared.second
            extra["against"] = {"checkpoint": against, **comparison_report(compared)}
        elif complement is not None:
            both = both_strands(denoiser, batches, complement, estimator=own, **settings)
            likelihood = both.given
            extra["strands"] = strands_report(both)
        else:
            likelihood = nelbo(denoiser, batches, estimator=own, **settings)
    if ranks.rank:
        return  # the first one writes
    report = {
        **likelihood.summary(),
        "counted": counted(likelihood, model.tokenizer),
        "baselines": markov_baselines(sequences, split, max_sequences) if baselines else {},
        **extra,
        "average_strands": average_strands,
        "checkpoint": checkpoint,
        "data": {"split": split, **sequences.describe()},
        "seed": seed,
        "version": __version__,
    }
    if picture is not None:
        draw(picture, likelihood, second)
    text = json.dumps(report, indent=2) + "\n"
    if target is None:
        sys.stdout.write(text)
    else:
        write_text(target, text)
        log.info("%s", headline(likelihood, split, report["baselines"]))
        if against is not None:
            log.info("%s", _gap(f"{against} minus {checkpoint}", extra["against"]["difference"]))
        if strands == "both":
            log.info("%s", _gap("the other strand minus this one", extra["strands"]["difference"]))


def _refuse_idle(estimator: EstimatorName, half_width: float | None) -> None:
    """Refuses a word on the command line that the estimator has no use for."""
    for word in user_overrides():
        key = word.partition("=")[0]
        if OF_ESTIMATOR.get(key, estimator) != estimator:
            raise UserError(
                f"{word} does nothing with estimator={estimator}; give "
                f"estimator={OF_ESTIMATOR[key]}, or leave it out."
            )
        if key == "max_evaluations" and half_width is None:
            raise UserError(
                f"{word} does nothing without half_width=, which goes on until then; give both, "
                "or max_sequences= for fewer windows."
            )


def named_estimator(
    model: Model, name: EstimatorName, steps: int, order: Order, samples: Samples
) -> Estimator:
    """The estimator that `estimator=` means for this model."""
    if name == "auto":
        return estimator_for(model.objective, model.denoiser)
    if name == "objective":
        objective = model.objective
        if not isinstance(objective, DenoisingObjective):
            return ByExactObjective(objective)
        return ByObjective(centred(objective, model.denoiser))
    if name == "chain":
        return CompleteChain(order) if samples == "all" else Chain(order)
    return {
        "exactly_k": AnyOrder,
        "paper": published,
        "steps": lambda: of_steps(steps),
        "exact": ByExactObjective,
    }[name]()


def counted(likelihood: Likelihood, tokenizer: Any) -> dict[str, Any]:
    """What the denominator is: which tokens count and how many of which do not."""
    return {
        "rule": "tokens that the model predicts, each once, soft-masked or not",
        "token_ids": list(tokenizer.data_ids) if len(tokenizer.data_ids) <= 8 else None,
        "tokens": likelihood.summary()["tokens"],
        "left_out": {
            _name(tokenizer, token): count for token, count in likelihood.left_out.items()
        },
    }


def comparison_report(compared: Comparison) -> dict[str, Any]:
    """The second likelihood and its difference from the first."""
    return {
        **compared.second.summary(),
        "difference": {
            "of": "against minus checkpoint: above 0 the checkpoint is better",
            "common_random_numbers": compared.paired,
            **compared.difference.summary(),
        },
    }


def strands_report(both: Strands) -> dict[str, Any]:
    """The likelihood of both strands, of the other, and how they differ."""
    short = ("nats_per_token", "standard_error", "confidence_95", "standard_error_data")
    return {
        "other": {key: both.other.summary()[key] for key in short},
        "mean": {key: both.mean.summary()[key] for key in short},
        "difference": {"of": "other minus given", **both.difference.summary()},
    }


def claim_plot(plot: str, *, overwrite: bool) -> Path:
    """The file of plot=, before anything is evaluated."""
    from genodiff.evaluation.figures import require_matplotlib

    require_matplotlib()
    if not plot.endswith((".svg", ".png")):
        raise UserError(f"plot={plot} is no picture's name; use one that ends in .svg or .png.")
    return claim_file(Path(plot), overwrite=overwrite)


def draw(path: Path, likelihood: Likelihood, second: Likelihood | None) -> None:
    """The curve of nats by the share masked, of one model or two."""
    from genodiff.evaluation.figures import mask_rate_picture

    picture = mask_rate_picture(
        likelihood.mask_rates,
        [] if second is None else second.mask_rates,
        picture="png" if path.suffix == ".png" else "svg",
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture)


def markov_baselines(
    data: SequenceData, split: Split, max_sequences: int | None
) -> dict[str, Any]:
    """Likelihood of the same windows under the uniform law, and of DNA under Markov models fitted
    on the training split, both strands counted."""
    tokenizer = data.tokenizer
    n = len(tokenizer.data_ids)
    if not isinstance(tokenizer, DnaTokenizer):
        return {"uniform": {"nats_per_token": math.log(n), "perplexity": float(n)}}
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


def _gap(what: str, difference: Node) -> str:
    """A difference of two likelihoods in a line."""
    low, high = difference["confidence_95"]
    nats = difference["nats_per_token"]
    return f"{what}: {nats:+.4f} nats/token (95 % {low:+.4f} to {high:+.4f}; Monte-Carlo)"


def progress_lines(seconds: float) -> Callable[[int, int], None]:
    """Says how far the evaluation has come, every so many seconds."""
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            log.info("%d of %d network evaluations", done, total)

    return show


def _name(tokenizer: Any, token: int) -> str:
    """A token that was left out, by the role it has."""
    for role in ("pad", "bos", "eos", "mask"):
        if getattr(tokenizer, f"{role}_id", None) == token:
            return role
    return tokenizer.decode([token]) or str(token)


def _windows(data: SequenceData, split: Split, max_sequences: int | None = None) -> Iterator[Any]:
    for batch in data.eval_loader(split, max_sequences=max_sequences):
        yield from batch.tokens.numpy()


if __name__ == "__main__":
    launch("evaluate", main)
