"""The build hook: what it compiles, and that it is only ever a nicety."""

import ctypes
import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from genodiff.ops import _native, selective_scan
from tests.ops.inputs import scan_inputs

pytest.importorskip("hatchling", reason="the build back end is not installed")

ROOT = Path(__file__).parents[2]
HAS_COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))


@pytest.fixture
def hatch_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_hook(hatch_build: ModuleType, target: str = "wheel") -> dict[str, Any]:
    """The build data after the hook, which starts out as hatchling's."""
    data: dict[str, Any] = {"pure_python": True, "artifacts": [], "infer_tag": False}
    metadata: Any = SimpleNamespace()
    hook = hatch_build.CustomBuildHook(str(ROOT), {}, None, metadata, "", target)
    hook.initialize("standard", data)
    return data


@pytest.mark.parametrize("cc", ["/no/such/compiler", "false"])
def test_without_a_compiler_the_build_goes_on_with_one_line(
    cc: str,
    hatch_build: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CC", cc)
    assert run_hook(hatch_build) == {"pure_python": True, "artifacts": [], "infer_tag": False}
    out, err = capfd.readouterr()
    assert len((out + err).splitlines()) == 1
    assert cc in err and "genodiff goes without its C kernels" in err


def test_a_wheel_with_kernels_is_of_its_platform(
    hatch_build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = hatch_build.NATIVE / "kernels_generic.so"
    monkeypatch.setattr(hatch_build, "compile_kernels", lambda: [library])
    data = run_hook(hatch_build)
    assert data["artifacts"] == ["genodiff/ops/native/kernels_generic.so"]
    assert data["pure_python"] is False
    assert data["tag"].startswith("py3-none-") and data["tag"] != "py3-none-any"


def test_a_source_distribution_holds_no_kernels(hatch_build: ModuleType) -> None:
    assert run_hook(hatch_build, target="sdist")["artifacts"] == []


@pytest.mark.skipif(not HAS_COMPILER, reason="no C compiler")
def test_the_sources_compile_for_any_processor(
    hatch_build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hatch_build, "variants", lambda: {"kernels_generic.so": ["-DVW=4"]})
    monkeypatch.setattr(hatch_build, "FLAGS", ["-O0", "-Wall", "-Werror", *hatch_build.FLAGS[2:]])
    (library,) = hatch_build.compile_kernels(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kernels_generic.so"]
    loaded = ctypes.CDLL(str(library))
    monkeypatch.setattr(_native, "library", lambda: loaded)
    inputs = {k: x.float() for k, x in scan_inputs(1, 40, 9, 3).items()}
    y = selective_scan(**inputs, implementation="native")
    expected = selective_scan(**inputs, implementation="reference")
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


def test_a_failed_compilation_leaves_nothing_behind(
    hatch_build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", f"{sys.executable} -c exit(1)")
    with pytest.raises(hatch_build.CompilationError, match="failed on kernels_"):
        hatch_build.compile_kernels(tmp_path)
    assert list(tmp_path.iterdir()) == []
