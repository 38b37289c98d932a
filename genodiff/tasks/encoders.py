"""Reading BERT-like encoders of the transformers package, to be fine-tuned by masked diffusion."""

import logging
from pathlib import Path

from genodiff.backbones import MaskedLanguageModel
from genodiff.data import TextTokenizer
from genodiff.errors import UserError
from genodiff.tasks.formulation import SUBS
from genodiff.tasks.model import Model, build_model, tokenizer_node

log = logging.getLogger(__name__)

TO_FINE_TUNE = (
    "It is published as a masked language model. Unless masked diffusion trained it, fine-tune it "
    "with genodiff train init=FOLDER backbone=trained before its likelihood or samples mean "
    "anything."
)
TOKENIZER_LEFT_OUT = (
    "Its tokenizer is not part of it: sequences are ids, such as 12 5 7. For text give "
    "tokenizer=, its name or folder."
)
# Without one of these transformers makes up a tokenizer, and a mask with it.
_VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json"),
    *("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model"),
)


def read_encoder(source: Path, mask_id: int | None, tokenizer: TextTokenizer | None) -> Model:
    """The masked language model in a hub folder. Without a `tokenizer` only the mask's id is kept
    of its own.

    Raises UserError if it cannot be read, its mask is not known, or the tokenizer is another's.
    """
    network = MaskedLanguageModel.from_folder(source)
    if tokenizer is not None:
        told = network.settings.get("mask_token_id") if mask_id is None else mask_id
        require_mask(tokenizer, told)
        node = tokenizer_node(tokenizer)
    else:
        node = {
            "_target_": "genodiff.data.TokenIds",
            "vocab_size": network.vocab_size,
            "mask_id": _mask_id(source, network) if mask_id is None else mask_id,
        }
    model = build_model(
        {
            "backbone": {
                "_target_": "genodiff.backbones.MaskedLanguageModel",
                "config": network.settings,
            },
            "schedule": {"_target_": "genodiff.diffusion.LogLinear", "eps": 1e-3},
            **SUBS,
            "time_conditioning": False,
            "tokenizer": node,
        }
    )
    model.network.load_state_dict(network.state_dict())
    count = sum(parameter.numel() for parameter in network.parameters())
    log.info("%s: %s, %s parameters.", source, network.settings["model_type"], f"{count:,}")
    log.info("%s", TO_FINE_TUNE)
    if tokenizer is None:
        log.info("%s Of these ids the mask is %d.", TOKENIZER_LEFT_OUT, model.tokenizer.mask_id)
    return model


def require_mask(tokenizer: TextTokenizer, mask_id: int | None) -> None:
    """Raises UserError if the mask of published weights, where it is known, is another token."""
    if mask_id not in (None, tokenizer.mask_id):
        raise UserError(
            f"the mask of these weights is {mask_id}, and that of tokenizer= {tokenizer.mask_id}; "
            "give the tokenizer they were trained with."
        )


def _mask_id(source: Path, network: MaskedLanguageModel) -> int:
    """From the config, or else from the tokenizer's files."""
    from transformers import AutoTokenizer

    found = network.settings.get("mask_token_id")
    if found is None and any((source / name).is_file() for name in _VOCABULARIES):
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                source, local_files_only=True, trust_remote_code=False
            )
            found = tokenizer.mask_token_id
        except (OSError, ValueError):
            found = None
    if found is None:
        raise UserError(
            f"source={source} does not say which token is the mask; give mask_id=, or put the "
            "model's tokenizer files beside it."
        )
    return found
