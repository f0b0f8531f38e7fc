"""Stock phrases: what a model says in place of an answer, whatever was asked."""

from __future__ import annotations

import re

_I_AM = r"(?:i['’]?m|i am|we['’]?re|we are) (?:(?:so|very|really|truly|deeply|terribly|just|only|always) )*"
_MACHINE = (
    r"(?:artificial|digital|virtual|large language|language model|(?:helpful |friendly )?(?:ai\b|assistant|chatbot))"
)
_BEGINNINGS = (
    _I_AM + r"(?:sorry|afraid|unable|not able|glad you|excited to|delighted to)",
    _I_AM + r"(?:here|ready|happy|glad|available) to (?:help|assist|hear)\b",
    _I_AM + rf"an? {_MACHINE}",
    rf"as an? {_MACHINE}",
    r"as an? (?:[\w-]+ ){1,4}ai\b",
    r"sorry\b",
    r"(?:i|we) (?:sincerely )?apologi[sz]e",
    r"(?:please accept )?my (?:sincere )?apologies",
    r"i (?:do not|don['’]?t) have (?:personal|any|the ability|feelings|access|preferences|real)",
    r"i (?:do not|don['’]?t|can ?not|can['’]?t) (?:provide|assist|help|answer|fulfil|create|generate|access|browse)\b",
    r"(?:thank you|thanks) (?:so much )?for\b",
    r"how (?:can|may) i (?:help|assist)",
    r"let me know",
    r"feel free",
    r"i hope (?:this|that|you|it)",
    r"i['’]d be (?:happy|glad) to",
    r"please (?:provide|let me|tell me|clarify)",
    r"could you (?:please )?(?:provide|clarify|tell)",
    r"je suis (?:vraiment )?désolée?",
    r"en tant qu['’]ia",
    r"es tut mir leid",
    r"als ki\b",
    r"lo siento",
)
_STOCK = re.compile(
    rf"[\W_]*(?:(?:oh|well|hello|hi|yes|no|awesome|great|sure)\b[\s,!.]*)?(?:{'|'.join(_BEGINNINGS)})",
    re.IGNORECASE,
)


def is_stock_phrase(text: str) -> bool:
    """Whether a text begins as one that answers nothing: an apology, an offer of help, what the model says of itself,
    thanks for the question. Fails on a letter of apology that was asked for."""
    return _STOCK.match(" ".join(text.split())) is not None
