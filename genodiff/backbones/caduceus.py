"""`Caduceus`: Mamba blocks in two directions between an embedding and a tied head."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genodiff.backbones.base import (
    Inputs,
    embed,
    refuse_condition,
    refuse_sigma,
    require_positive,
)
from genodiff.backbones.blocks import BlockCausal, Blocks, require_block_length
from genodiff.backbones.mamba import BiMamba, Mamba
from genodiff.backbones.norm import RMSNorm
from genodiff.errors import UserError

NORMS = {"rms": RMSNorm, "layer": nn.LayerNorm}


class CaduceusBlock(nn.Module):
    """x + mixer(norm(x))."""

    def __init__(self, norm: nn.Module, mixer: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.mixer = mixer

    def forward(
        self, x: Float[Tensor, "b l d"], blocks: Blocks | None = None
    ) -> Float[Tensor, "b l d"]:
        return x + self.mixer(self.norm(x), blocks)


class Caduceus(BlockCausal):
    """Caduceus-Ph: a stack of bidirectional, or of left-to-right, Mamba mixers.

    Schiff et al. 2024 (arXiv:2403.03234). Inside `ReverseComplementEquivariant` it is Caduceus-PS.
    It has no time input. Under autocast the residual stream stays in the parameters' dtype.

    Args:
        vocab_size: tokens; padded to a multiple of `pad_vocab_size_multiple`.
        d_model, n_layers: width and depth.
        d_state, d_conv, expand, dt_rank: of the mixers, see `Mamba`.
        bidirectional: False gives a causal Mamba: the logits at a position depend on no later one.
        bidirectional_strategy: "add" or "ew_multiply", how the directions meet.
        tie_projections: whether the directions share their projections in and out.
        norm: "rms" or "layer".
        tie_embeddings: whether the head's weights are the embedding's.
        recompute: compute each block's activations again in the backward pass instead of keeping
            them: memory for one block instead of all, for a third more time.
        block_length: makes the network block-causal, see `BlockCausal`: the scan from the right
            begins at the end of each block, that from the left goes through.
        pad_id, sees_padding: the id of padding, and whether other positions see it, as they do in
            published networks; see `Backbone`.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 128,
        n_layers: int = 4,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        bidirectional: bool = True,
        bidirectional_strategy: str = "add",
        tie_projections: bool = True,
        norm: str = "rms",
        norm_eps: float = 1e-5,
        pad_vocab_size_multiple: int = 8,
        tie_embeddings: bool = True,
        recompute: bool = False,
        block_length: int | None = None,
        pad_id: int | None = None,
        sees_padding: bool = False,
    ) -> None:
        super().__init__()
        require_block_length(block_length)
        require_positive(
            vocab_size=vocab_size,
            d_model=d_model,
            n_layers=n_layers,
            pad_vocab_size_multiple=pad_vocab_size_multiple,
        )
        self.d_model = d_model
        self.vocab_size = math.ceil(vocab_size / pad_vocab_size_multiple) * pad_vocab_size_multiple
        self.recompute = recompute
        self.block_length = block_length
        self.causal = not bidirectional
        self.unseen_id = None if sees_padding else pad_id
        self.embedding = nn.Embedding(self.vocab_size, d_model)
        self.blocks = nn.ModuleList(
            CaduceusBlock(
                build_norm(norm, d_model, norm_eps),
                build_mixer(
                    d_model,
                    bidirectional=bidirectional,
                    strategy=bidirectional_strategy,
                    tie_projections=tie_projections,
                    d_state=d_state,
                    d_conv=d_conv,
                    expand=expand,
                    dt_rank=dt_rank,
                ),
            )
            for _ in range(n_layers)
        )
        self.norm = build_norm(norm, d_model, norm_eps)
        self.unembedding = (
            None if tie_embeddings else nn.Linear(d_model, self.vocab_size, bias=False)
        )
        nn.init.normal_(self.embedding.weight, std=0.02)
        shrink_output_projections(self, n_layers)

    def states(
        self,
        tokens: Inputs,
        sigma: Float[Tensor, "b #l"] | None,
        condition: Tensor | None,
        blocks: Blocks | None,
    ) -> Float[Tensor, "b l d"]:
        """The normalised residual stream."""
        refuse_sigma(self, sigma)
        refuse_condition(self, condition)
        x = embed(self.embedding, tokens)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, blocks, use_reentrant=False)
            else:
                x = block(x, blocks)
        return self.norm(x)

    def head(self, hidden: Float[Tensor, "*s d"]) -> Float[Tensor, "*s k"]:
        """Linear, without a bias."""
        return F.linear(hidden, *self.linear_head())

    def linear_head(self) -> tuple[Tensor, None]:
        """The weight of `head`, and that it has no bias."""
        weight = self.embedding.weight if self.unembedding is None else self.unembedding.weight
        return weight, None


def build_norm(name: str, d_model: int, eps: float) -> nn.Module:
    """The norm called "rms" or "layer"; another name is a UserError."""
    if name not in NORMS:
        raise UserError(f"norm={name} is unknown; use {' or '.join(NORMS)}.")
    return NORMS[name](d_model, eps=eps)


def build_mixer(
    d_model: int,
    *,
    bidirectional: bool,
    strategy: str,
    tie_projections: bool,
    d_state: int,
    d_conv: int,
    expand: int,
    dt_rank: int | Literal["auto"],
) -> Mamba | BiMamba:
    """A mixer in one direction or in two."""
    if not bidirectional:
        return Mamba(d_model, d_state=d_state, d_conv=d_conv, expand=expand, dt_rank=dt_rank)
    return BiMamba(
        d_model,
        strategy=strategy,
        tie_projections=tie_projections,
        d_state=d_state,
        d_conv=d_conv,
        expand=expand,
        dt_rank=dt_rank,
    )


@torch.no_grad()
def shrink_output_projections(network: nn.Module, n_layers: int) -> None:
    """Divides the mixers' projections out by sqrt(n_layers), as published networks begin."""
    for name, parameter in network.named_parameters():
        if name.endswith("out_proj.weight"):
            parameter.div_(math.sqrt(n_layers))
