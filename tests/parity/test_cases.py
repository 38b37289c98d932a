"""The reading of a folder of golden cases."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tests.parity.cases import Case, read_cases, reason_for_later


def write_folder(folder: Path, kinds: dict[str, str]) -> None:
    """A folder of the named files, each of its kind, with a manifest."""
    entries = []
    for name, kind in kinds.items():
        path = folder / name
        if path.suffix == ".npz":
            np.savez(path, x=np.arange(3))
        else:
            path.write_text("{}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append({"file": name, "kind": kind, "config": {}, "sha256": digest})
    (folder / "manifest.json").write_text(json.dumps({"files": entries}))


def test_companions_follow_their_stems(tmp_path: Path) -> None:
    write_folder(
        tmp_path,
        {
            "net.npz": "net",
            "net.safetensors": "net",
            "net_config.json": "net",
            "net_wide.npz": "net",
            "net_wide.safetensors": "net",
            "net_wide_config.json": "net",
            "table.json": "table",
            "toy.fa": "table",
        },
    )
    cases = {case.file: case for case in read_cases(tmp_path)}
    assert list(cases) == ["net.npz", "net_wide.npz", "table.json"]
    assert cases["net.npz"].companion("_config.json") == tmp_path / "net_config.json"
    assert cases["net.npz"].companion(".safetensors") == tmp_path / "net.safetensors"
    assert cases["net_wide.npz"].companion(".safetensors") == tmp_path / "net_wide.safetensors"
    assert cases["table.json"].companion(".fa") == tmp_path / "toy.fa"
    assert cases["table.json"].table == {}
    assert cases["net.npz"].arrays["x"].tolist() == [0, 1, 2]
    with pytest.raises(LookupError, match=r"net\.npz has 0 companions \*\.bed"):
        cases["net.npz"].companion(".bed")


def test_a_file_that_belongs_to_no_case_is_an_error(tmp_path: Path) -> None:
    write_folder(tmp_path, {"net.safetensors": "net", "other.npz": "other"})
    with pytest.raises(LookupError, match=r"net\.safetensors \(kind net\) belongs to no case"):
        read_cases(tmp_path)


def test_a_changed_file_is_found_by_its_digest(tmp_path: Path) -> None:
    write_folder(tmp_path, {"net.npz": "net", "net.safetensors": "net"})
    (case,) = read_cases(tmp_path)
    assert case.digest_errors() == []
    (tmp_path / "net.safetensors").write_text("changed")
    assert case.digest_errors() == ["net.safetensors"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("hyena_interval", "hyena_interval: the HyenaDNA window reader comes later"),
        ("mdlm_loss", None),
        ("unheard_of", None),
    ],
)
def test_only_listed_kinds_wait(kind: str, reason: str | None) -> None:
    case = Case(Path(), {"file": "x.npz", "kind": kind, "config": {}})
    assert reason_for_later(case) == reason
