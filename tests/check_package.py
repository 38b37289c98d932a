"""Packaging check, run by `make package`: wheel -> fresh environment -> a task from a foreign
directory."""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKS = (
    ["genodiff", "--version"],
    ["genodiff", "--help"],
    [
        *(
            "genodiff",
            "train",
            "data=synthetic",
            "data.train_records=2",
            "data.record_length=1024",
            "data.length=64",
            "data.cache_dir=cache",
        ),
        *("backbone.d_model=16", "backbone.n_layers=1", "trainer.max_steps=4", "device=cpu"),
        *("trainer.validate_sequences=8", "out=run"),
    ],
    ["genodiff", "sample", "checkpoint=run", "num_samples=2", "length=64", "steps=8", "out=a.fa"],
    ["genodiff", "convert", "source=run", "layout=caduceus", "out=published"],
    ["genodiff", "convert", "source=published", "out=model"],
)


def main() -> None:
    """Raises CalledProcessError at the first step that fails."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run([sys.executable, "-m", "build", "--wheel", "--outdir", str(work), str(ROOT)], ROOT)
        (wheel,) = work.glob("*.whl")
        print(f"built {wheel.name}", flush=True)
        # The dependencies come from this environment (gigabytes otherwise); the package itself
        # must not.
        venv.create(work / "env", with_pip=True, system_site_packages=False)
        site = next((work / "env").glob("lib/python*/site-packages"))
        own = next(Path(p) for p in sys.path if p.endswith("site-packages"))
        (site / "dependencies.pth").write_text(f"{own}\n")
        binary = work / "env" / "bin"
        install = ["pip", "install", "-q", "--no-deps", "--force-reinstall", str(wheel)]
        run([str(binary / "python"), "-m", *install], work)
        elsewhere = work / "elsewhere"
        elsewhere.mkdir()
        for command in CHECKS:
            run([str(binary / command[0]), *command[1:]], elsewhere)
        origin = "import genodiff, genodiff.config as c; print(genodiff.__file__, c.config_dir())"
        shown = run([str(binary / "python"), "-c", origin], elsewhere)
        if str(site) not in shown.split()[0] or str(site) not in shown.split()[1]:
            raise SystemExit(f"the check ran another genodiff than the wheel's: {shown}")
    print("1 passed, 0 failed")


def run(command: list[str], folder: Path) -> str:
    """Runs `command` in `folder`, shows it, and gives back its standard output."""
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    main()
