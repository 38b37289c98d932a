"""Score the variants of a VCF: how much less likely than the genome a model finds them.

usage: genodiff score checkpoint=RUN genome=FASTA variants=VCF out=FILE.vcf.gz [key=value ...]

example:
  genodiff score checkpoint=runs/a genome=hg38.fa variants=clinvar.vcf.gz context=1024 \\
      out=scored.vcf.gz

keys:
  checkpoint=PATH     a run folder (its best weights), a .ckpt or a model folder
  genome=FASTA        plain, bgzip or gzip
  variants=FILE       VCF, plain, bgzip or gzip, in any order and without an index; or BCF (pip
                      install 'genodiff[variants]')
  context=            bases of the window that the model sees, the variant in its middle (1024)
  out=FILE|-          .vcf or .vcf.gz (bgzip): the same lines, with fields added to INFO; .tsv or
                      .tsv.gz: a row an ALT allele; FILE.json beside it has counts and settings
  score=auto          llr of substitutions, bound of insertions and deletions, exact for
                      left-to-right models
                      llr    log p(ALT) - log p(REF) at the masked sites, given all other bases:
                             substitutions alone
                      bound  the bound of log p of the whole window with ALT minus that with REF,
                             with the same masks; costs 2 x samples= evaluations of a strand
                      both   auto, and beside it the bound of every variant
  samples=            masks for each bound, and for the llr of many sites at once (32)
  batch_size= cache_dir= seed= device=auto|cpu|cuda overwrite=true
  devices=            how many processes share the variants, one a device: auto (all GPUs; one
                      process on a CPU; what torchrun or SLURM has started) or a number

Scores are in nats, the mean of both strands; below 0 the model finds ALT less likely than REF.
Each ALT allele has one, in the order of ALT: GD_SCORE, its standard error GD_SE (what other masks
would change; 0 where nothing is random), how it was found, GD_METHOD, and where there is none,
why not, GD_SKIP: NO_ALT, ALT_IS_REF, SYMBOLIC, BREAKEND, SPANNING_DELETION (*), NOT_BASES,
N_IN_ALLELE, UNKNOWN_CHROM, BEYOND_END (of the chromosome), REF_MISMATCH, GENOME_N (where REF has a
base), TOO_LONG (more than half the window), INDEL (with score=llr). None of these stops a run.

Alleles are trimmed and left-aligned before they are scored. Windows with and without an insertion
or deletion are of equal length, each with its allele in the middle, but where the chromosome ends.
Stopped anywhere, the same command goes on.
"""

import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch

from genodiff import __version__
from genodiff.backbones import ReverseComplementEquivariant
from genodiff.data import (
    REASONS,
    DnaTokenizer,
    Genome,
    Variant,
    VariantFile,
    VariantRecord,
    allele_windows,
    alleles,
    check_variants,
    file_sha256,
)
from genodiff.data.variants import Reason
from genodiff.data.vcf import encoded, open_sink
from genodiff.diffusion import CausalModel
from genodiff.errors import UserError
from genodiff.evaluation import VariantPair, VariantScore, score_variants
from genodiff.evaluation.variants import Method
from genodiff.files import atomic_path, write_text
from genodiff.parts import claim_outputs, parts_of, standard_output
from genodiff.tasks.build import select_device
from genodiff.tasks.draw import check_seed, weights_sha256
from genodiff.tasks.launch import launch
from genodiff.tasks.model import Model, load_model, require_length
from genodiff.tasks.sharing import sharing

log = logging.getLogger(__name__)

RECORDS = 128
"""Of a part: what a kill can cost, and among which rows of the network are batched."""

_SUFFIXES = (".vcf", ".vcf.gz", ".tsv", ".tsv.gz")
_FIELDS = {
    "GD_SCORE": 'Number=A,Type=Float,Description="log p(ALT) - log p(REF), nats, mean of both '
    'strands; below 0 ALT is less likely"',
    "GD_SE": 'Number=A,Type=Float,Description="Standard error of GD_SCORE from the draws of '
    'masks"',
    "GD_METHOD": 'Number=A,Type=String,Description="How GD_SCORE was found: llr (masked sites), '
    'bound (whole window) or exact"',
    "GD_BOUND": 'Number=A,Type=Float,Description="Bound of log p(window with ALT) minus bound of '
    'log p(window with REF), nats"',
    "GD_BOUND_SE": 'Number=A,Type=Float,Description="Standard error of GD_BOUND from the draws '
    'of masks"',
    "GD_SKIP": 'Number=.,Type=String,Description="Of each ALT allele, why it has no GD_SCORE"',
}
_OF_BOTH = ("GD_BOUND", "GD_BOUND_SE")

Asked = Literal["auto", "llr", "bound", "both"]


def main(
    *,
    checkpoint: str,
    genome: str,
    variants: str,
    out: str,
    context: int,
    score: Asked,
    samples: int,
    cache_dir: str | None,
    batch_size: int,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    devices: int | Literal["auto"],
    overwrite: bool,
) -> None:
    """Scores and writes."""
    asked = dict(locals())
    for name, least in (("context", 2), ("samples", 2), ("batch_size", 1)):
        if asked[name] < least:
            raise UserError(f"{name}={asked[name]} must be at least {least}; leave it out.")
    check_seed(seed)
    target = _claim(out, variants, devices, overwrite=overwrite)
    source = Genome(genome, cache_dir=cache_dir)
    file = VariantFile(variants)
    names = [name for name in _FIELDS if score == "both" or name not in _OF_BOTH]
    is_table = target is not None and _suffix(target).startswith(".tsv")
    already = [name for name in names if file.declares(name) and not is_table]
    if already:
        raise UserError(
            f"variants={variants} has {already[0]} already; take it away (bcftools annotate -x "
            f"{','.join(f'INFO/{name}' for name in already)}), or write a .tsv."
        )
    chosen = select_device(device)
    model = load_model(Path(checkpoint), torch.device("cpu"))
    if not isinstance(model.tokenizer, DnaTokenizer):
        raise UserError(
            f"checkpoint={checkpoint} reads the tokens of {type(model.tokenizer).__name__}, and "
            "variants are of DNA; use a model of DNA."
        )
    require_length(model, context, "context")
    scorer = Scorer(model, source, context, score, samples, batch_size, seed)
    scorer.check()
    records = check_variants(file, source)
    wanted = {name: asked[name] for name in asked if name not in ("out", "overwrite")}
    made_of = {
        "device": chosen.type,
        "checkpoint_sha256": weights_sha256(model),
        "genome_sha256": source.sha256,
        "variants_sha256": file_sha256(Path(variants)),
        "version": __version__,
    }
    # Neither of these changes a score.
    work = {name: wanted[name] for name in wanted if name not in ("devices", "cache_dir")}
    work |= {"records_in_a_part": RECORDS, **made_of}
    count = math.ceil(records / RECORDS)
    began, told = time.monotonic(), time.monotonic()
    with (
        sharing(devices, chosen) as (ranks, here),
        parts_of(target, work, overwrite=overwrite, ranks=ranks) as parts,
    ):
        model.denoiser.to(here)
        for index, block in enumerate(_blocks(file)):
            if not parts.mine(index):
                continue
            scored = scorer(block)
            lines = _rows(scored, names) if is_table else _vcf_lines(scored)
            parts.write(index, encoded(lines), _tally(scored))
            if time.monotonic() - told >= 20:
                told = time.monotonic()
                log.info("%d of %d records", min((index + 1) * RECORDS, records), records)
        parts.wait()
        if ranks.rank:
            return  # the first one writes
        head = encoded([_columns(names)] if is_table else _header(file, names))
        if target is None:
            with standard_output():
                sys.stdout.buffer.write(head)
                parts.join(sys.stdout.buffer, count)
        else:
            with (
                atomic_path(target) as temporary,
                open_sink(temporary, bgzip=target.suffix == ".gz") as sink,
            ):
                sink.write(head)
                parts.join(sink, count)
        counts = _counts(parts.tally(count))
        log.info("%s", _summary(counts))
        if target is not None:
            report: dict[str, Any] = {
                **wanted,
                **counts,
                "processes": ranks.size,
                "seconds": time.monotonic() - began,
                **made_of,
            }
            write_text(_report(target), json.dumps(report, indent=2) + "\n")


class Scored(NamedTuple):
    """A record with what is said of each ALT allele."""

    record: VariantRecord
    scores: list[VariantScore | Reason]
    bounds: list[VariantScore | None]
    """Of score=both."""


class Scorer:
    """Scores of records under a model; the arguments are the keys of the command."""

    def __init__(
        self,
        model: Model,
        genome: Genome,
        context: int,
        score: Asked,
        samples: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.model, self.genome, self.context, self.score = model, genome, context, score
        equivariant = isinstance(model.network, ReverseComplementEquivariant)
        self.settings: dict[str, Any] = {
            "complement": None if equivariant else model.tokenizer.complement,
            "samples": samples,
            "batch_size": batch_size,
            "seed": seed,
        }

    def check(self) -> None:
        """Raises UserError if the model has no such score."""
        if self.score == "auto":
            self._scores([], "exact" if self._is_causal else "llr")
        else:
            self._scores([], "llr" if self.score == "llr" else "bound")

    def __call__(self, records: Sequence[VariantRecord]) -> list[Scored]:
        found: list[list[VariantPair | Reason]] = [
            [self._pair(allele) for allele in alleles(record, self.genome)] for record in records
        ]
        asked = {
            (r, a): pair
            for r, of_record in enumerate(found)
            for a, pair in enumerate(of_record)
            if isinstance(pair, VariantPair)
        }
        by_method: dict[Method, list[tuple[int, int]]] = {}
        for place, pair in asked.items():
            by_method.setdefault(self._method(pair), []).append(place)
        scores: dict[tuple[int, int], VariantScore] = {}
        for method, places in by_method.items():
            scores |= zip(places, self._scores([asked[p] for p in places], method), strict=True)
        bounds: dict[tuple[int, int], VariantScore] = {}
        if self.score == "both":
            bounds = {p: score for p, score in scores.items() if score.method == "bound"}
            places = [p for p in asked if p not in bounds]
            bounds |= zip(places, self._scores([asked[p] for p in places], "bound"), strict=True)

        def scored(r: int, record: VariantRecord) -> Scored:
            answers: list[VariantScore | Reason] = [
                x if isinstance(x, str) else scores[r, a] for a, x in enumerate(found[r])
            ]
            return Scored(record, answers, [bounds.get((r, a)) for a in range(len(answers))])

        return [scored(r, record) for r, record in enumerate(records)]

    @property
    def _is_causal(self) -> bool:
        return isinstance(self.model.denoiser, CausalModel)

    def _pair(self, allele: Variant | Reason) -> VariantPair | Reason:
        if isinstance(allele, str):
            return allele
        if self.score == "llr" and len(allele.ref) != len(allele.alt):
            return "INDEL"
        windows = allele_windows(self.genome, allele, self.context)
        return windows if isinstance(windows, str) else VariantPair(*windows)

    def _method(self, pair: VariantPair) -> Method:
        if self._is_causal:
            return "exact"
        return "llr" if self.score != "bound" and pair.is_substitution else "bound"

    def _scores(self, pairs: Sequence[VariantPair], method: Method) -> list[VariantScore]:
        return score_variants(self.model.denoiser, pairs, method=method, **self.settings)


def _claim(
    out: str, variants: str, devices: int | Literal["auto"], *, overwrite: bool
) -> Path | None:
    """The file that out= names, None for standard output. Raises UserError if it cannot be
    written."""
    if out == "-":
        if devices not in ("auto", 1):
            raise UserError(
                f"out=- is of one process, and devices={devices}; give a file, or devices=1."
            )
        return None
    target = Path(out)
    if not _suffix(target):
        raise UserError(f"out={out} must end in {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}.")
    if target.resolve() == Path(variants).resolve():
        raise UserError(f"out={out} is variants= too; choose another name.")
    return claim_outputs(target, _report(target), overwrite=overwrite)


def _suffix(target: Path) -> str:
    """Of the known ones; empty for another."""
    return next((suffix for suffix in _SUFFIXES if target.name.endswith(suffix)), "")


def _report(target: Path) -> Path:
    return target.with_name(f"{target.name.removesuffix(_suffix(target))}.json")


def _blocks(file: VariantFile) -> Iterator[list[VariantRecord]]:
    """The records of each part."""
    records = iter(file)
    while block := list(islice(records, RECORDS)):
        yield block


def _header(file: VariantFile, names: Iterable[str]) -> list[str]:
    """That of the input, with the fields that are added."""
    added = [f"##INFO=<ID={name},{_FIELDS[name]}>" for name in names]
    return [*file.header[:-1], *added, file.header[-1]]


def _vcf_lines(scored: Sequence[Scored]) -> list[str]:
    return [of.record.text(_info(of)) for of in scored]


def _info(of: Scored) -> list[str]:
    """INFO fields: those that say anything."""
    columns = [_cells(score, bound) for score, bound in zip(of.scores, of.bounds, strict=True)]
    fields = {name: [cells.get(name, ".") for cells in columns] for name in _FIELDS}
    return [f"{name}={','.join(f)}" for name, f in fields.items() if set(f) != {"."}]


def _columns(names: Sequence[str]) -> str:
    """The first line of a table."""
    plain = [name.removeprefix("GD_").lower() for name in names]
    return "\t".join(("chrom", "pos", "id", "ref", "alt", *plain))


def _rows(scored: Sequence[Scored], names: Sequence[str]) -> list[str]:
    """A row an allele; NA where there is nothing."""
    lines = []
    for record, scores, bounds in scored:
        place = (record.chrom, str(record.position), record.name, record.ref)
        for alt, score, bound in zip(record.alternatives, scores, bounds, strict=True):
            cells = _cells(score, bound)
            lines.append("\t".join((*place, alt, *(cells.get(name, "NA") for name in names))))
    return lines


def _cells(score: VariantScore | Reason, bound: VariantScore | None) -> dict[str, str]:
    """The fields of an allele."""
    cells: dict[str, str] = {}
    if isinstance(score, str):
        cells["GD_SKIP"] = score
    else:
        cells |= {"GD_SCORE": _number(score.nats), "GD_SE": _number(score.standard_error)}
        cells["GD_METHOD"] = score.method
    if bound is not None:
        cells |= {"GD_BOUND": _number(bound.nats), "GD_BOUND_SE": _number(bound.standard_error)}
    return cells


def _number(x: float) -> str:
    return f"{x:.6g}"


def _tally(scored: Sequence[Scored]) -> Counter[str]:
    """What a part has of each kind."""
    kinds = [s if isinstance(s, str) else s.method for of in scored for s in of.scores]
    return Counter({"records": len(scored), "alleles": len(kinds), **Counter(kinds)})


def _counts(tally: Counter[str]) -> dict[str, Any]:
    """As the report has them: by method, and by reason."""
    methods = [name for name in get_args(Method) if tally[name]]
    reasons = [name for name in REASONS if tally[name]]
    return {
        "records": int(tally["records"]),
        "alleles": int(tally["alleles"]),
        "scored": {name: int(tally[name]) for name in methods},
        "skipped": {name: int(tally[name]) for name in reasons},
    }


def _summary(counts: dict[str, Any]) -> str:
    """In a line."""
    kinds = ", ".join(f"{n} {name}" for name, n in counts["scored"].items())
    text = f"{counts['records']} records, {counts['alleles']} alleles: "
    text += f"{sum(counts['scored'].values())} scored{f' ({kinds})' if kinds else ''}"
    if counts["skipped"]:
        text += f"; {sum(counts['skipped'].values())} without a score: "
        text += ", ".join(f"{n} {name}" for name, n in counts["skipped"].items())
    return text


if __name__ == "__main__":
    launch("score", main)
