"""A classifier as its checkpoint describes it: a network with a head, and how sequences are shown
to it. Nothing here knows of training, or of the labelled sequences that it was trained with."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import nn

from genodiff import __version__
from genodiff.backbones import Backbone
from genodiff.batch import TokenBatch
from genodiff.data import LabelledSequences, LabelledWindows, SequenceData, Tokenizer
from genodiff.errors import UserError
from genodiff.tasks.build import Node, build, told_by
from genodiff.tasks.model import checkpoint_file, load_averaged, tokenizer_node
from genodiff.training import Standardised, read_checkpoint

Strands = Literal["given", "augment", "conjoin"]
_NEEDED = ("tokenizer", "backbone", "strands", "texts", "length", "classes")


class Reading(NamedTuple):
    """How sequences become rows of `length` tokens, and which strands of them are read."""

    tokenizer: Tokenizer
    length: int
    strands: Strands
    pad: Literal["left", "right"]
    append_sep: bool
    batch_size: int
    seed: int = 0

    def windows(
        self, sequences: LabelledSequences, strand: Literal["+", "-", "random"] = "+"
    ) -> LabelledWindows:
        """The rows of one strand."""
        return LabelledWindows(
            sequences,
            self.tokenizer,
            self.length,
            pad=self.pad,
            strand=strand,
            append_sep=self.append_sep,
            seed=self.seed,
        )

    def readings(self, sequences: LabelledSequences) -> list[Iterable[TokenBatch]]:
        """Loaders of the strands whose logits are averaged."""
        both = self.strands == "conjoin"
        windows = [self.windows(sequences), *([self.windows(sequences, "-")] if both else [])]
        return [
            SequenceData(
                *(None, None, each, self.tokenizer),
                length=self.length,
                batch_size=self.batch_size,
            ).eval_loader("test")
            for each in windows
        ]


class Classifier(NamedTuple):
    """A trained classifier. `classes` in the order of its logits, none of a regression; `texts`:
    how many a sequence consists of."""

    model: nn.Module
    reading: Reading
    classes: tuple[str, ...]
    texts: int
    description: dict[str, Any]


def describe_classifier(
    config: Mapping[str, Any],
    reading: Reading,
    classes: Iterable[str],
    backbone: Node | None,
    texts: int,
) -> dict[str, Any]:
    """The description of a run's classifier, as plain data: what `new_classifier` builds."""
    return {
        "classifier": dict(config),
        "classes": list(classes),
        "length": reading.length,
        "strands": reading.strands,
        "texts": texts,
        "backbone": None if backbone is None else dict(backbone),
        "tokenizer": tokenizer_node(reading.tokenizer),
        "version": __version__,
    }


def with_head(
    network: Backbone | None,
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    n_classes: int,
    length: int,
) -> nn.Module:
    """The network with the head of a run's config; a head that is a network of its own alone."""
    return build(
        config["head"],
        where="head",
        network=network,
        vocab_size=tokenizer.vocab_size,
        n_classes=n_classes or 1,
        length=length + config["append_sep"],
        pad_id=None if config["pool_padding"] else tokenizer.pad_id,
    )


def new_classifier(description: Mapping[str, Any]) -> nn.Module:
    """A classifier with fresh weights."""
    tokenizer = build(description["tokenizer"], where="tokenizer")
    node, network = description["backbone"], None
    if node is not None:
        network = build(node, where="backbone", **told_by(tokenizer))
    n_classes, length = len(description["classes"]), description["length"]
    model = with_head(
        network, description["classifier"], tokenizer, n_classes=n_classes, length=length
    )
    return model if n_classes else Standardised(model, 0.0, 1.0)


def load_classifier(path: Path, *, batch_size: int | None = None) -> Classifier:
    """The classifier of a run folder (its best weights) or of a `.ckpt`, on the CPU.

    Args:
        batch_size: of its readings; None is that of its training.

    Raises:
        UserError: there is none, it is damaged, or it is no classifier.
    """
    contents = read_checkpoint(_checkpoint_of(path))
    description = contents["genodiff"]
    if "classifier" not in description:
        raise _generative(path)
    if missing := [name for name in _NEEDED if name not in description]:
        raise UserError(
            f"checkpoint={path} does not say its {', '.join(missing)}, as it was written by an "
            "earlier genodiff; fine-tune it again."
        )
    model = new_classifier(description)
    load_averaged(model, contents, f"checkpoint={path} does not fit its own description")
    config = description["classifier"]
    reading = Reading(
        build(description["tokenizer"], where="tokenizer"),
        *(description["length"], description["strands"], config["pad"], config["append_sep"]),
        batch_size=batch_size or config["batch_size"],
    )
    classes = tuple(description["classes"])
    return Classifier(model.eval(), reading, classes, description["texts"], description)


def _checkpoint_of(path: Path) -> Path:
    """The file of weights that `checkpoint=path` means. Raises UserError for folders that have
    none of a classifier."""
    if (path / "config.json").is_file():
        raise _generative(path)
    if folds := sorted(path.glob("fold_*")):
        raise UserError(
            f"checkpoint={path} is a cross-validation; give one of its runs, such as {folds[0]}."
        )
    if (path / "metrics.json").is_file() and not (path / "checkpoints").is_dir():
        raise UserError(
            f"checkpoint={path} is of probe=true, which trains no network and keeps no "
            "classifier; fine-tune one."
        )
    return checkpoint_file(path)


def _generative(path: Path) -> UserError:
    return UserError(
        f"checkpoint={path} is a generative model, which tells no labels; make a classifier of it "
        f"with genodiff finetune checkpoint={path}, and give that."
    )
