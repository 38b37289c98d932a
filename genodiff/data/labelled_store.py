"""A labelled task in one file, in place of hundreds of thousands: read in less than a second, and
held to its checksum.

The first line names the format and the SHA-256 of everything behind it, which is what
`numpy.savez` writes: for each split the ids, starts, labels and, if known, regions of its
sequences, and a text in JSON with the name, the classes, the scores, where the data came from, the
tokenizer's fingerprint, and the *stamp*: what tells that state of the source from others.
"""

import hashlib
import io
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genodiff.data.datamodule import Tokenizer
from genodiff.data.intervals import SPLITS, Split
from genodiff.data.labelled import ClassificationTask, LabelledSequences
from genodiff.data.regions import Region
from genodiff.data.text_tokenizers import TextTokenizer, fingerprint
from genodiff.data.tokenizer import DnaTokenizer
from genodiff.errors import UserError
from genodiff.files import atomic_path

log = logging.getLogger(__name__)

_FIRST_LINE = re.compile(rb"genodiff task 1 sha256 ([0-9a-f]{64})\n")
_FIRST_LINE_BYTES = 88


def kept(
    path: Path,
    tokenizer: Tokenizer,
    stamp: Mapping[str, Any] | None,
    make: Callable[[], ClassificationTask],
) -> ClassificationTask:
    """The task in the file `path`, if that was made from a source with this `stamp`; else the task
    that `make` reads from the source, which is then written there.

    Without a source (`stamp` is None) the file is all there is. Raises UserError if it is damaged
    then; otherwise it is made anew. A folder that cannot be written costs a warning: the source is
    read again the next time.
    """
    if path.exists():
        try:
            task, of = read_task(path, tokenizer)
            if stamp is None or of == stamp:
                return task
            log.info("%s is of another state of its source, and is made anew.", path)
        except UserError as damage:
            if stamp is None:
                raise
            log.warning("%s It is made anew from its source.", damage)
    task = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = write_task(path, task, stamp or {})
    except OSError as error:
        log.warning(
            "%s cannot be written (%s), so the next run reads the source again; data.cache_dir= "
            "names another folder.",
            *(path, error.strerror),
        )
        return task
    log.info("%s holds %s from now on", path, task.name)
    return task._replace(source={**task.source, "sha256": digest})


def write_task(path: Path, task: ClassificationTask, stamp: Mapping[str, Any]) -> str:
    """Writes the file, whole or not at all; its SHA-256, which is that of the first line."""
    about = {
        "name": task.name,
        "classes": task.classes,
        "metrics": task.metrics,
        "test_parts": task.test_parts,
        "tokenizer": _kind(task.tokenizer),
        "source": dict(task.source),
        "stamp": dict(stamp),
    }
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
    for split in SPLITS:
        sequences: LabelledSequences | None = getattr(task, split)
        if sequences is not None:
            arrays |= _arrays(split, sequences)
    content = io.BytesIO()
    np.savez(content, **arrays)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(f"genodiff task 1 sha256 {digest}\n".encode())
        file.write(content.getbuffer())
    return digest


def read_task(path: Path, tokenizer: Tokenizer) -> tuple[ClassificationTask, dict[str, Any]]:
    """The task and the stamp of its source. `tokenizer` is that of the ids.

    Raises UserError for a file that cannot be read, is none of these, is damaged, or has the ids
    of another tokenizer.
    """
    try:
        with path.open("rb") as file:
            first = _FIRST_LINE.fullmatch(file.read(_FIRST_LINE_BYTES))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if first is None or first[1].decode() != digest:
                raise UserError(
                    f"{path} is damaged, or was not written by this version: its first line does "
                    "not have the SHA-256 of the rest; fetch it again, or delete it."
                )
            file.seek(_FIRST_LINE_BYTES)
            with np.load(file, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); check its permissions."
        ) from error
    about = json.loads(str(arrays["about"]))
    if about.get("tokenizer", DnaTokenizer.__name__) != _kind(tokenizer):
        raise UserError(
            f"{path} has the ids of another tokenizer than {type(tokenizer).__name__}, as it is "
            "here; read the data from their source."
        )
    sequences = {split: _sequences(split, arrays) for split in SPLITS}
    train, test = sequences["train"], sequences["test"]
    assert train is not None and test is not None  # as `write_task` left them
    task = ClassificationTask(
        about["name"],
        tuple(about["classes"]),
        train,
        test,
        sequences["valid"],
        tokenizer,
        {**about["source"], "sha256": digest},
        tuple(about.get("metrics", ("accuracy",))),
        tuple((name, size) for name, size in about.get("test_parts", ())),
    )
    return task, about["stamp"]


def _kind(tokenizer: Tokenizer) -> str:
    """What the ids mean: of text, by fingerprint."""
    is_text = isinstance(tokenizer, TextTokenizer)
    return fingerprint(tokenizer) if is_text else type(tokenizer).__name__


def _arrays(split: Split, sequences: LabelledSequences) -> dict[str, np.ndarray]:
    named = {"ids": sequences.ids, "starts": sequences.starts, "labels": sequences.labels}
    if sequences.regions is not None:
        chrom, start, end, name, strand = zip(*sequences.regions, strict=True)
        chroms, number = np.unique(chrom, return_inverse=True)
        named |= {"chroms": chroms, "chrom": number.astype(np.int32), "name": np.array(name)}
        named |= {"start": np.array(start), "end": np.array(end), "strand": np.array(strand)}
    return {f"{split}.{key}": array for key, array in named.items()}


def _sequences(split: Split, arrays: Mapping[str, np.ndarray]) -> LabelledSequences | None:
    named = {
        key.removeprefix(f"{split}."): array
        for key, array in arrays.items()
        if key.startswith(f"{split}.")
    }
    if not named:
        return None
    regions = None
    if "chrom" in named:
        chroms = named["chroms"].tolist()
        columns = [named[key].tolist() for key in ("start", "end", "name", "strand")]
        rows = zip([chroms[i] for i in named["chrom"].tolist()], *columns, strict=True)
        regions = tuple(map(Region._make, rows))
    return LabelledSequences(named["ids"], named["starts"], named["labels"], regions)
