"""The causal depthwise convolution in front of Mamba's scan, behind one function.

    s_t = bias + sum_j weight[:, j] x_{t - (width - 1) + j}        x is 0 before the first step

Tensors are channel-last. The last tap is the current step, as in nn.Conv1d with left padding.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from genodiff.errors import UserError
from genodiff.ops import _chunked, _mamba_ssm, _native, _reference, _triton
from genodiff.ops._choice import Candidate, Implementation, check_inputs, choose, compute_dtype


def causal_conv1d(
    x: Float[Tensor, "b l d"],
    weight: Float[Tensor, "d width"],
    bias: Float[Tensor, " d"] | None = None,
    *,
    activation: Literal["silu"] | None = "silu",
    reverse: bool = False,
    implementation: Implementation = "auto",
) -> Float[Tensor, "b l d"]:
    """Convolve each channel of `x` with its own taps, so that no output sees a later input.

    SiLU follows unless `activation` is None. With `reverse` no output sees an earlier input: the
    convolution between two flips, without the flips. Half precision is computed in float32, the
    result has x's dtype.

    Implementations have the names of `selective_scan`'s, so that one name serves both: "mamba_ssm"
    is the causal-conv1d package that mamba-ssm itself uses, "chunked" is PyTorch's convolution.
    Raises ValueError on shapes that do not fit each other, and UserError on an unknown activation
    and where a named implementation cannot run.
    """
    _check(x, weight, bias, activation)
    dtype = compute_dtype(x, weight, bias)
    convolve = choose(
        "causal_conv1d",
        implementation,
        {
            "mamba_ssm": Candidate(
                _mamba_ssm.causal_conv1d,
                _mamba_ssm.conv_obstacle(dtype, x.device, weight.shape[1]),
            ),
            "triton": Candidate(
                _triton.causal_conv1d,
                _triton.conv_obstacle(
                    dtype, x.device, weight.shape[1], named=implementation == "triton"
                ),
            ),
            "native": Candidate(_native.causal_conv1d, _native.obstacle(dtype, x.device)),
            "chunked": Candidate(_chunked.causal_conv1d, None),
            "reference": Candidate(_reference.causal_conv1d, None),
        },
    )
    out_dtype = x.dtype
    # The kernels for CUDA read half precision themselves.
    if convolve not in (_mamba_ssm.causal_conv1d, _triton.causal_conv1d):
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return convolve(x, weight, bias, activation == "silu", reverse).to(out_dtype)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> None:
    if activation not in ("silu", None):
        raise UserError(f"activation={activation!r} is unknown; use 'silu' or None")
    if x.ndim != 3 or weight.ndim != 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}, not (b, l, d) and "
            "(d, width); squeeze the middle axis of an nn.Conv1d's weight"
        )
    d = x.shape[2]
    check_inputs(
        {"x": x, "weight": weight, "bias": bias},
        {"x": tuple(x.shape), "weight": (d, weight.shape[1]), "bias": (d,)},
        f"x {tuple(x.shape)}",
    )
