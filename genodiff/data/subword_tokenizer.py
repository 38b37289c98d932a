"""Text as pieces of words: any tokenizer of the `tokenizers` library, BERT's and GPT-2's first."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Bool, Int64
from torch import Tensor

from genodiff.errors import UserError
from genodiff.files import write_text


@final
@dataclass(frozen=True)
class SubwordTokenizer:
    """A tokenizer given by its definition; two of the same definition and roles are equal.

    `definition` is the JSON of the `tokenizers` library (the contents of a tokenizer.json), in
    which `mask_token`, `pad_token` and, where there are any, `bos_token` and `eos_token` are
    special tokens. `load_tokenizer` makes it from files.

    Texts are encoded as `transformers` does with `add_special_tokens=False`, but for one thing:
    names of special tokens inside a text are letters like any others, and "[MASK]" in a corpus
    never becomes the mask. `transformers` makes special tokens of them unless told otherwise
    (`split_special_tokens=True`), so the two are equal on text without such names.

    The library's own object is made when first needed, once a process, and is no part of what is
    pickled. Raises UserError then, if `definition` cannot be read or the library is missing.
    """

    definition: str = field(repr=False)
    mask_token: str = "[MASK]"
    pad_token: str = "[PAD]"
    bos_token: str | None = None
    eos_token: str | None = None

    @property
    def vocab_size(self) -> int:
        """Tokens of every kind, the special ones included."""
        return _compiled(self).vocab_size

    @property
    def mask_id(self) -> int:
        """What a masked token is replaced by."""
        return _compiled(self).mask_id

    @property
    def pad_id(self) -> int:
        """What fills rows up; never the mask's."""
        return _compiled(self).pad_id

    @property
    def bos_id(self) -> int | None:
        """What begins a sequence (BERT's [CLS]), if there is such a token."""
        return _compiled(self).bos_id

    @property
    def eos_id(self) -> int | None:
        """What ends a sequence or a document (BERT's [SEP]), if there is such a token."""
        return _compiled(self).eos_id

    @property
    def data_ids(self) -> tuple[int, ...]:
        """The ids that diffuse and are predicted: all but the mask's and the padding's."""
        return _compiled(self).data_ids

    def encode(self, text: str) -> Int64[np.ndarray, "l"]:
        """The ids of `text`, no special tokens added."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Int64[np.ndarray, "_"]]:
        """The ids of each text, no special tokens added; on all cores.

        A vocabulary that has the name of a special token as a word of its own, as one of whole
        words may, reads it as its unknown word. Raises UserError where a word is not in the
        vocabulary, and nothing stands for such words.
        """
        it = _compiled(self)
        try:
            encodings = it.library.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # the library raises no narrower kind
            raise UserError(
                f"the tokenizer cannot read a text ({error}); its files are damaged."
            ) from error
        rows = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        if it.unknown_id is not None:
            for row in rows:
                row[it.is_reserved[row]] = it.unknown_id
        return rows

    def decode(self, tokens: Sequence[int] | np.ndarray | Tensor) -> str:
        """Text of one sequence of ids, special tokens by name.

        Raises ValueError for ids outside the vocabulary.
        """
        ids = tokens.tolist() if isinstance(tokens, np.ndarray | Tensor) else list(tokens)
        unknown = sorted({i for i in ids if not 0 <= i < self.vocab_size})
        if unknown:
            raise ValueError(
                f"ids {unknown} are not in the vocabulary of {self.vocab_size}; keep a model from "
                "drawing the ids that pad its vocabulary."
            )
        return _compiled(self).library.decode(ids, skip_special_tokens=False)

    def token(self, token_id: int) -> str:
        """The name of an id of the vocabulary, as its files spell it."""
        return _compiled(self).library.id_to_token(token_id)

    def difference(self, other: "SubwordTokenizer") -> str | None:
        """What ids mean in the one and not in the other, as the end of a sentence; None if text
        encoded by the one is text encoded by the other."""
        if self.vocab_size != other.vocab_size:
            return f"the vocabularies have {self.vocab_size} and {other.vocab_size} tokens"
        for i in range(self.vocab_size):
            if self.token(i) != other.token(i):
                return f"the vocabularies differ at id {i}: {self.token(i)!r} against " + repr(
                    other.token(i)
                )
        for role in ("mask", "pad"):
            ours, theirs = getattr(self, f"{role}_id"), getattr(other, f"{role}_id")
            if ours != theirs:
                return f"the {role} is {ours} in one and {theirs} in the other"
        if _compiled(self).rules != _compiled(other).rules:
            return "the vocabularies are equal, but text is split in another way"
        return None

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, from which `load_tokenizer`,
        `tokenizers` and `transformers` read it."""
        write_text(folder / "tokenizer.json", self.definition + "\n")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{role: getattr(self, role) for role in ROLES},
        }
        write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")


ROLES = ("mask_token", "pad_token", "bos_token", "eos_token")


class _Compiled(NamedTuple):
    """The library's tokenizer, and what was found out about it."""

    library: Any
    vocab_size: int
    mask_id: int
    pad_id: int
    bos_id: int | None
    eos_id: int | None
    data_ids: tuple[int, ...]
    unknown_id: int | None
    is_reserved: Bool[np.ndarray, "k"]
    """Of the ids that letters must not become."""
    rules: dict[str, Any]
    """How text is cut up before the vocabulary comes in."""


@lru_cache(maxsize=8)
def _compiled(tokenizer: SubwordTokenizer) -> _Compiled:
    """What `tokenizer` defines. Not kept in it: it is pickled into processes that load data."""
    library = parse_definition(tokenizer.definition, "a tokenizer's definition")
    # Without it the library looks for names of special tokens in every text. It is a setting of
    # the object and no part of the JSON.
    library.encode_special_tokens = True
    vocab_size = library.get_vocab_size(with_added_tokens=True)

    def id_of(token: str | None) -> int | None:
        return None if token is None else library.token_to_id(token)

    mask_id, pad_id, bos_id, eos_id = (id_of(getattr(tokenizer, role)) for role in ROLES)
    if mask_id is None or pad_id is None or mask_id == pad_id:
        raise UserError(
            f"mask_token={tokenizer.mask_token} and pad_token={tokenizer.pad_token} must be two "
            "tokens of the vocabulary; load_tokenizer adds what is missing."
        )
    definition = json.loads(tokenizer.definition)
    unknown_id = id_of(unknown_token(definition))
    reserved = {mask_id, pad_id, bos_id, eos_id} - {None, unknown_id}
    is_reserved = np.zeros(vocab_size, dtype=bool)
    is_reserved[sorted(i for i in reserved if i is not None)] = True
    return _Compiled(
        library,
        vocab_size,
        mask_id,
        pad_id,
        bos_id,
        eos_id,
        tuple(i for i in range(vocab_size) if i not in (mask_id, pad_id)),
        unknown_id,
        is_reserved,
        _rules(definition),
    )


def parse_definition(definition: str, name: str) -> Any:
    """The library's tokenizer of a definition. Raises UserError, in which `name` is what could not
    be read, or if the library is missing."""
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            "tokenizers of words need the tokenizers package; pip install 'genodiff[text]'."
        ) from error
    try:
        return tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the library raises no narrower kind
        raise UserError(
            f"{name} is none that tokenizers {tokenizers.__version__} can read ({error}); it is "
            "damaged, or needs another version."
        ) from error


def unknown_token(definition: dict[str, Any]) -> str | None:
    """What stands for words that are not in the vocabulary, if anything does."""
    model = definition["model"]
    if model.get("type") == "Unigram":
        unknown_id = model.get("unk_id")
        return None if unknown_id is None else model["vocab"][unknown_id][0]
    return model.get("unk_token")


def _rules(definition: dict[str, Any]) -> dict[str, Any]:
    """Normalizer and pre-tokenizer, without what moves only offsets in the text."""

    def bare(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: bare(each) for key, each in part.items() if key != "trim_offsets"}
        return [bare(each) for each in part] if isinstance(part, list) else part

    return {part: bare(definition.get(part)) for part in ("normalizer", "pre_tokenizer")}
