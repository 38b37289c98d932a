"""Draw sequences from a trained model.

usage: genodiff sample checkpoint=RUN num_samples=64 length=1024 out=FILE.fa [key=value ...]

example:
  genodiff sample checkpoint=runs/a num_samples=64 length=1024 steps=256 out=samples.fa
  genodiff sample checkpoint=runs/a num_samples=64 length=200 out=promoters.fa \\
      require=[TATAWAW@100] forbid=[GAATTC,GGATCC] gc=[0.4,0.6]

keys:
  checkpoint=PATH     a run folder (its best weights), a .ckpt or a model folder
  num_samples= length=
  prompt=TEXT         what every sequence begins with
  window= stride=     sequences longer than a window are drawn window by window, stride further
                      each, given the tokens that they share
  batch_size=         sequences drawn together; the i-th batch has its own random numbers
  out=FILE|-          FASTA (of a model that is not of DNA, one sequence a line), or standard
                      output; FILE.json beside it has config, seed and cost
  devices=            how many processes share the batches, one a device: auto (all GPUs; one
                      process on a CPU; what torchrun or SLURM has started) or a number
  seed= device=auto|cpu|cuda overwrite=true
and how they are drawn:
{design}
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from genodiff import __version__
from genodiff.diffusion import Sampler, SemiAutoregressive
from genodiff.errors import UserError
from genodiff.files import write_text
from genodiff.tasks.build import Node, select_device
from genodiff.tasks.design import Design, described
from genodiff.tasks.draw import claim_samples, draw_sequences, masks, text_of
from genodiff.tasks.launch import launch
from genodiff.tasks.model import Model, load_model, require_length
from genodiff.tasks.sharing import sharing

log = logging.getLogger(__name__)


def main(
    *,
    checkpoint: str,
    out: str,
    num_samples: int,
    length: int,
    prompt: str | None,
    window: int | None,
    stride: int | None,
    batch_size: int,
    sampler: Node,
    steps: int | None,
    temperature: float,
    nucleus: float,
    average_strands: bool,
    label: int | None,
    guidance: float,
    classifier: str | None,
    classifier_strength: float,
    first_order: bool,
    pattern: str | None,
    forbid: Sequence[str],
    require: Sequence[str],
    gc: Sequence[float] | None,
    both_strands: bool,
    reward: str | None,
    reward_temperature: float,
    best_of: int | None,
    particles: int | None,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    devices: int | Literal["auto"],
    overwrite: bool,
) -> None:
    """Draws and writes."""
    asked = dict(locals())
    design = Design(**{name: asked[name] for name in Design.__dataclass_fields__})
    for name in ("num_samples", "length", "batch_size"):
        if asked[name] < 1:
            raise UserError(f"{name}={asked[name]} must be at least 1; use e.g. 16.")
    design.check()
    target = claim_samples(out, overwrite=overwrite)
    chosen = select_device(device)
    model = load_model(Path(checkpoint), torch.device("cpu"))
    require_length(model, window or length, "length" if window is None else "window")
    x = _begun(model, num_samples, length, prompt)
    with sharing(devices, chosen) as (ranks, here):
        model.denoiser.to(here)
        built = design.built_sampler(model, _in_windows(window, stride, design))
        denoiser = design.denoiser(model, x[0])
        drawn = draw_sequences(
            model, denoiser, built, x, seed=seed, batch_size=batch_size, ranks=ranks
        )
    if ranks.rank:
        return  # the first one writes
    log.info(
        "%d sequences, %s network evaluations, %.1f seconds, of which %.1f outside the network",
        *(num_samples, f"{drawn.network_evaluations:,}", drawn.seconds),
        drawn.seconds - drawn.network_seconds,
    )
    provenance = f"model={checkpoint} seed={seed} genodiff={__version__}"
    text = text_of(drawn.sequences, model.tokenizer, provenance)
    if target is None:
        sys.stdout.write(text)
        return
    report: dict[str, Any] = {
        **{name: value for name, value in asked.items() if name not in ("out", "overwrite")},
        "sampler": described(built),
        "device": str(chosen),
        "processes": ranks.size,
        **drawn.cost(),
        "version": __version__,
    }
    write_text(target, text)
    write_text(target.with_suffix(".json"), json.dumps(report, indent=2) + "\n")


def _begun(model: Model, count: int, length: int, prompt: str | None) -> Int[Tensor, "n l"]:
    """What is to be drawn, behind the prompt."""
    x = masks(model, count, length)
    if prompt is not None:
        tokens = torch.as_tensor(model.tokenizer.encode(prompt))
        known = torch.isin(tokens, torch.tensor(model.tokenizer.data_ids))
        if len(tokens) >= length or not bool(known.all()):
            raise UserError(
                f"prompt={prompt!r} has to be shorter than length={length} and of what the model "
                "can draw; shorten or correct it."
            )
        x[:, : len(tokens)] = tokens
    return x


def _in_windows(
    window: int | None, stride: int | None, design: Design
) -> Callable[[Sampler], Sampler] | None:
    """What makes a sampler of windows one of sequences; None where there are no windows."""
    if window is None:
        if stride is not None:
            raise UserError(f"stride={stride} is of windows; give window= too.")
        return None
    if design.wishes:
        raise UserError(
            f"window={window}: constraints are of whole sequences; leave one of them out."
        )
    stride = max(window // 2, 1) if stride is None else stride
    return lambda sampler: SemiAutoregressive(sampler, window, stride)


if __name__ == "__main__":
    launch("sample", main)
