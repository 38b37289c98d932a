"""Measure the quality of sampled texts, beside that of real ones.

usage: genodiff judge samples=FILE reference=FILE language_model=DIR|NAME out=FILE.json ...

example:
  genodiff judge samples=[a.jsonl,b.jsonl] reference=valid.txt language_model=gpt2-large \\
      embedding=answerdotai/ModernBERT-large length=128 plot=quality.svg out=quality.json

keys:
  samples=FILE        or [FILE,FILE] or a pattern such as runs/*.jsonl: what `sample` wrote, or
                      any texts, one a line (.txt) or {"text": ...} a line (.jsonl), plain or gzip.
                      FILE.json beside it says how they were drawn; without it that is unknown
  reference=FILE      real texts of the same kind: what every figure is to be compared with. Of
                      twice as many as the samples, the second half gives their own MAUVE
  language_model=DIR|NAME  a causal language model of transformers: a folder, or a name of the hub
  embedding=DIR|NAME  the model whose vectors MAUVE compares, an encoder (mean of all tokens) or a
                      causal one (last token); without it the language model
  language_model_revision= embedding_revision=  a branch, a tag or a commit of a name of the hub
  rule=all            which tokens the perplexity counts: all, the first given what begins a
                      document, in windows that overlap; or published, as in the papers: the first
                      of a window is given, and only the first end of a document counts (they
                      judge the first 1,024 tokens of a text: length=1024)
  window=             tokens the language model sees at once (1024, or as many as it takes)
  stride=             tokens that each further window adds (half of it)
  length=             cut every text to its first tokens, so many of the language model's
  sequences=          texts of each file: the first ones of samples, any of the reference. By
                      default as many as every file has: distinct-n and MAUVE go by their number
  batch_size=         texts that go through a network together (8)
  plot=FILE.svg|.png  each measure against network evaluations a sequence, a line a sampler
  seed= device=auto|cpu|cuda overwrite=true
  out=FILE.json|-     generative perplexity, nats a byte, entropy of tokens, MAUVE, distinct-1 to 4
                      and repetition-1 to 4 of every file, with 95 % intervals; FILE.md beside it
                      has them as a table
"""

import json
import logging
import sys
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from genodiff import __version__
from genodiff.data import read_texts
from genodiff.data.hub import hub_folder
from genodiff.errors import UserError
from genodiff.evaluation.generative_perplexity import Rule, generative_perplexity
from genodiff.evaluation.judges import (
    Embedding,
    LanguageModel,
    embed_texts,
    load_embedding,
    load_language_model,
)
from genodiff.evaluation.mauve import Mauve, mauve, number_of_buckets, require_sklearn
from genodiff.evaluation.quality_table import (
    UNKNOWN,
    quality_page,
    quality_picture,
    require_known_cost,
)
from genodiff.evaluation.text_statistics import text_statistics
from genodiff.files import atomic_path, claim_file, write_text
from genodiff.tasks.build import select_device
from genodiff.tasks.evaluate import claim_plot
from genodiff.tasks.launch import launch

log = logging.getLogger(__name__)

EMBEDDED = 1024
"""Tokens of a text that its vector is made of, at most."""

# Of a hub's repository: not the same weights again for other frameworks.
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin")
_SAID = (
    *("checkpoint", "sampler", "steps", "temperature", "nucleus", "precision", "seed"),
    *("num_samples", "network_evaluations", "seconds"),
)


def main(
    *,
    samples: str | Sequence[str],
    reference: str,
    language_model: str,
    language_model_revision: str | None,
    embedding: str | None,
    embedding_revision: str | None,
    out: str,
    plot: str | None,
    rule: Rule,
    window: int,
    stride: int | None,
    length: int | None,
    sequences: int | None,
    batch_size: int,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    overwrite: bool,
) -> None:
    """Judges and writes."""
    for name, value in (
        *(("window", window), ("length", length)),
        *(("sequences", sequences), ("batch_size", batch_size)),
    ):
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1; use e.g. 128.")
    if embedding is None and embedding_revision is not None:
        raise UserError(
            f"embedding_revision={embedding_revision} does nothing without embedding=; give that, "
            "or drop it."
        )
    paths = _paths(samples)
    target = None if out == "-" else _claim_report(Path(out), paths, overwrite=overwrite)
    picture = None if plot is None else claim_plot(plot, overwrite=overwrite)
    drawn = [how_drawn(path) for path in paths]
    if picture is not None:
        require_known_cost(drawn)
    files, real = [_read(path) for path in paths], _read(Path(reference))
    count = _count([*files, real], sequences)
    require_sklearn()
    source = _folder("language_model", language_model, language_model_revision)
    judge = load_language_model(source)
    origin, embedder = source, judge.embedding
    if embedding is not None:
        origin = _folder("embedding", embedding, embedding_revision)
        embedder = load_embedding(origin)
    here = select_device(device)
    judge.network.to(here)
    embedder.network.to(here)
    size = min(window, judge.max_length)
    reader = _Reader(judge, embedder, rule, size, stride, length, batch_size)

    order = np.random.default_rng(seed).permutation(len(real.texts)).tolist()
    of_reference = reader.cut([real.texts[i] for i in order[:count]])
    others = reader.cut([real.texts[i] for i in order[count : 2 * count]])
    against = reader.vectors(of_reference)
    rows = []
    for file, how in zip(files, drawn, strict=True):
        texts = reader.cut(file.texts[:count])
        found = reader.found(file, texts, mauve(reader.vectors(texts), against, seed=seed))
        rows.append({"file": str(file.path), "drawn": how, **found})
    its_own = None
    if len(others) == count:
        its_own = mauve(reader.vectors(others), against, seed=seed)
    else:
        log.info(
            "%s has %d sequences, and its own MAUVE needs twice the %d of the samples; left out.",
            *(real.path, len(real.texts), count),
        )
    report: dict[str, Any] = {
        "samples": rows,
        "reference": {
            **{"file": reference, "drawn": None},
            **reader.found(real, of_reference, its_own),
        },
        "language_model": {
            **{"name": language_model, "revision": _commit(source)},
            **{"rule": rule, "window": size, "stride": stride, "counted": reader.counted},
        },
        "embedding": {
            "name": language_model if embedding is None else embedding,
            "revision": _commit(origin),
            "pooling": embedder.pooling,
            "tokens_at_most": min(EMBEDDED, embedder.max_length),
        },
        "length": length,
        "seed": seed,
        "device": str(here),
        "version": __version__,
    }
    if picture is not None:
        contents = quality_picture(report, picture="png" if picture.suffix == ".png" else "svg")
        with atomic_path(picture) as temporary:
            temporary.write_bytes(contents)
    text = json.dumps(report, indent=2) + "\n"
    if target is None:
        sys.stdout.write(text)
        return
    write_text(target, text)
    write_text(target.with_suffix(".md"), quality_page(report))


class Texts(NamedTuple):
    """The texts of a file but for the empty ones, and how many these are."""

    path: Path
    texts: list[str]
    empty: int


def how_drawn(path: Path) -> dict[str, Any]:
    """What the report beside a file of samples says of how they were drawn; "unknown" what it does
    not say, or all of it where there is none.

    Raises UserError for one that cannot be read.
    """
    bare = path.with_suffix("") if path.suffix == ".gz" else path
    beside = bare.with_suffix(".json")
    report: Any = {}
    if beside.is_file():
        try:
            report = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{beside}, the report of {path}, cannot be read ({error}); draw the samples "
                "again, or take it away."
            ) from error
    report = report if isinstance(report, dict) else {}
    said = {name: report.get(name, UNKNOWN) for name in _SAID}
    evaluations, number = said["network_evaluations"], said["num_samples"]
    each = UNKNOWN
    if isinstance(evaluations, int) and isinstance(number, int) and number > 0:
        each = evaluations / number
    return {**said, "network_evaluations_per_sequence": each}


class _Reader(NamedTuple):
    """The judges, and how they read texts."""

    judge: LanguageModel
    embedder: Embedding
    rule: Rule
    window: int
    stride: int | None
    length: int | None
    batch_size: int

    def cut(self, texts: list[str]) -> list[str]:
        """The first `length` tokens of each."""
        return texts if self.length is None else self.judge.cut(texts, self.length)

    def vectors(self, texts: list[str]) -> Float[ndarray, "n d"]:
        """What MAUVE compares."""
        return embed_texts(self.embedder, texts, length=EMBEDDED, batch_size=self.batch_size)

    def found(self, file: Texts, texts: list[str], area: Mauve | None) -> dict[str, Any]:
        """All figures of a file, of these of its texts."""
        tokens = self.judge.encode(texts)
        costs = generative_perplexity(
            self.judge,
            texts,
            rule=self.rule,
            window=self.window,
            stride=self.stride,
            batch_size=self.batch_size,
        ).summary()
        log.info("%s: generative perplexity %.2f", file.path, costs["value"])
        return {
            "sequences": len(texts),
            "sequences_in_file": len(file.texts),
            "empty": file.empty,
            "tokens_per_sequence": sum(map(len, tokens)) / len(tokens),
            "generative_perplexity": costs,
            **text_statistics(tokens).summary(),
            "mauve": None if area is None else area.summary(),
        }

    @property
    def counted(self) -> str:
        """Which tokens the perplexity counts, in words."""
        if self.rule == "published":
            return (
                "As published: but for the first token of a window and ends of documents after "
                f"its first; windows of {self.window} tokens that do not overlap."
            )
        start, stride = self.judge.start_id, self.stride or max(self.window // 2, 1)
        first = (
            "Every token counts but the first, as there is none that begins a text"
            if start is None
            else "Every token counts, the first given "
            + str(self.judge.tokenizer.convert_ids_to_tokens(start))
        )
        return f"{first}; windows of {self.window} tokens, of which each adds {stride}."


def _paths(samples: str | Sequence[str]) -> list[Path]:
    """The files that samples= names, each once."""
    paths: list[Path] = []
    for name in [samples] if isinstance(samples, str) else samples:
        matches = [name] if Path(name).exists() else sorted(glob(name))
        if not matches:
            raise UserError(f"samples={name} is no file and no pattern of any; correct it.")
        paths += map(Path, matches)
    return list(dict.fromkeys(paths))


def _claim_report(path: Path, samples: Sequence[Path], *, overwrite: bool) -> Path:
    """The file of out=, which has a table beside it."""
    if path.suffix != ".json" or path in [each.with_suffix(".json") for each in samples]:
        raise UserError(
            f"out={path} has to end in .json, and not be the report of samples; use e.g. "
            "out=quality.json."
        )
    claim_file(path.with_suffix(".md"), overwrite=overwrite)
    return claim_file(path, overwrite=overwrite)


def _read(path: Path) -> Texts:
    if path.suffix == ".json":
        raise UserError(f"{path} is no text; give the .txt or .jsonl that it is the report of.")
    texts = read_texts(path)
    kept = [text for text in texts if text]
    if not kept:
        raise UserError(f"{path} holds no sequence; give a file of texts, one a line.")
    return Texts(path, kept, len(texts) - len(kept))


def _count(files: Sequence[Texts], asked: int | None) -> int:
    """How many texts of each file are judged. Raises UserError if these are too few for MAUVE."""
    smallest = min(files, key=lambda file: len(file.texts))
    count = len(smallest.texts) if asked is None else asked
    if count > len(smallest.texts):
        raise UserError(
            f"sequences={count}, but {smallest.path} has {len(smallest.texts)}; use that or less."
        )
    for file in files:
        if len(file.texts) > count:
            log.info("%s: %d of %d sequences are judged.", file.path, count, len(file.texts))
    number_of_buckets(count)
    return count


def _folder(key: str, name: str, revision: str | None) -> Path:
    """The folder that a name means: itself, or what the hub's client keeps of it."""
    folder = Path(name)
    if not folder.is_dir():
        return hub_folder(name, key=key, revision=revision, files=_FILES)
    if revision is not None:
        raise UserError(
            f"{key}_revision={revision} is for names of the Hugging Face hub, and {key}={name} is "
            "a folder; leave it out."
        )
    return folder


def _commit(folder: Path) -> str | None:
    """Of a folder that the hub's client keeps, which is called so."""
    return folder.name if folder.parent.name == "snapshots" else None


if __name__ == "__main__":
    launch("judge", main)
