"""`DiMamba`: a stack of Mamba mixers that is told the time and, if asked, a class.

The Mamba backbone of MDLM's code (Sahoo et al. 2024, arXiv:2406.07524), with the residual stream
that the published one loses between its layers.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genodiff.backbones.base import Inputs, embed, require_positive
from genodiff.backbones.blocks import BlockCausal, Blocks, require_block_length
from genodiff.backbones.caduceus import build_mixer, build_norm, shrink_output_projections
from genodiff.backbones.conditioning import (
    ClassEmbedding,
    Modulation,
    TimeEmbedding,
    condition_vector,
    modulate,
)
from genodiff.errors import UserError


class DiMambaBlock(nn.Module):
    """x + mixer(norm(x)), or with a modulation x + gate * mixer(norm(x) * (1 + scale) + shift).

    Without `residual` there is no x in the first of the two.
    """

    def __init__(
        self,
        norm: nn.Module,
        mixer: nn.Module,
        modulation: Modulation | None,
        dropout: float,
        *,
        residual: bool,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.mixer = mixer
        self.modulation = modulation
        self.dropout = nn.Dropout(dropout)
        self.residual = residual

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        c: Float[Tensor, "#b #l c"],
        blocks: Blocks | None = None,
    ) -> Float[Tensor, "b l d"]:
        if self.modulation is None:
            y = self.dropout(self.mixer(self.norm(x), blocks))
            return x + y if self.residual else y
        shift, scale, gate = self.modulation(c)
        y = self.mixer(modulate(self.norm(x), shift, scale), blocks)
        return x + gate * self.dropout(y)


class DiMamba(BlockCausal):
    """Caduceus' mixers with a condition c = silu(time embedding + class embedding).

    Inside `ReverseComplementEquivariant` it is a Caduceus-PS that is told the time.

    Args:
        vocab_size: tokens; padded to a multiple of `pad_vocab_size_multiple`.
        d_model, n_layers: width and depth.
        cond_dim: width of c; "add" needs it to be d_model. sigma=None is read as 0.
        time_strategy: how c is used: "adaln" adapts every norm and gates every mixer (zero at
            initialisation), "add" adds it to the embeddings, "concat" puts it in front of them, on
            the axis of channels.
        n_classes, class_dropout: classes a sequence can be conditioned on, see `Transformer`.
        residual: False gives the function of MDLM's published code, in which "add" and "concat"
            have no skip connection at all; for its weights alone.
        embedding_rows: rows of the embedding; None is the vocabulary. Published "concat" weights
            have cond_dim more, and with a tied head as many more logits.
        bidirectional, bidirectional_strategy, tie_projections, norm, norm_eps, d_state, d_conv,
            expand, dt_rank, tie_embeddings, recompute, block_length, pad_id, sees_padding: as in
            `Caduceus`.
        dropout: of each mixer's output.
    """

    has_time_input = True

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 128,
        n_layers: int = 4,
        *,
        cond_dim: int = 128,
        time_strategy: str = "adaln",
        n_classes: int | None = None,
        class_dropout: float = 0.1,
        residual: bool = True,
        embedding_rows: int | None = None,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        bidirectional: bool = True,
        bidirectional_strategy: str = "add",
        tie_projections: bool = True,
        norm: str = "rms",
        norm_eps: float = 1e-5,
        pad_vocab_size_multiple: int = 1,
        tie_embeddings: bool = False,
        dropout: float = 0.1,
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
            cond_dim=cond_dim,
            pad_vocab_size_multiple=pad_vocab_size_multiple,
            n_classes=1 if n_classes is None else n_classes,
        )
        if time_strategy not in ("adaln", "add", "concat"):
            raise UserError(f"time_strategy={time_strategy} is unknown; use adaln, add or concat.")
        if time_strategy == "add" and cond_dim != d_model:
            raise UserError(
                f"cond_dim={cond_dim} cannot be added to embeddings of width d_model={d_model}; "
                f"use cond_dim={d_model}."
            )
        if not 0 <= dropout < 1:
            raise UserError(f"dropout={dropout} is a probability; use one in [0, 1).")
        padded = math.ceil(vocab_size / pad_vocab_size_multiple) * pad_vocab_size_multiple
        rows = embedding_rows or padded
        if rows < padded:
            raise UserError(
                f"embedding_rows={rows} are fewer than the {padded} tokens; leave it out."
            )
        width = d_model + cond_dim if time_strategy == "concat" else d_model
        self.d_model = d_model if tie_embeddings else width
        self.vocab_size = rows if tie_embeddings else padded
        self.time_strategy = time_strategy
        self.recompute = recompute
        self.block_length = block_length
        self.causal = not bidirectional
        self.unseen_id = None if sees_padding else pad_id
        self.embedding = nn.Embedding(rows, d_model)
        self.time = TimeEmbedding(cond_dim)
        self.classes = (
            None if n_classes is None else ClassEmbedding(n_classes, cond_dim, class_dropout)
        )
        adapted = time_strategy == "adaln"
        self.blocks = nn.ModuleList(
            DiMambaBlock(
                build_norm(norm, width, norm_eps),
                build_mixer(
                    width,
                    bidirectional=bidirectional,
                    strategy=bidirectional_strategy,
                    tie_projections=tie_projections,
                    d_state=d_state,
                    d_conv=d_conv,
                    expand=expand,
                    dt_rank=dt_rank,
                ),
                Modulation(cond_dim, width, parts=3) if adapted else None,
                dropout,
                residual=residual,
            )
            for _ in range(n_layers)
        )
        self.norm = build_norm(norm, width, norm_eps)
        self.modulation = Modulation(cond_dim, width, parts=2) if adapted else None
        self.unembedding = (
            None if tie_embeddings else nn.Linear(width, self.vocab_size, bias=False)
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
        """The normalised and modulated residual stream; with "concat" and a tied head, without
        the channels of the condition."""
        c = condition_vector(self, self.time, self.classes, sigma, condition, tokens.device)
        x = embed(self.embedding, tokens)
        if self.time_strategy == "add":
            x = x + c
        elif self.time_strategy == "concat":
            x = torch.cat([c.expand(*x.shape[:2], -1), x], dim=-1)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, c, blocks, use_reentrant=False)
            else:
                x = block(x, c, blocks)
        x = self.norm(x)
        if self.modulation is not None:
            x = modulate(x, *self.modulation(c))
        return x[..., -self.d_model :]

    def head(self, hidden: Float[Tensor, "*s d"]) -> Float[Tensor, "*s k"]:
        """Linear, without a bias."""
        return F.linear(hidden, *self.linear_head())

    def linear_head(self) -> tuple[Tensor, None]:
        """The weight of `head`, and that it has no bias."""
        weight = self.embedding.weight if self.unembedding is None else self.unembedding.weight
        return weight, None
