"""Tokenizers of words: encoding as transformers does, special tokens, and what cannot be read."""

import json
import multiprocessing
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genodiff.data import SubwordTokenizer, TextTokenizer, load_tokenizer
from genodiff.data.tokenizer_files import read_subword_tokenizer
from genodiff.errors import UserError
from tests.data.tiny_vocabularies import CORPUS, bert_folder, gpt2_folder, words_folder

Folders = dict[str, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("tokenizers")
    return {
        "bert": bert_folder(root / "bert"),
        "cased": bert_folder(root / "cased", do_lower_case=False),
        "gpt2": gpt2_folder(root / "gpt2"),
    }


@pytest.fixture(scope="module", params=["bert", "cased", "gpt2"])
def pair(request: pytest.FixtureRequest, folders: Folders) -> tuple[SubwordTokenizer, Any]:
    """A tokenizer of ours, and that of transformers."""
    from transformers import BertTokenizerFast, GPT2TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]: made at run time

    folder = folders[request.param]
    if request.param == "gpt2":
        theirs = GPT2TokenizerFast.from_pretrained(folder)
    else:
        lower = request.param == "bert"
        theirs = BertTokenizerFast.from_pretrained(folder, do_lower_case=lower)
    return read_subword_tokenizer(folder), theirs


# Encoding

LETTERS = st.one_of(
    st.sampled_from("the cat sat's ABÉé,.!?-'\"0123 "),
    st.sampled_from("\x00\t\n\r\x0b\x7f\u200b\u00ad\ufffd\u3000世界ﬁİßçñ\u0301😀👩‍👧\U0010ffff"),
    st.characters(exclude_categories=["Cs"]),
)


@settings(max_examples=150, deadline=None)
@given(text=st.text(LETTERS, max_size=60))
def test_texts_are_encoded_as_transformers_does(
    pair: tuple[SubwordTokenizer, Any], text: str
) -> None:
    ours, theirs = pair
    assert ours.encode(text).tolist() == theirs(text, add_special_tokens=False)["input_ids"]


def test_a_batch_is_encoded_as_its_texts_are(pair: tuple[SubwordTokenizer, Any]) -> None:
    ours, theirs = pair
    texts = [*CORPUS, "", "x" * 3000, " \n "]
    rows = ours.encode_batch(texts)
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    assert [row.tolist() for row in rows] == expected
    assert all(row.dtype == np.int64 and row.ndim == 1 for row in rows)
    assert all(np.array_equal(ours.encode(t), row) for t, row in zip(texts, rows, strict=True))


def test_names_of_special_tokens_in_a_text_are_letters(
    pair: tuple[SubwordTokenizer, Any],
) -> None:
    ours, theirs = pair
    reserved = {ours.mask_id, ours.pad_id, ours.bos_id, ours.eos_id}
    for name in (ours.mask_token, ours.pad_token, ours.bos_token, ours.eos_token):
        assert name is not None
        ids = ours.encode(f"the {name} cat").tolist()
        assert not reserved & set(ids) and len(ids) >= 5
        plain = theirs(f"the {name} cat", add_special_tokens=False, split_special_tokens=True)
        assert ids == plain["input_ids"]
        for token_id in reserved:
            assert token_id is not None and ours.encode(ours.decode([token_id])).size > 1


def test_a_vocabulary_of_whole_words_reads_names_of_special_tokens_as_unknown(
    tmp_path: Path,
) -> None:
    folder = words_folder(tmp_path / "words", ["[PAD]", "[UNK]", "a", "[MASK]", "</s>"])
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.encode("a [MASK] [PAD] </s> [UNK] b").tolist() == [2, 1, 1, 1, 1, 1]


def test_cut_and_padded_rows_of_a_tokenizer_json_are_not_cut_or_padded(folders: Folders) -> None:
    from tokenizers import Tokenizer

    library = Tokenizer.from_str(read_subword_tokenizer(folders["bert"]).definition)
    library.enable_truncation(4)
    library.enable_padding(pad_id=0, pad_token="[PAD]", length=50)
    folder = folders["bert"].parent / "settings"
    folder.mkdir(exist_ok=True)
    library.save(str(folder / "tokenizer.json"))
    tokenizer, plain = (read_subword_tokenizer(f) for f in (folder, folders["bert"]))
    assert tokenizer == plain
    assert [len(row) for row in tokenizer.encode_batch(CORPUS)] == [
        len(row) for row in plain.encode_batch(CORPUS)
    ]


# Ids


def test_the_special_tokens_of_bert_and_gpt2(folders: Folders) -> None:
    bert = read_subword_tokenizer(folders["bert"])
    assert (bert.pad_id, bert.bos_id, bert.eos_id, bert.mask_id) == (0, 2, 3, 4)
    gpt2 = read_subword_tokenizer(folders["gpt2"])
    table = json.loads((folders["gpt2"] / "vocab.json").read_text())
    end = len(table) - 1
    assert (gpt2.bos_id, gpt2.eos_id, gpt2.mask_id, gpt2.pad_id) == (end, end, end + 1, end + 2)
    assert gpt2.vocab_size == len(table) + 2
    for tokenizer in (bert, gpt2):
        assert isinstance(tokenizer, TextTokenizer)
        everything = {*tokenizer.data_ids, tokenizer.mask_id, tokenizer.pad_id}
        assert everything == set(range(tokenizer.vocab_size))
        assert len(tokenizer.data_ids) == tokenizer.vocab_size - 2


@pytest.mark.parametrize("role", ["mask_token", "eos_token", "unk_token", "bos_token"])
def test_a_padding_that_is_another_token_too_gets_one_of_its_own(
    tmp_path: Path, role: str
) -> None:
    words = ["[UNK]", "a", "<m>", "<e>", "<b>"]
    config = {"mask_token": "<m>", "eos_token": {"content": "<e>"}, "unk_token": "[UNK]"}
    config = {**config, "bos_token": "<b>"}
    folder = words_folder(tmp_path / "words", words, **config, pad_token=config[role])
    tokenizer = load_tokenizer(str(folder))
    assert (tokenizer.mask_id, tokenizer.eos_id, tokenizer.bos_id) == (2, 3, 4)
    assert tokenizer.pad_id == 5 and tokenizer.decode([5]) == "[PAD]"


def test_a_mask_that_is_another_token_too_gets_one_of_its_own(tmp_path: Path) -> None:
    config = {"mask_token": "<e>", "eos_token": "<e>", "pad_token": "[MASK]"}
    folder = words_folder(tmp_path / "words", ["[UNK]", "a", "<e>"], **config)
    tokenizer = load_tokenizer(str(folder))
    assert [tokenizer.decode([i]) for i in (2, 3, 4)] == ["<e>", "[MASK]", "[PAD]"]
    assert (tokenizer.eos_id, tokenizer.mask_id, tokenizer.pad_id) == (2, 3, 4)


def test_what_tokenizer_config_says_comes_before_usual_names(tmp_path: Path) -> None:
    words = ["[UNK]", "[MASK]", "[PAD]", "[CLS]", "[SEP]", "<x>", "<y>", "<z>"]
    config = {"mask_token": "<x>", "pad_token": "<y>", "bos_token": None, "eos_token": "<z>"}
    folder = words_folder(tmp_path / "words", words, **config)
    (folder / "special_tokens_map.json").write_text('{"mask_token": "[MASK]"}')
    tokenizer = load_tokenizer(str(folder))
    assert (tokenizer.mask_id, tokenizer.pad_id) == (5, 6)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (None, 7)


def test_decoding_writes_special_tokens_by_name(folders: Folders) -> None:
    gpt2 = read_subword_tokenizer(folders["gpt2"])
    assert gpt2.eos_id is not None
    text = "naïve 世界 don't\n\n\x00"
    ids = gpt2.encode(text).tolist()
    assert gpt2.decode(gpt2.encode(text)) == text
    assert gpt2.decode(torch.tensor([gpt2.mask_id, *ids])) == "[MASK]" + text
    assert gpt2.decode([*ids, gpt2.eos_id, gpt2.pad_id]) == text + "<|endoftext|>[PAD]"
    bert = read_subword_tokenizer(folders["bert"])
    assert bert.decode(bert.encode("The cats sat!")) == "the cats sat!"
    assert bert.decode([4, 0]) == "[MASK] [PAD]"
    for tokens in ([], np.zeros(0, dtype=np.int64), torch.zeros(0, dtype=torch.int64)):
        assert bert.decode(tokens) == ""
    with pytest.raises(ValueError, match=rf"ids \[-1, {bert.vocab_size}\] are not in the"):
        bert.decode([-1, 4, bert.vocab_size])


# What a tokenizer is


def ids_of(tokenizer: SubwordTokenizer, text: str) -> list[int]:
    return tokenizer.encode(text).tolist()


def test_what_is_pickled_is_its_definition(folders: Folders) -> None:
    tokenizer = read_subword_tokenizer(folders["gpt2"])
    assert ids_of(tokenizer, CORPUS[0])
    pickled = pickle.dumps(tokenizer)
    assert len(pickled) < len(tokenizer.definition.encode()) + 500
    assert pickle.loads(pickled) == tokenizer


@pytest.mark.slow
def test_it_travels_into_other_processes(folders: Folders) -> None:
    tokenizer = read_subword_tokenizer(folders["gpt2"])
    ids = ids_of(tokenizer, CORPUS[0])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(ids_of, (tokenizer, CORPUS[0])) == ids


def test_two_of_one_definition_are_equal(folders: Folders) -> None:
    first, second = (read_subword_tokenizer(folders["bert"]) for _ in range(2))
    assert first == second and hash(first) == hash(second) and first is not second
    assert first != read_subword_tokenizer(folders["cased"])
    assert len(repr(first)) < 200
    assert first != SubwordTokenizer(first.definition, eos_token="[SEP]")


def test_it_is_read_when_it_is_needed(folders: Folders) -> None:
    damaged = SubwordTokenizer("{}")
    with pytest.raises(UserError, match=r"a tokenizer's definition is none that tokenizers"):
        damaged.encode("a")
    definition = read_subword_tokenizer(folders["bert"]).definition
    for wrong in (
        SubwordTokenizer(definition, mask_token="<mask>"),
        SubwordTokenizer(definition, mask_token="[PAD]"),
    ):
        with pytest.raises(UserError, match="must be two tokens of the vocabulary"):
            _ = wrong.mask_id


def test_written_and_read_again_it_is_the_same(folders: Folders, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    for name in folders:
        tokenizer = read_subword_tokenizer(folders[name])
        folder = tmp_path / name
        folder.mkdir()
        tokenizer.save(folder)
        assert read_subword_tokenizer(folder) == tokenizer
        library = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ids = ids_of(tokenizer, CORPUS[0])
        assert library.encode(CORPUS[0], add_special_tokens=False).ids == ids
        theirs = AutoTokenizer.from_pretrained(folder)
        assert theirs(CORPUS[0], add_special_tokens=False)["input_ids"] == ids
        assert (theirs.mask_token_id, theirs.pad_token_id) == (tokenizer.mask_id, tokenizer.pad_id)


def test_what_differs_between_two(folders: Folders, tmp_path: Path) -> None:
    bert, gpt2 = (read_subword_tokenizer(folders[name]) for name in ("bert", "gpt2"))
    assert bert.difference(bert) is None
    sizes = f"the vocabularies have {bert.vocab_size} and {gpt2.vocab_size} tokens"
    assert bert.difference(gpt2) == sizes
    words = (folders["bert"] / "vocab.txt").read_text().splitlines()
    words[6], words[7] = words[7], words[6]
    other = tmp_path / "swapped"
    other.mkdir()
    (other / "vocab.txt").write_text("\n".join(words))
    told = bert.difference(read_subword_tokenizer(other))
    assert told == f"the vocabularies differ at id 6: {words[7]!r} against {words[6]!r}"
    (other / "vocab.txt").write_bytes((folders["bert"] / "vocab.txt").read_bytes())
    (other / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert "split in another way" in str(bert.difference(read_subword_tokenizer(other)))
    (other / "tokenizer_config.json").write_text('{"mask_token": "[SEP]", "sep_token": "[CLS]"}')
    told = bert.difference(read_subword_tokenizer(other))
    assert told == "the mask is 4 in one and 3 in the other"


def test_the_same_vocabulary_in_another_file_is_no_difference(
    folders: Folders, tmp_path: Path
) -> None:
    from transformers import GPT2TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]: made at run time

    ours = read_subword_tokenizer(folders["gpt2"])
    GPT2TokenizerFast.from_pretrained(folders["gpt2"]).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    assert ours.difference(read_subword_tokenizer(tmp_path)) is None


# Files


def test_the_first_names_of_gpt2s_files(folders: Folders, tmp_path: Path) -> None:
    folder = gpt2_folder(tmp_path / "first", "encoder.json", "vocab.bpe")
    assert read_subword_tokenizer(folder) == read_subword_tokenizer(folders["gpt2"])


def test_case_is_kept_where_the_config_says_so(folders: Folders) -> None:
    lower, cased = (read_subword_tokenizer(folders[name]) for name in ("bert", "cased"))
    assert ids_of(lower, "The CAT") == ids_of(lower, "the cat")
    assert ids_of(cased, "The") != ids_of(cased, "the")
    assert cased.decode(cased.encode("The")) == "The"


def test_a_space_is_put_in_front_where_the_config_says_so(
    folders: Folders, tmp_path: Path
) -> None:
    from transformers import GPT2TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]: made at run time

    for path in folders["gpt2"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    ours = read_subword_tokenizer(tmp_path)
    theirs = GPT2TokenizerFast.from_pretrained(tmp_path)
    for text in ("the cat", " the cat", "", "\nthe"):
        assert ours.encode(text).tolist() == theirs(text)["input_ids"]
    plain = read_subword_tokenizer(folders["gpt2"])
    assert ids_of(ours, "the cat") == ids_of(plain, " the cat") != ids_of(plain, "the cat")


def test_a_word_that_nothing_stands_for_is_a_damaged_tokenizer(tmp_path: Path) -> None:
    folder = words_folder(tmp_path / "words", ["[MASK]", "[PAD]", "a"])  # and no [UNK]
    tokenizer = load_tokenizer(str(folder))
    with pytest.raises(UserError, match=r"the tokenizer cannot read a text .*are damaged"):
        tokenizer.encode("a b")


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ((), r"holds none: no tokenizer.json, no vocab.txt \(BERT\), no vocab.json with"),
        (("tokenizer_config.json",), r"holds none: no tokenizer.json"),
        (("vocab.json",), r"vocab.json lacks merges.txt; put the model's own beside it"),
        (("vocab.bpe",), r"vocab.bpe lacks vocab.json; put the model's own beside it"),
    ],
)
def test_an_incomplete_folder(tmp_path: Path, present: tuple[str, ...], message: str) -> None:
    for name in present:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=message) as refused:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(refused.value)


Damage = Callable[[Path], object]


def write(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def with_line(name: str, number: int, text: str) -> Damage:
    def damage(folder: Path) -> None:
        lines = (folder / name).read_text(encoding="utf-8").split("\n")
        lines[number - 1] = text
        (folder / name).write_text("\n".join(lines), encoding="utf-8")

    return damage


def without_token(token: str) -> Damage:
    def damage(folder: Path) -> None:
        table = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        del table[token]
        (folder / "vocab.json").write_text(json.dumps(table))

    return damage


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("bert", with_line("vocab.txt", 9, ""), "line 9 is empty, and a line is a token"),
        ("bert", with_line("vocab.txt", 9, "[SEP]"), r"line 9 says '\[SEP\]' again, as line 4"),
        ("bert", with_line("vocab.txt", 2, "unk"), r"no line \[UNK\], which stands for words"),
        ("bert", write("tokenizer_config.json", "{"), "tokenizer_config.json cannot be read"),
        ("bert", write("tokenizer_config.json", "[]"), "tokenizer_config.json is no table"),
        ("bert", write("tokenizer.json", '{"model": '), "tokenizer.json cannot be read"),
        ("bert", write("tokenizer.json", "{}"), "tokenizer.json has no model"),
        ("bert", write("tokenizer.json", '{"model": {"type": "X"}}'), "none that tokenizers"),
        (
            "bert",
            write("tokenizer_config.json", '{"bos_token": "<s>"}'),
            "<s> is declared, and no token is called so",
        ),
        (
            "bert",
            write("tokenizer_config.json", '{"mask_token": 103}'),
            "mask_token is 103, which is no text; correct tokenizer_config.json",
        ),
        (
            "bert",
            write("special_tokens_map.json", '{"unk_token": {"content": ["[UNK]"]}}'),
            "unk_token is .*, which is no text; correct .* or special_tokens_map.json",
        ),
        (
            "bert",
            write("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 0}}}'),
            "tokenizer.json has no table of tokens, or no list of merges",
        ),
        (
            "gpt2",
            write("tokenizer.json", '{"model": {"vocab": {"a": 0}, "merges": ["a a"]}}'),
            "merge 1, 'a a', needs the token 'aa'",
        ),
        (
            "gpt2",
            write("tokenizer.json", '{"model": {"vocab": {"a": 0}, "merges": [5]}}'),
            "merge 1 is '5', not two tokens",
        ),
        ("bert", write("tokenizer.json", "[" * 100_000), "tokenizer.json cannot be read"),
        ("bert", write("added_tokens.json", "{}"), "has added_tokens.json, which is read as"),
        ("gpt2", write("added_tokens.json", "{}"), "has added_tokens.json, which is read as"),
        ("gpt2", write("vocab.json", "{"), "vocab.json cannot be read"),
        ("gpt2", write("vocab.json", '{"a": "b"}'), "no table of tokens and their ids"),
        ("gpt2", with_line("merges.txt", 4, "a b c"), "merge 3 is 'a b c', not two tokens"),
        ("gpt2", with_line("merges.txt", 4, "a 世"), "merge 3, 'a 世', needs the token '世'"),
        ("gpt2", with_line("merges.txt", 4, "Q Q"), "merge 3, 'Q Q', needs the token 'QQ'"),
        ("gpt2", without_token("Q"), "no token for 1 of the 256 bytes .* 'Q'"),
        ("gpt2", without_token("Ġthe"), "needs the token 'Ġthe'"),
    ],
)
def test_damaged_files(
    folders: Folders, tmp_path: Path, kind: str, damage: Damage, message: str
) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in folders[kind].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    damage(folder)
    with pytest.raises(UserError, match=message) as refused:
        load_tokenizer(str(folder))
    assert "\n" not in str(refused.value) and str(folder) in str(refused.value)


def test_a_vocabulary_with_a_gap(folders: Folders, tmp_path: Path) -> None:
    table = json.loads((folders["gpt2"] / "vocab.json").read_text(encoding="utf-8"))
    table["<|endoftext|>"] += 1
    (tmp_path / "vocab.json").write_text(json.dumps(table))
    (tmp_path / "merges.txt").write_bytes((folders["gpt2"] / "merges.txt").read_bytes())
    with pytest.raises(UserError, match=f"no token has the id {len(table) - 1}, and ids go from"):
        load_tokenizer(str(tmp_path))


def test_merges_that_do_not_fit_in_a_tokenizer_json(folders: Folders, tmp_path: Path) -> None:
    definition = json.loads(read_subword_tokenizer(folders["gpt2"]).definition)
    definition["model"]["merges"].append("Q Q")
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(UserError, match="needs the token 'QQ'"):
        load_tokenizer(str(tmp_path))


def test_a_file_that_is_not_utf_8(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(UserError, match=r"vocab.txt cannot be read .*; it is damaged"):
        load_tokenizer(str(tmp_path))


def test_without_the_tokenizers_package(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install 'genodiff\[text\]'"):
        load_tokenizer(str(folders["bert"]))
