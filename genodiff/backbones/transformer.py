"""`Transformer`: the diffusion transformer (DiT) of MDLM, and its causal, timeless sibling.

Sahoo et al. 2024 (arXiv:2406.07524), appendix: pre-norm blocks of rotary attention and an MLP,
each adapted to the time by adaptive layer norm (Peebles & Xie 2023).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genodiff.backbones.attention import SelfAttention, rotation_table
from genodiff.backbones.base import (
    Inputs,
    embed,
    refuse_condition,
    refuse_sigma,
    require_positive,
)
from genodiff.backbones.blocks import (
    BlockCausal,
    Blocks,
    Memory,
    Reading,
    require_block_length,
)
from genodiff.backbones.conditioning import (
    ClassEmbedding,
    Modulation,
    TimeEmbedding,
    condition_vector,
    modulate,
)
from genodiff.errors import UserError

_MLP_RATIO = 4


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    With a condition each sub-layer f(norm(x)) is gate * f(norm(x) * (1 + scale) + shift).
    """

    def __init__(
        self, d_model: int, n_heads: int, cond_dim: int | None, dropout: float, *, causal: bool
    ) -> None:
        super().__init__()
        self.modulation = None if cond_dim is None else Modulation(cond_dim, d_model, parts=6)
        self.attention_norm = _norm(d_model)
        self.attention = SelfAttention(d_model, n_heads, causal=causal)
        self.mlp_norm = _norm(d_model)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, _MLP_RATIO * d_model),
            nn.GELU(approximate="tanh"),
            nn.Linear(_MLP_RATIO * d_model, d_model),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        rotation: tuple[Float[Tensor, "l half"], Float[Tensor, "l half"]],
        c: Float[Tensor, "#b #l c"] | None,
        blocks: Blocks | None = None,
    ) -> Float[Tensor, "b l d"]:
        if self.modulation is None or c is None:
            x = x + self.dropout(self.attention(self.attention_norm(x), rotation, blocks))
            return x + self.dropout(self.mlp(self.mlp_norm(x)))
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(c)
        y = modulate(self.attention_norm(x), shift, scale)
        x = x + gate * self.dropout(self.attention(y, rotation, blocks))
        y = modulate(self.mlp_norm(x), mlp_shift, mlp_scale)
        return x + mlp_gate * self.dropout(self.mlp(y))


class Transformer(BlockCausal):
    """DiT with rotary attention. Blocks and head are zero at initialisation: all logits are 0.

    Args:
        vocab_size: tokens, the mask among them; not padded.
        d_model, n_layers, n_heads: width, depth, heads of width d_model / n_heads.
        cond_dim: width of the time embedding; None for a network without a time input. sigma=None
            is read as 0, which is what MDLM feeds the network when time_conditioning is off.
        n_classes: classes a sequence can be conditioned on, as an integer (b,) from 0 on; the
            label `n_classes`, or condition=None, is "no class". None for no such input.
        class_dropout: the share of labels that training leaves out, for classifier-free guidance.
        dropout: of each sub-layer's output.
        causal: the logits at a position depend on no later one.
        block_length: makes the network block-causal, see `BlockCausal`; None for one that sees
            every position.
        pad_id, sees_padding: the id of padding, and whether other positions see it, as they do in
            published networks; see `Backbone`.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        n_layers: int,
        n_heads: int,
        *,
        cond_dim: int | None = 128,
        n_classes: int | None = None,
        class_dropout: float = 0.1,
        dropout: float = 0.1,
        causal: bool = False,
        block_length: int | None = None,
        pad_id: int | None = None,
        sees_padding: bool = False,
    ) -> None:
        super().__init__()
        require_positive(vocab_size=vocab_size, n_layers=n_layers)
        if cond_dim is not None:
            require_positive(cond_dim=cond_dim)
        if n_classes is not None:
            require_positive(n_classes=n_classes)
            if cond_dim is None:
                raise UserError(
                    f"n_classes={n_classes} needs a condition to be added to; give cond_dim=128."
                )
        if not 0 <= dropout < 1:
            raise UserError(f"dropout={dropout} is a probability; use one in [0, 1).")
        require_block_length(block_length)
        if causal and block_length is not None:
            raise UserError(
                f"causal=True with block_length={block_length}: a causal network sees no later "
                "position of its own block; leave one of them out."
            )
        self.block_length = block_length
        self.causal = causal
        self.unseen_id = None if sees_padding else pad_id
        self.d_model = d_model
        self.vocab_size = vocab_size
        self.n_heads = n_heads
        self.blocks = nn.ModuleList(
            TransformerBlock(d_model, n_heads, cond_dim, dropout, causal=causal)
            for _ in range(n_layers)
        )
        self.embedding = nn.Embedding(vocab_size, d_model)
        nn.init.kaiming_uniform_(self.embedding.weight, a=math.sqrt(5))
        self.has_time_input = cond_dim is not None
        self.time = None if cond_dim is None else TimeEmbedding(cond_dim)
        self.classes = (
            None
            if n_classes is None or cond_dim is None
            else ClassEmbedding(n_classes, cond_dim, class_dropout)
        )
        self.modulation = None if cond_dim is None else Modulation(cond_dim, d_model, parts=2)
        self.norm = _norm(d_model)
        self.unembedding = nn.Linear(d_model, vocab_size)
        nn.init.zeros_(self.unembedding.weight)
        nn.init.zeros_(self.unembedding.bias)

    def states(
        self,
        tokens: Inputs,
        sigma: Float[Tensor, "b #l"] | None,
        condition: Tensor | None,
        blocks: Blocks | None,
    ) -> Float[Tensor, "b l d"]:
        """The normalised and modulated residual stream."""
        c = self._condition(sigma, condition, tokens.device)
        x = embed(self.embedding, tokens)
        start = 0 if blocks is None or blocks.reading is None else blocks.reading.start
        d_head = self.d_model // self.n_heads
        rotation = rotation_table(tokens.shape[1], d_head, like=x, start=start)
        for block in self.blocks:
            x = block(x, rotation, c, blocks)
        x = self.norm(x)
        if self.modulation is None or c is None:
            return x
        shift, scale = self.modulation(c)
        return modulate(x, shift, scale)

    @torch.no_grad()
    def hidden_amid(
        self,
        tokens: Inputs,
        memory: Memory,
        start: int,
        sigma: Float[Tensor, "b #l"] | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l d"]:
        """The hidden states of tokens at the positions from `start` on, in the midst of others of
        which `memory` holds keys and values; it holds those of the tokens too from then on.

        Of whole sequences and an empty memory it is `hidden`. Afterwards it is an approximation
        unless `tokens` are whole sequences again: keys and values of the others are as they were,
        also where the tokens would have changed them. No gradients. Raises ValueError for a
        network that does not see every position.
        """
        if not self.sees_everything:
            raise ValueError("this Transformer does not see later positions; use `extend`.")
        memory.length = max(memory.length, start + tokens.shape[1])
        reading = Reading(memory, start, True)
        padding = reading.padding_with(tokens, self.unseen_id)
        whole = Blocks(memory.length, False, reading, padding)
        return self.states(tokens, sigma, condition, whole)

    @property
    def sees_everything(self) -> bool:
        """Whether every position sees every other."""
        return not self.causal and self.block_length is None

    def head(self, hidden: Float[Tensor, "*s d"]) -> Float[Tensor, "*s k"]:
        """Linear, with a bias; not tied to the embedding."""
        return self.unembedding(hidden)

    def linear_head(self) -> tuple[Tensor, Tensor | None]:
        """The weight and the bias of `head`."""
        return self.unembedding.weight, self.unembedding.bias

    def _condition(
        self, sigma: Tensor | None, condition: Tensor | None, device: torch.device
    ) -> Tensor | None:
        """The vector (#b, #l, c) of the blocks, or None for a network without a time input."""
        if self.time is None:
            refuse_sigma(self, sigma)
            refuse_condition(self, condition)
            return None
        return condition_vector(self, self.time, self.classes, sigma, condition, device)


def _norm(d_model: int) -> nn.LayerNorm:
    return nn.LayerNorm(d_model, eps=1e-5, bias=False)
