"""The C kernels as guests of a process: builds, threads, forks, floating-point modes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from genodiff.ops import _native, causal_conv1d, selective_scan
from tests.ops.implementations import needs_kernels
from tests.ops.inputs import (
    assert_all_close,
    changed,
    conv_inputs,
    output_and_gradients,
    scan_inputs,
    threads,
)

pytestmark = needs_kernels


def runnable_builds() -> list[str]:
    """The builds in place that this processor can run."""
    baseline = _native._open("kernels_x86_64_v2.so")
    if baseline is None:
        return ["kernels_generic.so"]
    return [f"kernels_x86_64_v{level}.so" for level in (2, 3, 4) if level <= baseline.cpu_level()]


@pytest.mark.parametrize("build", runnable_builds())
@pytest.mark.parametrize("d", [3, 150])
def test_every_build_gives_the_same_results(
    build: str, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = _native._open(build)
    assert library is not None
    for function, inputs in (
        (selective_scan, scan_inputs(2, 70, d, 6)),
        (causal_conv1d, conv_inputs(2, 70, d, 4)),
    ):
        expected = output_and_gradients(
            function, inputs, torch.float64, implementation="reference"
        )
        with monkeypatch.context() as patch:
            patch.setattr(_native, "library", lambda: library)
            actual = output_and_gradients(function, inputs, torch.float32, implementation="native")
        assert_all_close(actual, expected, 1e-5)


@pytest.mark.parametrize("build", runnable_builds())
def test_no_build_hides_a_nan(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit tricks of an exponential can turn some NaNs into finite numbers."""
    library = _native._open(build)
    monkeypatch.setattr(_native, "library", lambda: library)
    bits = torch.tensor([0x7FC00000, 0x7FC00001, 0x7FFFFFFF, 0x7F800001, -0x400000, -1])
    inputs = {k: x.float() for k, x in scan_inputs(1, 3, len(bits), 16).items()}
    inputs["delta"][0, 0] = bits.to(torch.int32).view(torch.float32)
    y = selective_scan(**inputs, implementation="native")
    assert y.isnan().all()
    assert causal_conv1d(y, inputs["A"][:, :4], implementation="native").isnan().all()


def test_there_is_no_library_where_none_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_native, "_DIRECTORY", tmp_path)
    assert _native.library.__wrapped__() is None
    (tmp_path / "kernels_generic.so").write_bytes(b"of another platform")
    assert _native.library.__wrapped__() is None


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, so that training is reproducible on another machine's number of cores."""
    monkeypatch.setattr(_native, "_WORTH_A_THREAD", 1)
    for function, inputs in (
        (selective_scan, scan_inputs(3, 100, 300, 4)),
        (causal_conv1d, conv_inputs(3, 100, 300, 4)),
    ):
        results = []
        for count in (1, 2, 5, 2):
            with threads(count):
                results.append(
                    output_and_gradients(function, inputs, torch.float32, implementation="native")
                )
        for other in results[1:]:
            assert all(torch.equal(results[0][name], other[name]) for name in other)


def test_a_fork_runs_its_own_threads() -> None:
    """A pool of the parent has no threads in the child: reusing it would wait for ever."""
    script = """
import os, torch
from genodiff.ops import _native, selective_scan
_native._WORTH_A_THREAD = 1
torch.manual_seed(0)
u, delta = torch.randn(2, 4, 50, 20).unbind()
B, C = torch.randn(2, 4, 50, 16).unbind()
A = -torch.rand(20, 16)
torch.set_num_threads(2)
expected = selective_scan(u, delta, A, B, C, implementation="native")
assert _native._pool.cache_info().currsize == 1
child = os.fork()
if child == 0:
    same = torch.equal(selective_scan(u, delta, A, B, C, implementation="native"), expected)
    os._exit(0 if same else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    run = [sys.executable, "-W", "ignore", "-c", script]
    root = Path(__file__).parents[2]
    result = subprocess.run(run, cwd=root, timeout=60, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_callers_floating_point_mode_is_left_alone() -> None:
    """The kernels flush denormals to zero in their own time only."""
    tiny = torch.full((4,), 1e-40)
    inputs = {k: x.float() for k, x in scan_inputs(1, 5, 4, 4).items()}
    selective_scan(**inputs, implementation="native")
    assert torch.equal(tiny * 1.0, tiny) and (tiny * 0.5 > 0).all()


def test_decaying_states_vanish_instead_of_becoming_denormal() -> None:
    """An impulse that decays by e^-1 a step falls below 2^-126 within 88 steps."""
    u = torch.zeros(1, 200, 1)
    u[0, 0] = 1
    one = torch.ones(1, 200, 1)
    y = selective_scan(u, one, -one[0, :1], one, one, delta_softplus=False).flatten()
    assert (y[:85] > 0).all() and (y[90:] == 0).all()


def test_the_kernels_are_differentiable_once() -> None:
    x, weight, _ = (v.float().requires_grad_() for v in conv_inputs(1, 5, 4, 4).values())
    y = causal_conv1d(x, weight, implementation="native")
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_activations_can_be_recomputed() -> None:
    """torch.utils.checkpoint, as a network of many layers uses it."""
    inputs = {k: x.float() for k, x in scan_inputs(1, 40, 20, 16).items()}
    gradients = []
    for recompute in (False, True):
        u = inputs["u"].clone().requires_grad_()

        def scan(u: torch.Tensor) -> torch.Tensor:
            return selective_scan(**changed(inputs, u=u), implementation="native")

        y = checkpoint(scan, u, use_reentrant=False) if recompute else scan(u)
        y.sum().backward()
        gradients.append(u.grad)
    assert torch.equal(gradients[0], gradients[1])
