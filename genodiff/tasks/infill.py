"""Write regions of a genome anew, given what stands around them.

usage: genodiff infill checkpoint=RUN genome=FASTA regions=BED out=FILE.fa [key=value ...]

example:
  genodiff infill checkpoint=runs/a genome=hg38.fa regions=enhancers.bed out=designs.fa \\
      context=512 num_samples=8 forbid=[GAATTC] gc=[0.4,0.6]

keys:
  checkpoint=PATH     a run folder (its best weights), a .ckpt or a model folder
  genome=FASTA        plain, bgzip or gzip
  regions=BED         what is written anew; a row on the minus strand is read and written there
  context=            bases on each side that the model sees (512; fewer at a chromosome's end)
  num_samples=        designs a region (4)
  keep=BED            bases inside the regions that stay as they are
  out=FILE|-          FASTA of flanks (as they are in the genome) and designs (upper case);
                      FILE.json beside it has config, seed and cost
  devices=            how many processes share the regions, one a device: auto (all GPUs; one
                      process on a CPU; what torchrun or SLURM has started) or a number
  batch_size= cache_dir= seed= device=auto|cpu|cuda overwrite=true
and how they are drawn. Positions count from the start of the region; pattern= and gc= are of all
its bases, with what is kept; motifs are of the bases that are drawn, though they may reach into
others; reward= is given the region with its flanks:
{design}
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from genodiff import __version__
from genodiff.data import SOFT_MASK, DnaTokenizer, Genome, Region, overlaps, read_regions
from genodiff.diffusion import BlockDenoiser, CausalModel
from genodiff.errors import UserError
from genodiff.files import write_text
from genodiff.tasks.build import Node, select_device
from genodiff.tasks.design import Design, described
from genodiff.tasks.draw import Drawn, claim_samples, draw_sequences, fasta_record
from genodiff.tasks.launch import launch
from genodiff.tasks.model import Model, load_model, require_length
from genodiff.tasks.sharing import sharing


def main(
    *,
    checkpoint: str,
    genome: str,
    regions: str,
    out: str,
    context: int,
    num_samples: int,
    keep: str | None,
    cache_dir: str | None,
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
    """Designs and writes."""
    asked = dict(locals())
    design = Design(**{name: asked[name] for name in Design.__dataclass_fields__})
    for name in ("num_samples", "batch_size"):
        if asked[name] < 1:
            raise UserError(f"{name}={asked[name]} must be at least 1; use e.g. 4.")
    if context < 0:
        raise UserError(f"context={context} must be 0 or more; use e.g. 512.")
    design.check()
    target = claim_samples(out, overwrite=overwrite)
    source = Genome(genome, cache_dir=cache_dir)
    rows = read_regions(regions, source.lengths)
    kept = [] if keep is None else read_regions(keep, source.lengths)
    chosen = select_device(device)
    model = load_model(Path(checkpoint), torch.device("cpu"))
    if not isinstance(model.tokenizer, DnaTokenizer):
        raise UserError(
            f"checkpoint={checkpoint} reads the tokens of {type(model.tokenizer).__name__}, and "
            "infill writes DNA; use a model of DNA."
        )
    if isinstance(model.denoiser, CausalModel | BlockDenoiser):
        raise UserError(
            f"checkpoint={checkpoint} is a {type(model.denoiser).__name__}, which sees nothing of "
            "what comes after a region; use a model that sees both sides."
        )
    stretches = [cut(source, region, context, kept, model.tokenizer) for region in rows]
    if kept and not any(overlaps(region, kept) for region in rows):
        raise UserError(f"keep={keep} has no base in any region of {regions}; correct one.")
    with sharing(devices, chosen) as (ranks, here):
        model.denoiser.to(here)
        built = design.built_sampler(model)
        # What cannot be is found before anything is drawn.
        denoisers = [_denoiser(design, model, stretch) for stretch in stretches]
        drawn = ranks.together(
            [
                draw_sequences(
                    model,
                    denoisers[index],
                    built,
                    torch.from_numpy(stretch.x).repeat(num_samples, 1),
                    seed=int(np.random.SeedSequence((seed, index)).generate_state(1)[0]),
                    batch_size=batch_size,
                )
                for index, stretch in ranks.mine(enumerate(stretches))
            ]
        )
    if ranks.rank:
        return  # the first one writes
    text, costs = "", []
    names = unique([stretch.region for stretch in stretches])
    for stretch, name, designs in zip(stretches, names, drawn, strict=True):
        place = f"{stretch.region}({stretch.region.strand})"
        costs.append({"name": name, "region": place, **designs.cost()})
        provenance = f"model={checkpoint} seed={seed} genodiff={__version__}"
        text += records(stretch, name, designs, provenance)
    if target is None:
        sys.stdout.write(text)
        return
    report: dict[str, Any] = {
        **{name: value for name, value in asked.items() if name not in ("out", "overwrite")},
        "sampler": described(built),
        "device": str(chosen),
        "processes": ranks.size,
        "costs": costs,
        "genome_sha256": source.sha256,
        "version": __version__,
    }
    write_text(target, text)
    write_text(target.with_suffix(".json"), json.dumps(report, indent=2) + "\n")


def _denoiser(design: Design, model: Model, stretch: "Stretch") -> Any:
    """What a region is drawn from. Raises UserError, which names it, if nothing can be."""
    x = torch.from_numpy(stretch.x)
    try:
        require_length(model, len(x), "region and context")
        return design.denoiser(model, x, stretch.span, x != model.tokenizer.mask_id)
    except UserError as error:
        raise UserError(f"{stretch.region.name} ({stretch.region}): {error}") from error


def unique(regions: Sequence[Region]) -> list[str]:
    """The names of regions without blanks, with the place where a name comes twice, and a number
    where the place does too."""
    names = [region.name.replace(" ", "_") for region in regions]
    counts = Counter(names)
    full = [
        name if counts[name] == 1 else f"{name}_{region}({region.strand})"
        for name, region in zip(names, regions, strict=True)
    ]
    seen: Counter[str] = Counter()
    for i, name in enumerate(full):
        seen[name] += 1
        full[i] = name if seen[name] == 1 else f"{name}_{seen[name]}"
    return full


class Stretch(NamedTuple):
    """A region with its flanks, read on the region's strand."""

    region: Region
    start: int
    """Of the flanks, on the chromosome."""
    end: int
    span: slice
    """Where the region is in `x`."""
    x: Int[np.ndarray, " l"]
    """Token ids, with masks for what is to be written."""
    lower: np.ndarray  # (l,): which bases the genome has in lower case


def cut(
    genome: Genome, region: Region, context: int, kept: Sequence[Region], tokenizer: DnaTokenizer
) -> Stretch:
    """The region with up to `context` bases on each side, its bases masked but those `kept`."""
    start = max(region.start - context, 0)
    end = min(region.end + context, genome.lengths[region.chrom])
    codes = genome.codes(region.chrom, start, end).astype(np.int64)
    x, lower = codes & (SOFT_MASK - 1), codes >= SOFT_MASK
    masked = np.zeros(len(x), bool)
    masked[region.start - start : region.end - start] = True
    for first, last in overlaps(region, kept):
        masked[first - start : last - start] = False
    if not masked.any():
        raise UserError(
            f"{region.name} ({region}) is kept as a whole, so there is nothing to write; leave it "
            "out of regions= or of keep=."
        )
    x[masked] = tokenizer.mask_id
    span = slice(region.start - start, region.end - start)
    if region.strand == "-":
        x, lower = np.array(tokenizer.complement)[x][::-1].copy(), lower[::-1]
        span = slice(len(x) - span.stop, len(x) - span.start)
    return Stretch(region, start, end, span, x, lower)


def records(stretch: Stretch, name: str, drawn: Drawn, provenance: str) -> str:
    """FASTA records of the designs of a region, NAME_0, NAME_1, ..."""
    region, text = stretch.region, ""
    outside = np.ones(len(stretch.x), bool)
    outside[stretch.span] = False
    for i, sequence in enumerate(drawn.sequences):
        letters = np.array(list(sequence))
        lowered = np.where(stretch.lower & outside, np.char.lower(letters), letters)
        header = (
            f"{name}_{i} {region}({region.strand}) "
            f"with_flanks={region.chrom}:{stretch.start}-{stretch.end} {provenance}"
        )
        text += fasta_record(header, "".join(lowered))
    return text


if __name__ == "__main__":
    launch("infill", main)
