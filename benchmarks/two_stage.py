"""The paper's two stages at reduced steps, from experiment configs to a table, in one command.

    python benchmarks/two_stage.py --fasta genome.fa.gz --bed splits.bed --runs runs/two_stage \\
        --first 600 --second 1200 --batch 8 --seeds 0 --out results.json

Caduceus by masked language modelling (`experiment=hg38_mlm`), from which MDLM and SEDD go on
(`hg38_mdlm`, `hg38_sedd`), and left-to-right Mamba in as many steps of both stages
(`hg38_ar_pretrain`, `hg38_ar`): equal tokens for each. All are then measured on the windows of
the test split, beside Markov models of the training split. Started again, it goes on where it
stopped. Words behind `--` go to every training run (say `optimizer.lr=2e-3`).
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from commands import genodiff, train

from genodiff.files import write_text


class Stage(NamedTuple):
    """A training run: its experiment, and the stage that it goes on from."""

    experiment: str
    init: str | None


STAGES = {
    "mlm": Stage("hg38_mlm", None),
    "mdlm": Stage("hg38_mdlm", "mlm"),
    "sedd": Stage("hg38_sedd", "mlm"),
    "ar_pretrain": Stage("hg38_ar_pretrain", None),
    "ar": Stage("hg38_ar", "ar_pretrain"),
}
# Perplexities of MDLM's table 6: 60 billion bases read, the published windows of the whole genome.
PUBLISHED = {"ar": 3.067, "mdlm": 3.199, "sedd": 3.216}


def main() -> None:
    """Parses the command line, trains, measures, prints and writes."""
    parser = argparse.ArgumentParser(description="The two-stage recipe at reduced steps.")
    parser.add_argument("--fasta", type=Path, required=True)
    parser.add_argument("--bed", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the training runs")
    parser.add_argument("--first", type=int, required=True, help="steps of stage one")
    parser.add_argument("--second", type=int, required=True, help="steps of stage two")
    parser.add_argument("--batch", type=int, required=True, help="sequences a step")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--half-width", type=float, default=0.001, help="nats, of the intervals")
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("words", nargs="*", help="further key=value of every training run")
    arguments = parser.parse_args()
    files = [f"data.fasta={arguments.fasta.absolute()}", f"data.bed={arguments.bed.absolute()}"]
    if arguments.cache_dir is not None:
        files.append(f"data.cache_dir={arguments.cache_dir.absolute()}")
    sizes = [f"data.length={arguments.length}", f"data.batch_size={arguments.batch}"]
    for seed in arguments.seeds:
        for name, stage in STAGES.items():
            run = arguments.runs / f"{name}_{seed}"
            steps = arguments.first if stage.init is None else arguments.second
            words = [f"experiment={stage.experiment}", "data=fasta", *files, *sizes]
            words += ["data.num_workers=0", f"seed={seed}", f"trainer.max_steps={steps}"]
            words += ["trainer.validate_every=200", "trainer.checkpoint_every=100"]
            if stage.init is not None:
                words.append(f"init={arguments.runs / f'{stage.init}_{seed}'}")
            train(run, [*words, *arguments.words])
    report: dict[str, Any] = {
        **{
            key: getattr(arguments, key) for key in ("first", "second", "batch", "length", "seeds")
        },
        "words": arguments.words,
        "bases_read": (arguments.first + arguments.second) * arguments.batch * arguments.length,
        "published": PUBLISHED,
        "rows": [],
    }
    for seed in arguments.seeds:
        for name in PUBLISHED:
            run = arguments.runs / f"{name}_{seed}"
            report["rows"].append({"model": name, "seed": seed, **measure(run, files, arguments)})
            print(line(report["rows"][-1]), flush=True)
            write_text(arguments.out, json.dumps(report, indent=2) + "\n")


def measure(run: Path, files: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """What `genodiff evaluate` finds on the test split; once."""
    out = run / "test.json"
    if not out.is_file():
        words = [f"checkpoint={run}", "data=fasta", *files, f"data.length={arguments.length}"]
        words += ["data.split=test", f"half_width={arguments.half_width}", f"out={out}"]
        genodiff("evaluate", *words)
    found = json.loads(out.read_text())
    kept = ("nats_per_token", "standard_error", "standard_error_data", "perplexity")
    kept += ("perplexity_95", "bound", "estimator", "tokens", "sequences", "network_evaluations")
    manifest = json.loads((run / "manifest.json").read_text())
    return {
        "parameters": manifest["parameters"],
        **{key: found[key] for key in kept},
        "baselines": found["baselines"],
    }


def line(row: dict[str, Any]) -> str:
    low, high = row["perplexity_95"]
    return (
        f"{row['model']:<5} seed {row['seed']}  perplexity {row['perplexity']:.4f} "
        f"({low:.4f} to {high:.4f}; {'bound' if row['bound'] else '-log p'})  "
        f"{row['nats_per_token']:.4f} nats, s.e. of the data {row['standard_error_data']:.4f}  "
        f"{row['parameters']:,} parameters  published {PUBLISHED[row['model']]}"
    )


if __name__ == "__main__":
    main()
