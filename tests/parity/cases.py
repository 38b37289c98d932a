"""Golden cases: numbers computed by the published implementations, read by way of a manifest.

A folder holds `manifest.json` and the files that it lists. A *case* is one `.npz` or one `.json`
of inputs and outputs; its *companions* are the files of the same kind that belong to it (weights,
the arguments of a configuration class, a toy genome). Nothing here names a file: other folders of
the same kinds run as they are.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"

# Kinds that a later part of the project brings.
LATER_KINDS = {
    "hyena_interval": "the HyenaDNA window reader",
}


@dataclass(frozen=True)
class Case:
    """One golden case.

    `arrays` holds the arrays of an `.npz` as tensors of the stored dtype (float32, int64), `table`
    the contents of a `.json`, `config` the scalar settings of the run that made them.
    """

    folder: Path
    entry: dict[str, Any]
    companions: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    @property
    def file(self) -> str:
        return self.entry["file"]

    @property
    def kind(self) -> str:
        return self.entry["kind"]

    @property
    def config(self) -> dict[str, Any]:
        return self.entry["config"]

    @property
    def path(self) -> Path:
        return self.folder / self.file

    @cached_property
    def arrays(self) -> dict[str, Tensor]:
        with np.load(self.path) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}

    @cached_property
    def table(self) -> Any:
        return json.loads(self.path.read_text(encoding="utf-8"))

    def companion(self, ending: str) -> Path:
        """The companion whose name ends so, e.g. `.safetensors` or `_config.json`."""
        found = [entry["file"] for entry in self.companions if entry["file"].endswith(ending)]
        if len(found) != 1:
            raise LookupError(
                f"{self.file} has {len(found)} companions *{ending}, not one: {found}"
            )
        return self.folder / found[0]

    def digest_errors(self) -> list[str]:
        """The files of this case whose SHA-256 is not the manifest's."""
        return [
            entry["file"]
            for entry in (self.entry, *self.companions)
            if hashlib.sha256((self.folder / entry["file"]).read_bytes()).hexdigest()
            != entry["sha256"]
        ]


def read_cases(folder: Path) -> list[Case]:
    """Every case of `folder/manifest.json`, with its companions, in the manifest's order."""
    entries = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    stems = {Path(entry["file"]).stem for entry in entries if entry["file"].endswith(".npz")}
    mains = [entry for entry in entries if _is_main(entry["file"], stems)]
    owners = {entry["file"]: _owners(entry, mains) for entry in entries if entry not in mains}
    return [
        Case(folder, main, tuple(e for e in entries if main["file"] in owners.get(e["file"], ())))
        for main in mains
    ]


def reason_for_later(case: Case) -> str | None:
    """Why this case is not run yet, or None if it is."""
    if case.kind in LATER_KINDS:
        return f"{case.kind}: {LATER_KINDS[case.kind]} comes later"
    return None


def _is_main(file: str, npz_stems: set[str]) -> bool:
    path = Path(file)
    is_config = path.name.removesuffix("_config.json") in npz_stems
    return path.suffix == ".npz" or (path.suffix == ".json" and not is_config)


def _owners(entry: dict[str, Any], mains: Sequence[dict[str, Any]]) -> list[str]:
    """The cases of a companion: the longest stem that begins its name, else all of its kind."""
    same_kind = [main["file"] for main in mains if main["kind"] == entry["kind"]]
    stems = [file for file in same_kind if entry["file"].startswith(Path(file).stem)]
    owners = [max(stems, key=len)] if stems else same_kind
    if not owners:
        raise LookupError(
            f"{entry['file']} (kind {entry['kind']}) belongs to no case of the manifest."
        )
    return owners
