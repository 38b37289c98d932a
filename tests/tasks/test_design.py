"""What can be asked of samples: every sampler, guidance, constraints, rewards."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.tasks.conftest import SMALL, Genodiff
from tests.tasks.test_bad_input import assert_refused

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def reverse_complement(text: str) -> str:
    return text.translate(COMPLEMENT)[::-1]


def read(path: str) -> dict[str, str]:
    """The records of a FASTA, by their whole headers."""
    records = (record.split("\n", 1) for record in Path(path).read_text().split(">")[1:])
    return {header: body.replace("\n", "") for header, body in records}


def sampled(genodiff: Genodiff, *words: str) -> list[str]:
    outcome = genodiff("sample", *words, "out=s.fa", "device=cpu", "overwrite=true")
    assert outcome.code == 0, outcome.stderr
    return list(read("s.fa").values())


def report(path: str = "s.json") -> dict:  # type: ignore[type-arg]
    return json.loads(Path(path).read_text())


@pytest.mark.parametrize(
    "words",
    [
        ("sampler=stepwise", "steps=8"),
        ("sampler=first_hitting",),
        ("sampler=parallel", "steps=8", "sampler.grid=cosine"),
        ("sampler=confidence", "steps=8"),
        ("sampler=threshold", "sampler.threshold=0.3"),
        ("sampler=entropy_bounded", "sampler.bound=2.0"),
        ("sampler=remasking", "steps=8", "sampler.strategy=rescale", "sampler.eta=0.1"),
        ("sampler=remasking", "sampler.strategy=loop", "sampler.t_on=0.7", "steps=8"),
        ("sampler=predictor_corrector", "steps=4"),
        ("sampler=stepwise", "sampler.final=argmax", "sampler.t_end=1e-5", "steps=8"),
        ("window=24", "stride=12", "steps=8"),
        ("temperature=0.5", "nucleus=0.9", "average_strands=true", "steps=8"),
    ],
    ids=lambda words: words[0],
)
def test_every_sampler_can_be_asked_for(
    genodiff: Genodiff, trained: str, words: tuple[str, ...]
) -> None:
    sequences = sampled(genodiff, f"checkpoint={trained}", "num_samples=3", "length=40", *words)
    assert len(sequences) == 3
    assert all(re.fullmatch("[ACGT]{40}", sequence) for sequence in sequences)
    written = report()
    inner = written["sampler"].get("sampler", written["sampler"])
    assert "steps=8" not in words or inner["steps"] == 8
    assert "<" not in json.dumps(written)  # no repr of an object
    # Three sequences of 40 bases: an evaluation a base at most, but for the pairs of corrections,
    # for windows that are shared, and for both strands.
    assert 0 < written["network_calls"] <= written["network_evaluations"] <= 2 * 3 * 40
    assert 0 < written["seconds_outside_the_network"] < written["seconds"]


def test_constraints_are_met_by_every_sample(genodiff: Genodiff, trained: str) -> None:
    sequences = sampled(
        genodiff,
        f"checkpoint={trained}",
        *("num_samples=6", "length=60", "steps=10", "prompt=ACG"),
        *("require=[TATAWAW@20,GATTACA]", "forbid=[AGC,TTTT]", "gc=[0.4,0.45]"),
    )
    assert len(set(sequences)) == 6
    for sequence in sequences:
        assert sequence.startswith("ACG")
        assert re.fullmatch("TATA[AT]A[AT]", sequence[20:27])
        assert "GATTACA" in sequence or "GATTACA" in reverse_complement(sequence)
        for motif in ("AGC", "TTTT"):
            assert motif not in sequence and motif not in reverse_complement(sequence)
        assert 24 <= sequence.count("G") + sequence.count("C") <= 27


def test_a_pattern_says_what_each_base_may_be(genodiff: Genodiff, trained: str) -> None:
    words = (f"checkpoint={trained}", "num_samples=8", "length=8", "steps=4")
    sequences = sampled(genodiff, *words, "pattern=ACGTRYSN")
    assert all(re.fullmatch("ACGT[AG][CT][CG][ACGT]", sequence) for sequence in sequences)
    one_strand = sampled(genodiff, *words, "forbid=[AC]", "both_strands=false")
    assert not any("AC" in sequence for sequence in one_strand)


def test_rewards_and_classifiers_of_ones_own(
    genodiff: Genodiff, trained: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def cytosines(sequences):\n"
        "    return [sequence.count('C') / len(sequence) for sequence in sequences]\n"
        "def likes_a(one_hot):\n"
        "    return 3 * one_hot[:, :, 7].sum(-1)\n"
    )
    words = (f"checkpoint={trained}", "num_samples=8", "length=24", "steps=6")

    def share(letter: str, *more: str) -> float:
        sequences = sampled(genodiff, *words, *more)
        return float(np.mean([s.count(letter) / len(s) for s in sequences]))

    plain = share("C")
    assert report()["classifier_evaluations"] == 0
    assert share("C", "reward=mine.py:cytosines", "best_of=8") > plain + 0.05
    steered = ("reward=mine.py:cytosines", "particles=16", "reward_temperature=0.02")
    assert share("C", *steered) > plain + 0.05
    for first_order in ("true", "false"):
        guided = ("classifier=mine.py:likes_a", f"first_order={first_order}")
        assert share("A", *guided) > share("A") + 0.2
        share("A", *guided)
        assert report()["classifier_evaluations"] > 0
    (tmp_path / "whole.py").write_text(
        "def whole(sequences):\n"
        "    assert all(len(sequence) == 24 for sequence in sequences)\n"
        "    return [sequence.count('C') for sequence in sequences]\n"
    )
    (tmp_path / "neighbour.py").write_text("def score(s):\n    return s.count('C')\n")
    (tmp_path / "imports.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from neighbour import score\n"
        "@dataclass\nclass Weight:\n    value: float = 1.0\n"
        "def f(sequences):\n    return [Weight().value * score(s) for s in sequences]\n"
    )
    assert share("C", "reward=imports.py:f", "best_of=8") > plain + 0.05
    windows = ("window=12", "reward=whole.py:whole", "best_of=8")
    assert share("C", *windows) > share("C", "window=12") + 0.05
    together = ("classifier=mine.py:likes_a", "forbid=[AAAA]")
    assert not any("AAAA" in s for s in sampled(genodiff, *words, *together))


@pytest.mark.parametrize(
    ("objective", "backbone"),
    [("next_token", "mamba"), ("plaid", "caduceus"), ("block_diffusion", "caduceus")],
)
def test_models_of_other_kinds_have_samplers_of_their_own(
    genodiff: Genodiff, genome: tuple[str, str], objective: str, backbone: str
) -> None:
    words = (f"objective={objective}", f"backbone={backbone}", "sample_length=32")
    if objective == "block_diffusion":
        words = (*words, "backbone.block_length=8")
    outcome = genodiff("train", *genome, *SMALL, *words, "out=other")
    assert outcome.code == 0, outcome.stderr
    sequences = sampled(
        genodiff, "checkpoint=other", "num_samples=3", "length=30", "temperature=0.7"
    )
    assert all(re.fullmatch("[ACGT]{30}", sequence) for sequence in sequences)
    assert report()["network_evaluations"] > 0
    if objective != "plaid":
        Path("r.bed").write_text("chr1\t100\t110\n")
        words = ("checkpoint=other", genome[0].removeprefix("data.").replace("fasta", "genome", 1))
        message = "sees nothing of what comes after a region; use a model that sees both sides"
        assert_refused(genodiff, message, "infill", *words, "regions=r.bed", out="refused.fa")
    if objective == "block_diffusion":
        words = ("checkpoint=other", "num_samples=2", "length=16", "sampler=first_hitting")
        sampled(genodiff, *words)
        assert report()["sampler"] == {
            "name": "BlockByBlock",
            "sampler": {"name": "FirstHitting"},
        }
        message = "particles=4: a model of block diffusion is drawn block by block"
        assert_refused(
            genodiff, message, "sample", *words[:3], "particles=4", "gc=[0,1]", out="refused.fa"
        )
    else:
        message = "only models that are sampled by denoising can do that"
        words = ("checkpoint=other", "num_samples=3", "length=30", "forbid=[AC]")
        assert_refused(genodiff, message, "sample", *words, out="refused.fa")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("forbid=[GAATTC]", "require=[GAATTC]"), "forbid=GAATTC and require=GAATTC cannot be"),
        (
            ("pattern=AAAAAAAA", "gc=[0.5,0.6]"),
            "pattern and gc=[0.5, 0.6] cannot be satisfied tog",
        ),
        (("require=[GAA@0,TTT@1]",), "require=GAA@0 and require=TTT@1 cannot be satisfied"),
        (
            ("prompt=GATT", "forbid=[ATT]"),
            "forbid=ATT cannot be satisfied with the bases that",
        ),
        (("forbid=[GAXTC]",), "'X' is not in the IUPAC alphabet"),
        (("pattern=ACGUACGU",), "'U' is not in the IUPAC alphabet"),
        (("pattern=ACG",), "pattern= has 3 letters for 8 bases; give a letter for each"),
        (("require=[ACGT@6]",), "motif ACGT@6 ends at 10, beyond sequences of 8"),
        (("forbid=[ACG@2]",), "forbid=ACG@2 has a position, and a motif is forbidden everywhere"),
        (("gc=[0.6,0.4]",), "gc=[0.6, 0.4] has to be the smallest and the largest share"),
        (("gc=[0.3,0.31]",), "gc=[0.3, 0.31]: no number of 8 bases is in that range; widen it"),
        (("steps=0",), "steps=0: sampling takes at least one step"),
        (("temperature=-1",), "temperature=-1"),
        (("nucleus=0",), "nucleus=0"),
        (("prompt=ACGTACGTA",), "prompt='ACGTACGTA' has to be shorter than length=8"),
        (("prompt=AXG",), "prompt='AXG' has to be"),
        (("stride=4",), "stride=4 is of windows; give window= too"),
        (("window=6", "gc=[0.4,0.6]"), "window=6: constraints are of whole sequences"),
        (("label=1",), "label=1, but this Caduceus was not trained with classes"),
        (("guidance=2",), "guidance=2 does nothing without label=; give that, or drop it"),
        (("first_order=true",), "first_order=true does nothing without classifier="),
        (("classifier_strength=2",), "classifier_strength= does nothing without classifier="),
        (("both_strands=false",), "both_strands=false does nothing without forbid= or require="),
        (("reward_temperature=2",), "reward_temperature= does nothing without particles="),
        (("particles=4",), "particles=4 does nothing without reward= or constraints"),
        (("reward_temperature=0",), "reward_temperature=0: rewards are divided by it"),
        (("best_of=0",), "best_of=0 must be at least 1"),
        (("gc=[]",), "gc=[] has to be the smallest and the largest share"),
        (("gc=0.5",), "gc=0.5 is not a list such as [A,B]"),
        (("pattern=",), "pattern= has 0 letters for 8 bases"),
        (("require=[GATTACAGA]",), "require=GATTACAGA has 9 letters, and sequences have 8 bases"),
        (("reward=mine.py:fails", "best_of=2"), "reward=mine.py:fails fails with KeyError: 'no'"),
        (("reward=mine.py:nothing", "best_of=2"), "reward=mine.py:nothing fails with"),
        (("reward=leaves.py:f", "best_of=2"), "leaves.py fails with SystemExit: bye"),
        (("classifier=mine.py:never",), "the classifier gives log-probabilities that are not fin"),
        (("classifier=mine.py:flat", "first_order=true"), "what it gives has none; compute it by"),
        (("sampler=magic",), "sampler=magic is none of analytic, ancestral"),
        (("seed=-1",), "seed=-1 must be 0 or more"),
        (("best_of=4",), "best_of=4 needs something to be best at; give reward=FILE.py:NAME"),
        (("reward=r.py:f",), "reward=r.py:f has no effect by itself"),
        (("reward=r.py:f", "best_of=2"), "reward=r.py:f is not FILE.py:NAME of a file that exist"),
        (("reward=mine.py:no", "best_of=2"), "mine.py has no function 'no'"),
        (("reward=broken.py:f", "best_of=2"), "broken.py fails with ZeroDivisionError"),
        (("reward=mine.py:nan", "best_of=2"), "the reward gives"),
        (
            ("particles=4", "window=6", "reward=mine.py:nan"),
            "particles=4 are of whole sequences; leave window= out",
        ),
        (
            ("particles=4", "sampler=parallel", "gc=[0.4,0.6]"),
            "particles=4 is a sampler of its own",
        ),
        (("sampler=left_to_right",), "LeftToRight draws from a CausalModel, and this model is a"),
        (("sampler.grid=log", "sampler=parallel"), "sampler.grid=log"),
        (("+sampler.grid=cosine",), "sampler.grid= is an option of a sampler, and none is named"),
        (("sampler=remasking", "sampler.t_on=0.7"), "t_on=0.7 is of strategy='loop', and this is"),
        (
            ("sampler=ancestral", "sampler.t_end=0.9", "sampler.final=none"),
            "tokens masked, and a mask is nothing to write; use sampler.final=draw, or",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_refused_in_one_line(
    genodiff: Genodiff, trained: str, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def nan(s):\n    return [float('nan')] * len(s)\n"
        "def fails(s):\n    return {}['no']\n"
        "def nothing(s):\n    return None\n"
        "def never(x):\n    return np.full(len(x), -np.inf)\n"
        "def flat(x):\n    return [0.0] * len(x)\n"
    )
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit('bye')\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    always = (f"checkpoint={trained}", "num_samples=2", "length=8", "device=cpu")
    assert_refused(genodiff, message, "sample", *always, *words, out="refused.fa")


@pytest.mark.parametrize("name", ["s.json", "s.fa.gz"])
def test_names_that_would_lose_the_samples_are_refused(
    genodiff: Genodiff, trained: str, name: str
) -> None:
    words = (f"checkpoint={trained}", "num_samples=2", "length=8", "device=cpu")
    assert_refused(genodiff, f"out={name} cannot end in", "sample", *words, out=name)
