"""What kind of answer a prompt asks for, told by its words: rules, no model. English; of other languages nothing is
known, which counts as long."""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["name", "phrase", "sentence", "one", "long"]
"""name: one of several things that are there, by its name. phrase: one of several to be invented, a few words.
sentence: one of several, about a sentence. one: there is one right answer. long: a text, or nothing known."""

_LONGEST = 400  # characters of a prompt that asks for something short
_START = 6  # words in which a question's first word stands
_LONG = re.compile(
    r"\b(?:stor(?:y|ies)|poems?|haikus?|limericks?|sonnets?|verses?|essays?|letters?|e-?mails?|articles?|paragraphs?|"
    r"chapters?|novels?|biograph(?:y|ies)|bio|speech(?:es)?|songs?|lyrics|dialogues?|conversations?|plots?|scenes?|"
    r"scripts?|reports?|reviews?|fables?|monologues?|blog|posts?|plans?|outlines?|recipes?|summar(?:y|ies|i[sz]e)|"
    r"explain|describe|discuss|analy[sz]e|compare|prove|solve|calculate|compute|translate|rewrite|rephrase|edit|correct|"
    r"imagine|summary|code|functions?|programs?|class|regex|sql|python|javascript|html|json|csv|table|"
    r"(?:\d+|two|three|four|five|six|ten) (?:sentences|lines|words|paragraphs|steps)|step by step|in detail|"
    r"how (?:do|does|did|can|could|should|would|to|is|are)|why|tell me about|write about)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"\b(?:uses?|ways?|ideas?|reasons?|facts?|advice|tips?|things? (?:to|that|you)|jokes?|riddles?|puns?|questions?|"
    r"sayings?|proverbs?|first lines?|opening lines?|sentences?|messages?|texts?|invent(?:ions?)?|wish|"
    r"tweets?|metaphors?|similes?|analog(?:y|ies)|definitions?|quotes?|aphorisms?|greetings?|apolog(?:y|ies)|"
    r"pep talks?|excuses?|compliments?|activit(?:y|ies)|plot twists?|should i|would you|could you)\b",
    re.IGNORECASE,
)
_PHRASE = re.compile(
    r"\b(?:titles?|headlines?|headings?|slogans?|mottos?|captions?|nicknames?|usernames?|band names?|brand names?|"
    r"names? for)\b",
    re.IGNORECASE,
)
_NAME = re.compile(
    r"\b(?:names?|titles?|words?|kinds?|types?|examples?|pick|choose|suggest|recommend|list|gifts?|presents?|colou?rs?|"
    r"numbers?|animals?|cit(?:y|ies)|countr(?:y|ies)|books?|films?|movies?|persons?|people|places?|foods?|dish(?:es)?)\b",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"\b(?:name|give|suggest|pick|choose|list|propose|recommend|invent|find|think of|come up with|tell|show|say|write|"
    r"generate|create|make|what(?:['’]s)?|which|who|where)\b",
    re.IGNORECASE,
)
_SEVERAL = re.compile(
    r"\b(?:an?|one|some|any|another|something|someone|somewhere|several|different|random(?:ly)?|ideas|ways|uses|names|"
    r"titles|examples|should i|could i|would you|could you|best|worst|coolest|favou?rite|ideal)\b",
    re.IGNORECASE,
)
_WRITES = frozenset({"write", "say", "tell"})
"""What is written, said or told is no name, unless it is called one ("Say a number")."""
_WITH_REASON = re.compile(r"\band (?:say|tell|explain|describe|give|show)\b", re.IGNORECASE)
_BARE = 8  # words of a prompt without a verb that asks ("A party idea?")


def kind_of_answer(text: str) -> Kind:
    """What a prompt asks for.

    One of several is asked for by a verb or a question's word in the first words ("name", "suggest", "what") that
    something indefinite follows ("a bird", "an idea", "one person", "should I"). What is named first decides between
    short and long: a title for a story is a title, a story about a title is a story.
    """
    said = " ".join(text.split())
    if not said or len(said) > _LONGEST or "```" in text:
        return "long"
    long, sentence, phrase, name = (pattern.search(said) for pattern in (_LONG, _SENTENCE, _PHRASE, _NAME))
    first_short = min((m.start() for m in (sentence, phrase, name) if m), default=len(said))
    if long is not None and long.start() <= first_short:
        return "long"
    asks = _ASKS.search(said)
    if asks is None and (sentence or phrase or name) and len(said.split()) <= _BARE:
        return _short(sentence, phrase)
    if asks is None or len(said[: asks.start()].split()) > _START:
        return "long"
    if not _SEVERAL.search(said, asks.start(), min(len(said), asks.end() + 60)):
        return "one"
    told = asks[0].lower() in _WRITES and not (sentence or phrase or name)
    return "sentence" if told or _WITH_REASON.search(said) else _short(sentence, phrase)


def _short(sentence: re.Match[str] | None, phrase: re.Match[str] | None) -> Kind:
    """By what is named first: a title for a joke is a title."""
    if phrase and (sentence is None or phrase.start() <= sentence.start()):
        return "phrase"
    return "sentence" if sentence else "name"
