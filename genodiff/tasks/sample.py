"""Draw sequences from a trained model.

usage: genodiff sample checkpoint=RUN num_samples=64 length=1024 out=FILE.fa [key=value ...]

example:
  genodiff sample checkpoint=runs/a num_samples=64 length=1024 steps=256 out=samples.fa
  genodiff sample checkpoint=runs/a num_samples=64 length=200 out=promoters.fa \\
      require=[TATAWAW@100] forbid=[GAATTC,GGATCC] gc=[0.4,0.6]
  genodiff sample checkpoint=runs/text num_samples=64 template=@letter.txt out=letters.jsonl

keys:
  checkpoint=PATH     a run folder (its best weights), a .ckpt or a model folder
  num_samples=        sequences (16)
  length=             tokens in each (1024)
  prompt=TEXT         what every sequence begins with; without it a published left-to-right model,
                      which never draws the first token, begins with BOS
  template=@FILE      what stands around the tokens to be drawn, in place of length= and prompt=:
                      [MASK] is one of them, [MASK*12] are twelve, and the rest stays. Or as a
                      word, quoted for the shell and for Hydra: template="'The[MASK*3] fox'".
                      Each piece between masks becomes tokens by itself, so let pieces end where
                      words end: the rest of a word that a mask cuts is read as a word, and a
                      space is part of the word behind it (GPT-2) or no token at all (BERT)
  window= stride=     sequences longer than a window are drawn window by window, stride further
                      each, given the tokens that they share; what a template gives behind a
                      window is not seen from it
  batch_size=         sequences drawn together; the i-th batch has its own random numbers
  out=FILE|-          FASTA of DNA; of text a line a sequence, with \\\\, \\n and \\r for backslash
                      and line breaks; FILE.jsonl has {"text": ..., "ids": [...]} a line. Or
                      standard output. FILE.json beside it has config, seed, precision and cost
                      (seconds of all processes together). Batches are kept on the way, so that the
                      same command goes on where it was stopped; memory does not grow with
                      num_samples
  devices=            how many processes share the batches, one a device: auto (all GPUs; one
                      process on a CPU; what torchrun or SLURM has started) or a number
  seed= device=auto|cpu|cuda overwrite=true
and how they are drawn:
{design}
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from genodiff import __version__
from genodiff.data import json_lines
from genodiff.diffusion import BlockDenoiser, CausalModel, Sampler, SemiAutoregressive
from genodiff.errors import UserError
from genodiff.files import atomic_path, write_text
from genodiff.parts import parts_of, standard_output
from genodiff.tasks.build import Node, select_device
from genodiff.tasks.design import Design, described
from genodiff.tasks.draw import (
    PRECISION,
    Drawn,
    check_seed,
    claim_samples,
    draw_batch,
    log_progress,
    masks,
    text_of,
    weights_sha256,
)
from genodiff.tasks.launch import launch
from genodiff.tasks.model import Model, load_model, require_length
from genodiff.tasks.sharing import sharing

log = logging.getLogger(__name__)

DEFAULT_LENGTH = 1024

_TO_DRAW = re.compile(r"\[MASK(?:\*(\d+))?\]")


def main(
    *,
    checkpoint: str,
    out: str,
    num_samples: int,
    length: int | None,
    prompt: str | None,
    template: str | None,
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
        if asked[name] is not None and asked[name] < 1:
            raise UserError(f"{name}={asked[name]} must be at least 1; use e.g. 16.")
    check_seed(seed)
    design.check()
    target = claim_samples(out, overwrite=overwrite)
    if target is None and devices == "auto":
        devices = 1  # which standard output is of
    chosen = select_device(device)
    model = load_model(Path(checkpoint), torch.device("cpu"))
    contents = None
    if template is None:
        length = DEFAULT_LENGTH if length is None else length
        row = _begun(model, length, prompt)
    else:
        _refuse_beside_template(length=length, prompt=prompt)
        contents = _contents(template)
        row = _filled(model, contents)
    key = "length" if template is None else "the template's length"
    require_length(model, window or len(row), key if window is None else "window")
    built = design.built_sampler(model, _in_windows(window, stride, design))
    denoiser = design.denoiser(model, row)
    as_json = target is not None and target.suffix == ".jsonl"
    provenance = f"model={checkpoint} seed={seed} genodiff={__version__}"

    def text(drawn: Drawn, first: int) -> str:
        if as_json:
            return json_lines(drawn.sequences, drawn.tokens.tolist())
        return text_of(drawn.sequences, model.tokenizer, provenance, first)

    wanted = {name: asked[name] for name in asked if name not in ("out", "overwrite")}
    made_of = {
        "device": chosen.type,
        "checkpoint_sha256": weights_sha256(model),
        **design.functions_sha256(),
        "version": __version__,
    }
    work = {**wanted, "template": contents, **made_of}
    del work["devices"]  # which changes nothing
    firsts = range(0, num_samples, batch_size)
    with (
        sharing(devices, chosen) as (ranks, here),
        parts_of(target, work, overwrite=overwrite, ranks=ranks) as parts,
    ):
        denoiser.to(here)
        began = time.monotonic()
        for index, first in enumerate(firsts):
            if not parts.mine(index):
                continue
            count = min(batch_size, num_samples - first)
            x = row.repeat(count, 1)
            drawn = draw_batch(model, denoiser, built, x, seed=seed, index=index)
            parts.write(index, text(drawn, first).encode(), drawn.cost())
            if num_samples > batch_size:
                log_progress(first + count, num_samples, began)
        parts.wait()
        if ranks.rank:
            return  # the first one writes
        cost = parts.tally(len(firsts))
        log.info(
            "%d sequences, %s network evaluations, %.1f seconds, %.1f of them outside the network",
            *(num_samples, f"{cost['network_evaluations']:,}", cost["seconds"]),
            cost["seconds_outside_the_network"],
        )
        if target is None:
            with standard_output():
                for part in parts.open(len(firsts)):
                    sys.stdout.write(part.read().decode())
            return
        report: dict[str, Any] = {
            **wanted,
            "length": len(row),
            "sampler": described(built),
            "steps": _steps(described(built)),
            "precision": PRECISION,
            "processes": ranks.size,
            **cost,
            **made_of,
        }
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            parts.join(file, len(firsts))
        write_text(target.with_suffix(".json"), json.dumps(report, indent=2) + "\n")


def _begun(model: Model, length: int, prompt: str | None) -> Int[Tensor, " l"]:
    """What is to be drawn, behind the prompt. A model that has to be given the first token begins
    with BOS; where there is none, its sampler refuses."""
    row = masks(model, 1, length)[0]
    if prompt is not None:
        tokens = torch.as_tensor(model.tokenizer.encode(_utf8("prompt", prompt)))
        if len(tokens) >= length or not _can_be_drawn(model, tokens):
            raise UserError(
                f"prompt={prompt!r} has to be shorter than length={length} and of what the model "
                "can draw; shorten or correct it."
            )
        row[: len(tokens)] = tokens
    elif isinstance(model.denoiser, CausalModel) and model.denoiser.first_is_given:
        bos = getattr(model.tokenizer, "bos_id", None)
        row[:1] = model.tokenizer.mask_id if bos is None else bos
    return row


def _utf8(key: str, text: str) -> str:
    """The text, if it is one. Raises UserError for bytes of the command line that are none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{key}={text!r} is not UTF-8; give text, or template=@FILE.") from error
    return text


def _refuse_beside_template(**others: int | str | None) -> None:
    for name, value in others.items():
        if value is not None:
            raise UserError(
                f"{name}={value} beside template=, which says what is given and how long the "
                "sequences are; leave one of them out."
            )


def _contents(template: str) -> str:
    """The template that is meant: that of a file (without its last line break) after an @."""
    if not template.startswith("@"):
        return _utf8("template", template)
    path = Path(template[1:])
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"template={template} cannot be read ({error}); give a file of UTF-8."
        ) from error


def _filled(model: Model, template: str) -> Int[Tensor, " l"]:
    """The template's pieces as tokens, and masks for what is to be drawn between them.

    Raises UserError if there is nothing to draw, a piece is not of what the model can draw, or one
    stands behind a mask of a model that draws from left to right.
    """
    # Split by a pattern with one group: text, number of masks, text, number of masks, ..., text.
    pieces = _TO_DRAW.split(template)
    parts: list[Tensor] = []
    for i, piece in enumerate(pieces):
        if i % 2:
            count = 1 if piece is None else int(piece)
            parts.append(masks(model, 1, count)[0])
        else:
            tokens = torch.as_tensor(model.tokenizer.encode(piece))
            if not _can_be_drawn(model, tokens):
                raise UserError(
                    f"template: {piece!r} is not of what the model can draw; correct it."
                )
            parts.append(tokens)
    row = torch.cat(parts)
    is_open = row == model.tokenizer.mask_id
    if not is_open.any():
        raise UserError(
            f"template={template!r} has nothing to draw; write [MASK] for a token, or [MASK*12] "
            "for twelve."
        )
    given_behind = ~is_open[int(is_open.int().argmax()) :]
    if given_behind.any() and isinstance(model.denoiser, CausalModel | BlockDenoiser):
        raise UserError(
            f"template={template!r} gives text behind a mask, which a "
            f"{type(model.denoiser).__name__} does not see when it draws the mask; let the "
            "template end in [MASK*N], or use a model that sees both sides."
        )
    return row


def _can_be_drawn(model: Model, tokens: Int[Tensor, " l"]) -> bool:
    """Whether the model might have drawn these tokens itself."""
    return bool(torch.isin(tokens, torch.tensor(model.tokenizer.data_ids)).all())


def _steps(sampler: Mapping[str, Any]) -> int | None:
    """Of a sampler as described, or of the one inside it; None where there are none."""
    inner = sampler.get("sampler")
    return sampler.get("steps", None if inner is None else _steps(inner))


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
