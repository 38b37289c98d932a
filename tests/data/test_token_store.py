import json
import logging
import multiprocessing
import os
import pickle
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genodiff.data import ByteTokenizer, CharacterTokenizer, TokenStore, stored_tokens
from genodiff.data.token_store import ShardSize, _Progress
from genodiff.errors import UserError
from tests.data.given import Given

SMALL = ShardSize(characters=12, documents=4)
TEXTS = ["abc", "", "de", " \n", "fghijklmnopq", "r", "s", "t", "u", "v", "wxyzwxyzwxyzwxyz", "é"]
DOCUMENTS = st.lists(st.text(alphabet="aé ", max_size=9), min_size=1, max_size=14).filter(
    lambda texts: any(map(str.strip, texts))
)


def make(folder: Path, source: Any, tokenizer: Any = None, **options: Any) -> TokenStore:
    options = {"shard": SMALL, **options}
    return stored_tokens(source, tokenizer or ByteTokenizer(), cache_dir=folder, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the only store there."""
    (store,) = [path for path in folder.iterdir() if path.is_dir()]
    return {path.name: path.read_bytes() for path in store.iterdir()}


class Failing(Given):
    """A corpus whose document number `at` cannot be read, at first."""

    def __init__(self, texts: Sequence[str], at: int, how: Any):
        super().__init__(texts)
        self.at, self.how = at, how

    def documents(self, first: int = 0) -> Iterator[str]:
        for number, text in enumerate(super().documents(first), start=first):
            if number == self.at:
                self.how()
            yield text


def interrupt() -> None:
    raise KeyboardInterrupt


@given(DOCUMENTS, st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_store_is_its_documents(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], eos: bool, keep_empty: bool
) -> None:
    tokenizer = CharacterTokenizer()
    folder = tmp_path_factory.mktemp("any")
    store = make(folder, Given(texts), tokenizer, eos=eos, keep_empty=keep_empty)
    kept = [i for i, text in enumerate(texts) if keep_empty or text.strip()]
    rows = [[*tokenizer.encode(texts[i]), *[tokenizer.eos_id] * eos] for i in kept]
    string = [i for row in rows for i in row]
    ends = np.cumsum([0, *map(len, rows)])
    assert (store.n_documents, store.n_tokens) == (len(kept), len(string))
    assert store.n_skipped == len(texts) - len(kept)
    for start in range(0, len(string), 3):
        assert store.tokens(start, len(string)).tolist() == string[start:]
        assert store.tokens(start, start + 1).tolist() == string[start : start + 1]
    documents = np.arange(len(kept))
    assert store.starts(np.arange(len(kept) + 1)).tolist() == ends.tolist()
    assert store.numbers(documents).tolist() == kept
    at = np.arange(len(string))
    expected = [i for i, row in enumerate(rows) for _ in row]
    assert store.documents_at(at).tolist() == expected


def test_shards_end_where_they_are_full(tmp_path: Path) -> None:
    store = make(tmp_path, Given(TEXTS))
    held = json.loads((store.folder / "store.json").read_text())["shards"]
    # 4 documents; 12 characters; 4 documents; 16 characters in one; the rest.
    assert [shard["read"] for shard in held] == [4, 1, 4, 2, 1]
    assert [shard["documents"] for shard in held] == [2, 1, 4, 2, 1]
    assert [shard["tokens"] for shard in held] == [5, 12, 4, 17, 2]


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(256, "|u1"), (257, "<u2"), (1 << 16, "<u2"), ((1 << 16) + 1, "<u4")]
)
def test_a_token_takes_what_the_vocabulary_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocab_size: int, dtype: str
) -> None:
    monkeypatch.setattr(ByteTokenizer, "vocab_size", vocab_size)
    store = make(tmp_path, Given(["abc"]))
    assert json.loads((store.folder / "store.json").read_text())["dtype"] == dtype
    assert (store.folder / "000000.tokens").stat().st_size == 3 * np.dtype(dtype).itemsize
    assert store.tokens(0, 3).tolist() == [97, 98, 99]


@given(DOCUMENTS, st.integers(0, 14))
@settings(max_examples=25, deadline=None)
def test_what_was_interrupted_goes_on_to_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], at: int
) -> None:
    whole, broken = (tmp_path_factory.mktemp("any") for _ in range(2))
    make(whole, Given(texts))
    at = min(at, len(texts) - 1)
    with pytest.raises(KeyboardInterrupt):
        make(broken, Failing(texts, at, interrupt))
    finished = [*broken.glob("*/0*.json")]
    read = sum(json.loads(path.read_text())["read"] for path in finished)
    source = Given(texts)
    make(broken, source)
    assert source.asked == [read]
    assert contents(broken) == contents(whole)


def test_what_is_made_once_is_not_made_again(tmp_path: Path) -> None:
    make(tmp_path, Given(TEXTS))
    again = Given(TEXTS)
    make(tmp_path, again)
    assert again.asked == []


def test_every_choice_has_a_store_of_its_own(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer()
    stores = [
        make(tmp_path, Given(TEXTS)),
        make(tmp_path, Given([*TEXTS, "more"])),
        make(tmp_path, Given(TEXTS), tokenizer),
        make(tmp_path, Given(TEXTS), tokenizer, eos=True),
        make(tmp_path, Given(TEXTS), tokenizer, keep_empty=True),
        make(tmp_path, Given(TEXTS), tokenizer, detokenizer="lambada"),
    ]
    assert len({store.folder for store in stores}) == len({store.sha256 for store in stores}) == 6


@pytest.mark.parametrize("kind", ["tokens", "documents", "json", "store"])
@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[:-2] + b"!!", lambda b: b""])
def test_damage_is_told_and_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, change: Any
) -> None:
    folder = make(tmp_path, Given(TEXTS)).folder
    sound = contents(tmp_path)
    name = "store.json" if kind == "store" else f"000001.{kind}"
    (folder / name).write_bytes(change(sound[name]))
    if kind == "json":  # what it says counts only until the store is complete
        (folder / "store.json").unlink()
    source = Given(TEXTS)
    with caplog.at_level(logging.WARNING):
        make(tmp_path, source)
    assert "damaged" in caplog.text
    assert source.asked == [len(TEXTS) if kind == "store" else 4]
    assert contents(tmp_path) == sound


def test_a_missing_shard_is_made_again(tmp_path: Path) -> None:
    folder = make(tmp_path, Given(TEXTS)).folder
    sound = contents(tmp_path)
    (folder / "000002.tokens").unlink()
    make(tmp_path, Given(TEXTS))
    assert contents(tmp_path) == sound


def test_stores_go_to_other_processes(tmp_path: Path) -> None:
    store = make(tmp_path, Given(TEXTS))
    assert store.tokens(0, 3).tolist() == [97, 98, 99]
    again = pickle.loads(pickle.dumps(store))
    assert again.tokens(3, 9).tolist() == store.tokens(3, 9).tolist()
    assert len(pickle.dumps(store)) < 4000


def test_several_at_once_make_one_store(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    sources = [Given(TEXTS * 5) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        stores = [*pool.map(lambda source: make(together, source), sources)]
    assert len({store.sha256 for store in stores}) == 1
    assert sum(map(len, (source.asked for source in sources))) == 1
    make(alone, Given(TEXTS * 5))
    assert contents(together) == contents(alone)


def test_batches_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "a", Given(TEXTS * 9), shard=ShardSize(200, 40))
    monkeypatch.setattr("genodiff.data.token_store._BATCH_CHARACTERS", 5)
    make(tmp_path / "b", Given(TEXTS * 9), shard=ShardSize(200, 40))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("texts", [[], ["", "  ", "\n"]])
def test_a_corpus_without_text_is_refused(tmp_path: Path, texts: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(UserError, match="given holds no text; give one with some"):
            make(tmp_path, Given(texts))


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"the cache folder .*file cannot be written \(.*cache_dir"
    ):
        make(tmp_path / "file", Given(TEXTS))


def test_progress_is_a_line_every_half_minute(caplog: pytest.LogCaptureFixture) -> None:
    from genodiff.data.token_store import _Batch

    clock = iter([0.0, 10.0, 31.0, 31.0, 31.0, 40.0]).__next__
    progress = _Progress("corpus", clock)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            progress.add(_Batch([], [], 500, 31_000_000, False), 700)
    (line,) = caplog.messages
    assert line == (
        "corpus: 1,000 documents, 62,000,000 characters, 1,400 tokens, 2.0 million characters a "
        "second"
    )


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    class Endless(Given):
        def identity(self) -> dict[str, Any]:
            return {"n": len(self.texts)}

        def documents(self, first: int = 0) -> Iterator[str]:
            for i in range(first, len(self.texts)):
                yield f"{i} " + "word " * 40

    peaks = []
    for n in (20_000, 160_000):  # 4 and 33 million characters
        tracemalloc.start()
        store = make(tmp_path, Endless(range(n)), shard=None)  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert store.n_documents == n
    assert peaks[1] < 1.2 * peaks[0] < 100 << 20


def _killed(folder: Path, texts: list[str], at: int) -> None:
    make(folder, Failing(texts, at, lambda: os._exit(9)))


@pytest.mark.slow
def test_processes_that_are_killed_and_those_at_once_leave_the_same_bytes(tmp_path: Path) -> None:
    texts = TEXTS * 40
    make(tmp_path / "whole", Given(texts))
    spawn = multiprocessing.get_context("spawn")
    for at in (5, 100, 333):
        process = spawn.Process(target=_killed, args=(tmp_path / "killed", texts, at))
        process.start()
        process.join()
        assert process.exitcode == 9
    many = [
        spawn.Process(target=_killed, args=(tmp_path / "killed", texts, 10**9)) for _ in range(3)
    ]
    for process in many:
        process.start()
    for process in many:
        process.join()
        assert process.exitcode == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
