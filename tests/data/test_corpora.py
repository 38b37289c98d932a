import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from genodiff.config import config_dir
from genodiff.data import CORPORA, CharacterTokenizer, HubDocuments, SequenceData, corpus_data
from genodiff.data import corpora as module
from genodiff.data.corpora import Text8
from genodiff.errors import OutsideError, UserError
from tests.data.given import write_jsonl, write_parquet

TOKENIZER = CharacterTokenizer()


def make(root: Path | None, corpus: str, **options: Any) -> SequenceData:
    cache = {"cache_dir": None if root is None else root / "cache"}
    return corpus_data(corpus, "text8", 8, 2, root=root, **{**cache, **options})


def texts(data: SequenceData, split: Any) -> str:
    """The text of all rows, EOS as "|"."""
    rows = [row for batch in data.eval_loader(split) for row in batch.tokens.tolist()]
    ids = [i for row in rows for i in row if i != TOKENIZER.pad_id]
    return TOKENIZER.decode(ids).replace("[EOS]", "|")


def write_splits(root: Path, corpus: str) -> dict[str, list[str]]:
    """A local copy of a corpus: for each split of the data set, what its documents say."""
    names = {split.partition("[")[0] for split in CORPORA[corpus].splits}
    said = {name: [f"{name} {letter}" for letter in "abc"] for name in sorted(names)}
    for i, (name, documents) in enumerate(said.items()):
        write = (write_parquet, write_jsonl)[i % 2]
        ending = ("-00000-of-00001.parquet", ".jsonl")[i % 2]
        write(root / f"{name}{ending}", documents, CORPORA[corpus].column)
    return said


@pytest.mark.parametrize("corpus", sorted(set(CORPORA) - {"owt", "fineweb_edu"}))
def test_local_copies_have_the_splits_of_the_papers(tmp_path: Path, corpus: str) -> None:
    said = write_splits(tmp_path, corpus)
    data = make(tmp_path, corpus)
    for split, name in zip(("train", "valid", "test"), CORPORA[corpus].splits, strict=True):
        assert texts(data, split) == "".join(f"{document}|" for document in said[name])
    assert "validation" in said or data.dataset("valid").describe()["documents"] == 3


@pytest.mark.parametrize("corpus", ["owt", "fineweb_edu"])
def test_the_last_documents_are_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str
) -> None:
    last = "train[-100000:]"
    assert CORPORA[corpus].splits == ("train[:-100000]", last, last)
    fewer = CORPORA[corpus]._replace(splits=("train[:-3]", "train[-3:]", "train[-3:]"))
    monkeypatch.setattr(module, "CORPORA", {corpus: fewer})
    write_parquet(tmp_path / "train-00000-of-00002.parquet", list("abcde"))
    write_parquet(tmp_path / "train-00001-of-00002.parquet", list("fg"))
    data = make(tmp_path, corpus)
    assert texts(data, "train") == "a|b|c|d|"
    assert texts(data, "valid") == texts(data, "test") == "e|f|g|"


def test_detokenizers_go_with_their_corpora() -> None:
    named = {name: corpus.detokenizer for name, corpus in CORPORA.items()}
    papers = {"arxiv": "scientific_papers", "pubmed": "scientific_papers"}
    wikitext = {"wikitext2": "wt", "wikitext103": "wt"}
    raw = dict.fromkeys(("owt", "ag_news", "fineweb_edu"))
    assert named == {"lm1b": "lm1b", "ptb": "ptb", **papers, **wikitext, **raw}


def test_wikitext_is_read_by_lines_with_their_ends(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        text = f" \n = {name} = \n \n a , b . c \n"
        (tmp_path / f"{name}.txt.gz").write_bytes(gzip.compress(text.encode()))
    kept = make(tmp_path, "wikitext2", splits=["valid"])
    assert kept.dataset("valid").describe()["documents"] == 2
    published = make(tmp_path, "wikitext2", splits=["valid"], layout="published")
    assert published.dataset("valid").describe()["documents"] == 4
    with pytest.raises(UserError, match="no train data; wikitext2 is read for: valid; use one of"):
        kept.dataset("train")


def write_text8(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    text = "".join("abcdefghijklmnopqrstuvwxyz "[i * i % 27] for i in range(1000))
    ranges = {"train": (0, 900), "valid": (900, 950), "test": (950, 1000)}
    monkeypatch.setattr(module, "_TEXT8", ranges)
    with zipfile.ZipFile(root / "text8.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text8", text)
    return text


def test_text8_has_ninety_five_and_five_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write_text8(tmp_path, monkeypatch)
    monkeypatch.setattr(module, "_TEXT8_PIECE", 64)
    data = make(tmp_path, "text8", eos=False)
    assert texts(data, "train") == text[:900]
    assert texts(data, "valid") == text[900:950]
    assert texts(data, "test") == text[950:]
    assert data.dataset("train").describe()["documents"] == 15
    published = make(tmp_path, "text8", layout="published", splits=["test"])
    pieces = "".join(f"{text[at : at + 8]}|" for at in range(950, 998, 8))  # the rest is dropped
    (batch, *_) = published.eval_loader("test")
    ends = {int(i) for i in (*batch.tokens[:, 0], *batch.tokens[:, -1])}
    assert ends == {TOKENIZER.bos_id, TOKENIZER.eos_id}
    inner = [i for batch in published.eval_loader("test") for i in batch.tokens[:, 1:-1].flatten()]
    assert TOKENIZER.decode([int(i) for i in inner]).replace("[EOS]", "|") == pieces


def test_text8_in_any_wrapping_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write_text8(tmp_path, monkeypatch)
    (tmp_path / "text8").write_text(text)
    (tmp_path / "text8.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("text8.zip", "text8", "text8.gz"):
        source = Text8(tmp_path / name, 100, 230, 50)
        assert list(source.documents()) == [text[100:150], text[150:200], text[200:230]]
        assert list(source.documents(2)) == [text[200:230]]
        assert source.count() == 3


def test_what_is_no_text8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"has no text8\.zip or text8 or text8\.gz; get .* fetch "):
        make(tmp_path, "text8")
    write_text8(tmp_path, monkeypatch)
    content = (tmp_path / "text8.zip").read_bytes()
    (tmp_path / "text8.zip").write_bytes(content[:-30])
    with pytest.raises(UserError, match=r"text8\.zip is truncated or has no text8"):
        make(tmp_path, "text8")
    (tmp_path / "text8.zip").unlink()
    (tmp_path / "text8").write_text("short")
    with pytest.raises(UserError, match=r"text8 ends before character 900, so it is not text8"):
        make(tmp_path, "text8")


def test_lambada_is_a_test_split_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no lambada_test\.jsonl or .*dataset=lambada out="):
        make(tmp_path, "lambada")
    with pytest.raises(UserError, match=r"root=None has no lambada_test.*fetch .* out=DIR, and g"):
        make(None, "lambada")
    write_jsonl(tmp_path / "lambada_test.jsonl", [" “a” ", "b"])
    data = make(tmp_path, "lambada")
    expected = TOKENIZER.decode(TOKENIZER.encode('\n"a"')) + "|"
    assert texts(data, "test").startswith(expected)
    assert texts(data, "valid") == texts(data, "test")
    with pytest.raises(UserError, match="no train data; lambada is read for: valid, test"):
        data.dataset("train")


def test_mistakes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corpus=c4 is unknown; there are lm1b, owt, .*lambada\."):
        make(tmp_path, "c4")
    with pytest.raises(UserError, match=r"splits=\['dev'\] are none; use some of train, valid"):
        make(tmp_path, "ptb", splits=["dev"])
    with pytest.raises(UserError, match=r"root=.* has no files of ptb whose names begin with tra"):
        make(tmp_path, "ptb")
    with pytest.raises(UserError, match=r"root=.*none cannot be read \(No such file"):
        make(tmp_path / "none", "ptb", cache_dir=tmp_path)
    for name in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", ["same"], "sentence")
    with pytest.raises(UserError, match=r"train=.* and valid=.* hold the same text"):
        make(tmp_path, "ptb")
    with pytest.raises(UserError, match=r"train\.jsonl, line 1 has no column 'text', but id, sen"):
        make(tmp_path, "owt")


def test_the_corpora_are_described(tmp_path: Path) -> None:
    write_splits(tmp_path, "lm1b")
    data = make(tmp_path, "lm1b", layout="padded")
    description = json.loads(json.dumps(data.describe()))
    assert description["detokenizer"] == "lm1b"
    assert description["splits"]["test"]["layout"] == "padded"
    assert description["text"]["valid"] == description["text"]["test"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a repository on the Hub has it, and a cache of the Hub's own."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    for config in ("arxiv", "pubmed"):
        for split in ("train", "validation", "test"):
            folder = tmp_path / "repository" / config / split
            folder.mkdir(parents=True)
            for i in range(2):
                said = [f"{config} {split} {letter}" for letter in "abc"[i:]]
                write_parquet(folder / f"{i:04d}.parquet", said, "article")
    return tmp_path / "repository"


def test_the_hub_is_read_by_split_and_column(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = HubDocuments(str(hub), "train[:-1]", files="arxiv/train/*.parquet", column="article")
    expected = [f"arxiv train {letter}" for letter in "abcb"]
    for first in range(5):
        assert list(source.documents(first)) == expected[first:]
    assert source.count() == 4
    again = HubDocuments(str(hub), "train[:-1]", files="arxiv/train/*.parquet", column="article")
    assert again.identity() == source.identity()
    other = HubDocuments(str(hub), "train", files="arxiv/train/*.parquet", column="article")
    assert other.identity() != source.identity()
    corpus = CORPORA["arxiv"]._replace(hub=str(hub), revision=None)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "CORPORA", {"arxiv": corpus})
    data = make(None, "arxiv", splits=["valid"], cache_dir=tmp_path / "cache")
    assert texts(data, "valid") == "".join(f"arxiv validation {letter}|" for letter in "abcbc")


def test_mistakes_about_the_hub_are_refused(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(split: str = "train", files: str | None = None, **options: Any) -> None:
        list(HubDocuments(str(hub), split, files=files, **options).documents())

    with pytest.raises(UserError, match=r"none is not on the Hugging Face Hub .*check the name"):
        ask("none")
    with pytest.raises(UserError, match=r"has no column 'text', but id, article; give column="):
        ask()
    with pytest.raises(UserError, match=r"row 0 .*: id is int, not text; give column="):
        ask(column="id")
    with pytest.raises(
        UserError, match=r"row 0 .*document has 13 bytes, and max_document_bytes=3"
    ):
        ask(files="arxiv/train/*.parquet", column="article", max_document_bytes=3)

    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(OutsideError, match=r"fetched from the .*\(ConnectionError: no route to h"):
        ask()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"datasets, which is not installed; pip install 'genod"):
        ask()


def test_every_corpus_has_a_config() -> None:
    found = {}
    for path in sorted((config_dir() / "data").glob("*.yaml")):
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
        if str(node.get("_target_")).endswith("corpus_data"):
            found[path.stem] = node
    assert {node["corpus"] for node in found.values()} == {*CORPORA, "text8", "lambada"}
    layouts = {name: node["layout"] for name, node in found.items()}
    assert {name for name, layout in layouts.items() if layout == "padded"} == {"lm1b"}
    assert found["lm1b_packed"]["layout"] == "packed" and "owt" in found


@pytest.mark.slow
def test_importing_genodiff_imports_none_of_the_packages_of_text() -> None:
    code = "import sys, genodiff.data; print([m for m in ('datasets', 'pyarrow', 'tokenizers', "
    code += "'transformers') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
