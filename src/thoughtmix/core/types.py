"""A thought, a set of thoughts, and their JSON. No torch here: reading a saved set needs none.

The file format is documented in docs/thoughtset.md; `SCHEMA_VERSION` counts its breaking changes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

from thoughtmix.core.errors import InputError
from thoughtmix.core.fields import (
    HINT,
    as_list,
    integer,
    kind_of,
    list_field,
    mapping_field,
    number,
    numbers_field,
    text_field,
)
from thoughtmix.core.files import bounded_text, parse_json, require_whole_characters, why_unread, write_whole
from thoughtmix.core.selection import QUALITY_FLOOR, check_floor, select_good, selection_facts

SCHEMA = "thoughtmix/thoughtset"
SCHEMA_VERSION = 1

FinishReason = Literal["stop", "sentence", "length", "cancelled"]
_FINISH: frozenset[str] = frozenset({"stop", "sentence", "length", "cancelled"})


@dataclass(frozen=True, slots=True)
class Thought:
    """One complete answer and where it came from.

    `seed` alone reproduces it: `think(prompt, n=1, seed=thought.seed, ...)` with the same settings
    gives the same text, whatever its neighbours were.
    """

    text: str
    token_ids: tuple[int, ...]
    seed: int
    logprob: float | None
    """Sum over its tokens of log p(token | prompt, earlier tokens), in nats, under the generating model at
    temperature 1 and before any truncation. An ended thought includes its end token. None: unknown (endpoints)."""
    finish: FinishReason = "length"
    """stop: an end token or stop string; sentence: made to end with one, near the token budget; length: cut by that
    budget; cancelled: interrupted."""
    token_logprobs: tuple[float, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What produced it: the thinker's name and its own settings for this thought (temperature, branches...)."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores given after generation, by name: `relevance`, `distance` (mean distance to the others)..."""

    @property
    def mean_logprob(self) -> float | None:
        """Mean log-probability of a token, nats; 0.0 for a thought without tokens, None where it is unknown."""
        if self.logprob is None:
            return None
        tokens = len(self.token_ids) or len(self.token_logprobs)
        return self.logprob / tokens if tokens else 0.0

    def __str__(self) -> str:
        """The text alone."""
        return self.text

    def __repr__(self) -> str:
        """A line, which every field would not be."""
        tokens = len(self.token_ids) or len(self.token_logprobs)
        return f"Thought({_line(self.text)!r}, seed={self.seed}, finish={self.finish!r}, {tokens} tokens)"

    def with_scores(self, **scores: float) -> Thought:
        """A copy with these scores added or replaced."""
        return dataclasses.replace(self, scores={**self.scores, **scores})


@dataclass(frozen=True, slots=True)
class ThoughtSet(Sequence[Thought]):
    """The n thoughts for one prompt: a sequence of `Thought` with the set's own metrics."""

    prompt: str
    """The user's text; for a chat, the last user message."""
    thoughts: tuple[Thought, ...]
    messages: tuple[Mapping[str, str], ...] = ()
    """The whole conversation when one was given, else empty."""
    thinker: str = "sampling"
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything needed to repeat the run: n, seed, max_new_tokens, temperature, ..."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the set as a whole, by name (see `thoughtmix.metrics`)."""
    distances: tuple[tuple[float, ...], ...] = ()
    """(n, n) pairwise distances, 1 - cosine of embeddings, or () when none were computed."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """How it was run: versions, device, dtype, decoding path, seconds, tokens per second."""

    def __post_init__(self) -> None:
        n = len(self.thoughts)
        if self.distances and (len(self.distances) != n or any(len(row) != n for row in self.distances)):
            raise InputError(f"distances must be {n} x {n}, one row a thought.", "Leave them out to have none.")

    @overload
    def __getitem__(self, index: int) -> Thought: ...
    @overload
    def __getitem__(self, index: slice) -> ThoughtSet: ...
    def __getitem__(self, index: int | slice) -> Thought | ThoughtSet:
        if isinstance(index, slice):
            return self._subset(range(len(self.thoughts))[index])
        return self.thoughts[index]

    def __len__(self) -> int:
        return len(self.thoughts)

    def __iter__(self) -> Iterator[Thought]:
        return iter(self.thoughts)

    @property
    def texts(self) -> list[str]:
        return [thought.text for thought in self.thoughts]

    def __str__(self) -> str:
        """A screenful: the beginning of each thought and what they come to. `texts` has them whole."""
        return repr(self) if _text_view is None else _text_view(self)

    def __repr__(self) -> str:
        """A line, which every field would not be."""
        return (
            f"ThoughtSet({len(self)} thoughts by {self.thinker}, prompt={_line(self.prompt)!r}, model={self.model!r})"
        )

    def _subset(self, keep: Sequence[int]) -> ThoughtSet:
        """The thoughts at `keep`, in that order. The metrics of the whole do not describe a part: dropped."""
        whole = list(keep) == list(range(len(self.thoughts)))
        rows = tuple(tuple(self.distances[i][j] for j in keep) for i in keep) if self.distances else ()
        return dataclasses.replace(
            self,
            thoughts=tuple(self.thoughts[i] for i in keep),
            distances=rows,
            metrics=self.metrics if whole else {},
        )

    def select(self, k: int, quality: str | None = None, quality_floor: float = QUALITY_FLOOR) -> ThoughtSet:
        """The `k` thoughts that are most different from each other, of those that are good enough; the best first.

        Good enough: not blank, no loop, no copy, and `quality` at or above its `quality_floor` quantile (see
        `core.selection.select_good`). `quality` is `mean_logprob` or the name of a score that every thought carries
        (higher is better); None is `mean_logprob`, or nothing where that is not known of every thought: then all are
        alike in it. `run["selected"]` says what was gained: the mean distance of those selected beside what
        as many at random have, by the distances that selected and by wording, which did not; and their quality beside
        that of all. Do not report the score that selected (never select and report with the same scorer).

        Args:
            k: 1 to n.
            quality: what good means.
            quality_floor: 0 (difference alone) to 1 (quality alone).

        Raises:
            InputError: when k or the floor is out of range, or no distances or scores are there.
        """
        n = len(self.thoughts)
        if isinstance(k, bool) or not isinstance(k, int):
            raise InputError(f"k is {k!r}, which is no whole number.", f"Pass k between 1 and {n}.")
        if not 1 <= k <= n:
            raise InputError(f"Cannot select {k} of {n} thoughts.", f"Pass k between 1 and {n}.")
        check_floor(quality_floor)
        if not self.distances:
            raise InputError("This set has no distances to select by.", "Make it with think(..., measure=True).")
        given = [t.mean_logprob if quality in {None, "mean_logprob"} else t.scores.get(quality) for t in self.thoughts]
        values = [value for value in given if value is not None]
        if len(values) < n and quality is not None:
            first = self.thoughts[given.index(None)]
            names = sorted({*(() if first.logprob is None else ("mean_logprob",)), *first.scores})
            raise InputError(
                f"Thought {given.index(None)} has no score {quality!r}.",
                f"Known: {', '.join(names) or 'none: leave it out'}.",
            )
        told = len(values) == n
        if not told:
            values = [0.0] * n
        keep = select_good(self.texts, self.distances, values, k, quality_floor)
        said = selection_facts(self.texts, self.distances, values, keep)
        if not told:
            said = {name: value for name, value in said.items() if name not in {"kept_quality", "mean_quality"}}
        name = (quality or "mean_logprob") if told else None
        selected = {"k": k, "of": n, "quality": name, "quality_floor": quality_floor, **said}
        return dataclasses.replace(self._subset(keep), run={**self.run, "selected": selected})

    # --- from and to elsewhere ---------------------------------------------------------------------------

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        prompt: str = "",
        *,
        measure: bool = True,
        embedder: Any = None,
        judge: Any = None,
    ) -> ThoughtSet:
        """A set of texts that came from anywhere: measured, to be shown, selected from and compared as any other.

        Args:
            texts: One or more.
            prompt: What they answer; without one they have no relevance.
            measure: Whether to embed and measure them.
            embedder: See `Pipeline`; None: the packaged one.
            judge: A loaded model that scores each text, see `thoughtmix.metrics.measure`.

        Raises:
            InputError: There is no text, or something that is no text.
        """
        given = list(texts) if not isinstance(texts, str) else [texts]
        if not given:
            raise InputError("There is no text.", "Pass at least one.")
        for i, text in enumerate(given):
            if not isinstance(text, str):
                raise InputError(f"Text {i} is {kind_of(text)}.", "Pass texts: from_texts([...]).")
            try:
                require_whole_characters(text)
            except ValueError as error:
                raise InputError(f"Text {i}: {error}.", "Leave it out, or mend it.") from None
        thoughts = tuple(Thought(text, (), i, None, "stop") for i, text in enumerate(given))
        made = cls(prompt, thoughts, thinker="texts", settings={"n": len(given)})
        return _measure(made, embedder, judge) if measure and _measure is not None else made

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` (pandas is installed by whoever wants one), a row a thought: prompt, thinker, model,
        thought (its number), text, seed, tokens, logprob, mean_logprob, finish, and each of its scores."""
        try:
            import pandas
        except ImportError:
            raise InputError("pandas is not installed.", "Type: pip install pandas") from None
        rows = [
            {
                "prompt": self.prompt,
                "thinker": self.thinker,
                "model": self.model,
                "thought": i,
                "text": t.text,
                "seed": t.seed,
                "tokens": len(t.token_ids) or len(t.token_logprobs),
                "logprob": t.logprob,
                "mean_logprob": t.mean_logprob,
                "finish": t.finish,
                **t.scores,
            }
            for i, t in enumerate(self.thoughts)
        ]
        return pandas.DataFrame(rows)

    # --- JSON -------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """A plain dict in the documented, versioned form."""
        body: dict[str, Any] = {"schema": SCHEMA, "version": SCHEMA_VERSION}
        for f in dataclasses.fields(self):
            body[f.name] = getattr(self, f.name)
        body["thoughts"] = [dataclasses.asdict(t) for t in self.thoughts]
        return body

    def to_json(self, path: str | os.PathLike[str] | None = None, indent: int | None = 2) -> str:
        """JSON text; with `path` also written there, whole or not at all (temporary name, then rename)."""
        try:
            text = json.dumps(self.to_dict(), ensure_ascii=False, indent=indent, allow_nan=False)
        except ValueError:
            raise InputError("The thought set holds a number that is not finite.", "Take it out of the file.") from None
        if path is not None:
            write_whole(path, text + "\n")
        return text

    @classmethod
    def from_dict(cls, body: Any) -> ThoughtSet:
        """The inverse of `to_dict`. Raises `InputError` naming the first field that does not fit."""
        if not isinstance(body, Mapping):
            raise InputError(f"A thought set is a JSON object, not {kind_of(body)}.", HINT)
        if body.get("schema") != SCHEMA:
            raise InputError(f"Not a thought set: schema is {body.get('schema')!r}.", HINT)
        version = body.get("version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise InputError(f"Not a thought set: version is {version!r}.", HINT)
        if version > SCHEMA_VERSION:
            raise InputError(
                f"This thought set has version {version}; this thoughtmix reads up to {SCHEMA_VERSION}.",
                "Type: pip install --upgrade thoughtmix",
            )
        try:
            require_whole_characters(body)
        except ValueError as error:
            raise InputError(f"Not a thought set: {error}.", HINT) from None
        thoughts = list_field(body, "thoughts")
        return cls(
            prompt=text_field(body, "prompt"),
            thoughts=tuple(_thought(t, f"thoughts[{i}]") for i, t in enumerate(thoughts)),
            messages=tuple(_messages(list_field(body, "messages"))),
            thinker=text_field(body, "thinker"),
            model=text_field(body, "model"),
            settings=mapping_field(body, "settings"),
            metrics=numbers_field(body, "metrics"),
            distances=tuple(
                tuple(number(v, f"distances[{i}]") for v in as_list(row, f"distances[{i}]"))
                for i, row in enumerate(list_field(body, "distances"))
            ),
            run=mapping_field(body, "run"),
        )

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> ThoughtSet:
        """Read JSON text, or the file at a path (a `Path`, or a string that does not begin with `{`)."""
        text = str(source)
        if isinstance(source, os.PathLike) or not text.lstrip().startswith("{"):
            try:
                text = bounded_text(Path(source))
            except (OSError, ValueError) as error:
                raise InputError(f"Cannot read the thought set: {why_unread(error)}.", HINT) from None
        try:
            body = parse_json(text)
        except ValueError as error:
            raise InputError(f"Not JSON: {error}.", HINT) from None
        return cls.from_dict(body)

    def _repr_html_(self) -> str | None:
        """What a notebook shows; None, where nothing was registered, for the plain text."""
        return None if _html is None else _html(self)


_html: Callable[[ThoughtSet], str] | None = None
_text_view: Callable[[ThoughtSet], str] | None = None
_measure: Callable[[ThoughtSet, Any, Any], ThoughtSet] | None = None


def register_html(render: Callable[[ThoughtSet], str]) -> None:
    """Have notebooks show thought sets as the HTML that `render` makes. `thoughtmix` registers its report at import."""
    global _html
    _html = render


def register_text(render: Callable[[ThoughtSet], str]) -> None:
    """Have `print` show thought sets as the text that `render` makes. `thoughtmix` registers its report at import."""
    global _text_view
    _text_view = render


def register_measure(measure: Callable[[ThoughtSet, Any, Any], ThoughtSet]) -> None:
    """Have `from_texts` measure by this: a set, an embedder (None: the packaged one) and a judge (None: none)."""
    global _measure
    _measure = measure


def _line(text: str, most: int = 60) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def _messages(items: list[Any]) -> Iterator[dict[str, str]]:
    for i, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise InputError(f"messages[{i}] must be an object, not {kind_of(item)}.", HINT)
        yield {key: text_field(item, key, f"messages[{i}].") for key in item}


def _thought(body: Any, where: str) -> Thought:
    if not isinstance(body, Mapping):
        raise InputError(f"{where} must be an object, not {kind_of(body)}.", HINT)
    finish = body.get("finish", "length")
    if not isinstance(finish, str) or finish not in _FINISH:
        raise InputError(f"{where}.finish is {finish!r}.", f"Known: {', '.join(sorted(_FINISH))}.")
    ids = as_list(body.get("token_ids", []), f"{where}.token_ids")
    logprobs = as_list(body.get("token_logprobs", []), f"{where}.token_logprobs")
    return Thought(
        text=text_field(body, "text", f"{where}."),
        token_ids=tuple(integer(v, f"{where}.token_ids") for v in ids),
        seed=integer(body.get("seed", 0), f"{where}.seed"),
        logprob=None if (logprob := body.get("logprob", 0.0)) is None else number(logprob, f"{where}.logprob"),
        finish=finish,  # type: ignore[arg-type]  # checked against _FINISH above
        token_logprobs=tuple(number(v, f"{where}.token_logprobs") for v in logprobs),
        origin=mapping_field(body, "origin", f"{where}."),
        scores=numbers_field(body, "scores", f"{where}."),
    )
