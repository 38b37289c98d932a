"""From config nodes to objects: names, types, and what one part learns from another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from genodiff.data import DnaTokenizer, TokenIds
from genodiff.diffusion import LogLinear
from genodiff.errors import UserError
from genodiff.tasks.build import (
    build,
    check_arguments,
    fits,
    select_device,
    told_by,
    with_absolute_paths,
)


def test_a_node_becomes_the_object_it_names() -> None:
    built = build({"_target_": "genodiff.diffusion.LogLinear", "eps": 0.25}, where="schedule")
    assert isinstance(built, LogLinear)
    assert built.alpha(torch.ones(())) == 0.25


def test_context_reaches_whoever_declares_it_and_a_given_value_wins() -> None:
    node = {"_target_": "genodiff.diffusion.Subs"}
    built = build(node, where="parameterization", vocab_size=5, mask_id=4, complement=(1, 0))
    assert built.mask_id == 4
    assert (
        build({**node, "mask_id": 2}, where="parameterization", vocab_size=5, mask_id=4).mask_id
        == 2
    )


@pytest.mark.parametrize(
    ("tokenizer", "options", "unseen_id"),
    [
        (DnaTokenizer(), {}, 4),
        (DnaTokenizer(), {"sees_padding": True}, None),
        (TokenIds(12, mask_id=3), {}, None),  # its padding is the mask, which has to be seen
    ],
)
def test_a_network_learns_which_token_it_is_not_to_see(
    tokenizer: DnaTokenizer | TokenIds, options: dict[str, bool], unseen_id: int | None
) -> None:
    trunk = {"_target_": "genodiff.backbones.Caduceus", "d_model": 8, "n_layers": 1, **options}
    node = {
        "_target_": "genodiff.backbones.ReverseComplementEquivariant",
        **{"trunk": trunk, "complement": DnaTokenizer.complement},
    }
    network = build(node, where="backbone", **told_by(tokenizer))
    assert network.trunk.unseen_id == unseen_id


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"_target_": "genodiff.diffusion.LogLinear", "epz": 1},
            r"unknown key s\.epz=; LogLinear takes eps",
        ),
        ({"_target_": "genodiff.diffusion.LogLinear", "eps": "a"}, r"s\.eps=a is not a number"),
        ({"_target_": "genodiff.diffusion.Polynomial", "power": "???"}, r"s\.power= is required"),
        ({"_target_": "os.system", "command": "true"}, "outside genodiff"),
        ({"_target_": "genodiff.diffusion.Nonsense"}, "does not exist"),
        ({}, "has no _target_"),
    ],
)
def test_a_wrong_node_is_one_clear_line(node: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(node, where="s")
    assert "\n" not in str(caught.value)


def test_a_missing_argument_is_named() -> None:
    def run(*, checkpoint: str) -> None: ...

    with pytest.raises(UserError, match="checkpoint= is required by run"):
        check_arguments(run, {}, where="")


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (float("nan"), float, False),
        (float("inf"), float | None, False),
        (None, int | None, True),
        (None, int, False),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        ([1, 2.5], Sequence[float], True),
        ([1, "x"], Sequence[float], False),
        ("12", Sequence[int], False),
        ("yes", bool, False),
    ],
)
def test_values_fit_their_annotations(value: Any, annotation: Any, expected: bool) -> None:
    assert fits(value, annotation) is expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_asking_for_a_gpu_that_is_not_there_says_so() -> None:
    with pytest.raises(UserError, match="device=cuda, but torch sees no CUDA device"):
        select_device("cuda")
    assert select_device("auto") == torch.device("cpu")


def test_data_that_are_kept_can_be_built_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words").mkdir()
    node = {
        "_target_": "genodiff.data.text_data",
        "train": ["a.txt", "/b.txt"],
        "valid": "c.txt",
        "test": None,
        "tokenizer": "words",
        "length": 8,
    }
    assert with_absolute_paths(node) == {
        **node,
        "train": [str(tmp_path / "a.txt"), "/b.txt"],
        "valid": str(tmp_path / "c.txt"),
        "tokenizer": str(tmp_path / "words"),
    }
    assert with_absolute_paths({**node, "tokenizer": "gpt2"})["tokenizer"] == "gpt2"
