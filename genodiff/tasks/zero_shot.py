"""Measure a model of text on corpora it was not trained on, beside the published figures.

usage: genodiff zero_shot checkpoint=RUN out=FILE.json [key=value ...]

example:
  genodiff zero_shot checkpoint=runs/owt corpora=[ptb,wikitext103] half_width=0.005 out=zero.json
  genodiff zero_shot checkpoint=runs/owt corpora={reviews:reviews.txt} out=reviews.json

keys:
  checkpoint=PATH     a run folder (its best weights), a .ckpt or a model folder, of text
  corpora=[NAME,..]   default: the seven of MDLM's table 3, ptb, wikitext103, lm1b, lambada,
                      ag_news, pubmed, arxiv; also owt, wikitext2, fineweb_edu; or {NAME:FILE,..}
                      for files of your own (UTF-8, .jsonl or .parquet, or a folder of them)
  root=DIR            a folder DIR/NAME of each corpus that is here; the others come from the
                      Hugging Face hub, but lambada (genodiff fetch dataset=lambada)
  layout=published    rows of BOS, text and EOS with an EOS behind each document, as MDLM's code
                      cuts them; packed: every token in one row, EOS behind each document (of
                      bytes neither)
  length=             tokens a row (default: as in training; a model folder needs it)
  tokenizer=          name or folder of the model's own, where the one it was trained with is not
                      found under its name any more
  estimator= steps= samples_per_sequence= half_width= max_evaluations= max_sequences=
                      as of genodiff evaluate; estimator=paper is the published one
  cache_dir=DIR       where tokens are kept
  batch_size= seed= device=auto|cpu|cuda devices= overwrite=true
  out=FILE.json       what genodiff evaluate says, for each corpus; FILE.md beside it is a table
                      with the published rows

Validation splits, or the test split where there is no other (lm1b, ag_news, lambada), as
published. Corpora are evaluated one after the other and written as they are done: the same command
goes on where it was stopped, of the same weights, settings and local files.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from genodiff import __version__
from genodiff.data import SequenceData, TextTokenizer, corpus_data, load_tokenizer, text_data
from genodiff.data.text import LayoutName
from genodiff.errors import UserError
from genodiff.evaluation import Estimator, Settings, nelbo
from genodiff.files import claim_file, write_text
from genodiff.tasks.build import Node, select_device
from genodiff.tasks.draw import weights_sha256
from genodiff.tasks.evaluate import EstimatorName, counted, named_estimator, progress_lines
from genodiff.tasks.launch import launch
from genodiff.tasks.model import Model, data_of, load_model, require_length, require_tokens
from genodiff.tasks.sharing import sharing

log = logging.getLogger(__name__)

CORPORA = ("ptb", "wikitext103", "lm1b", "lambada", "ag_news", "pubmed", "arxiv")
"""Those of MDLM's table 3, in its order."""

PUBLISHED: Mapping[str, tuple[float, ...]] = {
    "AR (Sahoo et al. 2024, table 3)": (82.05, 25.75, 51.25, 51.28, 52.09, 49.01, 41.73),
    "SEDD (Sahoo et al. 2024, table 3)": (100.09, 34.28, 68.20, 49.86, 62.09, 44.53, 38.48),
    "MDLM (Sahoo et al. 2024, table 3)": (95.26, 32.83, 67.01, 47.52, 61.15, 41.89, 37.37),
    "AR (Arriola et al. 2025)": (81.07, 25.32, 51.14, 52.13, 52.11, 48.59, 41.22),
    "SEDD (Arriola et al. 2025)": (96.33, 35.98, 68.14, 48.93, 67.82, 45.39, 40.03),
    "MDLM (Arriola et al. 2025)": (90.96, 33.22, 64.94, 48.29, 62.78, 43.13, 37.89),
    "BD3LM, blocks of 4 (Arriola et al. 2025)": (96.81, 31.31, 60.88, 50.03, 61.67, 42.52, 39.20),
}
"""Perplexities of models that were trained on OpenWebText, at length 1,024, of `CORPORA`."""


def main(
    *,
    checkpoint: str,
    corpora: Sequence[str] | Node | None,
    root: str | None,
    layout: LayoutName,
    length: int | None,
    tokenizer: str | None,
    estimator: EstimatorName,
    steps: int,
    samples_per_sequence: int,
    half_width: float | None,
    max_evaluations: int | None,
    max_sequences: int | None,
    batch_size: int,
    cache_dir: str | None,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    devices: int | Literal["auto"],
    out: str,
    overwrite: bool,
) -> None:
    """Evaluates corpus by corpus and writes after each."""
    asked = dict(locals())
    chosen = select_device(device)
    files = _files(corpora)
    model = load_model(Path(checkpoint), torch.device("cpu"))
    if not isinstance(model.tokenizer, TextTokenizer):
        raise UserError(
            f"checkpoint={checkpoint} reads tokens of {type(model.tokenizer).__name__}, and these "
            "corpora are text; use genodiff evaluate."
        )
    if root is not None and not Path(root).is_dir():
        raise UserError(
            f"root={root} is no folder; give one that holds a folder of each corpus, or leave it "
            "out to read from the Hugging Face hub."
        )
    row = _length(Path(checkpoint), length)
    require_length(model, row, "length")
    own = named_estimator(model, estimator, steps, "left_to_right", samples_per_sequence)
    name, revision = (tokenizer, None) if tokenizer else tokenizer_of(Path(checkpoint))
    require_tokens(model, load_tokenizer(name, revision), f"checkpoint={checkpoint}")
    options: dict[str, Any] = {
        "tokenizer": name,
        "tokenizer_revision": revision,
        **{"length": row, "batch_size": batch_size, "layout": layout, "seed": seed},
        "cache_dir": cache_dir,
    }
    settings = {
        **{key: asked[key] for key in _SETTINGS},
        "checkpoint_sha256": weights_sha256(model),
        "length": row,
        "estimator": own.name,
        "version": __version__,
    }
    target = Path(out)
    if target.suffix != ".json":
        raise UserError(f"out={out} must end in .json; the table is beside it, in .md.")
    done = _begun(target, settings, overwrite=overwrite)
    with sharing(devices, chosen) as (ranks, here):
        for corpus, path in files.items():
            folder = _folder(root, corpus)
            if corpus in done:
                if path is not None or folder is not None:  # the hub is not asked again
                    data = _data(corpus, path, folder, options)
                    _require_same_text(target, corpus, done[corpus]["data"], data.describe())
                log.info("%s: done before", corpus)
                continue
            how: Settings = {
                "samples_per_sequence": samples_per_sequence,
                "half_width": half_width,
                "max_evaluations": max_evaluations,
                "seed": seed,
                "device": here,
                "progress": progress_lines(seconds=20),
                "ranks": ranks,
            }
            data = _data(corpus, path, folder, options)
            done[corpus] = _measured(model, data, own, max_sequences, how)
            if ranks.rank == 0:  # the first one writes
                _write(target, settings, done)
                log.info("%s: perplexity %s", corpus, _cell(done[corpus]))
    if ranks.rank == 0:
        _write(target, settings, done)


_SETTINGS = (
    *("checkpoint", "layout", "steps", "samples_per_sequence", "half_width", "max_evaluations"),
    *("max_sequences", "seed"),
)
"""The keys that figures depend on."""


def _files(corpora: Sequence[str] | Node | None) -> dict[str, str | None]:
    """The file of each corpus, None for one that is known by its name."""
    if isinstance(corpora, Mapping):
        files: dict[str, str | None] = {str(name): str(path) for name, path in corpora.items()}
    else:
        files = dict.fromkeys(map(str, CORPORA if corpora is None else corpora))
    if not files:
        raise UserError("corpora=[] is none; leave it out for the seven of the paper.")
    return files


def _folder(root: str | None, corpus: str) -> Path | None:
    """The local copy of a corpus; None if it comes from the hub."""
    folder = None if root is None else Path(root) / corpus
    return folder if folder is not None and folder.is_dir() else None


def _data(
    corpus: str, path: str | None, folder: Path | None, options: dict[str, Any]
) -> SequenceData:
    """Rows of a corpus, of which the validation split is read."""
    if path is not None:
        return text_data(None, path, **options)
    return corpus_data(corpus, root=folder, splits=["valid"], **options)


def _measured(
    model: Model, data: SequenceData, own: Estimator, max_sequences: int | None, how: Settings
) -> dict[str, Any]:
    """What the report says of a corpus."""
    began = time.monotonic()
    batches = data.eval_loader("valid", max_sequences=max_sequences)
    clusters = data.cluster_ids("valid", max_sequences=max_sequences).tolist()
    with_clusters: Settings = {**how, "clusters": clusters}
    likelihood = nelbo(model.denoiser, batches, estimator=own, **with_clusters)
    return {
        **likelihood.summary(),
        "counted": counted(likelihood, model.tokenizer),
        "data": data.describe(),
        "seconds": time.monotonic() - began,
    }


def _require_same_text(
    target: Path, corpus: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Raises UserError if the figures that `target` has of a corpus are of another text."""
    read = [dict(each["text"]["valid"]) for each in (before, json.loads(json.dumps(now)))]
    origins = [each.pop("from") for each in read]
    if read[0] != read[1]:
        raise UserError(
            f"out={target} has figures of {corpus} from {origins[0]}, and {origins[1]} holds "
            "another text; choose another name, or overwrite=true."
        )


def _trained_on(checkpoint: Path) -> dict[str, Any] | None:
    """The data config of a run; None of a model folder, which has none."""
    if (checkpoint / "config.json").is_file():
        return None
    return data_of(checkpoint)


def _length(checkpoint: Path, length: int | None) -> int:
    trained = _trained_on(checkpoint)
    if length is None and trained is None:
        raise UserError(
            f"checkpoint={checkpoint} is a model folder and does not know the length it was "
            "trained with; give length=, e.g. length=1024."
        )
    return int(trained["length"]) if length is None and trained is not None else int(length or 0)


def tokenizer_of(checkpoint: Path) -> tuple[str, str | None]:
    """The name and the revision by which `load_tokenizer` knows the model's tokenizer."""
    trained = _trained_on(checkpoint)
    if trained is None:
        return str(checkpoint), None
    return str(trained.get("tokenizer", "bytes")), trained.get("tokenizer_revision")


def _begun(target: Path, settings: dict[str, Any], *, overwrite: bool) -> dict[str, Any]:
    """The corpora that an earlier, stopped command of the same settings has done."""
    if overwrite or not target.exists():
        claim_file(target, overwrite=overwrite)
        return {}
    try:
        written = json.loads(target.read_text(encoding="utf-8"))
        before, corpora = written["settings"], written["corpora"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"out={target} exists and is no report of zero_shot; choose another name, or "
            "overwrite=true."
        ) from error
    for key, value in settings.items():
        if before.get(key) != value:
            raise UserError(
                f"out={target} has figures of {key}={before.get(key)}, and this is {key}={value}; "
                "choose another name, or overwrite=true."
            )
    return corpora


def _write(target: Path, settings: dict[str, Any], done: dict[str, Any]) -> None:
    report = {"settings": settings, "corpora": done}
    write_text(target, json.dumps(report, indent=2) + "\n")
    write_text(target.with_suffix(".md"), table(settings, done))


def table(settings: Mapping[str, Any], done: Mapping[str, Any]) -> str:
    """Perplexities of `done` as Markdown, with those published of the same corpora below."""
    names = [*(name for name in CORPORA if name in done), *sorted({*done} - {*CORPORA})]
    known = [name for name in names if name in CORPORA]
    lines = [
        f"Zero-shot perplexity of {settings['checkpoint']}: estimator {settings['estimator']}, "
        f"rows of {settings['length']} tokens, layout {settings['layout']}; 95 % Monte-Carlo "
        "intervals; ≤ where it is a bound.",
        "",
        f"| | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
        f"| **{settings['checkpoint']}** | {' | '.join(_cell(done[name]) for name in names)} |",
    ]
    for model, row in PUBLISHED.items() if known else ():
        figures = dict(zip(CORPORA, row, strict=True))
        cells = [f"{figures[name]:.2f}" if name in figures else "" for name in names]
        lines.append(f"| *published:* {model} | {' | '.join(cells)} |")
    if known:
        lines += [
            "",
            "Published rows are copied from the papers, not made here. They are of models trained "
            "on OpenWebText, at length 1,024, with GPT-2's tokens.",
        ]
    return "\n".join(lines) + "\n"


def _cell(figures: Mapping[str, Any]) -> str:
    low, high = figures["perplexity_95"]
    interval = "" if low == high else f" ({low:.2f} to {high:.2f})"
    return f"{'≤' if figures['bound'] else ''}{figures['perplexity']:.2f}{interval}"


if __name__ == "__main__":
    launch("zero_shot", main)
