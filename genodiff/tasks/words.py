"""The words of a command line, `key=value`, as Hydra's grammar takes them.

That grammar knows lists, tables, sweeps and functions, and refuses or rereads what shells and file
systems allow in a name: a=b, a,b, ~/a, a#b, every letter beyond ASCII. Here a value is text as it
stands, unless the grammar reads it as something other than a sweep; `~/` is the home folder, as a
shell has it in `cp ~/a`, and not in `key=~/a`.
"""

import os
from collections.abc import Collection, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from genodiff.errors import UserError

_MULTIRUN = ("--multirun", "-m")
_OPTIONS = (
    *_MULTIRUN,
    *("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c"),
    *("--resolve", "--package", "-p", "--info", "-i", "--run", "-r", "--hydra-help"),
    *("--experimental-rerun", "--shell-completion", "-sc"),
)
"""Hydra's."""
_BEGIN_OTHERS = ("'", '"', "[", "{")
"""Quoted text, a list, a table."""


def as_hydra_reads(words: Sequence[str], text_keys: Collection[str]) -> list[str]:
    """The words, with those values quoted that are text. Words that are quoted already stay.

    `text_keys`: of these the value is text in any case, 2024 and 1e3 too; null is none.

    Raises UserError for an option that Hydra does not have, and for a list that it cannot read.
    """
    for word in words:
        if word.startswith("-") and word.partition("=")[0] not in _OPTIONS:
            key = word.lstrip("-").partition("=")[0] or "key"
            raise UserError(f"{word} is not key=value; write {key}=..., without dashes.")
    parser = OverridesParser.create()
    sweeps = any(word in _MULTIRUN for word in words)
    return [_readable(word, parser, text_keys, sweeps) for word in words]


def _readable(word: str, parser: OverridesParser, text_keys: Collection[str], sweeps: bool) -> str:
    key, equals, value = word.partition("=")
    if word.startswith("-") or not equals or value.startswith(("'", '"')):
        return word
    if value == "~" or value.startswith("~/"):
        value = os.path.expanduser(value)
    quoted = f"{key}={QuotedString(text=value, quote=Quote.single).with_quotes()}"
    try:
        read = parser.parse_override(f"{key}={value}")
    except HydraException as error:
        if value.startswith(_BEGIN_OTHERS):
            raise UserError(
                f"{word} cannot be read as a list or a table; put names with other signs than "
                "letters, digits and . / - _ in quotes, as in \"key=['a=b','c,d']\"."
            ) from error
        return quoted
    if read.is_sweep_override():
        return word if sweeps else quoted
    if key in text_keys and not isinstance(read.value(), str | list | dict | None):
        return quoted
    return f"{key}={value}"
