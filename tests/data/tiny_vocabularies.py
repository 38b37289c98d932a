"""Folders of tokenizers with tiny vocabularies, in the layouts that others publish."""

import json
from pathlib import Path
from typing import Any

from genodiff.data.tokenizer_files import byte_letters

CORPUS = (
    "The cat sat on the mat, and the other cat didn't. It's a café; naïve? Yes!",
    "we'll see 12 or 345 things: e-mail, don't they've I'm (really) \"quoted\" 世界",
    "the the the there then them they cat cats catty sat sit sitting   and  and\n\nmat",
)


def bert_folder(folder: Path, **config: Any) -> Path:
    """vocab.txt, trained on a few sentences, and with `config` a tokenizer_config.json."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    folder.mkdir()
    tokenizer = Tokenizer(models.WordPiece({}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=config.get("do_lower_case", True))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words), encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def gpt2_folder(folder: Path, vocab: str = "vocab.json", merges: str = "merges.txt") -> Path:
    """GPT-2's two files, of 256 bytes, some merges and <|endoftext|>, the last one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=byte_letters())
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    table = {**model["vocab"], "<|endoftext|>": len(model["vocab"])}
    (folder / vocab).write_text(json.dumps(table), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
    (folder / merges).write_text("\n".join(lines), encoding="utf-8")
    return folder


def words_folder(folder: Path, words: list[str], **config: Any) -> Path:
    """A tokenizer.json of whole words with spaces between them."""
    folder.mkdir()
    definition = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: i for i, word in enumerate(words)},
            "unk_token": "[UNK]",
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
