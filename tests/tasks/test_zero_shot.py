import json
import shutil
from pathlib import Path

import pytest

from genodiff.tasks import zero_shot
from genodiff.tasks.zero_shot import CORPORA, PUBLISHED, table, tokenizer_of
from tests.data.tiny_vocabularies import bert_folder
from tests.tasks.conftest import SMALL, Genodiff

ROWS = 32
STEP = (
    *("trainer.max_steps=1", "trainer.validate_sequences=2", "device=cpu"),
    *("data.batch_size=2", f"data.length={ROWS}", "optimizer.lr=1e-30"),
    *("backbone=dit", "backbone.d_model=16", "backbone.n_layers=1"),
)
ASKED = ("zero_shot", "checkpoint=run", "root=corpora", "device=cpu", "out=zero.json")


def written() -> dict[str, dict[str, float]]:
    return json.loads(Path("zero.json").read_text(encoding="utf-8"))["corpora"]


@pytest.fixture
def run(genodiff: Genodiff, tmp_path: Path) -> Genodiff:
    """A run of a text model that knows nothing, and three corpora in the folder `corpora`."""
    bert_folder(tmp_path / "bert")
    for split in ("train", "valid"):
        text = "\n\n".join(f"the {split} cat sat on mat {i} and then it sat" for i in range(12))
        (tmp_path / f"{split}.txt").write_text(text, encoding="utf-8")
    sentence = "the cat n't sat on a mat and the other cats sat there too"
    for corpus, split in (("ptb", "validation"), ("ag_news", "test"), ("lm1b", "test")):
        (tmp_path / "corpora" / corpus).mkdir(parents=True)
        lines = "".join(f"{sentence} {i}\n" for i in range(20))
        (tmp_path / "corpora" / corpus / f"{split}.txt").write_text(lines, encoding="utf-8")
    words = ("data=text", "data.train=train.txt", "data.valid=valid.txt", "data.tokenizer=bert")
    outcome = genodiff("train", *words, *STEP, "out=run")
    assert outcome.code == 0, outcome.stderr
    return genodiff


def test_each_corpus_is_evaluated_once_and_the_command_goes_on(run: Genodiff) -> None:
    outcome = run(*ASKED, "corpora=[ag_news]")
    assert outcome.code == 0, outcome.stderr
    first = written()["ag_news"]
    data_ids = 118  # of 120 the mask and the padding are none, and the network knows no other law
    assert first["perplexity"] == pytest.approx(data_ids, rel=1e-4)
    assert first["bound"] is True and first["estimator"] == "exactly_k"
    assert first["tokens"] % ROWS == 0  # published rows are whole, what is left is dropped
    assert first["data"]["splits"].keys() == {"valid"}  # type: ignore[index,attr-defined]
    outcome = run(*ASKED, "corpora=[ptb,ag_news]")
    assert outcome.code == 0 and "ag_news: done before" in outcome.stderr, outcome.stderr
    assert written()["ag_news"] == first  # its seconds too
    assert written().keys() == {"ptb", "ag_news"}
    lines = Path("zero.md").read_text(encoding="utf-8").splitlines()
    assert lines[2] == "| | ptb | ag_news |"
    assert lines[4].startswith("| **run** | ≤118.00")
    assert "| *published:* MDLM (Sahoo et al. 2024, table 3) | 95.26 | 61.15 |" in lines


def test_figures_of_other_settings_are_not_gone_on_with(run: Genodiff) -> None:
    assert run(*ASKED, "corpora=[lm1b]", "max_sequences=2").code == 0
    outcome = run(*ASKED, "corpora=[ptb]")
    assert outcome.code == 2
    assert (
        "zero.json has figures of max_sequences=2, and this is max_sequences=None; choose an"
        in (outcome.stderr)
    )
    assert run(*ASKED, "corpora=[ptb]", "overwrite=true").code == 0
    assert written().keys() == {"ptb"}
    Path("zero.json").write_text("[]")
    outcome = run(*ASKED, "corpora=[ptb]")
    assert outcome.code == 2 and "zero.json exists and is no report of zero_shot" in outcome.stderr


def test_figures_of_other_weights_or_another_text_are_not_gone_on_with(run: Genodiff) -> None:
    words = (*ASKED, "corpora={mine:valid.txt}", "max_sequences=2", "cache_dir=tokens")
    assert run(*words).code == 0
    assert list(Path("tokens").glob("valid_txt-*"))  # where cache_dir= says
    shutil.move("valid.txt", "moved.txt")
    moved = (*words[:-3], "corpora={mine:moved.txt}", *words[-2:])
    outcome = run(*moved)
    assert outcome.code == 0 and "mine: done before" in outcome.stderr, outcome.stderr
    text = Path("moved.txt").read_text(encoding="utf-8")
    Path("moved.txt").write_text(text.replace("sat", "cat"), encoding="utf-8")
    outcome = run(*moved)
    assert outcome.code == 2
    assert "has figures of mine from valid.txt, and moved.txt holds another text" in outcome.stderr
    Path("moved.txt").write_text(text, encoding="utf-8")
    data = ("data=text", "data.train=train.txt", "data.valid=moved.txt", "data.tokenizer=bert")
    assert run("train", *data, *STEP, "seed=1", "out=run", "overwrite=true").code == 0
    outcome = run(*moved)
    assert outcome.code == 2
    assert "zero.json has figures of checkpoint_sha256=" in outcome.stderr, outcome.stderr


def test_a_model_of_bytes_is_evaluated_on_packed_rows(run: Genodiff) -> None:
    words = ("data=text", "data.train=train.txt", "data.valid=valid.txt")
    assert run("train", *words, *STEP, "out=bytes").code == 0
    asked = (*ASKED, "checkpoint=bytes", "corpora={mine:valid.txt}", "max_sequences=2")
    outcome = run(*asked)
    assert outcome.code == 2 and "use layout=packed" in outcome.stderr, outcome.stderr
    assert run(*asked, "layout=packed").code == 0


def test_files_of_ones_own_have_no_published_rows(run: Genodiff) -> None:
    outcome = run(*ASKED, "corpora={mine:valid.txt}", "layout=packed", "length=16")
    assert outcome.code == 0, outcome.stderr
    assert written()["mine"]["perplexity"] == pytest.approx(118, rel=1e-4)
    text = Path("zero.md").read_text(encoding="utf-8")
    assert "| | mine |" in text and "ublished" not in text.replace("layout published", "")


MISTAKES = {
    ("tokenizer=bytes", "layout=packed"): "reads tokens of SubwordTokenizer, and the data",
    ("tokenizer=other",): "was not trained with the data's tokenizer: of the two, ",
    ("corpora=[novels]",): "corpus=novels is unknown; there are lm1b,",
    ("corpora=[lambada]",): "genodiff fetch dataset=lambada",
    ("corpora=[]",): "corpora=[] is none; leave it out",
    ("corpora={mine:none.txt}",): "none.txt",
    ("root=corpara",): "root=corpara is no folder; give one that holds a folder of each corpus",
    ("out=zero.md",): "out=zero.md must end in .json",
}


def test_a_mistake_is_one_line_and_writes_nothing(run: Genodiff) -> None:
    shutil.copytree("bert", "other")
    names = Path("other/vocab.txt").read_text(encoding="utf-8").splitlines()
    names[10], names[11] = names[11], names[10]
    Path("other/vocab.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    for words, message in MISTAKES.items():
        outcome = run(*ASKED, *(("corpora=[ptb]",) if "corpora" not in words[0] else ()), *words)
        assert outcome.code == 2 and message in outcome.stderr, outcome.stderr
        assert outcome.stderr.count("\n") == 1, outcome.stderr
        assert not Path("zero.json").exists()


def test_a_model_of_dna_is_refused(genodiff: Genodiff, genome: tuple[str, str]) -> None:
    assert genodiff("train", *genome, *SMALL, "out=run").code == 0
    outcome = genodiff(*ASKED)
    assert outcome.code == 2
    assert "checkpoint=run reads tokens of DnaTokenizer, and these corpora are text" in (
        outcome.stderr
    )


def test_the_tokenizer_is_that_of_the_revision_in_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = {"tokenizer": "gpt2", "tokenizer_revision": "607a30d"}
    monkeypatch.setattr(zero_shot, "data_of", lambda path: trained)
    assert tokenizer_of(Path("run")) == ("gpt2", "607a30d")
    del trained["tokenizer_revision"]
    assert tokenizer_of(Path("run")) == ("gpt2", None)


def test_the_table_shows_only_what_was_made_here_as_made_here() -> None:
    done = {"ptb": {"perplexity": 90.0, "perplexity_95": [89.0, 91.0], "bound": False}}
    settings = {"checkpoint": "x", "estimator": "exact", "length": 1024, "layout": "published"}
    lines = table(settings, done).splitlines()
    assert lines[4] == "| **x** | 90.00 (89.00 to 91.00) |"
    rows = [line for line in lines if "al. 20" in line]
    assert len(rows) == len(PUBLISHED) == 7
    assert all(line.startswith("| *published:* ") for line in rows)
    assert all(len(row) == len(CORPORA) for row in PUBLISHED.values())
