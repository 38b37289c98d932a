"""Self-attention with rotary position embedding (Su et al. 2021, arXiv:2104.09864).

Channels i and i + d/2 of a head are the real and imaginary part of a number that is turned by
position * 10000^(-2i/d), so that a query and a key only feel the distance between them.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from genodiff.backbones.base import require_positive
from genodiff.backbones.blocks import Blocks, Reading
from genodiff.errors import UserError

_BASE = 10_000
# Blocks are attended from in groups of about so many positions: their mask is small, and hardly
# any product is computed only to be masked.
_POSITIONS_AT_ONCE = 256


class SelfAttention(nn.Module):
    """softmax(q k^T / sqrt(d_head)) v with q and k rotated, projected out; no biases.

    Raises UserError unless d_model is n_heads times an even number.
    """

    def __init__(self, d_model: int, n_heads: int, *, causal: bool = False) -> None:
        super().__init__()
        require_positive(d_model=d_model, n_heads=n_heads)
        if d_model % (2 * n_heads):
            raise UserError(
                f"d_model={d_model} with n_heads={n_heads} must give heads of even width; use a "
                f"d_model divisible by {2 * n_heads}, or other n_heads."
            )
        self.n_heads = n_heads
        self.causal = causal
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        rotation: tuple[Float[Tensor, "l half"], Float[Tensor, "l half"]],
        blocks: Blocks | None = None,
    ) -> Float[Tensor, "b l d"]:
        qkv = self.qkv(x).unflatten(-1, (3, self.n_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (b, h, l, d_head) each
        q, k = rotate(q, rotation), rotate(k, rotation)
        if blocks is None:
            heads = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            if blocks.reading is not None:
                k, v = self._remember(k, v, blocks.reading)
            heads = attend_in_blocks(q, k, v, blocks)
        return self.out(heads.transpose(1, 2).flatten(2))

    def _remember(
        self, k: Float[Tensor, "b h m d"], v: Float[Tensor, "b h m d"], reading: Reading
    ) -> tuple[Float[Tensor, "b h n d"], Float[Tensor, "b h n d"]]:
        """The keys and values of the memory, with those given in their places.

        They lie in tensors with room for more, beyond the memory's length: what is there has not
        been read. The room doubles, so that a token at a time copies each but twice.
        """
        memory, start, _ = reading
        end = start + k.shape[2]
        rooms = memory.layers.get(self, (k[:, :, :0], v[:, :, :0]))
        if end > rooms[0].shape[2]:
            spare = max(end, 2 * rooms[0].shape[2]) - start
            rooms = tuple(F.pad(x[:, :, :start], (0, 0, 0, spare)) for x in rooms)
        for room, new in zip(rooms, (k, v), strict=True):
            room[:, :, start:end] = new
        memory.layers[self] = rooms
        keys, values = (room[:, :, : max(end, memory.length)] for room in rooms)
        return keys, values


def attend_in_blocks(
    q: Float[Tensor, "b h l d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n d"],
    blocks: Blocks,
) -> Float[Tensor, "b h l d"]:
    """Attention of each block to itself and the blocks before it.

    With `blocks.given` the blocks before it are those of the clean half of the batch, also for the
    clean half itself. Where there are more keys than queries, the queries are the last.
    """
    first, length, padding = k.shape[2] - q.shape[2], k.shape[2], blocks.padding
    if not blocks.given and q.shape[2] <= blocks.length:
        everything = torch.ones(1, length, dtype=torch.bool, device=q.device)
        mask = None if padding is None else _without(everything, padding)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    block = torch.arange(length, device=q.device) // blocks.length
    size = blocks.length * max(1, _POSITIONS_AT_ONCE // blocks.length)
    heads = []
    for start in range(first, length, size):
        own, past = slice(start, start + size), slice(0, start + size)
        visible = block[own, None] > block[past]
        itself = block[own, None] == block[own]
        if blocks.given:
            keys, values = (torch.cat([_clean(x[:, :, past]), x[:, :, own]], 2) for x in (k, v))
            visible = torch.cat([visible, itself], 1)
            if padding is not None:
                hidden = torch.cat([_clean(padding[:, past]), padding[:, own]], 1)
                visible = _without(visible, hidden)
        else:
            keys, values = k[:, :, past], v[:, :, past]
            visible[:, start:] |= itself
            if padding is not None:
                visible = _without(visible, padding[:, past])
        queries = q[:, :, start - first : start - first + size]
        heads.append(F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible))
    return torch.cat(heads, dim=2)


def _clean(x: Shaped[Tensor, "b *s"]) -> Shaped[Tensor, "b *s"]:
    """The second half of the batch, in the place of both."""
    _, clean = x.chunk(2)
    return torch.cat([clean, clean])


def _without(
    visible: Bool[Tensor, "l n"], padding: Bool[Tensor, "b n"]
) -> Bool[Tensor, "b 1 l n"]:
    """What is visible but the padding, or all of it to padding that would see nothing else: a mean
    of nothing is no number."""
    seen = visible & ~padding[:, None, None]
    return seen | (visible & ~seen.any(-1, keepdim=True))


def frequencies(d_head: int) -> Float[Tensor, " half"]:
    """Radians a position by which each channel pair is turned."""
    return _BASE ** -(torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)


def rotation_table(
    length: int, d_head: int, like: Tensor, *, start: int = 0
) -> tuple[Float[Tensor, "l half"], Float[Tensor, "l half"]]:
    """Cosine and sine of the angles of positions from `start` on, in float32 or the dtype of
    `like`."""
    positions = torch.arange(start, start + length, dtype=torch.float64, device=like.device)
    angles = torch.outer(positions, frequencies(d_head).to(like.device))
    dtype = torch.promote_types(like.dtype, torch.float32)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(
    x: Float[Tensor, "*b l d"], rotation: tuple[Float[Tensor, "l half"], Float[Tensor, "l half"]]
) -> Float[Tensor, "*b l d"]:
    """Turn each channel pair of each position by its angle; computed in float32, in x's dtype."""
    cos, sin = rotation
    real, imaginary = x.chunk(2, dim=-1)
    return torch.cat([real * cos - imaginary * sin, imaginary * cos + real * sin], dim=-1).to(
        x.dtype
    )
