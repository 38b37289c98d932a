"""genodiff's commands, for benchmarks that are made of whole runs and go on where they stopped."""

import json
import subprocess
import sys
from pathlib import Path

import yaml


def genodiff(task: str, *words: str) -> None:
    """Runs a command, its log on stderr; ends with its exit code where it fails."""
    done = subprocess.run([sys.executable, "-m", "genodiff", task, *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def train(run: Path, words: list[str]) -> None:
    """Trains, or goes on, unless it is done."""
    if (run / "config.yaml").is_file():
        config = yaml.safe_load((run / "config.yaml").read_text())
        sessions = json.loads((run / "manifest.json").read_text())["sessions"]
        if sessions and sessions[-1]["steps"] == config["trainer"]["max_steps"]:
            return
        genodiff("train", f"resume={run}")
    else:
        genodiff("train", *words, f"out={run}")
