"""Build hook: compiles `genodiff/ops/native/*.c` for the wheel, where there is a C compiler.

The kernels are optional: without a compiler the build says so in one line, and the package is pure
Python with PyTorch's fallback. `python hatch_build.py` compiles in place, to work on the kernels.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path(__file__).parent / "genodiff" / "ops" / "native"
FLAGS = ["-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]


class CompilationError(Exception):
    """Why there are no native kernels, in one line."""


def variants() -> dict[str, list[str]]:
    """Library name -> flags: a build for each x86-64 level, or one for any other processor."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return {
            f"kernels_x86_64_v{level}.so": [f"-march=x86-64-v{level}", f"-DVW={width}"]
            for level, width in ((2, 4), (3, 8), (4, 16))
        }
    return {"kernels_generic.so": ["-DVW=4"]}


def compiler() -> list[str]:
    """The C compiler's command: $CC, else the first of cc, gcc and clang."""
    wanted = os.environ.get("CC")
    for command in [shlex.split(wanted)] if wanted else [["cc"], ["gcc"], ["clang"]]:
        if command and shutil.which(command[0]):
            return command
    raise CompilationError(f"no C compiler ({wanted or 'cc, gcc or clang'}) on PATH")


def compile_kernels(directory: Path = NATIVE) -> list[Path]:
    """Compile every variant into `directory`; raise CompilationError where that fails."""
    command = compiler()
    libraries = []
    for name, flags in variants().items():
        library = directory / name
        unfinished = directory / f".{name}.{os.getpid()}"
        sources = sorted(str(path) for path in NATIVE.glob("*.c"))
        run = [*command, *FLAGS, *flags, *sources, "-o", str(unfinished)]
        try:
            result = subprocess.run(run, capture_output=True, text=True)
            if result.returncode != 0:
                lines = result.stderr.strip().splitlines()
                reason = next((line for line in lines if "error" in line), "no reason given")
                raise CompilationError(f"{shlex.join(command)} failed on {name}: {reason}")
            unfinished.replace(library)
        finally:
            unfinished.unlink(missing_ok=True)
        libraries.append(library)
    return libraries


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        try:
            libraries = compile_kernels()
        except CompilationError as error:
            self.app.display_warning(f"{error}: genodiff goes without its C kernels")
            return
        platform_tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag}"
        build_data["artifacts"] += [str(path.relative_to(self.root)) for path in libraries]


if __name__ == "__main__":
    try:
        for built in compile_kernels():
            print(built)
    except CompilationError as error:
        sys.exit(f"{error}: genodiff goes without its C kernels")
