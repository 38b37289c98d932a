"""A classifier's run: its folder, its training, its one test. What `finetune` does once and
`crossvalidate` for every fold.

A run's config is plain data, and with the task it makes everything: a run that was stopped goes on
from its last checkpoint, and one that has `metrics.json` is done.

keys:
  checkpoint=PATH     the network to start from: a run folder, a .ckpt or a model folder, of any
                      objective; or
  backbone=NAME       a new one, as in train
  head=NAME           pooled: a linear score of the network's hidden states, pooled over all but
                      padding by head.pooling=mean|max|first|last; or cnn: the convolutional
                      baseline of Genomic Benchmarks, which takes the place of the network too
  data=NAME           labelled: data.train= data.test= data.valid= (CSV, TSV, JSON lines, parquet
                      or FASTA; columns sequence or seq, of text sentence or a pair such as
                      sentence1 and sentence2, or data.columns=[A,B]; and label), or
                      data.train=FOLDER with files of those names; genomic_benchmarks: data.name=
                      data.root=; glue: data.name= data.root=
  data.target=        of labelled data: classification, or regression of labels that are numbers
  data.metrics=[..]   what scores them: accuracy, f1, matthews; of numbers pearson, spearman
  data.tokenizer=     of text: bytes, a folder, or a name of the Hub (default: the checkpoint's;
                      without one, DNA)
  strands=            auto, or how DNA is read: given; augment (either strand at random in
                      training); conjoin (so too, and the logits of both averaged in tests)
  length=             tokens of a sequence: longer ones are cut on the right, of texts the longest
                      first (default: the longest of the training sequences, or what the benchmark
                      is published with)
  pad=right|left      the side that is filled up; pool_padding=true counts padding in the pooling
                      and append_sep=true ends sequences with [SEP], both as published
  probe=true          train no network: a logistic regression on its pooled hidden states, the
                      penalty chosen by validation (needs genodiff[downstream]); or
  batch_size= epochs= or max_steps=
  optimizer.lr=       and others of optimizer and trainer, as in train
  experiment=glue     GLUE's defaults: batch_size=16 epochs=3 optimizer.lr=2e-5 length=128
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from genodiff import __version__
from genodiff.backbones import Backbone, ReverseComplementEquivariant, SequenceClassifier
from genodiff.data import (
    GENOMIC_BENCHMARKS,
    ClassificationTask,
    LabelledSequences,
    SequenceData,
)
from genodiff.data.folds import paper_split
from genodiff.data.labelled import frame_length, texts_of
from genodiff.errors import UserError
from genodiff.evaluation import METRICS, Figure, Predictions, predict
from genodiff.evaluation.probe import Features, linear_probe
from genodiff.files import atomic_path, write_text
from genodiff.ranks import Ranks, is_first
from genodiff.tasks.build import Node, build, build_data, told_by, with_absolute_paths
from genodiff.tasks.classifiers import Reading, describe_classifier, new_classifier, with_head
from genodiff.tasks.launch import user_overrides
from genodiff.tasks.model import description_of, load_averaged, load_model, require_tokens
from genodiff.tasks.train import TRAINED, outside_troubles
from genodiff.training import (
    Classification,
    GenerativeModule,
    Plan,
    Regression,
    Score,
    Standardised,
    compile_blocks,
    fit,
    newest_checkpoint,
    read_checkpoint,
)

log = logging.getLogger(__name__)

StrandUse = Literal["auto", "given", "augment", "conjoin"]
"""How DNA is read: as given; either strand at random in training; so too, and the logits of both
averaged afterwards. "auto" is "given" for text and for networks that keep both strands, else
"conjoin"."""
RUN_KEYS = (
    *("data", "checkpoint", "backbone", "head", "strands", "length", "pad", "append_sep"),
    *("pool_padding", "probe", "batch_size", "epochs", "max_steps"),
    *("optimizer", "trainer", "seed"),
)
"""The keys of both tasks that make a run's config."""


class Split(NamedTuple):
    """What a run trains on, chooses its weights by, and is tested with."""

    train: LabelledSequences
    valid: LabelledSequences
    test: LabelledSequences


class Tested(NamedTuple):
    """A run that is done."""

    metrics: dict[str, Any]
    predictions: Predictions


def run_classifier(run: Path, parts: "Parts", device: torch.device) -> Tested | None:
    """Trains in the folder `run`, or goes on there, and tests; None if a signal stopped it."""
    alone = "split_seed" in parts.config  # and not one of a cross-validation
    with outside_troubles(run, f"genodiff finetune resume={run}" if alone else "the same command"):
        if is_first():
            write_text(run / "config.yaml", yaml.safe_dump(parts.config, sort_keys=False))
        found = parts.probed(device) if parts.config["probe"] else _trained(run, parts, device)
    if found is None:
        return None
    metrics = _metrics(parts, found)
    if is_first():
        with atomic_path(run / "predictions.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, logits=found.test.logits, labels=found.test.labels)
        # Last: it says that the run is done.
        write_text(run / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return Tested(metrics, found.test)


class Found(NamedTuple):
    """What the weights chosen by `valid` say; `choice`: which those are."""

    valid: Predictions
    test: Predictions
    choice: dict[str, Any]


def _trained(run: Path, parts: "Parts", device: torch.device) -> Found | None:
    """By training, from the last checkpoint on if there is one; None if a signal stopped it."""
    newest = newest_checkpoint(run / "checkpoints")
    if newest is not None:
        known = read_checkpoint(newest.path)["genodiff"].get("data")
        require_same_data(run, known, parts.module.description["data"])
    fitted = fit(
        parts.module,
        parts.data.train_loader,
        parts.plan,
        run,
        score=parts.score,
        draw=lambda _: "",
        device=device,
        resume=newest and newest.path,
    )
    if fitted.interrupted:
        return None
    # Built anew: the one that was trained may lie in shares on several devices.
    best = read_checkpoint(run / "checkpoints" / "best.ckpt")
    model = new_classifier(parts.module.description)
    load_averaged(model, best, f"{run} has a best.ckpt that is not its own")
    valid, test = (
        predict(model.to(device), parts.reading.readings(part))
        for part in (parts.split.valid, parts.split.test)
    )
    steps = {"step": int(best["global_step"]), "max_steps": parts.plan.max_steps}
    return Found(valid, test, steps)


def read_run(run: Path) -> Tested:
    """What is in the folder of a run that is done."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    with np.load(run / "predictions.npz") as arrays:
        return Tested(metrics, Predictions(arrays["logits"], arrays["labels"]))


class Parts:
    """What a run's config builds."""

    def __init__(self, config: Mapping[str, Any], task: ClassificationTask, split: Split) -> None:
        for key in ("batch_size", "epochs"):
            if config[key] < 1:
                raise UserError(f"{key}={config[key]} must be at least 1; use e.g. 10.")
        if not 0 <= config["seed"] < 2**63:
            raise UserError(f"seed={config['seed']} is out of range; give 0 to 2^63 - 1.")
        torch.manual_seed(config["seed"])
        self.length = length_of(config["length"], task)
        network, backbone = network_of(config, task)
        n_classes = len(task.classes)
        model = with_head(network, config, task.tokenizer, n_classes=n_classes, length=self.length)
        if config["probe"]:
            _refuse_training(network, task)
        limit = None if network is None else network.max_length
        if limit is not None and self.length > limit:
            raise UserError(
                f"length={self.length}, but this network has {limit} positions; give "
                f"length={limit}, which cuts what is longer."
            )
        self.strands = strands_of(config["strands"], network, task)
        self.config, self.task, self.split = dict(config), task, split
        self.reading = Reading(
            *(task.tokenizer, self.length, self.strands, config["pad"], config["append_sep"]),
            *(config["batch_size"], config["seed"]),
        )
        self.data = SequenceData(
            self.reading.windows(split.train, "random" if self.strands != "given" else "+"),
            None,
            None,
            task.tokenizer,
            length=self.length,
            batch_size=config["batch_size"],
            seed=config["seed"],
        )
        epoch = max(len(split.train) // config["batch_size"], 1)
        steps = config["max_steps"] or config["epochs"] * epoch
        self.plan: Plan = build(
            {**config["trainer"], "max_steps": steps, "validate_every": min(epoch, steps)},
            where="trainer",
        )
        objective = Classification()
        if not task.classes:
            mean, unit = float(split.train.labels.mean()), float(split.train.labels.std()) or 1.0
            model, objective = Standardised(model, mean, unit), Regression(unit)
        self.module = GenerativeModule(
            model,
            objective,
            optimizer=build(config["optimizer"], where="optimizer"),
            max_steps=steps,
            micro_batch=self.plan.micro_batch,
            gradient_clip=self.plan.gradient_clip,
            ema_decay=self.plan.ema_decay,
            seed=config["seed"],
            description=describe_classifier(
                config,
                self.reading,
                task.classes,
                backbone,
                texts=len(texts_of(task.train[0], task.tokenizer)),
            )
            | {"data": describe_data(task, split)},
        )

    def fit_to(self, device: torch.device) -> None:
        """Readies them for devices of that kind. Raises UserError if the plan is none for them."""
        self.plan.processes(device).share(self.data.batch_size)
        if self.plan.compile:
            compile_blocks(self.module.model, device)

    def score(self, model: nn.Module, ranks: Ranks) -> Score:
        """Of the validation part: of classes the accuracy counts, of numbers the squared error."""
        found = predict(model, self.reading.readings(self.split.valid), ranks=ranks)
        error = found.nats.std() / len(found.nats) ** 0.5
        accuracy = found.accuracy if self.task.classes else None
        return Score(float(found.nats.mean()), float(error), accuracy)

    def probed(self, device: torch.device) -> Found:
        """By a logistic regression on the features, the network as it is."""
        classifier = self.module.model
        assert isinstance(classifier, SequenceClassifier)  # by __init__
        parts = [
            Features(*predict(_Features(classifier), self.reading.readings(part), device=device))
            for part in self.split
        ]
        probe = linear_probe(*parts)
        valid, test = (
            Predictions(logits, part.labels)
            for logits, part in zip((probe.valid, probe.test), parts[1:], strict=True)
        )
        return Found(valid, test, {"penalty": probe.penalty})


def _refuse_training(network: Backbone | None, task: ClassificationTask) -> None:
    """Raises UserError if a probe is asked for of what has no features, or of numbers, or with
    words for training."""
    if network is None:
        raise UserError("probe=true is of a network's features, which this head= lacks.")
    if not task.classes:
        raise UserError("probe=true tells classes, and these labels are numbers; leave it out.")
    idle = ("epochs", "max_steps", "optimizer", "trainer")
    for word in user_overrides():
        if word.split("=")[0].split(".")[0] in idle:
            raise UserError(f"{word} does nothing with probe=true, which trains no network.")


def task_of(config: Mapping[str, Any]) -> ClassificationTask:
    """What `data` and `checkpoint` describe: in the checkpoint's own tokens, unless the data say
    which. Raises UserError for data of another kind."""
    named, tokenizer = config["data"].get("tokenizer"), None
    if named is not None and not isinstance(named, str):
        raise UserError(f"data.tokenizer={named} is no name; give bytes, a folder or a Hub name.")
    if config["checkpoint"] is not None:
        description = description_of(Path(config["checkpoint"]))
        tokenizer = build(description["tokenizer"], where="tokenizer")
    return build_data(config["data"], ClassificationTask, tokenizer=tokenizer)


def figures_of(task: ClassificationTask) -> list[Figure]:
    """What a task is scored by, the most important first."""
    begins = np.cumsum([0, *(size for _, size in task.test_parts)])
    items = np.arange(len(task.test))
    parts = [
        (name, (begin <= items) & (items < begin + size))
        for (name, size), begin in zip(task.test_parts, begins[:-1], strict=True)
    ]
    if not parts:
        return [Figure(metric, metric) for metric in task.metrics]
    return [
        Figure(part if len(task.metrics) == 1 else f"{part} {metric}", metric, where)
        for metric in task.metrics
        for part, where in parts
    ]


class Network(NamedTuple):
    """A network with the config node that builds it; both None for a classifier that is a network
    of its own."""

    network: Backbone | None
    node: Node | None


def network_of(config: Mapping[str, Any], task: ClassificationTask) -> Network:
    """The network of `checkpoint`, or a new one from `backbone`. Raises UserError if none or two
    are given, or it reads other tokens."""
    checkpoint, backbone = config["checkpoint"], config["backbone"]
    pooled = config["head"]["_target_"].endswith(f".{SequenceClassifier.__name__}")
    given = (checkpoint is not None) + (backbone != TRAINED)
    if not pooled:
        if given:
            raise UserError(
                "this head= is a network of its own; leave checkpoint= and backbone= out."
            )
        return Network(None, None)
    if given != 1:
        raise UserError(
            "give checkpoint= for a trained network, or backbone= for a new one: one of them."
        )
    tokenizer = task.tokenizer
    if checkpoint is None:
        return Network(build(backbone, where="backbone", **told_by(tokenizer)), backbone)
    model = load_model(Path(checkpoint), torch.device("cpu"))
    require_tokens(model, tokenizer, f"checkpoint={checkpoint}")
    return Network(model.network, model.description["backbone"])


def length_of(asked: int | None, task: ClassificationTask) -> int:
    """Tokens of a row: as asked, as the benchmark is published with, or as many as are needed."""
    if asked is not None:
        return asked
    benchmark = GENOMIC_BENCHMARKS.get(task.name)
    if benchmark is not None and benchmark.max_length is not None:
        return benchmark.max_length
    return int(task.train.lengths.max()) + frame_length(task.tokenizer)


def strands_of(
    strands: StrandUse, network: Backbone | None, task: ClassificationTask
) -> Literal["given", "augment", "conjoin"]:
    """What `strands` means here. Raises UserError where there is no other strand."""
    has_other = hasattr(task.tokenizer, "complement")
    if strands == "auto":
        both = isinstance(network, ReverseComplementEquivariant)
        return "conjoin" if has_other and not both else "given"
    if strands != "given" and not has_other:
        raise UserError(
            f"strands={strands} is for DNA, and {type(task.tokenizer).__name__} has no "
            "complement; leave it out."
        )
    return strands


def plain_config(asked: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config of a task's arguments, its paths absolute."""
    config = {key: asked[key] for key in RUN_KEYS}
    config["data"] = with_absolute_paths(asked["data"])
    tokenizer = config["data"].get("tokenizer")
    if isinstance(tokenizer, str) and Path(tokenizer).is_dir():  # else it is a name
        config["data"]["tokenizer"] = str(Path(tokenizer).absolute())
    if asked["checkpoint"] is not None:
        config["checkpoint"] = str(Path(asked["checkpoint"]).absolute())
    return config


def held_out(task: ClassificationTask, seed: int) -> Split:
    """The task with its own validation split; without one, 10 % of its training sequences, as
    Caduceus draws them by `seed`."""
    if task.valid is not None:
        return Split(task.train, task.valid, task.test)
    part = paper_split(len(task.train), seed)
    return Split(task.train.take(part.train), task.train.take(part.valid), task.test)


def describe_data(task: ClassificationTask, split: Split) -> dict[str, Any]:
    """Where the data come from, and how much there is of each part and class, as plain JSON."""

    def counted(sequences: LabelledSequences) -> dict[str, Any]:
        if not task.classes:
            return {"sequences": len(sequences), "mean_label": float(sequences.labels.mean())}
        counts = np.bincount(sequences.labels, minlength=len(task.classes)).tolist()
        by_class = dict(zip(task.classes, counts, strict=True))
        return {"sequences": len(sequences), "of_each_class": by_class}

    parts = {name: counted(part) for name, part in split._asdict().items()}
    return json.loads(json.dumps({**task.source, "parts": parts}))


def require_same_data(run: Path, known: Mapping[str, Any] | None, data: Mapping[str, Any]) -> None:
    """Raises UserError if what the run in the folder `run` was begun with, if that is known, are
    other data."""
    if known is not None and known != data:
        key = next(key for key in {**known, **data} if known.get(key) != data.get(key))
        raise UserError(
            f"{run} was begun with other data: {key} was {known.get(key)} and is {data.get(key)}; "
            "use another out=, or the data as they were."
        )


def require_same(run: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError if the folder `run` is of a run with another config."""
    path = run / "config.yaml"
    if not path.is_file():
        return
    there: Node = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in config:
        if there.get(key) != config[key]:
            raise UserError(
                f"{run} was begun with {key}={there.get(key)}, not {config[key]}; use another "
                "out=, or the same words as then."
            )


def _metrics(parts: Parts, found: Found) -> dict[str, Any]:
    of_classes = bool(parts.task.classes)
    metrics = {*parts.task.metrics, *(["accuracy"] if of_classes else [])}

    def scores(of: Predictions, prefix: str = "") -> dict[str, float]:
        return {f"{prefix}{name}": METRICS[name](of.told, of.labels) for name in sorted(metrics)}

    return {
        "task": parts.task.name,
        **scores(found.test),
        **{
            name: METRICS[metric](found.test.told[where], found.test.labels[where])
            for name, metric, where in figures_of(parts.task)
            if where is not None
        },
        "nats" if of_classes else "squared_error": float(found.test.nats.mean()),
        "n_test": len(found.test.labels),
        **scores(found.valid, "valid_"),
        "n_valid": len(found.valid.labels),
        **found.choice,
        "seed": parts.config["seed"],
        "length": parts.length,
        "strands": parts.strands,
        "parameters": sum(p.numel() for p in parts.module.model.parameters()),
        "data": parts.module.description["data"],
        "version": __version__,
    }


class _Features(nn.Module):
    """What a classifier scores."""

    def __init__(self, classifier: SequenceClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, tokens: Tensor) -> Tensor:
        return self.classifier.features(tokens)
