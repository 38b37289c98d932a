"""What the benchmarks share: interleaved timing, peak memory, and what they ran on."""

import argparse
import importlib.metadata
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from genodiff.ops import _native

Key = TypeVar("Key", bound=Hashable)
PACKAGES = ("genodiff", "torch", "numpy", "mambapy", "mamba-ssm", "causal-conv1d", "triton")


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The command line that the benchmarks of speed have in common."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


def median_seconds(
    functions: Mapping[Key, Callable[[], object]],
    device: torch.device,
    *,
    repeats: int,
    seconds: float,
) -> dict[Key, float]:
    """Median time of each function over rounds, every round in a new random order.

    The first round warms up and only counts where it is the only one: a function that has taken
    `seconds` in all sits out the rounds that are left.
    """
    order = list(functions)
    times: dict[Key, list[float]] = {key: [] for key in order}
    shuffle = random.Random(0).shuffle
    for _ in range(repeats + 1):
        shuffle(order)
        for key in order:
            if sum(times[key]) <= seconds:
                times[key].append(seconds_of(functions[key], device))
    return {key: statistics.median(taken[1:] or taken) for key, taken in times.items()}


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """One call: between CUDA events; on CPU the process's own time on one thread, which other
    users of the machine disturb least, and wall time on several."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    function()
    return clock() - start


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """The most memory torch's allocator had handed out during a call, above what it had before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it writes into our tables
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = recorded.profiler.kineto_results.events()
    changes: list[tuple[int, int]] = sorted(
        (event.start_ns(), event.nbytes())  # pyright: ignore[reportAttributeAccessIssue] (in C++)
        for event in events
        if event.name() == "[memory]"
    )
    total = peak = 0
    for _, change in changes:
        total += change
        peak = max(peak, total)
    return peak


def free_bytes(device: torch.device) -> int:
    """Memory that a new tensor can use."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/meminfo has no line MemAvailable; run this on Linux")


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware, versions and clock, as they go into every report."""
    library = _native.library()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "cpu_library": None if library is None else Path(library._name).name,
        "clock": "CUDA events"
        if device.type == "cuda"
        else ("process CPU time" if torch.get_num_threads() == 1 else "wall time"),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()}
        | {name: version for name in PACKAGES if (version := installed(name)) is not None},
    }


def installed(package: str) -> str | None:
    """The version of a package, or None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The model's name, and its vector sets as torch sees them."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
