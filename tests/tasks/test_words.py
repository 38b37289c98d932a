"""Values of the command line that Hydra's grammar refuses or reads as something else."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from genodiff.errors import UserError
from genodiff.tasks.words import as_hydra_reads


def read(word: str, *text_keys: str) -> object:
    """What Hydra makes of a word."""
    (readable,) = as_hydra_reads([word], text_keys)
    assert as_hydra_reads([readable], text_keys) == [readable]  # started processes repeat it
    override = OverridesParser.create().parse_override(readable)
    assert not override.is_sweep_override()
    return override.value()


@pytest.mark.parametrize(
    "name",
    ["a=b", "a,b", "äö/ü", "x(1)", "a#b", "a&b", "it's", "a b", "50%", "run!", "a'b\\", "{a"],
)
def test_a_name_is_text_whatever_is_in_it(name: str) -> None:
    if not name.startswith("{"):
        assert read(f"out={name}") == name
    assert read(f"out=x{name}") == f"x{name}"


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_no_name_behind_a_slash_is_anything_else(name: str) -> None:
    assert read(f"out=/{name}".rstrip(), "out") == f"/{name}".rstrip()


def test_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("data.fasta=~/g.fa") == f"{tmp_path}/g.fa"
    assert read("out=a~b") == "a~b"


def test_numbers_stay_numbers_but_for_keys_of_text() -> None:
    assert (read("steps=10", "out"), read("lr=1e-3", "out")) == (10, 0.001)
    assert (read("out=2024", "out"), read("out=1e3", "out")) == ("2024", "1e3")
    assert (read("out=true", "out"), read("out=null", "out")) == ("true", None)


def test_lists_tables_and_quoted_text_stay() -> None:
    assert read("gc=[0.4,0.6]") == [0.4, 0.6]
    assert read("x={a:1}") == {"a": 1}
    assert read("out='a=b'", "out") == read('out="a=b"', "out") == "a=b"


def test_a_comma_is_a_sweep_with_multirun_alone() -> None:
    assert as_hydra_reads(["out=a,b", "-m"], ["out"]) == ["out=a,b", "-m"]
    assert as_hydra_reads(["out=a,b"], ["out"]) == ["out='a,b'"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--out=x", r"--out=x is not key=value; write out=\.\.\., without dashes"),
        ("-o", r"-o is not key=value; write o=\.\.\."),
        ("forbid=[a=b]", "cannot be read as a list or a table; put names"),
        ("x={a", "cannot be read as a list or a table"),
    ],
)
def test_what_cannot_be_read_is_one_line(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        as_hydra_reads([word], [])
    assert "\n" not in str(caught.value)
