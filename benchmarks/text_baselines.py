"""Objectives on text at equal size and equal tokens, and MDLM's ablation: from files to a table.

    python benchmarks/text_baselines.py --text reviews.txt.gz --tokenizer bert-base-uncased \\
        --zero-shot wikitext2=wiki.test.txt.gz --runs runs/text --steps 1000 --out results.json

The documents of the text (between blank lines) are dealt in turn: of every 20 one is for
validation and one for the test. Trained are the experiments `lm1b_*` (with `--models`), of one
small size: their objectives, and what they tell the network of the time, on packed rows. The test
documents and each --zero-shot text are then evaluated as `genodiff evaluate` does, and the models
are held against `mdlm` on the same draws. Started again, it goes on where it stopped. Words behind
`--` go to every training run.
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

from commands import genodiff, train

from genodiff.files import write_text

MODELS = ("ar", "mdlm", "sedd", "d3pm", "bd3lm", "udlm")
ABLATION = ("ablation_discrete", "ablation_no_carry_over", "ablation_no_zero_masking")
REFERENCE = "mdlm"
FIRST_STAGE = 0.85  # of the steps of block diffusion, as in Arriola et al. 2025
DEALT = 20  # documents of which one is for validation and one for the test


def main() -> None:
    """Parses the command line, trains, measures, prints and writes."""
    parser = argparse.ArgumentParser(description="Text baselines in few steps.")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--zero-shot", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=(*MODELS, *ABLATION))
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half-width", type=float, default=0.01, help="nats, of the intervals")
    parser.add_argument("--max-evaluations", type=int, default=20_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("words", nargs="*", help="further key=value of every training run")
    arguments = parser.parse_args()
    files = deal(arguments.text, arguments.runs)
    for model in arguments.models:
        train_one(model, files, arguments)
    texts = {"test": files["test"]}
    texts |= {
        name: Path(path) for name, _, path in (z.partition("=") for z in arguments.zero_shot)
    }
    report: dict[str, Any] = {
        **{
            key: getattr(arguments, key) for key in ("steps", "batch", "length", "width", "layers")
        },
        "seed": arguments.seed,
        "tokenizer": Path(arguments.tokenizer).name,
        "text": arguments.text.name,
        "words": arguments.words,
        "tokens_read": arguments.steps * arguments.batch * arguments.length,
        "rows": [],
    }
    for name, path in texts.items():
        for model in arguments.models:
            report["rows"].append(measure(model, name, path, arguments))
            print(line(report["rows"][-1]), flush=True)
            write_text(arguments.out, json.dumps(report, indent=2) + "\n")


def deal(source: Path, folder: Path) -> dict[str, Path]:
    """The documents of a text dealt to three files; once."""
    files = {split: folder / f"{split}.txt" for split in ("train", "valid", "test")}
    if not files["test"].is_file():
        read = gzip.open if source.suffix == ".gz" else open
        with read(source, "rt", encoding="utf-8") as file:
            documents = [text.strip() for text in file.read().split("\n\n") if text.strip()]
        folder.mkdir(parents=True, exist_ok=True)
        place = {0: "valid", 1: "test"}
        for split, path in files.items():
            mine = [d for i, d in enumerate(documents) if place.get(i % DEALT, "train") == split]
            write_text(path, "\n\n".join(mine) + "\n")
    return files


def data_words(test: Path, files: dict[str, Path], arguments: argparse.Namespace) -> list[str]:
    """The text: its own documents in training and validation, `test` for the test."""
    return [
        "data=text",
        *(f"data.{split}={files[split].absolute()}" for split in ("train", "valid")),
        f"data.test={test.absolute()}",
        f"data.tokenizer={arguments.tokenizer}",
        f"data.length={arguments.length}",
        "data.layout=packed",
    ]


def train_one(model: str, files: dict[str, Path], arguments: argparse.Namespace) -> None:
    """Trains a model; block diffusion from a first stage, which has its share of the steps."""
    run, steps = arguments.runs / f"{model}_{arguments.seed}", arguments.steps
    begin: list[str] = []
    if model == "bd3lm":
        first, stage = round(FIRST_STAGE * steps), f"{model}_pretrain"
        init = arguments.runs / f"{stage}_{arguments.seed}"
        train(init, words_of(stage, first, files, arguments))
        steps, begin = steps - first, [f"init={init.absolute()}"]
    train(run, [*words_of(model, steps, files, arguments), *begin])


def words_of(
    model: str, steps: int, files: dict[str, Path], arguments: argparse.Namespace
) -> list[str]:
    """The words of a training run."""
    return [
        f"experiment=lm1b_{model}",
        *data_words(files["test"], files, arguments),
        f"data.batch_size={arguments.batch}",
        f"backbone.d_model={arguments.width}",
        f"backbone.n_layers={arguments.layers}",
        f"backbone.n_heads={max(arguments.width // 32, 1)}",
        f"seed={arguments.seed}",
        f"trainer.max_steps={steps}",
        "trainer.validate_every=100",
        "trainer.checkpoint_every=100",
        "optimizer.lr=1e-3",
        "optimizer.warmup_fraction=0.05",
        "trainer.ema_decay=0.99",
        *arguments.words,
    ]


def measure(model: str, name: str, path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What `genodiff evaluate` finds for one model and text; once."""
    run = arguments.runs / f"{model}_{arguments.seed}"
    out = run / f"{name}.json"
    if not out.is_file():
        words = [f"checkpoint={run}", f"data.test={path.absolute()}", f"out={out}"]
        words += [f"half_width={arguments.half_width}"]
        words += [f"max_evaluations={arguments.max_evaluations}"]
        reference = arguments.runs / f"{REFERENCE}_{arguments.seed}"
        if model != REFERENCE and reference.is_dir():
            words.append(f"against={reference}")
        genodiff("evaluate", *words)
    found = json.loads(out.read_text())
    kept = ("nats_per_token", "standard_error", "standard_error_data", "perplexity")
    kept += ("perplexity_95", "bound", "estimator", "tokens", "sequences", "network_evaluations")
    manifest = json.loads((run / "manifest.json").read_text())
    row = {
        "model": model,
        "text": name,
        "parameters": manifest["parameters"],
        **{key: found[key] for key in kept},
    }
    if "against" in found:
        row[f"{REFERENCE}_minus_it"] = found["against"]["difference"]
    return row


def line(row: dict[str, Any]) -> str:
    low, high = row["perplexity_95"]
    text = (
        f"{row['text']:<10} {row['model']:<25} perplexity {row['perplexity']:.2f} "
        f"({low:.2f} to {high:.2f}; {'bound' if row['bound'] else '-log p'})  "
        f"{row['nats_per_token']:.4f} nats"
    )
    gap = row.get(f"{REFERENCE}_minus_it")
    if gap is not None:
        text += (
            f"  {-gap['nats_per_token']:+.4f} of {REFERENCE} (s.e. {gap['standard_error']:.4f})"
        )
    return text


if __name__ == "__main__":
    main()
