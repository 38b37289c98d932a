"""The causal depthwise convolution in front of Mamba's scan, behind one function.

    s_t = bias + sum_j weight[:, j] x_{t - (width - 1) + j},   x = 0 before the first step

Every tensor is channel-last; the last tap is the current step, as in nn.Conv1d with left padding.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from genodiff.errors import UserError
from genodiff.ops import _chunked, _mamba_ssm, _native, _reference
from genodiff.ops._choice import Implementation, check_inputs, choose, compute_dtype


def causal_conv1d(
    x: Float[Tensor, "b l d"],
    weight: Float[Tensor, "d width"],
    bias: Float[Tensor, " d"] | None = None,
    *,
    activation: Literal["silu"] | None = "silu",
    reverse: bool = False,
    implementation: Implementation = "auto",
) -> Float[Tensor, "b l d"]:
    """Convolve each channel of `x` with its own taps, so that no output sees a later input; then apply SiLU.

    With `reverse` no output sees an earlier input: the convolution between two flips, without the flips. Half
    precision is computed in float32, and the result has x's dtype.

    The implementations go by the same names as those of `selective_scan`: "mamba_ssm" is the causal-conv1d package
    that mamba-ssm itself uses, "chunked" is PyTorch's own convolution.
    """
    if activation not in ("silu", None):
        raise UserError(f"activation={activation!r} is unknown; use 'silu' or None")
    if x.ndim != 3 or weight.ndim != 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}; they must be (b, l, d) and (d, width): "
            "squeeze the middle axis of an nn.Conv1d's weight"
        )
    d = x.shape[2]
    check_inputs(
        {"x": x, "weight": weight, "bias": bias},
        {"x": tuple(x.shape), "weight": (d, weight.shape[1]), "bias": (d,)},
        f"x {tuple(x.shape)}",
    )
    dtype = compute_dtype(x, weight, bias)
    chosen = choose(
        "causal_conv1d",
        implementation,
        {
            "mamba_ssm": _mamba_ssm.conv_obstacle(dtype, x.device, weight.shape[1]),
            "native": _native.conv_obstacle(dtype, x.device, weight.shape[1]),
            "chunked": None,
            "reference": None,
        },
    )
    if chosen == "mamba_ssm":
        return _mamba_ssm.causal_conv1d(x, weight, bias, activation, reverse)
    inputs = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if chosen == "native":
        y = _native.causal_conv1d(*inputs, activation, reverse)
    elif chosen == "chunked":
        y = _chunked.causal_conv1d(*inputs, activation, reverse)
    else:
        y = _reference.causal_conv1d(*inputs, activation, reverse)
    return y.to(x.dtype)
