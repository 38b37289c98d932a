"""The adapter; what it computes is tested in tests/evaluation/test_conditional.py."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from genodiff.errors import UserError
from genodiff.tasks.lm_harness import GenodiffLM
from tests.tasks.conftest import SMALL, Genodiff

LENGTH = 32
STEP = (
    *("trainer.max_steps=1", "trainer.validate_sequences=2", "device=cpu"),
    *("data.batch_size=2", f"data.length={LENGTH}", "backbone.d_model=16", "backbone.n_layers=1"),
)
KNOWS_NOTHING = -math.log(256)
"""log p of a byte."""


@pytest.fixture
def trained(genodiff: Genodiff, tmp_path: Path) -> Genodiff:
    """Trains on two little texts: `trained("out=run", ...)`."""
    for split in ("train", "valid"):
        text = "\n\n".join(f"{split} abc {i}" for i in range(12))
        (tmp_path / f"{split}.txt").write_text(text, encoding="utf-8")

    def run(*words: str) -> Any:
        text = ("data=text", "data.train=train.txt", "data.valid=valid.txt")
        outcome = genodiff("train", *text, *STEP, *words)
        assert outcome.code == 0, outcome.stderr
        return outcome

    return run


def requests(kind: str, *arguments: tuple[Any, ...]) -> Sequence[Any]:
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    return [instance(kind, {}, each, i) for i, each in enumerate(arguments)]  # type: ignore[misc]


def test_without_the_harness_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "lm_eval.api.model", raising=False)
    with pytest.raises(UserError, match=r"not installed; pip install 'genodiff\[harness\]'"):
        GenodiffLM("run")


@pytest.mark.parametrize("objective", ["mdlm", "udlm", "next_token"])
def test_a_model_that_knows_nothing_gives_every_byte_the_same(
    trained: Genodiff, objective: str
) -> None:
    asked = requests("loglikelihood", ("ab ", "cde"), ("", "x"), ("y" * 50, "zz"))
    backbone = "ar_tiny" if objective == "next_token" else "dit"
    heads = ("backbone.n_heads=2",) if objective == "next_token" else ()
    words = (f"objective={objective}", f"backbone={backbone}", *heads, "optimizer.lr=1e-30")
    trained(*words, "out=run")
    steps: dict[str, Any] = {} if objective == "next_token" else {"steps": 4}
    model = GenodiffLM("run", samples=8, seed=3, **steps)
    found = model.loglikelihood(asked)
    # The space belongs to the continuation. UDLM's bound has ends that cost a little.
    slack = 0.05 if objective == "udlm" else 1e-3
    for (log_p, greedy), tokens in zip(found, (4, 1, 2), strict=True):
        assert log_p == pytest.approx(tokens * KNOWS_NOTHING, rel=slack)
        assert isinstance(greedy, bool)
    info = model.get_model_info()
    assert info["bound"] is (objective != "next_token")
    assert info["likelihood"] == {"mdlm": "exactly_k", "next_token": "exact"}.get(
        objective, "objective"
    )
    text = "0123456789" * 7
    (rolling,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    assert rolling == pytest.approx(70 * KNOWS_NOTHING, rel=slack)
    assert model.loglikelihood(asked) == found


def test_the_chain_is_asked_for_by_name(trained: Genodiff) -> None:
    asked = requests("loglikelihood", ("ab", "c"))
    trained("backbone=dit", "out=run")
    model = GenodiffLM("run", likelihood="chain")
    assert model.get_model_info()["likelihood"] == "chain"
    assert model.get_model_info()["bound"] is False
    # Of one token there is one order.
    other = GenodiffLM("run").loglikelihood(asked)[0][0]
    assert model.loglikelihood(asked)[0][0] == pytest.approx(other, rel=1e-6)


def test_what_is_written_ends_at_the_first_stop(
    trained: Genodiff, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [("ab", {"until": ["cd", "e"], "max_gen_toks": 9}), ("ab", {"max_gen_toks": 9})]
    questions = requests("generate_until", *asked)
    trained("backbone=dit", "out=run")
    model = GenodiffLM("run", window=4)
    asked_for: list[tuple[int, int]] = []

    def drawn(context: list[int], count: int, **_: float) -> list[int]:
        asked_for.append((len(context), count))
        return list(b"xabcdefgh"[(len(context) - 2) :][:count])

    monkeypatch.setattr(model, "_drawn", drawn)
    assert model.generate_until(questions) == ["xab", "xabcdefgh"]
    assert asked_for == [(2, 4), (6, 4), (2, 4), (6, 4), (10, 1)]


def test_greedy_is_what_the_sampler_writes_at_temperature_0(trained: Genodiff) -> None:
    questions = requests("generate_until", ("ab", {"max_gen_toks": 3}))
    trained("backbone=ar_tiny", "objective=next_token", "backbone.n_heads=2", "out=run")
    model = GenodiffLM("run")
    (text,) = model.generate_until(questions)
    tokens = model.tokenizer.encode(text)
    assert len(tokens) == 3  # of a model left to right nothing is random at temperature 0
    right, wrong = model.loglikelihood(
        requests("loglikelihood", ("ab", text), ("ab", "~~~" if text != "~~~" else "!!!"))
    )
    assert right[1] is True and wrong[1] is False
    assert right[0] > wrong[0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"samples": 0}, "samples=0 must be at least 1"),
        ({"samples": "many"}, "samples=many is not an integer"),
        ({"likelihood": "best"}, "likelihood=best is not one of auto, chain"),
        ({"colour": 1}, "unknown model argument colour="),
    ],
)
def test_a_wrong_argument_is_refused(keys: dict[str, Any], message: str) -> None:
    pytest.importorskip("lm_eval")
    with pytest.raises(UserError, match=message):
        GenodiffLM("run", **keys)


def test_what_does_not_fit_is_refused(trained: Genodiff) -> None:
    asked = requests("loglikelihood", ("ab", "c" * 40))
    trained("backbone=dit", "out=run")
    with pytest.raises(UserError, match="40 tokens does not fit into length=32"):
        GenodiffLM("run").loglikelihood(asked)


def test_a_model_of_dna_is_refused(genodiff: Genodiff, genome: tuple[str, str]) -> None:
    pytest.importorskip("lm_eval")
    assert genodiff("train", *genome, *SMALL, "out=run").code == 0
    with pytest.raises(UserError, match="reads tokens of DnaTokenizer, and the harness asks of"):
        GenodiffLM("run")
