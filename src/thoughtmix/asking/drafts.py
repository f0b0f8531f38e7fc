"""Of more texts than are wanted, those that a reader would keep: whole ones that repeat nothing, say something, keep to
the prompt, and differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from thoughtmix.asking.question import echoes
from thoughtmix.core.request import TextEmbedder
from thoughtmix.core.selection import repeats, select
from thoughtmix.core.types import Thought

RELEVANCE_FLOOR = 0.1
"""The quantile of nearness to the prompt that a kept text reaches: of twelve drafts the farthest two stray. It trades
difference for nearness (`studies/ways/floor.py`, 27 prompts, three seeds): beside plain sampling as many answers differ
at 0.1, as near to the prompt, and at 0.25 half a one fewer of 8."""
_MARKS = re.compile(r"^\W*(\d{1,2})[.)]\s", re.MULTILINE)  # of the items of a numbered list
_WHY = {"quality": "strays", "near": "alike", "loop": "repeats"}


def keep_sound(
    drafts: Sequence[Thought],
    n: int,
    prompt: str,
    embedder: Callable[[], TextEmbedder],
    floor: float = RELEVANCE_FLOOR,
) -> tuple[list[Thought], dict[str, int]]:
    """n of the drafts, the nearest to the prompt first, then those that make the set most different; and how many were
    left out for what: cut (also behind the first item of a list), echoes (says the prompt again), repeats (a loop or a
    stutter), stock (a phrase that answers nothing), copy, strays (far from the prompt), alike.

    What was cut or echoes comes only where there are too few others, and what repeats itself last, so a bad draw is
    drawn again, as far as the drafts go (`core.selection.select` does the rest). None of the drafts is blank.
    """
    from thoughtmix.metrics.embedding import pairwise_distances  # numpy: not on the way to `thoughtmix thinkers`

    texts = [draft.text for draft in drafts]
    vectors = embedder().encode([prompt, *texts])
    near = (vectors[1:] @ vectors[0]).tolist()
    faults = {i: "cut" for i, draft in enumerate(drafts) if _is_cut(draft)}
    faults |= {i: "echoes" for i, text in enumerate(texts) if echoes(prompt, text)}
    faults |= {i: "repeats" for i, text in enumerate(texts) if repeats(text)}
    good = [i for i in range(len(drafts)) if i not in faults]
    picked: list[int] = []
    if good:
        some, quality = [texts[i] for i in good], [near[i] for i in good]
        d = pairwise_distances(vectors[1:][good]).tolist()
        chosen = select(some, d, quality, min(n, len(good)), floor)
        picked = [good[j] for j in chosen.picked]
        faults |= {good[one.index]: _WHY.get(one.why, one.why) for one in chosen.left_out}
    rest = sorted(set(range(len(drafts))) - set(picked), key=lambda i: (faults[i] == "repeats", -near[i]))
    kept = [*picked, *rest][:n]
    why = Counter(faults[i] for i in range(len(drafts)) if i not in kept)
    return [drafts[i] for i in kept], dict(sorted(why.items()))


def _is_cut(draft: Thought) -> bool:
    """Whether the end of the tokens cut a text: in its sentence, or in the first item of a list that has a second one
    to come."""
    from thoughtmix.metrics.soundness import is_complete

    if draft.finish == "stop":
        return False
    return not is_complete(draft.text, draft.finish) or _MARKS.findall(draft.text) == ["1"]
