"""Names of the hub: what is asked of its client, and how its refusals are told."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from genodiff.data.hub import hub_folder
from genodiff.errors import OutsideError, UserError


def test_the_folder_is_the_one_the_client_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **options: Any) -> str:
        asked.update(name=name, **options)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    found = hub_folder("a/b", key="judge", revision="main", files=("*.json",))
    assert found == tmp_path
    assert asked == {"name": "a/b", "revision": "main", "allow_patterns": ["*.json"]}


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            RepositoryNotFoundError("no", response=SimpleNamespace(headers={}, request=None)),  # pyright: ignore[reportArgumentType]
            UserError,
            "judge=a/b is no folder, and the Hugging Face hub has no such name at revision=x",
        ),
        (
            LocalEntryNotFoundError("offline\nmore"),
            OutsideError,
            r"judge=a/b at revision=x is no folder, .* cannot be reached \(offline\); try again",
        ),
    ],
)
def test_refusals_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], message: str
) -> None:
    def snapshot_download(name: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(kind, match=message):
        hub_folder("a/b", key="judge", revision="x", files=())


@pytest.mark.parametrize("name", ["", "./absent", "/absent", "~/absent", "a/b/c"])
def test_what_is_no_name_of_the_hub_is_not_asked_for(name: str) -> None:
    with pytest.raises(UserError, match=f"judge={name} is no folder"):
        hub_folder(name, key="judge", revision=None, files=())
