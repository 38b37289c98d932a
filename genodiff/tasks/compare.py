"""Hold synthetic DNA against real DNA: one page that shows how it differs, and by how much.

usage: genodiff compare samples=FASTA reference=FASTA out=FILE.html [key=value ...]

example:
  genodiff compare samples=samples.fa reference=test.fa train=train.fa motifs=jaspar.meme \\
      checkpoint=runs/a out=compared.html

keys:
  samples=FASTA       what is judged: plain, bgzip or gzip, as are all others
  reference=FASTA     real sequences of the same kind, which the model was not trained with; longer
                      records are cut into pieces
  heldout=FASTA       a second real set, judged as the samples are: it shows what cannot be told
                      apart looks like. Without it half of a reference of 100 pieces or more is
                      set aside
  train=FASTA         what the model was trained with: are samples copied from it, on either strand
  motifs=MEME         motifs to look for, as JASPAR and HOCOMOCO offer them
  checkpoint=PATH     a model whose network embeds the sequences: for the Frechet distance, and for
                      a classifier that has the network's own features
  out=FILE.html       one page without scripts that loads nothing; FILE.json beside it has all its
                      numbers, with six digits
  length=             bases of a sequence (the most common length of the samples); shorter records
                      are left out, and pieces of more than 5 % N
  sequences=          of each set, at most; of more a random choice is made (10000)
  markov_order=       of the Markov chain, fitted to train= or to the second real set, whose draws
                      are judged beside the samples (5)
  embedded=           sequences of each set that the network of checkpoint= reads, at most (1000)
  seed= device=auto|cpu|cuda overwrite=true

Beside the samples, every table and figure has the second real set, that set with its letters
shuffled so that pairs of neighbours stay, and draws of the Markov chain. What lacks an input, or
has too few sequences, is left out, and the page says so.
"""

import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from genodiff import __version__
from genodiff.data import DnaTokenizer, file_sha256, read_fasta
from genodiff.data.motifs import read_motifs
from genodiff.data.sequence_sets import (
    SequenceSet,
    most_common_length,
    read_sequence_set,
)
from genodiff.errors import UserError
from genodiff.evaluation.comparison_page import comparison_page
from genodiff.evaluation.embedding import embed_sequences
from genodiff.evaluation.figures import require_matplotlib
from genodiff.evaluation.set_comparison import (
    HELD_OUT,
    MARKOV,
    REFERENCE,
    SAMPLES,
    SECTIONS,
    SHUFFLED,
    Compared,
    OneSet,
    Vectors,
)
from genodiff.evaluation.shuffles import markov_control, shuffled
from genodiff.evaluation.verdict import verdict
from genodiff.files import claim_file, write_text
from genodiff.tasks.build import select_device
from genodiff.tasks.launch import command_line, launch
from genodiff.tasks.model import Model, load_model, require_length

log = logging.getLogger(__name__)

LARGEST_ORDER = 11
"""Of the Markov chain, whose table has 4 to the power of order + 1 entries."""
FEWEST = 100
"""Pieces of a reference of which half is set aside."""
PREVIEWED, PREVIEW = 3, 200
"""Samples that the page shows, and letters of each."""


def main(
    *,
    samples: str,
    reference: str,
    heldout: str | None,
    train: str | None,
    motifs: str | None,
    checkpoint: str | None,
    out: str,
    length: int | None,
    sequences: int,
    markov_order: int,
    embedded: int,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    overwrite: bool,
) -> None:
    """Compares and writes."""
    began = time.monotonic()
    check_numbers(length, sequences, embedded, markov_order, seed)
    require_matplotlib()
    target = claim_page(out, overwrite=overwrite)
    chosen = select_device(device)
    given = {"samples": samples, "reference": reference, "heldout": heldout, "train": train}
    paths = {name: Path(path) for name, path in given.items() if path is not None}
    inputs = described(paths)
    matrices = None
    if motifs is not None:
        matrices = read_motifs(motifs)
        inputs["motifs"] = {"path": motifs, "sha256": file_sha256(Path(motifs))}
    model = None if checkpoint is None else load_dna_model(checkpoint, chosen)
    size = length or most_common_length(paths["samples"])
    if model is not None:
        require_length(model, size, "length")
        inputs["checkpoint"] = {"path": checkpoint}

    log.info("reading sequences of %s bases", f"{size:,}")
    cut = cut_sets(paths, inputs, size, at_most=sequences, seed=seed)
    if train is not None:
        inputs["train"] |= contents(paths["train"])
    letters = None if train is None else lambda: (r.letters for r in read_fasta(train))
    judged, left_out = with_controls(
        cut["samples"], cut["reference"], cut.get("heldout"), letters, markov_order, seed
    )
    sets = {key: one.given for key, one in judged.items()}
    vectors = None
    if model is not None:
        log.info("embedding up to %s sequences of each set", f"{embedded:,}")
        vectors = {key: vectors_of(model, one, embedded, seed) for key, one in sets.items()}
    results: dict[str, Any] = {
        "command": command_line(),
        "version": __version__,
        "seed": seed,
        "length": size,
        "markov_order": markov_order,
        "inputs": inputs,
        "sets": {
            key: {
                "says": one.says,
                "sequences": len(one.given.sequences),
                "units": len(set(one.given.units)),
            }
            for key, one in judged.items()
        },
        "left_out": left_out,
        "seconds": {},
    }
    add_sections(results, Compared(sets, letters, matrices, vectors, seed))
    if "memorisation" in results:
        name_records(results["memorisation"]["nearest"], cut["samples"], samples, train)
    results["verdict"] = verdict(results)
    results["preview"] = [
        [record.name, record.letters[:PREVIEW].upper(), len(record.letters)]
        for record in islice(read_fasta(paths["samples"]), PREVIEWED)
    ]
    results["seconds"]["all"] = time.monotonic() - began
    results = rounded(results)
    page = comparison_page(results)  # which takes seconds to draw: a kill then leaves nothing
    write_text(target.with_suffix(".json"), json_text(results))
    page.write(target)
    log.info("The samples are %s\npage: %s", results["verdict"][SAMPLES]["text"], target)


def check_numbers(
    length: int | None, sequences: int, embedded: int, markov_order: int, seed: int
) -> None:
    """Raises UserError for a number that cannot be."""
    for name, value, least in (
        *(("length", length, 1), ("sequences", sequences, 2), ("embedded", embedded, 2)),
        *(("markov_order", markov_order, 0), ("seed", seed, 0)),
    ):
        if value is not None and value < least:
            raise UserError(f"{name}={value} must be {least} or more.")
    if markov_order > LARGEST_ORDER:
        raise UserError(f"markov_order={markov_order} must be {LARGEST_ORDER} or less.")


def described(paths: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Path and checksum of each file. Raises UserError for what is no FASTA, before anything that
    takes long, and for two files of the same contents."""
    for path in paths.values():
        next(read_fasta(path))
    inputs: dict[str, dict[str, Any]] = {
        name: {"path": str(path), "sha256": file_sha256(path)} for name, path in paths.items()
    }
    require_different(inputs)
    return inputs


def cut_sets(
    paths: Mapping[str, Path],
    inputs: Mapping[str, dict[str, Any]],
    size: int,
    *,
    at_most: int,
    seed: int,
) -> dict[str, SequenceSet]:
    """The sequences of the samples and of the real sets, whose `inputs` then say how they were
    cut."""
    cut: dict[str, SequenceSet] = {}
    for name in ("samples", "reference", "heldout"):
        if name not in paths:
            continue
        cut[name], cutting = read_sequence_set(
            paths[name], size, at_most=at_most, seed=seed, first_unit=len(cut) << 40
        )
        inputs[name].update(cutting._asdict())
        if len(cut[name]) < 2:
            raise UserError(
                f"{name}={paths[name]} is one sequence of {size} bases; give two or more, or a "
                "smaller length=."
            )
    return cut


def add_sections(results: dict[str, Any], compared: Compared) -> None:
    """Every section's figures and seconds, or why it is left out."""
    for name, section in SECTIONS.items():
        log.info("%s", name)
        start = time.monotonic()
        try:
            results[name] = section(compared)
        except UserError as error:
            results["left_out"][name] = str(error)
        results["seconds"][name] = time.monotonic() - start


def rounded(value: Any) -> Any:
    """Plain JSON values with six digits, and nothing in the place of what is no number."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: rounded(each) for name, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def json_text(results: Mapping[str, Any]) -> str:
    """JSON whose innermost lists and objects have a line each: there are thousands of them."""
    text = json.dumps(results, indent=1, allow_nan=False)
    for innermost in (r"\[\n\s+[^][{}]*\n\s+\]", r"\{\n\s+[^{}]*\n\s+\}"):
        text = re.sub(innermost, lambda found: re.sub(r"\n\s+", " ", found[0]), text)
    return text + "\n"


class Judged(NamedTuple):
    """A set, and what the page says of it."""

    given: OneSet
    says: str


def claim_page(out: str, *, overwrite: bool) -> Path:
    """The file of out=; its numbers go beside it."""
    if not out.endswith(".html"):
        raise UserError(f"out={out} does not end in .html; use e.g. out=compared.html.")
    claim_file(Path(out).with_suffix(".json"), overwrite=overwrite)
    return claim_file(Path(out), overwrite=overwrite)


def require_different(inputs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UserError if two keys name files of the same contents."""
    names: dict[str, str] = {}
    for name, described in inputs.items():
        other = names.setdefault(described["sha256"], name)
        if other != name:
            raise UserError(
                f"{other}={inputs[other]['path']} and {name}={described['path']} have the same "
                "contents, and a set says nothing of itself; give different ones, or leave one "
                "out."
            )


def load_dna_model(checkpoint: str, device: torch.device) -> Model:
    """The model, if it reads DNA."""
    model = load_model(Path(checkpoint), device)
    if not isinstance(model.tokenizer, DnaTokenizer):
        raise UserError(
            f"checkpoint={checkpoint} reads the tokens of {type(model.tokenizer).__name__}, and "
            "compare is of DNA; use a model of DNA, or leave it out."
        )
    return model


def contents(path: Path) -> dict[str, int]:
    """Records and bases of a FASTA, every record being read and checked."""
    records = bases = 0
    for record in read_fasta(path):
        records, bases = records + 1, bases + len(record.letters)
    return {"records": records, "bases": bases}


def with_controls(
    samples: SequenceSet,
    reference: SequenceSet,
    heldout: SequenceSet | None,
    train: Callable[[], Iterable[str]] | None,
    order: int,
    seed: int,
) -> tuple[dict[str, Judged], dict[str, str]]:
    """All sets that are compared, by key, and why those are missing that are."""
    left_out: dict[str, str] = {}
    says = "real sequences"
    if heldout is None and len(reference) >= FEWEST:
        reference, heldout = reference.halves(seed)
        says, second = "one half of the reference", "the other half of the reference"
    elif heldout is not None:
        second = "a second set of real sequences"
    else:
        second = says
        left_out[HELD_OUT] = (
            f"The reference has {len(reference)} sequences, too few to set half of them aside "
            f"({FEWEST} are needed); give heldout=."
        )
    sets = {
        SAMPLES: Judged(_one(samples), "what is judged"),
        REFERENCE: Judged(_one(reference), f"{says}, which all others are held against"),
    }
    real, of_real = (reference, says) if heldout is None else (heldout, second)
    if heldout is not None:
        sets[HELD_OUT] = Judged(_one(heldout), second)
    sets[SHUFFLED] = Judged(
        OneSet(list(shuffled(real, seed=seed)), real.units.tolist()),
        f"{of_real}, each sequence in another order with the same pairs of neighbours",
    )
    source = train or (None if heldout is None else lambda: heldout)
    if source is None:
        left_out[MARKOV] = "A Markov chain needs train= or heldout= to be fitted to."
        return sets, left_out
    n, length = len(samples), samples.letters.shape[1]
    draws = list(markov_control(source(), n, length, order=order, seed=seed))
    fitted = second if train is None else "the training sequences"
    sets[MARKOV] = Judged(
        OneSet(draws, [(4 << 40) + i for i in range(n)]),
        f"draws of a Markov chain of order {order}, fitted to {fitted}",
    )
    return sets, left_out


def vectors_of(model: Model, given: OneSet, at_most: int, seed: int) -> Vectors:
    """What the network makes of a random choice of the sequences."""
    order = np.random.default_rng(seed).permutation(len(given.sequences))
    chosen = [int(i) for i in np.sort(order[:at_most])]
    vectors = embed_sequences(model.network, model.tokenizer, (given.sequences[i] for i in chosen))
    return Vectors(vectors, [given.units[i] for i in chosen])


def name_records(
    nearest: Sequence[dict[str, Any]], samples: SequenceSet, path: str, train: str | None
) -> None:
    """Adds the names of samples and of training sequences to where they are numbers."""
    of_samples = _names(path, {int(samples.records[row["sample"]]) for row in nearest})
    of_train = _names(train, {row["record"] for row in nearest}) if train else {}
    for row in nearest:
        row["sample_name"] = of_samples[int(samples.records[row["sample"]])]
        row["sample_start"] = int(samples.starts[row["sample"]])
        row["record_name"] = of_train[row["record"]]


def _names(path: str, numbers: set[int]) -> dict[int, str]:
    return {i: record.name for i, record in enumerate(read_fasta(path)) if i in numbers}


def _one(sequences: SequenceSet) -> OneSet:
    return OneSet(sequences, sequences.units.tolist())


if __name__ == "__main__":
    launch("compare", main)
