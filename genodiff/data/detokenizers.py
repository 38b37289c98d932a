"""Spaces and marks that the making of a corpus put into its text, taken out again.

WikiText, LM1B and the Penn Treebank were published split into words ("it 's , ( so )"). Figures
for sub-words are reported on text as people write it, by the rules of MDLM (Sahoo et al. 2024,
arXiv:2406.07524) and SEDD, mistakes included: a figure is only comparable on the same text.
"""

import re
from collections.abc import Callable, Iterable, Mapping

from genodiff.errors import UserError

_Rule = tuple[str | re.Pattern[str], str]
"""What is replaced, everywhere, and by what; rules apply in their order."""


def _hugging(pairs: Iterable[str]) -> list[_Rule]:
    """No white space inside brackets and quotation marks."""
    return [
        (re.compile(rf"\{a}\s*([^\{b}]*?)\s*\{b}"), rf"{a}\1{b}")
        for a, b in pairs  # of two characters each
    ]


_WIKITEXT: tuple[_Rule, ...] = (
    ("s '", "s'"),
    # Meant for "' 90s"; the slashes around it are letters, so it hardly ever finds anything.
    (re.compile(r"/' [0-9]/"), "/'[0-9]/"),
    *((f" @{mark}@ ", mark) for mark in "-,."),
    *((f" {mark} ", f"{mark} ") for mark in ":;.!?,"),
    *_hugging(("()", "[]", "{}", '""', "''")),
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)

_LM1B: tuple[_Rule, ...] = (
    ("http : / / ", "http://"),
    ("https : / / ", "https://"),
    (re.compile(r" '(\w+)"), r"'\1"),
    (re.compile(r" (\w+) \. "), r" \1. "),
    (re.compile(r" (\w+) \.$"), r" \1."),
    (" ? ", "? "),
    (re.compile(r" \?$"), "?"),
    (" ! ", "! "),
    (re.compile(r" !$"), "!"),
    *((f" {mark} ", f"{mark} ") for mark in ",:;"),
    (" / ", "/"),
    (re.compile(r'" ([^"]+) "'), r'"\1"'),
    (re.compile(r"' ([^']+) '"), r"'\1'"),
    (re.compile(r"\( ([^()]+) \)"), r"(\1)"),
    (re.compile(r"\[ ([^\[\]]+) \]"), r"[\1]"),
    ("$ ", "$"),
    ("£ ", "£"),
)

_PTB: tuple[_Rule, ...] = (
    (" 's", "'s"),
    ("s ' ", "s' "),
    (" n't", "n't"),
    (" \n ", "\n"),
    (r"\/", "/"),
    (" N ", " 1 "),
    (" N ", " 1 "),  # neighbours share a space: twice finds all
    ("$ 1", "$1"),
    ("# 1", "#1"),
    ("<unk>", "?"),
)


def wikitext(text: str) -> str:
    """Of WikiText-2 and -103."""
    return _applied(_WIKITEXT, text)


def lm1b(text: str) -> str:
    """Of the One Billion Word Benchmark."""
    return _applied(_LM1B, text)


def ptb(text: str) -> str:
    """Of the Penn Treebank: numbers, which are N there, become 1, and unknown words "?"."""
    return _applied(_PTB, text)


def lambada(text: str) -> str:
    """Of LAMBADA: straight quotation marks, and a line feed in front, as for GPT-2."""
    return "\n" + text.replace("“", '"').replace("”", '"').strip()


def scientific_papers(text: str) -> str:
    """Of arXiv and PubMed: that of WikiText, then that of LM1B."""
    return lm1b(wikitext(text))


DETOKENIZERS: Mapping[str, Callable[[str], str]] = {
    "wt": wikitext,
    "lm1b": lm1b,
    "ptb": ptb,
    "lambada": lambada,
    "scientific_papers": scientific_papers,
}


def detokenizer_named(name: str | None) -> Callable[[str], str]:
    """A detokenizer by its name; None leaves text as it is. Raises UserError for another name."""
    if name is None:
        return str
    if name not in DETOKENIZERS:
        raise UserError(
            f"detokenizer={name} is none; there are {', '.join(DETOKENIZERS)}, and null."
        )
    return DETOKENIZERS[name]


def _applied(rules: Iterable[_Rule], text: str) -> str:
    for old, new in rules:
        text = text.replace(old, new) if isinstance(old, str) else old.sub(new, text)
    return text
