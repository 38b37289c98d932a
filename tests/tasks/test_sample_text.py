"""Samples of text: templates, and the files they are written to."""

import json
from pathlib import Path
from typing import Any

import pytest

from genodiff.data import CharacterTokenizer, read_texts
from genodiff.tasks.formulation import LEFT_TO_RIGHT, SUBS
from genodiff.tasks.model import build_model, save_model
from tests.tasks.conftest import Genodiff

FEW = ("device=cpu", "num_samples=3", "steps=4")


def save(folder: str, **changes: Any) -> str:
    """A model of bytes with fresh weights, to which all bytes are alike; as `checkpoint=`."""
    description = {
        "backbone": {
            **{"_target_": "genodiff.backbones.Transformer", "d_model": 16, "n_layers": 1},
            **{"n_heads": 2, "cond_dim": 8, "dropout": 0.0},
        },
        "schedule": {"_target_": "genodiff.diffusion.LogLinear", "eps": 1e-3},
        **SUBS,
        "time_conditioning": False,
        "tokenizer": {"_target_": "genodiff.data.ByteTokenizer"},
        **changes,
    }
    save_model(build_model(description), Path(folder))
    return f"checkpoint={folder}"


def save_left_to_right(folder: str, **changes: Any) -> str:
    backbone = {
        **{"_target_": "genodiff.backbones.Transformer", "d_model": 16, "n_layers": 1},
        **{"n_heads": 2, "cond_dim": None, "dropout": 0.0, "causal": True},
    }
    return save(folder, **{"backbone": backbone, **LEFT_TO_RIGHT, **changes})


def test_samples_are_lines_or_json_with_a_report_of_how_they_were_drawn(
    genodiff: Genodiff,
) -> None:
    model = save("model")
    # Bytes are all alike, so backslashes, line breaks and what is not UTF-8 come along.
    words = (model, "device=cpu", "num_samples=40", "length=100", "steps=2", "seed=2")
    for out in ("a.txt", "b.jsonl"):
        outcome = genodiff("sample", *words, f"out={out}", "temperature=0.9")
        assert outcome.code == 0, outcome.stderr
    texts = read_texts(Path("a.txt"))
    assert len(texts) == 40 and texts == read_texts(Path("b.jsonl"))
    assert any("\n" in text for text in texts) and any("\\" in text for text in texts)
    rows = [json.loads(line) for line in Path("b.jsonl").read_text().split("\n")[:-1]]
    assert all(len(row["ids"]) == 100 and max(row["ids"]) < 256 for row in rows)
    assert bytes(rows[0]["ids"]).decode(errors="replace") == texts[0]
    outcome = genodiff("sample", *words, "out=-", "temperature=0.9")
    assert outcome.stdout == Path("a.txt").read_bytes().decode()
    report = json.loads(Path("a.json").read_text())
    assert {
        name: report[name] for name in ("steps", "precision", "nucleus", "seed", "length")
    } == {**{"steps": 2, "precision": "float64", "nucleus": 1.0, "seed": 2, "length": 100}}
    assert report["sampler"]["name"] == "Ancestral" and report["temperature"] == 0.9
    assert 0 < report["network_evaluations"] <= 80 and report["seconds"] > 0
    assert report["checkpoint"] == "model" and report["num_samples"] == 40


def test_the_report_has_the_steps_of_a_sampler_within_a_sampler_and_none_of_one_without(
    genodiff: Genodiff,
) -> None:
    model = save("model")
    words = (model, "device=cpu", "num_samples=1", "length=4")
    for name, more, steps in (
        ("default", (), 256),
        ("windows", ("window=2", "steps=3"), 3),
        ("hitting", ("sampler=first_hitting",), None),
    ):
        outcome = genodiff("sample", *words, *more, f"out={name}.txt")
        assert outcome.code == 0, outcome.stderr
        assert json.loads(Path(f"{name}.json").read_text())["steps"] == steps


@pytest.mark.parametrize("sampler", ["ancestral", "confidence", "remasking"])
def test_a_template_stays_and_its_masks_are_filled(genodiff: Genodiff, sampler: str) -> None:
    words = (save("model"), *FEW, f"sampler={sampler}", "out=a.jsonl", "nucleus=0.99")
    outcome = genodiff("sample", *words, "template='[MASK]The [MASK*3] fox,[MASK*10]\n ö [MASK]'")
    assert outcome.code == 0, outcome.stderr
    rows = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    given = (b"The ", b" fox,", "\n ö ".encode())
    for row in rows:
        ids = bytes(row["ids"])
        assert len(ids) == 1 + 4 + 3 + 5 + 10 + 5 + 1
        assert (ids[1:5], ids[8:13], ids[23:-1]) == given
    assert json.loads(Path("a.json").read_text())["length"] == len(rows[0]["ids"])
    assert len({tuple(row["ids"]) for row in rows}) == 3


def test_a_template_comes_from_a_file_and_in_windows(genodiff: Genodiff) -> None:
    Path("letter.txt").write_text("Dear 'X', [MASK*20]\nYours,\n")
    words = (save("model"), *FEW, "template=@letter.txt", "window=16", "stride=8", "out=a.jsonl")
    outcome = genodiff("sample", *words)
    assert outcome.code == 0, outcome.stderr
    for line in Path("a.jsonl").read_text().splitlines():
        ids = bytes(json.loads(line)["ids"])
        assert ids[:10] == b"Dear 'X', " and ids[30:] == b"\nYours,"


def test_a_model_from_left_to_right_fills_what_comes_last(genodiff: Genodiff) -> None:
    words = (save_left_to_right("model"), "device=cpu", "num_samples=2", "out=a.jsonl")
    outcome = genodiff("sample", *words, "template='Once[MASK*5]'")
    assert outcome.code == 0, outcome.stderr
    assert all(text.startswith("Once") for text in read_texts(Path("a.jsonl")))
    outcome = genodiff("sample", *words, "template='Once[MASK*5]end'", "overwrite=true")
    assert outcome.code == 2
    assert "gives text behind a mask, which a CausalModel does not see" in outcome.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("template='x[MASK]'", "length=9"), "length=9 beside template="),
        (("template='x[MASK]'", "prompt=a"), "prompt=a beside template="),
        (("template=nothing",), "template='nothing' has nothing to draw; write"),
        (("template=@absent.txt",), "template=@absent.txt cannot be read"),
        (("length=0",), "length=0 must be at least 1"),
        (("length=9999999999",), "9,999,999,999 tokens cannot be drawn; use 1,000,000,000"),
        (("template='x[MASK*99999999999999999999]'",), "99,999 tokens cannot be drawn; use"),
        (("length=4", "prompt=hello"), "prompt='hello' has to be shorter than length=4"),
    ],
)
def test_bad_templates_are_refused(
    genodiff: Genodiff, words: tuple[str, ...], message: str
) -> None:
    outcome = genodiff("sample", save("model"), *FEW, *words, "out=a.txt")
    assert outcome.code == 2 and outcome.stderr.count("\n") == 1
    assert message in outcome.stderr
    assert not Path("a.txt").exists()


def test_a_template_of_what_the_model_cannot_draw_is_refused(
    genodiff: Genodiff, trained: str
) -> None:
    words = (f"checkpoint={trained}", *FEW, "out=a.fa")
    outcome = genodiff("sample", *words, "template='ACGN[MASK]'")
    assert outcome.code == 2 and "template: 'ACGN' is not of what the model" in outcome.stderr
    outcome = genodiff("sample", *words, "template='ACG[MASK*4]ACG'")
    assert outcome.code == 0, outcome.stderr
    assert Path("a.fa").read_text().count("\nACG") == 3


def test_a_model_that_is_given_the_first_token_begins_with_bos(genodiff: Genodiff) -> None:
    given = {**LEFT_TO_RIGHT["denoiser"], "first_is_given": True}
    characters = {"_target_": "genodiff.data.CharacterTokenizer"}
    model = save_left_to_right("model", denoiser=given, tokenizer=characters)
    outcome = genodiff("sample", model, "device=cpu", "num_samples=2", "length=4", "out=a.jsonl")
    assert outcome.code == 0, outcome.stderr
    rows = [json.loads(line)["ids"] for line in Path("a.jsonl").read_text().splitlines()]
    assert [row[0] for row in rows] == [CharacterTokenizer().bos_id] * 2
    bytes_only = save_left_to_right("bytes", denoiser=given)
    outcome = genodiff("sample", bytes_only, "device=cpu", "length=4", "out=b.txt")
    assert outcome.code == 2 and "give the first token of every sequence" in outcome.stderr


def test_a_prompt_of_bytes_that_are_no_text_is_refused(genodiff: Genodiff) -> None:
    outcome = genodiff("sample", save("model"), "device=cpu", "prompt='\udcff'", "out=a.txt")
    assert outcome.code == 2 and "is not UTF-8; give text" in outcome.stderr
