"""Which language a text is in, by its commonest words and its script: enough to warn, not to decide anything."""

from __future__ import annotations

import regex

_COMMON = {
    "en": "the of and to in is that it for was on are as with his they at be this have from or one what your how a an "
    "would write give name tell me my i you we",
    "fr": "le la les de des du et à un une est que qui dans en pour pas sur au avec ce il elle sont par plus mon ma "
    "quel quelle comment donne écris je tu nous vous l d qu c",
    "de": "der die das und in zu den ist nicht von mit sich ein eine des auf für im dem auch als wie ich du wir es "
    "einen einer schreibe nenne gib mir mein welche",
    "es": "el la los las de y en que un una es por con para no se del al lo como más mi yo qué cuál escribe dame "
    "nombra sus está",
    "it": "il lo la gli le di e in che un una è per con non del della al come più mi io tu quale scrivi dammi sono nel",
    "pt": "o a os as de e em que um uma é por com para não do da ao como mais eu qual escreva dê me são na no",
    "nl": "de het een en van in is dat op te voor met niet zijn ik je wij die aan om ook als schrijf geef noem mijn",
}
_WORDS = {language: frozenset(words.split()) for language, words in _COMMON.items()}
_SCRIPTS = (
    ("ja", r"[\p{Hiragana}\p{Katakana}]"),
    ("zh", r"\p{Han}"),
    ("ko", r"\p{Hangul}"),
    ("ru", r"\p{Cyrillic}"),
    ("ar", r"\p{Arabic}"),
    ("he", r"\p{Hebrew}"),
    ("el", r"\p{Greek}"),
    ("hi", r"\p{Devanagari}"),
    ("th", r"\p{Thai}"),
)
NAMES = {
    "en": "English", "fr": "French", "de": "German", "es": "Spanish", "it": "Italian", "pt": "Portuguese",
    "nl": "Dutch", "ja": "Japanese", "zh": "Chinese", "ko": "Korean", "ru": "Russian", "ar": "Arabic", "he": "Hebrew",
    "el": "Greek", "hi": "Hindi", "th": "Thai",
}  # fmt: skip
_LEAST = 2  # common words that must be found


def language_of(text: str) -> str | None:
    """Its code ("fr"), or None where that cannot be told: too short, of two languages, of one not known here."""
    letters = 0 if text.isascii() else len(regex.findall(r"\p{L}", text))  # ASCII has no letters of other scripts
    for language, script in _SCRIPTS:
        if letters and 2 * len(regex.findall(script, text)) > letters:
            return language
    found = regex.findall(r"\p{L}+", text.lower())
    hits = {language: sum(word in words for word in found) for language, words in _WORDS.items()}
    first, second = sorted(hits, key=lambda language: -hits[language])[:2]
    return first if hits[first] >= _LEAST and hits[first] > 1.3 * hits[second] else None
