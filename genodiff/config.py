"""Where the YAML files live: the checkout's `configs/`, or the copy the wheel carries."""

from pathlib import Path


def config_dir() -> Path:
    """Absolute path of the folder of Hydra configs; the installed copy wins over the
    checkout's."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "configs", package.parent / "configs"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"no configs/ in {package} or beside it; reinstall genodiff.")
