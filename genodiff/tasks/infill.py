"""Write regions of a genome anew, given what stands around them.

usage: genodiff infill checkpoint=RUN genome=FASTA regions=BED out=FILE.fa [key=value ...]

example:
  genodiff infill checkpoint=runs/a genome=hg38.fa regions=enhancers.bed out=designs.fa \\
      context=512 num_samples=8 forbid=[GAATTC] gc=[0.4,0.6]

keys:
  checkpoint=PATH     a run folder (its best weights), a .ckpt or a model folder
  genome=FASTA        plain, bgzip or gzip
  regions=BED         what is written anew; a row on the minus strand is read and written there.
                      N in a region is written like any base, and a region of nothing else is
                      refused; N in the flanks stays, and the model sees it as N
  context=            bases on each side that the model sees (512; fewer at a chromosome's end)
  num_samples=        designs a region (4)
  keep=BED            bases inside the regions that stay as they are, on both strands
  out=FILE.fa|-       FASTA of flanks (as they are in the genome) and designs (upper case), on the
                      regions' strands, in the order of the BED. Beside it FILE.bed, a row a
                      design: chromosome, start, end, the design's name in the FASTA, how many of
                      1,000 of the region's bases are not the genome's, strand, and, behind these
                      six columns of a plain BED, the region as designed, read on the + strand; and
                      FILE.json, with config, seed and cost (seconds of all processes together).
                      Batches are kept on the way, so that the same command goes on where it was
                      stopped. - is the FASTA alone
  batch_size=         designs drawn together, of whichever regions are as long with their flanks
                      (and, where there are pattern=, forbid=, require= or gc=, ask for the same of
                      the same positions); each batch has its own random numbers, so that a design
                      depends on the whole BED, but on neither devices= nor where a run was stopped
  devices=            how many processes share the batches, one a device: auto (all GPUs; one
                      process on a CPU; what torchrun or SLURM has started) or a number
  cache_dir= seed= device=auto|cpu|cuda overwrite=true
Memory grows by a kilobyte a region, and not with the designs.
And how they are drawn. Positions count from the start of the region; pattern= and gc= are of all
its bases, with what is kept; motifs are of the bases that are drawn, though they may reach into
others; reward= is given the region with its flanks:
{design}
"""

import hashlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from genodiff import __version__
from genodiff.data import (
    Cover,
    DnaTokenizer,
    Genome,
    Region,
    Stretch,
    Stretches,
    file_sha256,
    read_regions,
)
from genodiff.diffusion import BlockDenoiser, CausalModel, Constrained
from genodiff.errors import UserError
from genodiff.files import atomic_path, write_text
from genodiff.parts import Parts, parts_of, standard_output
from genodiff.ranks import Ranks
from genodiff.tasks.batching import Ask, Plan
from genodiff.tasks.build import Node, select_device
from genodiff.tasks.design import Design, described
from genodiff.tasks.draw import (
    PRECISION,
    check_seed,
    claim_samples,
    draw_batch,
    fasta_record,
    log_progress,
    weights_sha256,
)
from genodiff.tasks.launch import launch
from genodiff.tasks.model import Model, load_model, require_length
from genodiff.tasks.sharing import sharing

log = logging.getLogger(__name__)

_FASTA = (".fa", ".fasta", ".fna", ".fas", ".txt")


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
    check_seed(seed)
    design.check()
    target = _claim(out, overwrite=overwrite)
    if target is not None:
        _spare_inputs(target, genome=genome, regions=regions, keep=keep)
    source = Genome(genome, cache_dir=cache_dir)
    rows = read_regions(regions, source.lengths)
    kept = Cover([] if keep is None else read_regions(keep, source.lengths))
    if target is None and devices == "auto":
        devices = 1  # which standard output is of
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
    if keep is not None and not any(kept.within(region) for region in rows):
        raise UserError(f"keep={keep} has no base in any region of {regions}; correct one.")
    stretches = Stretches(source, rows, context, kept, model.tokenizer)
    built = design.built_sampler(model)
    steered = design.steered(model)
    wanted = {name: asked[name] for name in asked if name not in ("out", "overwrite")}
    made_of = {
        "device": chosen.type,
        "checkpoint_sha256": weights_sha256(model),
        "genome_sha256": source.sha256,
        "regions_sha256": file_sha256(Path(regions)),
        **({} if keep is None else {"keep_sha256": file_sha256(Path(keep))}),
        **design.functions_sha256(),
        "version": __version__,
    }
    # Neither of these changes a design.
    work = {name: wanted[name] for name in wanted if name not in ("devices", "cache_dir")}
    with sharing(devices, chosen) as (ranks, here):
        asks = _checked(design, steered, model, stretches, ranks)
        plan = Plan(asks, num_samples, batch_size)
        with parts_of(target, {**work, **made_of}, overwrite=overwrite, ranks=ranks) as parts:
            steered.to(here)
            began, done = time.monotonic(), 0
            for index, batch in enumerate(plan.batches()):
                done += len(batch)
                if not parts.mine(index):
                    continue
                cut = {i: stretches[i] for i in {number // num_samples for number in batch}}
                x = np.stack([cut[number // num_samples].x for number in batch])
                denoiser = _denoiser(design, steered, model, cut[batch[0] // num_samples])
                drawn = draw_batch(
                    model, denoiser, built, torch.from_numpy(x), seed=seed, index=index
                )
                text = "".join(f"{sequence}\n" for sequence in drawn.sequences)
                parts.write(index, text.encode(), drawn.cost())
                log_progress(done, plan.n_designs, began)
            parts.wait()
            if ranks.rank:
                return  # the first one writes
            provenance = f"model={checkpoint} seed={seed} genodiff={__version__}"
            written = _records(stretches, _in_order(plan, parts), num_samples, provenance)
            if target is None:
                with standard_output():
                    sys.stdout.writelines(record.fasta for record in written)
                return
            counts = _write(written, target)
            report: dict[str, Any] = {
                **wanted,
                "sampler": described(built),
                "precision": PRECISION,
                "processes": ranks.size,
                "n_regions": len(rows),
                "n_regions_with_n": sum(ask.unknown > 0 for ask in asks),
                **counts,
                **parts.tally(plan.n_batches),
                **made_of,
            }
            write_text(target.with_suffix(".json"), json.dumps(report, indent=2) + "\n")


def _claim(out: str, *, overwrite: bool) -> Path | None:
    """The file that out= names, None for standard output. Raises UserError if it cannot be
    written, or is called as another format is."""
    if out != "-" and Path(out).suffix not in _FASTA:
        raise UserError(
            f"out={out} must end in {', '.join(_FASTA[:-1])} or {_FASTA[-1]}, as designs are "
            "written as plain FASTA; use e.g. out=designs.fa."
        )
    return claim_samples(out, overwrite=overwrite, beside=(".json", ".bed"))


def _spare_inputs(target: Path, **inputs: str | None) -> None:
    """Raises UserError if one of the files to be written is an input."""
    for key, path in inputs.items():
        for written in (target, target.with_suffix(".bed"), target.with_suffix(".json")):
            if path is not None and written.resolve() == Path(path).resolve():
                raise UserError(
                    f"out={target} would write {written} over {key}={path}; choose another name."
                )


def _checked(
    design: Design, steered: Any, model: Model, stretches: Stretches, ranks: Ranks
) -> list[Ask]:
    """What each region asks for. Raises UserError for the first of which nothing can be drawn,
    before any is."""

    def ask(index: int) -> Ask | str:
        try:
            stretch = stretches[index]
            constrained = _denoiser(design, steered, model, stretch)
            return Ask(len(stretch.x), _digest(constrained), stretch.unknown)
        except UserError as error:
            return str(error)

    answers = ranks.together([ask(index) for index in ranks.mine(range(len(stretches)))])
    refused = [answer for answer in answers if isinstance(answer, str)]
    if refused and ranks.rank == 0:  # which ends the others
        others = f" It is the first of {len(refused)} that are refused." if refused[1:] else ""
        raise UserError(refused[0] + others)
    asks = [answer for answer in answers if not isinstance(answer, str)]
    if with_n := sum(ask.unknown > 0 for ask in asks):
        log.warning(
            "%d of %d regions have N in the genome, which is written anew like any base",
            *(with_n, len(asks)),
        )
    return asks


def _denoiser(design: Design, steered: Any, model: Model, stretch: Stretch) -> Any:
    """What a region is drawn from. Raises UserError, which names it, if nothing can be."""
    x = torch.from_numpy(stretch.x)
    try:
        require_length(model, len(x), "region and context")
        given = ~torch.from_numpy(stretch.is_open)
        return design.constrained(steered, model, x, stretch.span, given)
    except UserError as error:
        raise UserError(f"{stretch.region.name} ({stretch.region}): {error}") from error


def _digest(denoiser: Any) -> bytes:
    """Of the constraint on what is drawn from it."""
    if not isinstance(denoiser, Constrained):
        return b""
    automaton, tables = denoiser.automaton, (denoiser.allowed, denoiser.given_positions)
    digest = hashlib.sha256(f"{automaton.start} {automaton.step.shape}".encode())
    digest.update(automaton.step.tobytes() + automaton.accept.tobytes())
    for table in tables:
        digest.update(b"none" if table is None else table.numpy().tobytes())
    return digest.digest()


def _in_order(plan: Plan, parts: Parts) -> Iterator[str]:
    """The designs of all batches, as the BED has them."""
    contents = parts.open(plan.n_batches)
    for block in plan.blocks():
        designs = [""] * len(block)
        for batch in plan.batches_of(block):
            for number, line in zip(batch, next(contents).read().splitlines(), strict=True):
                designs[number - block.start] = line.decode("ascii")
        yield from designs


class Record(NamedTuple):
    """A design as it is written."""

    fasta: str
    bed: str
    bases: int
    """To be written, in the region."""
    changed: int
    """Of these, those that are not the genome's."""


def _records(
    stretches: Stretches, designs: Iterator[str], num_samples: int, provenance: str
) -> Iterator[Record]:
    """Of each region its designs, NAME_0, NAME_1, ..."""
    for stretch, name in zip(stretches, unique(stretches.regions), strict=True):
        region, bases = stretch.region, int(stretch.is_open.sum())
        where = (
            f"{region}({region.strand}) with_flanks={region.chrom}:{stretch.start}-{stretch.end}"
        )
        for i, sequence in enumerate(islice(designs, num_samples)):
            changed = stretch.changed(sequence)
            score = round(1000 * changed / (region.end - region.start))
            columns = (region.chrom, region.start, region.end, f"{name}_{i}", score, region.strand)
            yield Record(
                fasta_record(f"{name}_{i} {where} {provenance}", stretch.with_flanks(sequence)),
                "\t".join(map(str, (*columns, stretch.on_plus(sequence)))) + "\n",
                bases,
                changed,
            )


def _write(written: Iterable[Record], target: Path) -> dict[str, int]:
    """FASTA and BED; what is in them."""
    counts = Counter[str]()
    with (
        atomic_path(target.with_suffix(".bed")) as bed_path,
        atomic_path(target) as fasta_path,
        bed_path.open("w", encoding="utf-8") as bed,
        fasta_path.open("w", encoding="utf-8") as fasta,
    ):
        for record in written:
            fasta.write(record.fasta)
            bed.write(record.bed)
            counts.update(n_designs=1, bases_written=record.bases, bases_changed=record.changed)
    return dict(counts)


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


if __name__ == "__main__":
    launch("infill", main)
