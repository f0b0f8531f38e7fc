"""Which of many answers agree, and which groups of them are worth keeping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from thoughtmix.asking.answers import plain_answer, same_name
from thoughtmix.core.request import TextEmbedder
from thoughtmix.core.selection import repeats, select_good
from thoughtmix.core.types import Thought

Group = Literal["auto", "words", "embedding"]
Rank = Literal["relevance", "likelihood"]
_SMALL = frozenset({"a", "an", "the", "of", "for", "and"})
_SHORT = 5  # words up to which answers are compared by their words


@dataclass(frozen=True, slots=True)
class Agreement:
    """Answers in groups that agree, the most agreed upon first; in a group, the likeliest first, and last those that
    were cut or repeat themselves."""

    groups: list[list[Thought]]
    grouped_by: Literal["words", "embedding"]
    distances: list[list[float]]
    """(groups, groups) between their first answers, where the embedder grouped; else empty."""

    def best(self, n: int) -> list[tuple[Thought, int]]:
        """n answers, each with the size of its group: one of each group, and where there are fewer groups, second
        ones."""
        order = list(range(len(self.groups)))
        if self.distances and len(order) > n:
            order = _different(self.groups, self.distances, n)
        out: list[tuple[Thought, int]] = []
        for place in range(max(map(len, self.groups), default=0)):
            out += [(self.groups[i][place], len(self.groups[i])) for i in order if place < len(self.groups[i])]
        return out[:n]


def group_answers(
    answers: Sequence[Thought],
    by: Group,
    near: float,
    embedder: Callable[[], TextEmbedder],
    prompt: str = "",
    rank: Rank = "likelihood",
) -> Agreement:
    """Answers that say the same, together.

    Args:
        answers: None of them blank.
        by: words: the first line's words, but for case, a leading article, punctuation around them and what
            `same_name` allows; embedding: 1 - cosine below `near` to the group's first answer; auto: words where the
            median answer has up to five.
        near: See there.
        embedder: Loads what `embedding` needs, and relevance.
        prompt: What they answer; one that only repeats its words comes after the others.
        rank: What orders groups of one size by words: how near they are to the prompt, or how likely.
    """
    import numpy as np  # not on the way to `thoughtmix thinkers`

    lengths = [len(_line(t.text).split()) for t in answers]
    if by == "auto":
        by = "words" if not lengths or float(np.median(lengths)) <= _SHORT else "embedding"
    likeliest = sorted(answers, key=lambda t: (_is_bad(t), -_likelihood(t, by == "words")))
    if by == "words":
        groups = _by_name(likeliest, prompt)
        if rank == "relevance" and prompt:
            vectors = embedder().encode([prompt, *(group[0].text for group in groups)])
            near_prompt = (vectors[1:] @ vectors[0]).tolist()
            groups = [groups[i] for i in np.argsort([-value for value in near_prompt], kind="stable")]
        asked = set(plain_answer(prompt).split()) | _SMALL
        groups.sort(key=lambda group: (set(plain_answer(_line(group[0].text)).split()) <= asked, -len(group)))
        return Agreement(groups, "words", [])
    from thoughtmix.metrics.answers import equivalence_classes
    from thoughtmix.metrics.answers import near as nearer
    from thoughtmix.metrics.embedding import pairwise_distances

    d = pairwise_distances(embedder().encode([t.text for t in likeliest]))
    classes = equivalence_classes(len(likeliest), nearer(d, near))
    members = [[i for i, c in enumerate(classes) if c == number] for number in range(max(classes) + 1)]
    members.sort(key=len, reverse=True)
    firsts = [group[0] for group in members]
    return Agreement(
        [[likeliest[i] for i in group] for group in members], "embedding", d[np.ix_(firsts, firsts)].tolist()
    )


def _by_name(likeliest: Sequence[Thought], prompt: str) -> list[list[Thought]]:
    """Groups of one name each, in the order of their first. In a group the form that most of them have comes first."""
    forms: dict[str, list[Thought]] = {}
    for thought in likeliest:
        forms.setdefault(plain_answer(_line(thought.text)) or thought.text, []).append(thought)
    found: list[list[str]] = []
    for form in forms:
        group = next((group for group in found if same_name(form, group[0], prompt)), None)
        if group is None:
            found.append([form])
        else:
            group.append(form)
    for group in found:
        group.sort(key=lambda form: -len(forms[form]))
    return [sorted((t for form in group for t in forms[form]), key=_is_bad) for group in found]


def _is_bad(thought: Thought) -> bool:
    return thought.finish == "length" or repeats(thought.text)


def _different(groups: Sequence[Sequence[Thought]], distances: list[list[float]], n: int) -> list[int]:
    """n of the groups: those that are most different of the better half, by how many agree, then by likelihood."""
    standing = [-float(place) for place in range(len(groups))]
    return sorted(select_good([group[0].text for group in groups], distances, standing, n))


def _line(text: str) -> str:
    return text.strip().split("\n", 1)[0]


def _likelihood(thought: Thought, whole: bool) -> float:
    """Of all of it, which is how probable the answer is; of a token, for answers of many lengths. 0 where unknown."""
    value = thought.logprob if whole else thought.mean_logprob
    return 0.0 if value is None else value
