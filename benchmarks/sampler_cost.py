"""What samplers of the same law cost: network evaluations, and the time beside them.

    python benchmarks/sampler_cost.py --out results.json
    python benchmarks/sampler_cost.py --checkpoint runs/mdlm --length 256 --steps 250 1000

Ancestral sampling by its plan (the steps of all reveals drawn beforehand, rows on their own)
against the published cache rule (the last prediction is kept while no token of any row changed)
and against an evaluation of every row at every step. How many evaluations there are has nothing to
do with what the network says, so without --checkpoint one that knows nothing is counted; with it,
the runs are timed as well, interleaved, and the time outside the network is given apart.
"""

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from torch import Generator, Tensor, nn

from genodiff.diffusion import Absorbing, Ancestral, Denoiser, LogLinear, NetworkDenoiser, Subs
from genodiff.diffusion.categorical import draw
from genodiff.files import write_text
from genodiff.tasks.draw import Meter
from genodiff.tasks.model import load_model

VOCAB, MASK, DATA = 12, 3, (7, 8, 9, 10)


class Blank(nn.Module):
    """A network that knows nothing."""

    def hidden(
        self, tokens: Tensor, sigma: Tensor | None, condition: Tensor | None = None
    ) -> Tensor:
        return torch.zeros(*tokens.shape, VOCAB, device=tokens.device)

    def head(self, hidden: Tensor) -> Tensor:
        return hidden

    def forward(self, tokens: Tensor, sigma: Tensor | None) -> Tensor:
        return self.head(self.hidden(tokens, sigma))


def published(denoiser: Denoiser, x: Tensor, steps: int, generator: Generator) -> Tensor:
    """Ancestral sampling by the rule of MDLM's `ddpm_cache`: all rows are evaluated if any
    changed."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=x.device)[:, None, None]
    times = times.expand(-1, len(x), 1)
    log_x0: Tensor | None = None
    for t, s in pairwise(times):
        if log_x0 is None:
            log_x0 = denoiser.log_x0(x, t)
        following = draw(denoiser.process.log_posterior(x, log_x0, t, s), generator)
        if not torch.equal(following, x):
            log_x0 = None
        x = following
    return x


def planned(denoiser: Denoiser, x: Tensor, steps: int, generator: Generator) -> Tensor:
    """`Ancestral`."""
    return Ancestral(steps)(denoiser, x, generator=generator)


@torch.no_grad()
def main() -> None:
    """Parses the command line, counts, prints and writes."""
    parser = argparse.ArgumentParser(description="What samplers of one law cost.")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch", type=int, nargs="+", default=[16])
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    denoiser, network = _model(arguments.checkpoint, device)
    rows = []
    for batch in arguments.batch:
        for steps in arguments.steps:
            runs: dict[str, list[dict[str, Any]]] = {"planned": [], "published": []}
            for repeat in range(arguments.repeats):
                for name, sampler in (("planned", planned), ("published", published)):
                    x = denoiser.process.prior((batch, arguments.length), device=device)
                    generator = torch.Generator(device).manual_seed(repeat)
                    began, began_work = time.perf_counter(), time.process_time()
                    with Meter(network) as meter:
                        sampler(denoiser, x, steps, generator)
                    seconds = time.perf_counter() - began
                    runs[name].append(
                        {
                            "calls": meter.calls,
                            "row_evaluations": meter.evaluations,
                            "seconds": seconds,
                            "cpu_seconds": time.process_time() - began_work,
                            "outside_the_network": seconds - meter.seconds,
                        }
                    )
            rows.append(_row(batch, arguments.length, steps, runs))
            print(_line(rows[-1]), flush=True)
    report = {
        "rows": rows,
        "timed": arguments.checkpoint is not None,
        "repeats": arguments.repeats,
        "machine": machine(device),
    }
    if arguments.out:
        write_text(arguments.out, json.dumps(report, indent=2) + "\n")


def _model(checkpoint: Path | None, device: torch.device) -> tuple[Denoiser, nn.Module]:
    if checkpoint is not None:
        model = load_model(checkpoint, device)
        denoiser = model.require_denoiser("this benchmark")
        if denoiser.time_conditioning:
            raise SystemExit(f"{checkpoint} is told the time: the published rule is not for it.")
        return denoiser, model.network
    network = Blank()
    process = Absorbing(LogLinear(), VOCAB, MASK, DATA)
    return NetworkDenoiser(network, process, Subs(VOCAB, MASK, DATA)), network


def _row(
    batch: int, length: int, steps: int, runs: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """The medians of the repeats."""
    medians = {
        name: {
            key: float(torch.tensor([float(run[key]) for run in each]).median()) for key in each[0]
        }
        for name, each in runs.items()
    }
    return {"batch": batch, "length": length, "steps": steps, "all": batch * steps, **medians}


def _line(row: dict[str, Any]) -> str:
    ours, theirs = row["planned"], row["published"]
    return (
        f"batch {row['batch']}, {row['length']} tokens, {row['steps']} steps: row evaluations "
        f"{ours['row_evaluations']:,.0f} planned, {theirs['row_evaluations']:,.0f} by the "
        f"published rule ({ours['row_evaluations'] / theirs['row_evaluations']:.3f}), "
        f"{row['all']:,} of all; calls {ours['calls']:.0f} and {theirs['calls']:.0f}; "
        f"{ours['seconds']:.1f} s ({ours['outside_the_network']:.1f} outside the network) and "
        f"{theirs['seconds']:.1f} s; of the processor {ours['cpu_seconds']:.1f} s and "
        f"{theirs['cpu_seconds']:.1f} s"
    )


if __name__ == "__main__":
    main()
