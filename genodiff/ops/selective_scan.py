"""The selective scan of Mamba, behind one function.

    dt_t = softplus(delta_t + delta_bias)
    h_t  = exp(dt_t A) h_{t-1} + dt_t u_t B_t        h: (b, d, n), zero before the first step
    y_t  = (C_t h_t + D u_t) silu(z_t)

Gu & Dao 2023 (arXiv:2312.00752), eq. 2 and algorithm 2, whose x is u. Tensors are channel-last.
"""

from jaxtyping import Float
from torch import Tensor

from genodiff.ops import _chunked, _mamba_ssm, _native, _reference, _triton
from genodiff.ops._choice import Candidate, Implementation, check_inputs, choose, compute_dtype


def selective_scan(
    u: Float[Tensor, "b l d"],
    delta: Float[Tensor, "b l d"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "b l n"],
    C: Float[Tensor, "b l n"],
    D: Float[Tensor, " d"] | None = None,
    z: Float[Tensor, "b l d"] | None = None,
    delta_bias: Float[Tensor, " d"] | None = None,
    *,
    delta_softplus: bool = True,
    reverse: bool = False,
    implementation: Implementation = "auto",
) -> Float[Tensor, "b l d"]:
    """Scan `u` with steps `delta`, inputs `B` to the state and outputs `C` from it.

    `D` adds a skip, `z` a gate, `delta_bias` a bias before the softplus; `delta_softplus=False`
    takes the steps as they are. With `reverse`, time runs from the last step to the first: a scan
    between two flips, without the flips. Half precision is computed in float32, y has u's dtype.

    "auto" takes mamba-ssm's kernel, else the one in Triton, on CUDA and the C kernel on CPU where
    they can run, "chunked" elsewhere; "reference" is the definition, for tests. Raises ValueError
    on shapes that do not fit each other, and UserError where a named implementation cannot run.
    """
    _check(u, delta, A, B, C, D, z, delta_bias)
    dtype = compute_dtype(u, delta, A, B, C, D, z, delta_bias)
    scan = choose(
        "selective_scan",
        implementation,
        {
            "mamba_ssm": Candidate(
                _mamba_ssm.selective_scan, _mamba_ssm.scan_obstacle(dtype, u.device, A.shape[1])
            ),
            "triton": Candidate(
                _triton.selective_scan,
                _triton.scan_obstacle(
                    dtype, u.device, A.shape[1], named=implementation == "triton"
                ),
            ),
            "native": Candidate(_native.selective_scan, _native.obstacle(dtype, u.device)),
            "chunked": Candidate(_chunked.selective_scan, None),
            "reference": Candidate(_reference.selective_scan, None),
        },
    )
    out_dtype = u.dtype
    # The kernels for CUDA read half precision themselves.
    if scan not in (_mamba_ssm.selective_scan, _triton.selective_scan):
        u, delta, A, B, C = (x.to(dtype) for x in (u, delta, A, B, C))
        D, z, delta_bias = (None if x is None else x.to(dtype) for x in (D, z, delta_bias))
    return scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse).to(out_dtype)


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    if u.ndim != 3 or A.ndim != 2:
        raise ValueError(
            f"u has shape {tuple(u.shape)} and A {tuple(A.shape)}, not (b, l, d) and (d, n); "
            "add a missing batch axis with u[None]"
        )
    (b, l, d), n = u.shape, A.shape[1]
    check_inputs(
        {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias},
        {
            **dict.fromkeys(("u", "delta", "z"), (b, l, d)),
            **dict.fromkeys(("B", "C"), (b, l, n)),
            **dict.fromkeys(("D", "delta_bias"), (d,)),
            "A": (d, n),
        },
        f"u {tuple(u.shape)} and A {tuple(A.shape)}",
    )
