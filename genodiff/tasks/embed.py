"""Give each sequence the vector that a trained network makes of it.

usage: genodiff embed checkpoint=RUN sequences=FASTA out=FILE.npz [key=value ...]

example:
  genodiff embed checkpoint=runs/a sequences=promoters.fa out=promoters.npz
  genodiff embed checkpoint=runs/a genome=hg38.fa regions=peaks.bed pooling=last \\
      out=peaks.parquet

keys:
  checkpoint=PATH     a run folder (its best weights), a .ckpt or a model folder, of DNA
  sequences=FASTA     what is embedded: records of a FASTA, plain, bgzip or gzip; or
  genome=FASTA regions=BED  regions of a genome; a row on the minus strand is read there
  pooling=mean        a vector a sequence, the mean of its bases'; last, that of its last base;
                      none, one a base
  strands=both        the mean of both strands, each read in its own direction (the last base of
                      the other strand is the first of the given one); given: as it is given
  chunk=              bases that the network is given at a time (65536, or as many as it has
                      positions for): of one sequence or of several short ones. Longer sequences
                      are read in windows of that length
  overlap=            bases that neighbouring windows share at least (a quarter of the chunk). The
                      state of a base is taken from the window in which it is furthest from the
                      edges. What two windows differ by where they meet is in FILE.json; above
                      0.001 of the size of states there is a warning: share more
  out=FILE.npz|.parquet  npz: ids, embeddings (n, width), float32; with pooling=none embeddings
                      (bases, width) and offsets (n + 1): sequence i has the rows from offsets[i]
                      to offsets[i + 1]. parquet: id and embedding, a list of numbers or, with
                      pooling=none, of lists of them. Both: counted, the bases of each that count;
                      of regions chrom, start, end, strand. FILE.json beside it has config, counts
                      and seams. Parts are kept on the way, so that the same command goes on where
                      it was stopped
  devices=            how many processes share the sequences, one a device: auto (all GPUs; one
                      process on a CPU; what torchrun or SLURM has started) or a number
  cache_dir= seed= device=auto|cpu|cuda overwrite=true

Sequences are embedded clean, without noise or masks. Lower case is read as upper case, and other
letters than A, C, G, T as N. The network is shown N, but N does not count in a mean nor as the
last base, unless it was trained to predict N; a sequence of nothing else has NaN for a vector, and
FILE.json counts those. Nothing is random: seed= changes nothing. With pooling=none the vectors of
one whole sequence are held in memory.
"""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from genodiff import __version__
from genodiff.data import DnaTokenizer, read_fasta
from genodiff.data.tokenizer import N_ID, UNK_ID
from genodiff.diffusion import PlaidModel
from genodiff.errors import UserError
from genodiff.evaluation import Embedded, Pooling, embed
from genodiff.evaluation.borrowed import borrowed
from genodiff.evaluation.embedding import TOLERANCE, chunking
from genodiff.files import atomic_path, write_text
from genodiff.parts import claim_outputs, parts_of
from genodiff.tasks.build import select_device
from genodiff.tasks.draw import weights_sha256
from genodiff.tasks.launch import launch
from genodiff.tasks.model import Model, load_model
from genodiff.tasks.sequence_input import Item, sequence_input
from genodiff.tasks.sharing import sharing
from genodiff.tasks.vector_files import (
    Stored,
    as_part,
    require_parquet,
    write_npz,
    write_parquet,
)

log = logging.getLogger(__name__)

PART_SEQUENCES, PART_BASES = 1024, 1 << 17
"""A part is complete when it has so many of either."""


def main(
    *,
    checkpoint: str,
    sequences: str | None,
    genome: str | None,
    regions: str | None,
    out: str,
    pooling: Pooling,
    strands: Literal["both", "given"],
    chunk: int | None,
    overlap: int | None,
    cache_dir: str | None,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    devices: int | Literal["auto"],
    overwrite: bool,
) -> None:
    """Embeds and writes."""
    asked = dict(locals())
    target = _claim(out, overwrite=overwrite)
    chosen = select_device(device)
    items, sources = sequence_input(
        *(sequences, genome, regions, cache_dir), name="ids", read=_records
    )
    model = load_model(Path(checkpoint), torch.device("cpu"))
    _require_dna(model, checkpoint)
    chunk, overlap = chunking(model.network, chunk, overlap)
    wanted = {name: asked[name] for name in asked if name not in ("out", "overwrite")}
    wanted |= {"chunk": chunk, "overlap": overlap}
    made_of = {
        "device": chosen.type,
        "checkpoint_sha256": weights_sha256(model),
        **sources,
        "version": __version__,
    }
    # None of these changes a vector.
    work = {k: v for k, v in wanted.items() if k not in ("devices", "cache_dir", "seed")}
    with (
        sharing(devices, chosen) as (ranks, here),
        parts_of(target, {**work, **made_of}, overwrite=overwrite, ranks=ranks) as parts,
        borrowed(model.network, here),
    ):
        count = done = 0
        for count, block in enumerate(_blocks(items()), start=1):
            done += len(block)
            if not parts.mine(count - 1):
                continue
            began = time.monotonic()
            found = embed(
                model.network,
                [item.tokens for item in block],
                data_ids=model.tokenizer.data_ids,
                complement=model.tokenizer.complement if strands == "both" else None,
                pooling=pooling,
                chunk=chunk,
                overlap=overlap,
            )
            tally = _tally(block, found, time.monotonic() - began)
            parts.write(count - 1, as_part(_columns(block, found, pooling)), tally)
            log.info("%d sequences embedded", done)
        parts.wait()
        if ranks.rank:
            return  # the first one writes
        stored, tally = Stored(parts, count), parts.tally(count)
        _write(target, stored)
        if pooling != "none" and tally["n_sequences_without_bases"]:
            log.warning(
                "%d of %d sequences have no base that counts, and NaN for a vector",
                *(tally["n_sequences_without_bases"], tally["n_sequences"]),
            )
        report: dict[str, Any] = {
            **wanted,
            "processes": ranks.size,
            "width": model.network.d_strand,
            **tally,
            **_seams(stored, chunk, overlap),
            **made_of,
        }
        write_text(target.with_suffix(".json"), json.dumps(report, indent=2) + "\n")


def _claim(out: str, *, overwrite: bool) -> Path:
    path = Path(out)
    if path.suffix not in (".npz", ".parquet"):
        raise UserError(f"out={out} must end in .npz or .parquet; FILE.json goes beside it.")
    if path.suffix == ".parquet":
        require_parquet()
    return claim_outputs(path, path.with_suffix(".json"), overwrite=overwrite)


def _records(path: str) -> Iterator[Item]:
    for record in read_fasta(path):
        tokens = DnaTokenizer().encode(record.letters).astype(np.uint8)
        tokens[tokens == UNK_ID] = N_ID  # R, Y, ..., as a genome's
        yield Item({"ids": record.name}, tokens)


def _require_dna(model: Model, checkpoint: str) -> None:
    """Raises UserError for a model that has no states of the tokens of DNA."""
    if not isinstance(model.tokenizer, DnaTokenizer):
        raise UserError(
            f"checkpoint={checkpoint} reads the tokens of {type(model.tokenizer).__name__}, and "
            "embed reads DNA; use a model of DNA."
        )
    if isinstance(model.denoiser, PlaidModel):
        raise UserError(
            f"checkpoint={checkpoint} is a PlaidModel, whose network reads noised vectors and has "
            "no states of tokens; use a checkpoint of another objective."
        )


def _blocks(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Items of a part each. Where they end depends on the items alone."""
    block: list[Item] = []
    bases = 0
    for item in items:
        block.append(item)
        bases += len(item.tokens)
        if len(block) == PART_SEQUENCES or bases >= PART_BASES:
            yield block
            block, bases = [], 0
    if block:
        yield block


def _columns(block: list[Item], found: Embedded, pooling: Pooling) -> dict[str, np.ndarray]:
    """The arrays of a part."""
    columns = {name: np.array([item.about[name] for item in block]) for name in block[0].about}
    if pooling == "none":
        columns["lengths"] = np.array([len(item.tokens) for item in block])
    return {
        **columns,
        "counted": found.counted,
        "embeddings": found.vectors.astype(np.float32, copy=False),
        "seams": found.seams,
    }


def _tally(block: list[Item], found: Embedded, seconds: float) -> dict[str, float]:
    return {
        "n_sequences": len(block),
        "n_bases": sum(len(item.tokens) for item in block),
        "n_bases_that_count": int(found.counted.sum()),
        "n_sequences_without_bases": int((found.counted == 0).sum()),
        "seconds": seconds,
    }


def _write(target: Path, stored: Stored) -> None:
    names = [name for name in next(stored.tables()) if name != "seams"]
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        if target.suffix == ".npz":
            write_npz(file, stored, names)
        else:  # whose columns are called as what is in a row
            called = {"ids": "id", "embeddings": "embedding"}
            columns = {name: called.get(name, name) for name in names if name != "lengths"}
            write_parquet(file, stored, columns)


def _seams(stored: Stored, chunk: int, overlap: int) -> dict[str, Any]:
    """What chunks have changed, with a warning where that is much."""
    number, largest = 0, 0.0
    for differences in stored.arrays("seams"):
        number += len(differences)
        largest = float(differences.max(initial=largest))
    if number:
        log.info("states differ by up to %.2g of their size at %d seams", largest, number)
    if largest > TOLERANCE:
        log.warning(
            "that is more than %g: this network remembers more than chunks share; give e.g. "
            "chunk=%d overlap=%d",
            *(TOLERANCE, 2 * chunk, 2 * overlap),
        )
    largest_seam = largest if number else None
    return {"n_seams": number, "largest_seam": largest_seam, "seam_tolerance": TOLERANCE}


if __name__ == "__main__":
    launch("embed", main)
