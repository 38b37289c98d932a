"""Reading a tokenizer's folder: any tokenizer.json, or the files BERT and GPT-2 came with.

No code of `transformers` is needed. What its `BertTokenizerFast` and `GPT2TokenizerFast` make of a
vocabulary is written out here.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from genodiff.data.subword_tokenizer import SubwordTokenizer, parse_definition, unknown_token
from genodiff.errors import UserError

FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "encoder.json", "vocab.bpe"),
)
"""All that may be read of a folder."""

_BY_TRANSFORMERS = (
    "transformers' AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes "
    "tokenizer.json"
)

_ROLES = {
    *("mask_token", "pad_token", "unk_token"),
    *("bos_token", "cls_token", "eos_token", "sep_token"),
}
"""Keys of configs that name a special token."""

Definition = dict[str, Any]


def read_subword_tokenizer(folder: Path) -> SubwordTokenizer:
    """The tokenizer whose files are in `folder`.

    Of tokenizer.json; or vocab.txt as BERT reads it, in lower case unless tokenizer_config.json
    beside it has `do_lower_case: false`; or GPT-2's vocab.json and merges.txt, also under their
    first names, encoder.json and vocab.bpe, with a space in front of each text if that file has
    `add_prefix_space: true`.

    Which tokens are the mask, the padding, and the begin and end of a sequence is what
    tokenizer_config.json or special_tokens_map.json say, with BERT's [CLS] and [SEP] for begin and
    end; where neither does, tokens of the usual names. A mask or padding that is missing, or is
    another special token too, is appended to the vocabulary: the mask first, then the padding.

    Raises UserError if a file is missing, damaged, or contradicts another.
    """
    config = {
        **_settings(folder / "special_tokens_map.json"),
        **_settings(folder / "tokenizer_config.json"),
    }
    config |= {role: _named(role, config[role], folder) for role in _ROLES & config.keys()}
    if (folder / "tokenizer.json").is_file():
        definition = _whole(folder / "tokenizer.json")
    elif (folder / "vocab.txt").is_file():
        definition = _word_pieces(folder / "vocab.txt", config)
    else:
        definition = _byte_pairs(folder, config)
    return _with_roles(definition, config, folder)


def _whole(path: Path) -> Definition:
    definition = _json(path)
    model = definition.get("model")
    if not isinstance(model, dict):
        raise UserError(f"{path} has no model, and so no vocabulary; it is damaged.")
    if model.get("type") == "BPE" or "merges" in model:  # some files do not name the type
        vocab, merges = model.get("vocab"), model.get("merges")
        if not isinstance(vocab, dict) or not isinstance(merges, list):
            raise UserError(f"{path} has no table of tokens, or no list of merges; it is damaged.")
        _check_merges([_pair(merge) for merge in merges], vocab, path, path)
    return definition


def _pair(merge: Any) -> tuple[str, ...]:
    """The tokens of a merge, which files write as text or as a list."""
    if isinstance(merge, str):
        return tuple(merge.split(" "))
    is_pair = isinstance(merge, list) and all(isinstance(token, str) for token in merge)
    return tuple(merge) if is_pair else (str(merge),)


def _word_pieces(path: Path, config: Mapping[str, Any]) -> Definition:
    """BERT's tokenizer (Devlin et al. 2019, arXiv:1810.04805)."""
    _refuse_added(path.parent)
    words = _text(path).split("\n")
    if words and not words[-1]:
        words.pop()
    first: dict[str, int] = {}
    for number, word in enumerate(words, 1):
        if not word.strip():
            raise UserError(f"{path}: line {number} is empty, and a line is a token; repair it.")
        if word in first:
            raise UserError(
                f"{path}: line {number} says {word!r} again, as line {first[word]} does; a token "
                "has one line."
            )
        first[word] = number
    unknown = config.get("unk_token") or "[UNK]"
    if unknown not in first:
        raise UserError(
            f"{path} has no line {unknown}, which stands for words it does not know; it is no "
            "vocabulary of BERT's."
        )
    lower = config.get("do_lower_case", True)
    return _definition(
        {
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: number - 1 for word, number in first.items()},
        },
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
            "strip_accents": config.get("strip_accents"),
            "lowercase": lower,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )


def _byte_pairs(folder: Path, config: Mapping[str, Any]) -> Definition:
    """GPT-2's tokenizer (Radford et al. 2019)."""
    vocab_path = _first_file(folder, "vocab.json", "encoder.json")
    merges_path = _first_file(folder, "merges.txt", "vocab.bpe")
    if vocab_path is None and merges_path is None:
        raise UserError(
            f"tokenizer={folder} holds none: no tokenizer.json, no vocab.txt (BERT), no "
            f"vocab.json with merges.txt (GPT-2); {_BY_TRANSFORMERS}."
        )
    if vocab_path is None or merges_path is None:
        there, missing = (
            (merges_path, "vocab.json") if vocab_path is None else (vocab_path, "merges.txt")
        )
        raise UserError(f"{there} lacks {missing}; put the model's own beside it.")
    _refuse_added(folder)
    vocab = _json(vocab_path)
    if not all(isinstance(token_id, int) for token_id in vocab.values()):
        raise UserError(f"{vocab_path} is no table of tokens and their ids; it is damaged.")
    merges = [
        tuple(line.split(" "))
        for number, line in enumerate(_text(merges_path).split("\n"))
        if line and not (number == 0 and line.startswith("#version"))
    ]
    _check_merges(merges, vocab, merges_path, vocab_path)
    missing = [letter for letter in byte_letters() if letter not in vocab]
    if missing:
        raise UserError(
            f"{vocab_path} has no token for {len(missing)} of the 256 bytes (the first: "
            f"{missing[0]!r}), which text would lose; it is no vocabulary of GPT-2's kind."
        )
    bytes_as_letters = {
        "type": "ByteLevel",
        "add_prefix_space": config.get("add_prefix_space", False),
        "trim_offsets": True,
        "use_regex": True,
    }
    return _definition(
        {"type": "BPE", "vocab": vocab, "merges": merges},
        pre_tokenizer=bytes_as_letters,
        decoder=bytes_as_letters,
    )


def _definition(model: dict[str, Any], **parts: Any) -> Definition:
    return {
        **{"version": "1.0", "truncation": None, "padding": None, "added_tokens": []},
        **{"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None},
        **parts,
        "model": model,
    }


def _with_roles(
    definition: Definition, config: Mapping[str, Any], folder: Path
) -> SubwordTokenizer:
    """`definition` with its special tokens known and all of them there."""
    # Rows are cut and padded by the data; templates of special tokens are never asked for.
    definition = {**definition, "truncation": None, "padding": None, "post_processor": None}
    name = f"tokenizer={folder}"
    library = parse_definition(json.dumps(definition), name)
    from tokenizers import AddedToken

    ids = library.get_vocab(with_added_tokens=True)
    holes = sorted(set(range(len(ids))) - set(ids.values()))
    if holes:
        raise UserError(
            f"{name}: no token has the id {holes[0]}, and ids go from 0 to {len(ids) - 1}; its "
            "vocabulary is damaged."
        )

    def declared(*roles: str) -> str | None:
        return next((token for role in roles if (token := config.get(role))), None)

    def known(*names: str) -> str | None:
        return next((token for token in names if token in ids), None)

    if config.keys() & {"bos_token", "cls_token", "eos_token", "sep_token"}:
        bos = declared("bos_token", "cls_token")
        eos = declared("eos_token", "sep_token")
    else:
        bos = known("[CLS]", "<s>", "<|endoftext|>")
        eos = known("[SEP]", "</s>", "<|endoftext|>")
    for token in (bos, eos):
        if token is not None and token not in ids:
            raise UserError(f"{name}: {token} is declared, and no token is called so; repair it.")
    # Text has these: a mask or padding that is one of them could not be told from it.
    others = {bos, eos, unknown_token(definition), declared("unk_token")}
    mask = _own(declared("mask_token"), ("[MASK]", "<mask>"), ids, others)
    pad = _own(declared("pad_token"), ("[PAD]", "<pad>"), ids, {*others, mask})
    library.add_special_tokens(  # those that are there keep their ids
        [
            AddedToken(token, special=True, normalized=False)
            for token in (mask, pad, bos, eos)
            if token is not None
        ]
    )
    return SubwordTokenizer(library.to_str(), mask, pad, bos, eos)


def _own(
    declared: str | None, names: tuple[str, str], ids: Mapping[str, int], taken: set[str | None]
) -> str:
    """The token of a role: as declared, or of a usual name, or a new one; none that is taken."""
    if declared is not None and declared not in taken:
        return declared
    free = [name for name in names if name not in taken]
    return next((name for name in free if name in ids), free[0])


def _check_merges(
    merges: Iterable[tuple[str, ...]], vocab: Mapping[str, int], path: Path, vocab_path: Path
) -> None:
    """Refuses what the library would stop the whole process for."""
    for number, merge in enumerate(merges, 1):
        if len(merge) != 2 or not all(merge):
            raise UserError(f"{path}: merge {number} is {' '.join(merge)!r}, not two tokens.")
        for token in (*merge, "".join(merge)):
            if token not in vocab:
                raise UserError(
                    f"{path}: merge {number}, {' '.join(merge)!r}, needs the token {token!r}, and "
                    f"{vocab_path} has none such; the files are not of one model."
                )


def _refuse_added(folder: Path) -> None:
    if (folder / "added_tokens.json").is_file():
        raise UserError(
            f"tokenizer={folder} has added_tokens.json, which is read as part of tokenizer.json "
            f"only; {_BY_TRANSFORMERS}."
        )


def byte_letters() -> list[str]:
    """The letters by which vocabularies of GPT-2's kind spell the 256 bytes: printable Latin-1 as
    it is, the others as the letters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(0x100 + others.index(b)) if b in others else chr(b) for b in range(256)]


def _first_file(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _settings(path: Path) -> Definition:
    return _json(path) if path.is_file() else {}


def _named(role: str, token: Any, folder: Path) -> str | None:
    """The text of a special token, which configs write as text or as a table."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str | None):
        raise UserError(
            f"tokenizer={folder}: {role} is {text!r}, which is no text; correct "
            "tokenizer_config.json or special_tokens_map.json."
        )
    return text


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); it is damaged.") from error


def _json(path: Path) -> Definition:
    try:
        table = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); it is damaged.") from error
    if not isinstance(table, dict):
        raise UserError(f"{path} is no table; it is damaged.")
    return table
