"""Folders of the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

from genodiff.errors import OutsideError, UserError


def hub_folder(name: str, *, key: str, revision: str | None, files: Sequence[str]) -> Path:
    """The folder into which the hub's client fetched the files of `name`, or kept them.

    Args:
        name: a name of the hub, such as `gpt2`.
        key: what the user calls it, for messages.
        revision: a branch, a tag or a commit.
        files: patterns of the files that are wanted.

    Raises:
        UserError: there is no such name or revision, or the hub's client is missing.
        OutsideError: the hub cannot be reached, and nothing was kept of it.
    """
    if not name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{key}={name} is no folder; give one, or a name of the hub.")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise UserError(
            f"{key}={name} is no folder, and names of the Hugging Face hub need its client; "
            "pip install 'genodiff[text]'."
        ) from error
    at = "" if revision is None else f" at revision={revision}"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{key}={name} is no folder, and the Hugging Face hub has no such name{at}; give a "
            "folder, or a name such as gpt2."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        cause = error.__cause__ or error
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:160]
        raise OutsideError(
            f"{key}={name}{at} is no folder, and the Hugging Face hub cannot be reached "
            f"({reason}); try again, or give a folder with its files."
        ) from error
