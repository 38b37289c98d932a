"""Tokenizers of text by name: `bytes`, `text8`, a folder, or a name of the Hugging Face hub."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from genodiff.data.byte_tokenizer import ByteTokenizer
from genodiff.data.character_tokenizer import CharacterTokenizer
from genodiff.data.datamodule import Tokenizer
from genodiff.data.hub import hub_folder
from genodiff.data.tokenizer_files import FILES, read_subword_tokenizer
from genodiff.errors import UserError


@runtime_checkable
class TextTokenizer(Tokenizer, Protocol):
    """A tokenizer of text, with what begins and ends a sequence of it."""

    @property
    def bos_id(self) -> int | None:
        """What begins a sequence, if there is such a token."""
        ...

    @property
    def eos_id(self) -> int | None:
        """What ends a sequence or a document, if there is such a token."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Int64[np.ndarray, "_"]]:
        """The ids of each text, no special tokens added."""
        ...


_BY_NAME: dict[str, type[ByteTokenizer | CharacterTokenizer]] = {
    "bytes": ByteTokenizer,
    "text8": CharacterTokenizer,
}


def load_tokenizer(name: str, revision: str | None = None) -> TextTokenizer:
    """The tokenizer called `name`.

    Args:
        name: `bytes`; `text8`; a folder with a tokenizer.json, or a vocab.txt (BERT), or a
            vocab.json and a merges.txt (GPT-2), or one that `genodiff convert` wrote; or a name
            of the Hugging Face hub, such as `bert-base-uncased`.
        revision: of a name of the hub: a branch, a tag or a commit.

    Raises:
        UserError: there is no such tokenizer, or its files are incomplete or damaged.
        OutsideError: the hub cannot be reached, and nothing was kept of it.
    """
    folder = Path(name)
    by_name = _BY_NAME.get(name)
    if revision is not None and (by_name is not None or folder.is_dir()):
        raise UserError(
            f"tokenizer_revision={revision} is for names of the Hugging Face hub, and "
            f"tokenizer={name} is none; leave it out."
        )
    if by_name is not None:
        return by_name()
    if folder.is_dir():
        return _of_model(folder) or read_subword_tokenizer(folder)
    return read_subword_tokenizer(
        hub_folder(name, key="tokenizer", revision=revision, files=FILES)
    )


def fingerprint(tokenizer: TextTokenizer) -> str:
    """SHA-256 of the tokenizer's class and all that defines it: equal tokenizers, equal text."""
    fields = asdict(tokenizer)  # pyright: ignore[reportArgumentType]: all of them are dataclasses
    content = json.dumps([type(tokenizer).__name__, fields], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _of_model(folder: Path) -> TextTokenizer | None:
    """The tokenizer of a model folder of genodiff's; None for files as other programs have them,
    which a model folder may have too."""
    try:
        node = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # `read_subword_tokenizer` says what is missing or damaged
    if not isinstance(node, dict) or "_target_" not in node:
        return None
    name = str(node["_target_"]).rpartition(".")[2]
    for kind in _BY_NAME.values():
        if kind.__name__ == name:
            return kind()
    raise UserError(f"tokenizer={folder} is a model's that reads {name}, which is not text.")
