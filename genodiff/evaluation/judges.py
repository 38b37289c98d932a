"""Models that judge texts: language models and embeddings of the transformers package.

Both are read from a folder with the model's own tokenizer beside it. The network is never asked
for, and code that comes with a model is never run.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from safetensors import SafetensorError
from torch import Tensor, nn

from genodiff.errors import UserError
from genodiff.evaluation.borrowed import borrowed

# Without one of these transformers makes up a tokenizer.
_VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json"),
    *("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model"),
)


class LanguageModel(NamedTuple):
    """A causal language model and its tokenizer.

    `max_length`: tokens that it takes at once. `start_id`: what stands before the first token of a
    text, if there is such a token; `eos_id`: what ends a document.
    """

    network: nn.Module
    tokenizer: Any
    max_length: int
    start_id: int | None
    eos_id: int | None

    def encode(self, texts: Sequence[str]) -> list[Int[ndarray, "_"]]:
        """The tokens of each text, none added; names of special tokens, such as <|endoftext|>, are
        those tokens."""
        rows = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [np.array(row, np.int64) for row in rows]

    def cut(self, texts: Sequence[str], length: int) -> list[str]:
        """The first `length` tokens of each text, as text.

        Raises UserError for a tokenizer that does not say where in a text its tokens are.
        """
        if not self.tokenizer.is_fast:
            raise UserError(
                f"length={length}: the tokenizer of this language model, a "
                f"{type(self.tokenizer).__name__}, cannot cut texts; leave length= out."
            )
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=True,
            max_length=length,
            return_offsets_mapping=True,
            verbose=False,
        )
        ends = [max((end for _, end in row), default=0) for row in encoded["offset_mapping"]]
        return [text[:end] for text, end in zip(texts, ends, strict=True)]

    @property
    def embedding(self) -> "Embedding":
        """Texts as this model's last hidden state at their last token."""
        trunk = self.network.base_model
        assert isinstance(trunk, nn.Module)
        return Embedding(trunk, self.tokenizer, self.max_length, "last")


class Embedding(NamedTuple):
    """A network that makes a vector of a text, and its tokenizer.

    `pooling`: the mean of the last hidden states of all tokens, or the one of the last token.
    """

    network: nn.Module
    tokenizer: Any
    max_length: int
    pooling: Literal["mean", "last"]


def load_language_model(folder: Path) -> LanguageModel:
    """The language model in a folder.

    Raises UserError if it is not causal, incomplete or damaged, or transformers is missing.
    """
    transformers = require_transformers()
    config, tokenizer = _read(folder)
    auto = transformers.models.auto.modeling_auto
    causal = config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    # BERT and its kin can be made to decode, but unless they are they see both sides.
    both_sides = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if not causal or (both_sides and not getattr(config, "is_decoder", False)):
        raise UserError(
            f"{folder} is a {config.model_type}, which is no causal language model; give one that "
            "draws from left to right, such as gpt2."
        )
    network = _weights(transformers.AutoModelForCausalLM, folder, config)
    start_id = tokenizer.bos_token_id
    return LanguageModel(
        network,
        tokenizer,
        _max_length(config, tokenizer),
        tokenizer.eos_token_id if start_id is None else start_id,
        tokenizer.eos_token_id,
    )


def load_embedding(folder: Path) -> Embedding:
    """The encoder or causal language model in a folder, without its head.

    Of a causal language model the last token's state is taken, which alone has seen all others, of
    others the mean. Raises UserError if it is neither, incomplete or damaged, or transformers is
    missing.
    """
    transformers = require_transformers()
    config, tokenizer = _read(folder)
    auto = transformers.models.auto.modeling_auto
    if config.is_encoder_decoder or config.model_type not in auto.MODEL_MAPPING_NAMES:
        raise UserError(
            f"{folder} is a {config.model_type}, which is no encoder and no causal language model "
            "of text; give e.g. a BERT or a GPT-2."
        )
    sees_both_sides = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not sees_both_sides
    return Embedding(
        _weights(transformers.AutoModel, folder, config),
        tokenizer,
        _max_length(config, tokenizer),
        "last" if causal else "mean",
    )


def embed_texts(
    embedding: Embedding,
    texts: Sequence[str],
    *,
    length: int = 1024,
    batch_size: int = 8,
    device: torch.device | str | None = None,
) -> Float[ndarray, "n d"]:
    """A vector of each text, of its first `length` tokens (or as many as the network takes).

    Raises UserError for a text without any token.
    """
    length = min(length, embedding.max_length)
    encoded = embedding.tokenizer(list(texts), truncation=True, max_length=length)["input_ids"]
    rows = [np.array(row, np.int64) for row in encoded]
    if not all(map(len, rows)):
        raise UserError("a text has no token to be embedded; leave empty texts out.")
    vectors: list[Tensor] = [torch.empty(0)] * len(rows)
    with borrowed(embedding.network, device) as here:
        for batch in by_length(rows, batch_size):
            tokens, mask = padded([rows[i] for i in batch], embedding.tokenizer.pad_token_id, here)
            hidden = embedding.network(input_ids=tokens, attention_mask=mask)[0].float()
            if embedding.pooling == "mean":
                pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            else:
                pooled = hidden[torch.arange(len(batch), device=here), mask.sum(1) - 1]
            for i, vector in zip(batch, pooled.cpu(), strict=True):
                vectors[i] = vector
    return torch.stack(vectors).double().numpy()


def by_length(rows: Sequence[Int[ndarray, "_"]], size: int) -> Iterator[list[int]]:
    """Which rows go together in batches of up to `size`: the longest first, so that a batch that
    does not fit in memory is met at once."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    return (order[start : start + size] for start in range(0, len(order), size))


def padded(
    rows: Sequence[Int[ndarray, "_"]], pad_id: int | None, device: torch.device
) -> tuple[Int[Tensor, "b l"], Int[Tensor, "b l"]]:
    """Rows as one tensor, filled up at their right ends, and 1 where there is no padding."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.full(mask.shape, 0 if pad_id is None else pad_id)
    tokens[mask] = torch.from_numpy(np.concatenate(rows))
    return tokens.to(device), mask.long().to(device)


def require_transformers() -> ModuleType:
    """The transformers package. Raises UserError where it is missing."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "judges of text need the transformers package; install it with "
            "pip install 'genodiff[text]'."
        ) from error
    return transformers


def _read(folder: Path) -> tuple[Any, Any]:
    """The configuration and the tokenizer in a folder."""
    transformers = require_transformers()
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; give the folder of a transformers model.")
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise UserError(
            f"{folder} has no tokenizer (one of {', '.join(_VOCABULARIES[:3])} ...); put the "
            "model's tokenizer files beside it."
        )
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:  # whatever a damaged file makes of each model's own code
        raise _unreadable(folder, error) from error
    vocab_size = getattr(config, "vocab_size", None)
    if vocab_size is not None and len(tokenizer) > vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens and the network {vocab_size}; "
            "give a folder in which they belong together."
        )
    return config, tokenizer


def _weights(kind: Any, folder: Path, config: Any) -> nn.Module:
    try:
        with _quietly():
            network, report = kind.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise _unreadable(folder, error) from error
    wrong = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    wrong = sorted(name for name in wrong if "pooler" not in name)  # which nothing here asks
    if wrong:
        listed = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise UserError(
            f"{folder} lacks weights: {listed}; fetch it again, or give another model."
        )
    return network.eval()


def _unreadable(folder: Path, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"{folder} cannot be read ({reason}); give a folder of config.json, model.safetensors and "
        "tokenizer files."
    )


def _max_length(config: Any, tokenizer: Any) -> int:
    positions = getattr(config, "max_position_embeddings", None)
    return min(positions or tokenizer.model_max_length, tokenizer.model_max_length)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the bars and warnings of transformers: what is wrong with weights is said here."""
    switch = require_transformers().utils.logging
    shown, verbosity = switch.is_progress_bar_enabled(), switch.get_verbosity()
    switch.disable_progress_bar()
    switch.set_verbosity_error()
    try:
        yield
    finally:
        switch.set_verbosity(verbosity)
        if shown:
            switch.enable_progress_bar()
