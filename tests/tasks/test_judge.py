"""`genodiff judge` with small judges of random weights."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genodiff.data import text_lines
from genodiff.evaluation.text_statistics import text_statistics
from tests.evaluation.toy_judges import save_bert, save_gpt2
from tests.tasks.conftest import Genodiff, Outcome
from tests.tasks.test_sample_text import save as save_model

MEASURES = {
    "generative_perplexity",
    "entropy",
    "pooled_entropy",
    "distinct",
    "repetition",
    "mauve",
}


def write(path: str, n: int, seed: int, letters: str = "abcd \n") -> list[str]:
    """`n` texts of about 20 random letters, in a file."""
    random = np.random.default_rng(seed)
    texts = ["".join(random.choice(list(letters), random.integers(15, 25))) for _ in range(n)]
    Path(path).write_text(text_lines(texts), newline="")
    return texts


def report_beside(path: str, evaluations: int, **changes: Any) -> None:
    report = {
        **{"checkpoint": "runs/a", "sampler": {"name": "Ancestral", "steps": 8}, "steps": 8},
        **{"temperature": 1.0, "nucleus": 0.9, "precision": "float64", "seed": 3},
        **{"num_samples": 10, "network_evaluations": evaluations, "seconds": 2.5},
    }
    Path(path).with_suffix(".json").write_text(json.dumps({**report, **changes}))


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `gpt2`, a language model to which all bytes are alike, and `bert`."""
    folder = tmp_path_factory.mktemp("judges")
    save_gpt2(folder / "gpt2", uniform=True)
    save_bert(folder / "bert")
    return folder


@pytest.fixture
def judged(genodiff: Genodiff, judges: Path) -> Any:
    """`judged(*words)`, by `gpt2` beside a reference of 50 texts."""
    write("reference.txt", 50, 1)
    words = ("reference=reference.txt", f"language_model={judges}/gpt2", "device=cpu")

    def run(*more: str) -> Outcome:
        return genodiff("judge", *words, *more)

    return run


def test_all_figures_stand_together_with_how_the_samples_were_drawn(judged: Any) -> None:
    texts = write("a.txt", 22, 2)
    write("b.jsonl", 0, 0)
    Path("b.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in ["abcd"] * 30)
    )
    report_beside("a.txt", 80)
    outcome = judged("samples=[a.txt,b.jsonl]", "out=quality.json", "sequences=20")
    assert outcome.code == 0, outcome.stderr
    report = json.loads(Path("quality.json").read_text())
    ours, anyones = report["samples"]
    assert ours.keys() >= MEASURES and report["reference"].keys() >= MEASURES
    assert ours["drawn"] == {
        **{"checkpoint": "runs/a", "sampler": {"name": "Ancestral", "steps": 8}, "steps": 8},
        **{"temperature": 1.0, "nucleus": 0.9, "precision": "float64", "seed": 3},
        **{"num_samples": 10, "network_evaluations": 80, "seconds": 2.5},
        "network_evaluations_per_sequence": 8,
    }
    assert set(anyones["drawn"].values()) == {"unknown"}
    assert (ours["sequences"], ours["sequences_in_file"], ours["empty"]) == (20, 22, 0)
    assert ours["generative_perplexity"]["value"] == pytest.approx(257, rel=1e-4)
    expected = text_statistics(
        [np.frombuffer(t.encode(), np.uint8).astype(int) for t in texts[:20]]
    )
    assert ours["entropy"]["value"] == pytest.approx(expected.entropy.value)
    assert ours["distinct"]["2"]["value"] == pytest.approx(expected.distinct[1].value)
    assert ours["repetition"]["4"] == expected.repetition[3].summary()
    # 50 texts of the reference are two sets of 20: its own MAUVE is a yardstick.
    assert report["reference"]["mauve"]["buckets"] == 2
    assert report["reference"]["sequences"] == 20
    page = Path("quality.md").read_text()
    assert "| `a.txt` | Ancestral | 8 | 8 | 1 | 0.9 | float64 | 257 [257, 257] |" in page
    assert "| `b.jsonl` | unknown | unknown | unknown |" in page
    assert "| `b.jsonl` | 20 of 30 | 4 | unknown |" in page
    assert "| `reference.txt` | **reference** | - |" in page
    assert "gpt2. Every token counts, the first given <|endoftext|>; windows of 32" in page


def test_numbers_of_sequences_are_made_equal_and_texts_are_cut(judged: Any) -> None:
    write("a.txt", 40, 2)
    Path("a.txt").write_text("\n\n" + Path("a.txt").read_text())
    outcome = judged("samples=a.txt", "out=-", "length=6", "rule=published")
    assert outcome.code == 0, outcome.stderr
    report = json.loads(outcome.stdout)
    assert report["samples"][0]["sequences"] == report["reference"]["sequences"] == 40
    assert report["samples"][0]["empty"] == 2 and report["samples"][0]["tokens_per_sequence"] == 6
    assert report["samples"][0]["generative_perplexity"]["tokens"] == 40 * 5
    assert report["reference"]["mauve"] is None  # 10 texts are left
    assert "its own MAUVE needs twice the 40" in outcome.stderr
    assert "reference.txt: 40 of 50 sequences are judged" in outcome.stderr


def test_another_model_embeds(judged: Any, judges: Path) -> None:
    write("a.txt", 20, 2)
    write("collapsed.txt", 20, 2, letters="z")
    outcome = judged("samples=*a*.txt", f"embedding={judges}/bert", "out=quality.json")
    assert outcome.code == 0, outcome.stderr
    report = json.loads(Path("quality.json").read_text())
    assert report["embedding"] == {
        **{"name": f"{judges}/bert", "revision": None},
        **{"pooling": "mean", "tokens_at_most": 32},
    }
    values = {row["file"]: row["mauve"]["value"] for row in report["samples"]}
    assert values["collapsed.txt"] < values["a.txt"]
    assert report["samples"][0]["drawn"]["steps"] == "unknown"


def test_samples_of_ours_bring_all_that_is_to_be_said_of_them(
    genodiff: Genodiff, judged: Any
) -> None:
    words = (save_model("model"), "device=cpu", "num_samples=20", "length=16")
    for out, more in (("a.txt", ("steps=3",)), ("b.jsonl", ("sampler=first_hitting",))):
        outcome = genodiff("sample", *words, *more, f"out={out}")
        assert outcome.code == 0, outcome.stderr
    outcome = judged("samples=[a.txt,b.jsonl]", "out=-")
    assert outcome.code == 0, outcome.stderr
    said = [row["drawn"] for row in json.loads(outcome.stdout)["samples"]]
    assert all("unknown" not in each.values() for each in said)
    assert [each["steps"] for each in said] == [3, None]
    assert said[0]["network_evaluations_per_sequence"] <= 3
    assert said[1]["network_evaluations_per_sequence"] == 16


def test_curves_are_drawn(judged: Any) -> None:
    for i, (name, temperature) in enumerate(
        [("Ancestral", 1), ("Ancestral", 0.7), ("Parallel", 1)]
    ):
        for steps in (4, 16):
            path = f"s{i}_{steps}.txt"
            write(path, 20, 10 * i + steps)
            sampler = {"name": name, "steps": steps}
            report_beside(path, 10 * steps, sampler=sampler, temperature=temperature, nucleus=1.0)
    write("plain.txt", 20, 7)
    outcome = judged("samples=[s*.txt,plain.txt]", "out=q.json", "plot=q.svg")
    assert outcome.code == 0, outcome.stderr
    svg = Path("q.svg").read_text()
    for text in (
        "Ancestral",
        "Ancestral, temperature 0.7",
        "Parallel",
        "plain.txt (cost unknown)",
    ):
        assert f">{text}<" in svg
    assert ">reference<" in svg and ">network evaluations a sequence<" in svg


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("samples=absent.txt",), "samples=absent.txt is no file and no pattern of any"),
        (("samples=empty.txt",), "empty.txt holds no sequence"),
        (("samples=bad.txt",), "bad.txt is not UTF-8 at byte 1"),
        (("samples=few.txt",), "19 sequences are too few for MAUVE"),
        (("samples=a.json",), "a.json is no text; give the .txt or .jsonl"),
        (("sequences=30",), "sequences=30, but a.txt has 20; use that or less"),
        (("sequences=0",), "sequences=0 must be at least 1"),
        (("reference=absent.txt",), "absent.txt cannot be read"),
        (("reference=???",), "reference= is required"),
        (("language_model=./absent",), "language_model=./absent is no folder"),
        (("language_model=JUDGES/bert",), "is a bert, which is no causal language model"),
        (("language_model=incomplete",), "incomplete has no tokenizer"),
        (("language_model_revision=main",), "language_model_revision=main is for names of the"),
        (("embedding_revision=main",), "embedding_revision=main does nothing without embedding="),
        (("out=a.json", "overwrite=true"), "out=a.json has to end in .json, and not be the rep"),
        (("out=table.md",), "out=table.md has to end in .json"),
        (("plot=q.pdf",), "plot=q.pdf is no picture's name"),
        (("samples=plain.txt", "plot=q.svg"), "no file of samples has a report beside it"),
        (("samples=damaged.txt",), "damaged.json, the report of damaged.txt, cannot be read"),
        (("stride=40",), "stride=40 with window=32"),
    ],
)
def test_mistakes_are_one_line(
    judged: Any, judges: Path, words: tuple[str, ...], message: str
) -> None:
    for name in ("a", "plain", "damaged"):
        write(f"{name}.txt", 20, 2)
    write("few.txt", 19, 2)
    report_beside("a.txt", 8)
    Path("damaged.json").write_text("{")
    Path("empty.txt").write_text("\n\n")
    Path("bad.txt").write_bytes(b"a\xff\n")
    Path("incomplete").mkdir()
    Path("incomplete/config.json").write_text("{}")
    words = tuple(word.replace("JUDGES", str(judges)) for word in words)
    outcome = judged("samples=a.txt", "out=q.json", *words)
    assert outcome.code == 2 and outcome.stdout == ""
    lines = [line for line in outcome.stderr.splitlines() if not line.endswith("are judged.")]
    assert len(lines) == 1 and message in lines[0]
    assert not Path("q.json").exists() and not Path("q.md").exists()


def test_texts_longer_than_the_judge_takes_are_read_in_windows(judged: Any) -> None:
    Path("long.txt").write_text("".join(f"{'ab ' * (40 + i)}\n" for i in range(20)))
    outcome = judged("samples=long.txt", "out=-")
    assert outcome.code == 0, outcome.stderr
    (row,) = json.loads(outcome.stdout)["samples"]
    assert row["tokens_per_sequence"] > 100
    nats = row["generative_perplexity"]["nats_per_byte"]["value"]
    assert nats == pytest.approx(math.log(257), rel=1e-5)


def test_a_picture_without_matplotlib_names_the_extra(
    judged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.txt", 20, 2)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = judged("samples=a.txt", "out=q.json", "plot=q.svg")
    assert outcome.code == 2 and "pip install 'genodiff[report]'" in outcome.stderr
