"""`MaskedLanguageModel`: a BERT-like encoder of the transformers package as a backbone.

So that a pre-trained BERT can be fine-tuned as a diffusion model (Sahoo et al. 2024,
arXiv:2406.07524, section 5.4): its masks are the masks of an absorbing process.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from genodiff.backbones.base import (
    Backbone,
    Inputs,
    padding_among,
    refuse_condition,
    refuse_sigma,
)
from genodiff.errors import UserError

# Of a config.json: where it came from, not what the network is.
_PROVENANCE = (
    "_name_or_path",
    "_commit_hash",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
)


class MaskedLanguageModel(Backbone):
    """Any `AutoModelForMaskedLM` of the installed transformers: BERT, RoBERTa, ESM, ModernBERT ...

    Every position attends to every other but padding. Where it is, positions are those that
    transformers gives: BERT and ELECTRA count them from the left end, padding included, RoBERTa
    and ESM leave out the `pad_token_id` of their config. It has no time input, and remote code is
    never run.

    Args:
        config: the fields of a transformers config.json, `model_type` among them. Without a
            `vocab_size` it takes the tokenizer's.
        vocab_size: tokens of the tokenizer; the network may have more, not fewer.
        pad_id, sees_padding: the id of padding, and whether other positions see it; see
            `Backbone`.

    Raises UserError if transformers is not installed or does not know the model type, and for a
    network that cannot be all masks (ESM with token_dropout).
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        vocab_size: int,
        *,
        pad_id: int | None = None,
        sees_padding: bool = False,
    ) -> None:
        super().__init__()
        settings = {"vocab_size": vocab_size, **config}
        if settings["vocab_size"] < vocab_size:
            raise UserError(
                f"vocab_size={settings['vocab_size']} of the masked language model is less than "
                f"the tokenizer's {vocab_size}; use the tokenizer that belongs to it."
            )
        if settings.get("token_dropout"):
            raise UserError(
                "token_dropout=true divides by the share of tokens that are not masked, which is "
                "0 in diffusion; set token_dropout=false in the config."
            )
        self.settings = settings
        self.unseen_id = None if sees_padding else pad_id
        self.vocab_size = settings["vocab_size"]
        self._split(_build(settings))

    @classmethod
    def from_folder(cls, folder: Path) -> "MaskedLanguageModel":
        """A pre-trained model: a folder of config.json and model.safetensors (or
        pytorch_model.bin).

        Weights that only serve other tasks (poolers, next-sentence heads) are left out. Raises
        UserError if the folder cannot be read or lacks a weight.
        """
        settings = read_settings(folder)
        network = cls(settings, settings.get("vocab_size", 0))
        try:
            with _no_progress_bars():
                model, report = _transformers().AutoModelForMaskedLM.from_pretrained(
                    folder,
                    config=network.config,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                    dtype=torch.float32,
                )
        except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
            raise UserError(
                f"{folder} cannot be read ({str(error).splitlines()[0]}); give a folder of "
                "config.json and model.safetensors."
            ) from error
        wrong = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
        if wrong:
            raise UserError(
                f"{folder} lacks weights of a masked language model: {', '.join(sorted(wrong))}; "
                "give a checkpoint that was trained with its masked-language-model head."
            )
        network._split(model)
        return network

    @property
    def embedding(self) -> nn.Module:
        """The encoder's own."""
        encoder: Any = self.encoder
        return encoder.get_input_embeddings()

    def hidden(
        self,
        tokens: Inputs,
        sigma: Float[Tensor, "b #l"] | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l d"]:
        """The last hidden states. Raises UserError for more tokens than it has positions."""
        refuse_sigma(self, sigma)
        refuse_condition(self, condition)
        if self.max_length is not None and tokens.shape[1] > self.max_length:
            raise UserError(
                f"length={tokens.shape[1]}, but this model has {self.max_length} positions; use "
                f"{self.max_length} or less, or a model with more."
            )
        seen = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        padding = padding_among(tokens, self.unseen_id)
        if padding is not None:
            seen = ~padding | padding.all(1, keepdim=True)  # a mean of nothing is no number
        name = "inputs_embeds" if tokens.is_floating_point() else "input_ids"
        return self.encoder(**{name: tokens}, attention_mask=seen.long())[0]

    def head(self, hidden: Float[Tensor, "*s d"]) -> Float[Tensor, "*s k"]:
        """The model's own, with its transform and its norm."""
        rows = hidden.reshape(1, -1, hidden.shape[-1])
        return self.head_model(rows).logits.reshape(*hidden.shape[:-1], -1)

    def _split(self, model: Any) -> None:
        """Takes an encoder and, with a stand-in in the encoder's place, the head of a model.

        So the head is the model's own code, whatever its parts are called.
        """
        self.config = model.config
        self.encoder: nn.Module = model.base_model
        setattr(model, model.base_model_prefix, _Given())
        self.head_model: nn.Module = model
        self.d_model = model.config.hidden_size
        self.max_length = _positions(self.encoder)


class _Given(nn.Module):
    """An encoder whose hidden states are its input."""

    def forward(self, input_ids: Tensor, **_arguments: Any) -> Any:
        outputs = _transformers().modeling_outputs
        return outputs.BaseModelOutput(last_hidden_state=input_ids)


def read_settings(folder: Path) -> dict[str, Any]:
    """The fields of a folder's config.json that say what the network is."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} has no readable config.json ({error}); give the folder of a transformers "
            "model."
        ) from error
    return {key: value for key, value in config.items() if key not in _PROVENANCE}


def _build(settings: Mapping[str, Any]) -> Any:
    """The model of a config with fresh weights."""
    transformers = _transformers()
    known = transformers.models.auto.modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    rest = dict(settings)
    name = rest.pop("model_type", None)
    if name not in known:
        raise UserError(
            f"model_type={name} is no masked language model of transformers "
            f"{transformers.__version__}; give e.g. bert, roberta, esm or modernbert."
        )
    config = transformers.AutoConfig.for_model(name, **rest)
    return transformers.AutoModelForMaskedLM.from_config(config)


def _positions(encoder: nn.Module) -> int | None:
    """Rows of the encoder's table of positions that tokens can have; None without a table."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count positions from behind the padding's row.
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first
    return None


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    switch = _transformers().utils.logging
    shown = switch.is_progress_bar_enabled()
    switch.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            switch.enable_progress_bar()


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "a masked language model needs the transformers package; install it with "
            "pip install 'genodiff[text]'."
        ) from error
    return transformers
