"""A model and data of another vocabulary: what is refused, and in which words."""

from pathlib import Path

import pytest

from genodiff.data import ByteTokenizer, DnaTokenizer, SubwordTokenizer, load_tokenizer
from genodiff.errors import UserError
from genodiff.tasks.build import build
from genodiff.tasks.model import Model, require_tokens, tokenizer_node
from tests.data.tiny_vocabularies import CORPUS, bert_folder
from tests.tasks.conftest import Genodiff

TINY = (
    *("data=text", "data.length=16", "data.batch_size=4", "backbone=dit"),
    *("backbone.d_model=16", "backbone.n_heads=2", "backbone.n_layers=1"),
    *("trainer.max_steps=1", "trainer.validate_sequences=2", "device=cpu"),
)


def of(tokenizer: object) -> Model:
    """A model of which only the tokenizer is looked at."""
    return Model(None, tokenizer, {})  # pyright: ignore[reportArgumentType]


def swapped(folder: Path, first: int, second: int) -> Path:
    """A copy of a BERT's vocabulary with two tokens exchanged."""
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words[first], words[second] = words[second], words[first]
    copy = folder.parent / f"{folder.name}_swapped"
    copy.mkdir()
    (copy / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    return copy


def test_a_node_of_a_tokenizer_builds_it_again(tmp_path: Path) -> None:
    for tokenizer in (
        load_tokenizer(str(bert_folder(tmp_path / "bert"))),
        load_tokenizer("text8"),
        ByteTokenizer(),
        DnaTokenizer(predict_n=True),
    ):
        assert build(tokenizer_node(tokenizer), where="tokenizer") == tokenizer


def test_what_differs_is_said(tmp_path: Path) -> None:
    bert = bert_folder(tmp_path / "bert")
    tokenizer, other = (load_tokenizer(str(f)) for f in (bert, swapped(bert, 20, 30)))
    assert isinstance(tokenizer, SubwordTokenizer) and isinstance(other, SubwordTokenizer)
    require_tokens(of(tokenizer), load_tokenizer(str(bert)), "checkpoint=a")
    with pytest.raises(UserError) as refused:
        require_tokens(of(tokenizer), other, "checkpoint=a")
    assert str(refused.value) == (
        "checkpoint=a was not trained with the data's tokenizer: of the two, the vocabularies "
        f"differ at id 20: {tokenizer.token(20)!r} against {other.token(20)!r}; give "
        "data.tokenizer= the one that belongs to it."
    )
    with pytest.raises(UserError, match="checkpoint=a reads tokens of SubwordTokenizer, and the"):
        require_tokens(of(tokenizer), ByteTokenizer(), "checkpoint=a")
    # Which letters of DNA are predicted may change; what they are called may not.
    require_tokens(of(DnaTokenizer()), DnaTokenizer(predict_n=True), "checkpoint=a")


@pytest.mark.slow
def test_a_run_meets_data_of_another_vocabulary(genodiff: Genodiff, tmp_path: Path) -> None:
    bert = bert_folder(tmp_path / "bert")
    other = swapped(bert, 20, 30)
    files = []
    for split in ("train", "valid", "test"):
        path = tmp_path / f"{split}.txt"
        path.write_text(f"{split}\n\n" + "\n\n".join(CORPUS * 4), encoding="utf-8")
        files.append(f"data.{split}={path}")
    outcome = genodiff("train", *TINY, *files, f"data.tokenizer={bert}", "out=run")
    assert outcome.code == 0, outcome.stderr
    told = "the vocabularies differ at id 20: "
    wrong = f"data.tokenizer={other}"
    data = ("data=text", *files, "data.length=16", "baselines=false", "out=-")
    outcome = genodiff("evaluate", "checkpoint=run", *data, wrong)
    assert outcome.code == 2 and told in outcome.stderr and "checkpoint=run" in outcome.stderr
    outcome = genodiff("train", *TINY, *files, wrong, "init=run", "out=next")
    assert outcome.code == 2 and told in outcome.stderr and "init=" in outcome.stderr
    assert not Path("next").exists()
    outcome = genodiff("train", *TINY, *files, f"data.tokenizer={bert}", "init=run", "out=next")
    assert outcome.code == 0, outcome.stderr
    outcome = genodiff("convert", "source=run", "out=model")
    assert outcome.code == 0, outcome.stderr
    outcome = genodiff("evaluate", "checkpoint=model", *data, "data.tokenizer=model")
    assert outcome.code == 0, outcome.stderr
    assert load_tokenizer("model") == load_tokenizer(str(bert))
