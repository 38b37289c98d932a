"""Is text encoded as by transformers, token for token, and how fast.

    python benchmarks/tokenization.py --tokenizer DIR --text FILE [FILE ...] [--altered 5]
        [--rounds 5] [--out FILE.json]

DIR holds a vocab.txt (BERT) or a vocab.json and merges.txt (GPT-2); the files are UTF-8, plain or
gzip. They are cut at blank lines, and so many megabytes of altered copies are added: in capitals,
with any characters of Unicode, emoji or control characters strewn in, without spaces (words of
thousands of letters), and with runs of white space. Every id is compared with
those of `BertTokenizerFast` or `GPT2TokenizerFast`, without special tokens; one that differs ends
the script with the text it is in. Then both are timed on the same texts, in batches of 1,000, in
turns, by the CPU time of all their threads.
"""

import argparse
import gzip
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import installed, machine, median_seconds

from genodiff.data import load_tokenizer

BATCH = 1000
EMOJI = ("😀", "👩‍👧", "🏳️‍🌈", "👍🏽", "e\u0301", "ﬁ", "İ", "ß", "\u200b", "\ufeff", "世界", "ไทย")
CONTROL = [chr(i) for i in (*range(32), *range(127, 160)) if chr(i) not in "\n"]
Draw = random.Random


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--altered", type=float, default=5, help="megabytes of altered copies")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)  # so that CPU time is measured
    ours, theirs = load_tokenizer(str(args.tokenizer)), transformers_own(args.tokenizer)

    def encode_theirs(texts: Sequence[str]) -> list[list[int]]:
        options = {"return_attention_mask": False, "return_token_type_ids": False}
        return theirs(list(texts), add_special_tokens=False, **options)["input_ids"]

    texts = paragraphs(args.text)
    given = len(texts)
    texts += altered(texts, int(args.altered * 1e6))
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    tokens, digest = compare(texts, ours.encode_batch, encode_theirs)
    print(f"{args.tokenizer.name}: {megabytes:.1f} MB, {tokens:,} tokens, all equal", flush=True)

    def of_all(encode: Callable[[Sequence[str]], object]) -> Callable[[], None]:
        def run() -> None:
            for batch in batches(texts):
                encode(batch)

        return run

    seconds = median_seconds(
        {"genodiff": of_all(ours.encode_batch), "transformers": of_all(encode_theirs)},
        torch.device("cpu"),
        repeats=args.rounds,
        seconds=600,
    )
    speed = {name: megabytes / took for name, took in seconds.items()}
    ratio = speed["genodiff"] / speed["transformers"]
    print("  ".join(f"{name} {mb:.2f} MB/s" for name, mb in speed.items()), f" x{ratio:.2f}")
    if args.out is not None:
        report = {
            **{"tokenizer": args.tokenizer.name, "megabytes": megabytes},
            "texts": {"given": given, "altered": len(texts) - given},
            **{"tokens": tokens, "equal": True, "sha256_of_int32_ids": digest},
            "megabytes_per_cpu_second": speed,
            "ratio": ratio,
            "rounds": args.rounds,
            "machine": machine(torch.device("cpu")),
            "libraries": {name: installed(name) for name in ("tokenizers", "transformers")},
        }
        args.out.write_text(json.dumps(report, indent=2) + "\n")


def transformers_own(folder: Path) -> Any:
    """The class of transformers for these files."""
    from transformers import BertTokenizerFast, GPT2TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]: made at run time

    kind = BertTokenizerFast if (folder / "vocab.txt").is_file() else GPT2TokenizerFast
    return kind.from_pretrained(folder)


def paragraphs(paths: Sequence[Path]) -> list[str]:
    """What stands between the blank lines of the files."""
    found: list[str] = []
    for path in paths:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        found += re.split(r"\n\s*\n", content.decode())
    return found


def altered(texts: Sequence[str], size: int) -> list[str]:
    """Altered copies of texts drawn at random, `size` bytes of them."""
    draw, copies = random.Random(0), []
    while size > 0:
        copy = ALTERED[len(copies) % len(ALTERED)](draw.choice(texts), draw)
        size -= len(copy.encode())
        copies.append(copy)
    return copies


def any_character(draw: Draw) -> str:
    point = draw.randrange(0x110000 - 0x800)
    return chr(point if point < 0xD800 else point + 0x800)  # no half of a surrogate pair


def strewn(text: str, draw: Draw, pieces: Callable[[], str]) -> str:
    """The text with something between about one in ten of its letters."""
    return "".join(c + pieces() if draw.random() < 0.1 else c for c in text)


ALTERED: tuple[Callable[[str, Draw], str], ...] = (
    lambda text, draw: text.upper(),
    lambda text, draw: strewn(text, draw, lambda: any_character(draw)),
    lambda text, draw: strewn(text, draw, lambda: draw.choice(EMOJI)),
    lambda text, draw: strewn(text, draw, lambda: draw.choice(CONTROL)),
    lambda text, draw: re.sub(r"\s+", "", text),
    lambda text, draw: re.sub(
        r" ", lambda _: draw.choice((" ", "  ", "\t", "\r\n", " \n ")), text
    ),
)


def batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), BATCH):
        yield texts[start : start + BATCH]


def compare(
    texts: Sequence[str],
    ours: Callable[[Sequence[str]], list[np.ndarray]],
    theirs: Callable[[Sequence[str]], list[list[int]]],
) -> tuple[int, str]:
    """How many tokens all texts are, and the SHA-256 of their ids; ends at the first that is
    not equal."""
    tokens, digest = 0, hashlib.sha256()
    for batch in batches(texts):
        for text, own, expected in zip(batch, ours(batch), theirs(batch), strict=True):
            if own.tolist() != expected:
                raise SystemExit(f"differs: {text!r}")
            tokens += len(own)
            digest.update(own.astype("<i4").tobytes())
    return tokens, digest.hexdigest()


if __name__ == "__main__":
    main()
