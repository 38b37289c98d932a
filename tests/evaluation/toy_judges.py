"""Folders of small judges with random weights, as transformers saves them. Their tokens are
bytes."""

from pathlib import Path
from typing import Any

import torch


def save_tokenizer(folder: Path, positions: int, **roles: str) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=library, model_max_length=positions, **roles
    )
    tokenizer.save_pretrained(folder)


def save_gpt2(folder: Path, *, positions: int = 32, uniform: bool = False) -> Any:
    """A language model of 257 tokens; `uniform`: one to which all are equally likely."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes: Any = {"vocab_size": 257, "n_positions": positions, "n_embd": 16, "n_layer": 1}
    more: Any = {"n_head": 2, "bos_token_id": 256, "eos_token_id": 256, "initializer_range": 0.3}
    model: Any = GPT2LMHeadModel(GPT2Config(**sizes, **more)).eval()
    if uniform:
        model.transformer.wte.weight.data.zero_()
    model.save_pretrained(folder)
    end = "<|endoftext|>"
    save_tokenizer(folder, positions, bos_token=end, eos_token=end)
    return model


def save_bert(folder: Path, *, positions: int = 32) -> Any:
    """A masked language model of 257 tokens."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    sizes: Any = {"vocab_size": 257, "max_position_embeddings": positions, "hidden_size": 16}
    more: Any = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model: Any = BertForMaskedLM(BertConfig(**sizes, **more, initializer_range=0.3)).eval()
    model.save_pretrained(folder)
    save_tokenizer(folder, positions, pad_token="[PAD]")
    return model
