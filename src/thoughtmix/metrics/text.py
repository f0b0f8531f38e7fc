"""Diversity of wording: how little the texts repeat themselves and each other. Needs no model."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import regex
from numpy.typing import NDArray

from thoughtmix.core.errors import InputError

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
"""Scripts that part no words by spaces. Katakana is none of them: a run of it is a foreign word."""
_WORD = regex.compile(
    rf"""[{_UNSPACED}]\p{{M}}*                                             # one character is a word
    | [\w--[{_UNSPACED}]][\w--[{_UNSPACED}]]*(?:['’][\w--[{_UNSPACED}]]+)*\#?  # don't, C#
    | (?=[\p{{Sc}}\p{{Sm}}\p{{So}}\p{{Regional_Indicator}}])\X                # $, +, a whole emoji""",
    regex.VERSION1 | regex.VERBOSE,
)
_APART = regex.compile(
    rf"[{_UNSPACED}]\p{{M}}*|(?=[^\p{{ASCII}}])(?=[\p{{So}}\p{{Regional_Indicator}}])\X", regex.VERSION1
)
_POINTS = regex.compile(r"[\p{M}&&[\p{Arabic}\p{Hebrew}\p{Inherited}]&&[\u0591-\u0670]]|\u0640", regex.VERSION1)


def words(text: str) -> list[str]:
    """Lower-case words and symbols; punctuation left out.

    Where a script has no spaces between words (Chinese, Japanese, Thai...), each of its characters is one: n-grams of
    characters are what near copies share there. Finding the words would take a dictionary a language. A currency sign,
    a sign of mathematics and an emoji are a word each, so that "C" is not "C++" nor "$5" "€5". Two ways to encode one
    text, and Arabic or Hebrew with and without vowel points, have the same words.
    """
    return _WORD.findall(plain_text(text).lower())


def is_unspaced(text: str) -> bool:
    """Whether some of it is in a script without spaces between words."""
    return regex.search(f"[{_UNSPACED}]", text) is not None


def plain_text(text: str) -> str:
    """In one encoding (NFC), without vowel points."""
    return text if text.isascii() else _POINTS.sub("", unicodedata.normalize("NFC", text))


def _some(texts: Sequence[str]) -> None:
    if not texts:
        raise InputError("There are no texts to measure.", "Pass at least one thought.")


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Distinct n-grams over all n-grams of the set (Li et al. 2016). 0 to 1, higher is more diverse; 0 with no n-gram.

    Fails when lengths differ (longer texts score lower) and on garbage, which scores highest.
    """
    _some(texts)
    if n < 1:
        raise InputError(f"distinct_n of n={n}.", "Pass n=1 or more.")
    grams = [g for t in texts for w in [words(t)] for g in zip(*(w[i:] for i in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else 0.0


def ead(texts: Sequence[str], vocabulary: int = 30_000) -> float:
    """Expectation-adjusted distinct (Liu et al. 2022, eq. 4): N / (V [1 - ((V-1)/V)^C]) with N distinct of C words,
    against what C uniform draws from V words would give. 0 and up, higher is more diverse; 0 with no word.

    Unlike distinct-n it does not fall with length by itself. Fails when V is far from the words the texts choose
    from: only values with the same V compare.
    """
    _some(texts)
    if vocabulary < 1:
        raise InputError(f"A vocabulary of {vocabulary} words.", "Pass 1 or more.")
    all_words = [w for t in texts for w in words(t)]
    if not all_words:
        return 0.0
    expected = vocabulary * -np.expm1(len(all_words) * np.log1p(-1 / vocabulary)) if vocabulary > 1 else 1.0
    return float(len(set(all_words)) / expected)


def self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU of each text against all others as references (Zhu et al. 2018). 0 to 1, LOWER is more diverse.

    Sentence BLEU as sacrebleu defines it (13a tokens, orders 1 to 4, exponential smoothing, effective order), divided
    by 100; characters of scripts without spaces, and emoji, are tokens each. One text alone has nothing to repeat: 0.
    Fails on paraphrase, which looks diverse, and on very short texts.
    """
    _some(texts)
    if len(texts) == 1:
        return 0.0
    tokens = [_tokenise(t) for t in texts]
    n = len(texts)
    lengths = np.array([len(t) for t in tokens])
    matches = np.zeros((n, 4))
    for order in range(1, 5):
        counts = _counts(tokens, order)  # (n, n-grams)
        if counts.size:
            matches[:, order - 1] = np.minimum(counts, _largest_of_others(counts)).sum(1)
    totals = np.maximum(lengths[:, None] - np.arange(4), 0)  # (n, 4)
    scores = [
        _bleu(matches[i], totals[i], int(lengths[i]), _closest(np.delete(lengths, i), int(lengths[i])))
        for i in range(n)
    ]
    return float(np.mean(scores))


def duplicate_rate(texts: Sequence[str]) -> float:
    """Share of texts that repeat an earlier one, but for case, spaces and encoding.

    0 to 1 - 1/n, LOWER is more diverse.

    Fails on anything but exact copies: one changed word is a new text.
    """
    _some(texts)
    return 1 - len({" ".join(plain_text(t).split()).casefold() for t in texts}) / len(texts)


def mean_words(texts: Sequence[str]) -> float:
    """Mean number of `words`.

    No diversity by itself: look at it when two sets are compared, since lengths confound.
    """
    _some(texts)
    return float(np.mean([len(words(t)) for t in texts]))


@lru_cache(maxsize=4096)
def _tokenise(text: str) -> tuple[str, ...]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    # sacrebleu strips trailing space of a line before it tokenises
    plain = text if text.isascii() else _APART.sub(r" \g<0> ", plain_text(text))
    return tuple(Tokenizer13a()(plain.rstrip()).split())


def _counts(tokens: Sequence[tuple[str, ...]], order: int) -> NDArray[np.int64]:
    """(texts, n-grams) how often each n-gram stands in each text."""
    each = [Counter(zip(*(t[i:] for i in range(order)), strict=False)) for t in tokens]
    index: dict[tuple[str, ...], int] = {}
    for counter in each:
        for gram in counter:
            index.setdefault(gram, len(index))
    out = np.zeros((len(tokens), len(index)), dtype=np.int64)
    for row, counter in enumerate(each):
        out[row, [index[g] for g in counter]] = list(counter.values())
    return out


def _largest_of_others(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each text and n-gram, the largest count in any other text: from the two largest of each column."""
    top = np.partition(counts, -2, axis=0)
    first, second = top[-1], top[-2]
    unique_top = (counts == first) & ((counts == first).sum(0) == 1)
    return np.where(unique_top, second, first)


def _closest(lengths: NDArray[np.int64], length: int) -> int:
    """The reference length nearest to `length`; the shorter one of two equally near."""
    return int(min(lengths, key=lambda other: (abs(int(other) - length), int(other))))


def _bleu(matches: NDArray[np.float64], totals: NDArray[np.int64], length: int, reference: int) -> float:
    """Sentence BLEU from clipped matches and totals (4,), as sacrebleu computes it, 0 to 1."""
    if not matches.any():
        return 0.0
    logs, smooth = [], 1.0
    for match, total in zip(matches, totals, strict=True):
        if total == 0:
            break
        if match == 0:
            smooth *= 2
            logs.append(-np.log(smooth * total))
        else:
            logs.append(np.log(match / total))
    brevity = 0.0 if length >= reference else 1 - reference / length
    return float(np.exp(brevity + np.mean(logs)))
