"""What others run, written from their definitions, to be timed beside ours.

The scans: mamba-ssm's `selective_scan_ref` (the one CPU path it publishes), the same made linear
in length, and mambapy's parallel scan. The network: Caduceus as published, two Mamba modules of
which one runs on flipped copies (Schiff et al. 2024, arXiv:2403.03234; Gu & Dao 2023,
arXiv:2312.00752), with a scan of choice. Tensors are channel-last, which spares it the
transpositions of its own layout everywhere but around nn.Conv1d.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genodiff.backbones import Caduceus, Mamba
from genodiff.backbones.mamba import SelectiveSSM

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(u, delta, A, B, C, D, z, delta_bias) -> y, all directions of `selective_scan` but reverse."""


def selective_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    *,
    linear: bool = False,
) -> Tensor:
    """mamba-ssm's reference, step for step and channel-first in memory, as it is.

    It indexes each step's slice out of the tensors of all steps, and the gradient of an index is a
    whole tensor: the backward pass is quadratic in length. `linear` unbinds the steps instead.
    """
    u, delta, B, C, z = (x.mT.contiguous() for x in (u, delta, B, C, z))
    dt = F.softplus(delta + delta_bias.unsqueeze(1))
    decays = torch.exp(torch.einsum("bdl,dn->bdln", dt, A))
    inputs = torch.einsum("bdl,bnl,bdl->bdln", dt, B, u)
    h = torch.zeros_like(inputs[:, :, 0])
    outputs = []
    if linear:
        steps = zip(decays.unbind(2), inputs.unbind(2), C.unbind(2), strict=True)
    else:
        steps = ((decays[:, :, i], inputs[:, :, i], C[:, :, i]) for i in range(u.shape[2]))
    for decay, dtu_B, C_t in steps:
        h = decay * h + dtu_B
        outputs.append(torch.einsum("bdn,bn->bd", h, C_t))
    y = torch.stack(outputs, dim=2) + u * D.unsqueeze(1)
    return (y * F.silu(z)).mT


def linear_ref(*inputs: Tensor) -> Tensor:
    """`selective_scan_ref`, linear in length."""
    return selective_scan_ref(*inputs, linear=True)  # pyright: ignore[reportCallIssue] (8 tensors)


def pscan_or_none() -> Scan | None:
    """The scan of mambapy's `MambaBlock`, on its `pscan`; None where mambapy is not installed."""
    try:
        from mambapy.pscan import pscan  # pyright: ignore[reportMissingImports] (optional)
    except ImportError:
        return None

    def scan(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        z: Tensor,
        delta_bias: Tensor,
    ) -> Tensor:
        dt = F.softplus(delta + delta_bias).unsqueeze(-1)
        h: Tensor = pscan(torch.exp(dt * A), dt * B.unsqueeze(2) * u.unsqueeze(-1))
        y = (h @ C.unsqueeze(-1)).squeeze(3) + D * u
        return y * F.silu(z)

    return scan


class PublishedMamba(nn.Module):
    """Mamba's mixer on an nn.Conv1d, sharing the parameters of one of ours."""

    def __init__(self, in_proj: nn.Linear, ssm: SelectiveSSM, out_proj: nn.Linear, scan: Scan):
        super().__init__()
        d, width = ssm.conv_weight.shape
        self.in_proj, self.out_proj, self.scan = in_proj, out_proj, scan
        self.conv1d = nn.Conv1d(d, d, width, groups=d, padding=width - 1)
        self.conv1d.weight = nn.Parameter(ssm.conv_weight.detach().unsqueeze(1).clone())
        self.conv1d.bias = nn.Parameter(ssm.conv_bias.detach().clone())
        self.x_proj, self.dt_proj = ssm.x_proj, ssm.dt_proj
        self.A_log, self.D, self.widths = ssm.A_log, ssm.D, ssm.widths

    def forward(self, h: Tensor) -> Tensor:
        x, z = self.in_proj(h).chunk(2, dim=-1)
        u = F.silu(self.conv1d(x.mT)[..., : h.shape[1]]).mT
        dt, B, C = self.x_proj(u).split(self.widths, dim=-1)
        delta = F.linear(dt, self.dt_proj.weight)
        A = -torch.exp(self.A_log)
        return self.out_proj(self.scan(u, delta, A, B, C, self.D, z, self.dt_proj.bias))


class PublishedBiMamba(nn.Module):
    """Two of them, the second between two flips."""

    def __init__(self, mixer: Any, scan: Scan):
        super().__init__()
        if isinstance(mixer, Mamba):
            raise TypeError("a left-to-right Mamba has one direction; time it on its own")
        self.mamba_fwd = PublishedMamba(mixer.in_proj, mixer.forward_ssm, mixer.out_proj, scan)
        self.mamba_rev = PublishedMamba(mixer.in_proj, mixer.reverse_ssm, mixer.out_proj, scan)

    def forward(self, h: Tensor) -> Tensor:
        return self.mamba_fwd(h) + self.mamba_rev(h.flip(1)).flip(1)


class PublishedCaduceus(nn.Module):
    """The published order of operations with the weights of a `Caduceus`.

    With a `complement` it is Caduceus-PS: each layer runs on one strand, then on the other, which
    is flipped along length and channels before and after.
    """

    def __init__(self, trunk: Caduceus, scan: Scan, complement: Sequence[int] | None = None):
        super().__init__()
        self.embedding = trunk.embedding
        blocks: list[Any] = list(trunk.blocks)
        self.norms = nn.ModuleList(_rms_norm(block.norm) for block in blocks)
        self.mixers = nn.ModuleList(PublishedBiMamba(block.mixer, scan) for block in blocks)
        self.norm = _rms_norm(trunk.norm)
        self.complement = None if complement is None else torch.tensor(complement)

    def forward(self, tokens: Tensor) -> Tensor:
        x, residual = self._embed(tokens), None
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            residual = x if residual is None else x + residual
            x = self._on_strands(mixer, self._on_strands(norm, residual))
        hidden = self._on_strands(self.norm, x if residual is None else x + residual)
        weight = self.embedding.weight
        if self.complement is None:
            return F.linear(hidden, weight)
        given, opposite = hidden.chunk(2, dim=-1)
        logits = F.linear(given, weight)
        return logits + F.linear(opposite.flip(-1), weight[self.complement])

    def _embed(self, tokens: Tensor) -> Tensor:
        given = self.embedding(tokens)
        if self.complement is None:
            return given
        opposite = self.embedding(self.complement[tokens].flip(-1))
        return torch.cat([given, opposite.flip(-2, -1)], dim=-1)

    def _on_strands(self, layer: nn.Module, x: Tensor) -> Tensor:
        if self.complement is None:
            return layer(x)
        given, opposite = x.chunk(2, dim=-1)
        return torch.cat([layer(given), layer(opposite.flip(-2, -1)).flip(-2, -1)], dim=-1)


def _rms_norm(ours: Any) -> nn.RMSNorm:
    """torch's own norm with the weight of ours."""
    norm = nn.RMSNorm(len(ours.weight), eps=ours.eps)
    norm.weight = ours.weight
    return norm
