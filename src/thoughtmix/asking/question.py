"""What kind of answer a prompt asks for, told by its words: one rule, no model. English; of other languages nothing is
known, which counts as long."""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["name", "phrase", "sentence", "one", "long"]
"""name: one of several things by its name, or a name that is to be given. phrase: one of several to be invented, a few
words, a title say. sentence: one of several, about a sentence. one: there is one right answer. long: a text, or nothing
known."""

_LONGEST = 400  # characters of a prompt that asks for something short
_BARE = 3  # words in which a prompt without a verb says what it wants ("Party ideas", "A good title for ...")


def _words(text: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(text.split(','))})\b", re.IGNORECASE)


_WANTED: dict[Kind, re.Pattern[str]] = {
    "name": _words(
        "an? (?:word|name)(?= of| that| to|\\W*$),numbers?,colou?rs?,animals?,cit(?:y|ies),countr(?:y|ies),"
        "nicknames?,usernames?,(?:band|brand|user|pet) names?,names? for,(?:call|name) (?:it|him|her|them|my|our|this)"
    ),
    "phrase": _words("titles?,headlines?,headings?,slogans?,mottos?,taglines?,captions?,subject lines?,pass ?phrases?"),
    "sentence": _words(
        "uses?(?= for| of|\\W*$),ways?,ideas?,reasons?,facts?,advice,tips?,things?,something,"
        "jokes?,riddles?,puns?,questions?,sayings?,"
        "proverbs?,lines?,sentences?,messages?,texts?,inventions?,invent,wish(?:es)?,tweets?,metaphors?,similes?,"
        "analog(?:y|ies),definitions?,quotes?,aphorisms?,greetings?,apolog(?:y|ies),toasts?,pep talks?,excuses?,"
        "compliments?,activit(?:y|ies),(?:plot )?twists?,prompts?"
    ),
    "long": _words(
        "stor(?:y|ies),tales?,poems?,haikus?,limericks?,sonnets?,verses?,essays?,letters?,e-?mails?,articles?,"
        "paragraphs?,chapters?,novels?,biograph(?:y|ies),bio,speech(?:es)?,songs?,lyrics,dialogues?,conversations?,"
        "plots?,scenes?,scripts?,reports?,reviews?,fables?,monologues?,blog,posts?,plan,outlines?,recipes?,summary,"
        "code,functions?,programs?,regex,regular expressions?,table,histor(?:y|ies),differences?,pros and cons,"
        r"(?:\d+|two|three|four|five|six|ten|several|a few) (?:sentences|lines|words|paragraphs|steps)"
    ),
}
"""What may be asked for, by the words that name it. What is named first decides: a title for a story is a title."""
_IN_ONE = _words("(?:one|single)[- ](?:sentence|line|liner),in a sentence")
_REASON = _words("and (?:say|tell|explain|describe|give|show)")
_VERBS: dict[str, re.Pattern[str]] = {
    "fact": re.compile(r"\bhow (?:many|much|old|tall|long|far)\b|^(?:when|is|are|was|were)\b", re.IGNORECASE),
    "text": _words(
        "how,why,explain,describe,discuss,analy[sz]e,compare,prove,solve,calculate,compute,rewrite,rephrase,edit,"
        "correct,fix,imagine,picture,summari[sz]e,plan,step by step,in detail"
    ),
    "named": _words("name,pick,choose,select,list,recommend,mention,identify,state"),
    "found": _words(
        "suggest,give,propose,provide,share,offer,find,think of,come up with,invent,generate,create,have an?,"
        "(?:need|want|know) (?:an?|any)"
    ),
    "told": _words("write,say,tell,hear,make(?!-),ask,finish,complete,draft,compose"),
    "question": re.compile(
        r"(?:^|[.,;:!?—]\s*)(?:(?:so|and|but|then|now|ok|please)\s+)?(?:what|which|who|whom|where)\b", re.IGNORECASE
    ),
}
"""How a prompt asks: the first of these verbs decides."""
_SEVERAL = _words(
    "an?,one,some,any,another,several,two,three,four,five,something,someone,somewhere,(?:should|could|would|can|do|might)"
    " (?:i|we|you|one),ideas,ways,uses,names,titles,examples,best,worst,top,good,terrible,\\w*liest,coolest,most,least,"
    "favou?rite,ideal"
)
"""Of a question: that it has more than one answer."""
_DO = _words("what (?:should|could|would|can|might) (?:i|we|you|one|they)")


def kind_of_answer(text: str) -> Kind:
    """What a prompt asks for.

    Its first verb of `_VERBS` says how it asks, and behind it, within the sentence, the first word of `_WANTED` what
    for; where there is none, verbs of naming and questions want a name, verbs of telling a sentence. A question that
    nothing says to have several answers ("a", "should I", "best") has one.
    """
    said = " ".join(text.split())
    if not said or len(said) > _LONGEST or "```" in text:
        return "long"
    if _IN_ONE.search(said):
        return "sentence"
    verbs = {how: match for how, verb in _VERBS.items() if (match := verb.search(said))}
    wanted = _wanted(" ".join(said.split()[:_BARE]))
    if not verbs:
        bare = re.match(r"(?:an?|any|one|some)\b.*\?$", said, re.IGNORECASE)
        return wanted or ("name" if bare else "long")
    how = min(verbs, key=lambda how: verbs[how].start())
    if how in {"fact", "text"}:
        return "one" if how == "fact" else "long"
    asks = re.split(r"[.!?:]\s", said[verbs[how].start() :].lstrip(" .,;:!?—"))[0]
    if _REASON.search(asks):
        return "sentence"
    wanted = _wanted(asks)
    if wanted == "long":
        return "name" if how == "named" else "long"
    if how == "question" and not _SEVERAL.search(asks):
        return "one"
    return wanted or ("sentence" if how == "told" or _DO.search(asks) else "name")


def _wanted(sentence: str) -> Kind | None:
    """What it names first, if anything."""
    found = [(match.start(), kind) for kind, words in _WANTED.items() if (match := words.search(sentence))]
    return min(found, key=lambda at: at[0])[1] if found else None


def tells_about(prompt: str, text: str) -> bool:
    """Whether an answer to what asks for a phrase names that in place of being it: "A catchy slogan for a bakery"."""
    if kind_of_answer(prompt) != "phrase":
        return False
    asked = _WANTED["phrase"].search(prompt)
    if asked is None:
        return False
    noun = asked[0].split()[0].removesuffix("s")
    return re.search(rf"\b{noun}(?:s|d|ed)?\b", text, re.IGNORECASE) is not None


def echoes(prompt: str, text: str) -> bool:
    """Whether a text says the prompt again, word for word; a prompt of under four words may be said."""
    asked, said = (" ".join(re.findall(r"\w+", each.casefold())) for each in (prompt, text))
    return asked.count(" ") >= 3 and f" {asked} " in f" {said} "
