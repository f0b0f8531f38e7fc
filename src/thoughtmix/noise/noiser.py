"""`SemanticNoiser`: texts in, disturbed texts out, by a local model or by any OpenAI-compatible endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, Interrupted, ModelError, UnknownName
from thoughtmix.core.thinker import Request, StepEvent
from thoughtmix.core.types import Thought, ThoughtSet
from thoughtmix.models.endpoint import Ask, Endpoint
from thoughtmix.noise.asking import Way, messages
from thoughtmix.noise.catalogue import Catalogue
from thoughtmix.noise.options import turns, ways

if TYPE_CHECKING:
    from thoughtmix.models import Embedder, LanguageModel
    from thoughtmix.models.wire import Reply


class SemanticNoiser:
    """Disturbs texts in directions of a catalogue.

    model: as in `thoughtmix.Pipeline` (None: the default one), or with an endpoint its model's name there (None: the
    first that it lists). endpoint: the URL of an OpenAI-compatible server, or an `Endpoint`; the key comes from
    THOUGHTMIX_API_KEY or OPENAI_API_KEY. files: TOML files with directions of your own. embedder: for measuring and for
    order="different"; None: the packaged one. Models are loaded at the first call.
    """

    def __init__(
        self,
        model: str | LanguageModel | None = None,
        endpoint: str | Endpoint | None = None,
        *,
        files: Sequence[str] = (),
        strength: str = "precise",
        language: str = "en",
        embedder: Embedder | None = None,
        dtype: str = "auto",
        device: str = "auto",
        on_progress: Callable[..., None] | None = None,
    ) -> None:
        if endpoint is not None and model is not None and not isinstance(model, str):
            raise InputError("A loaded model and an endpoint were given.", "Pass one, or the model's name there.")
        self.endpoint = Endpoint(endpoint, str(model) if model else None) if isinstance(endpoint, str) else endpoint
        self.catalogue = Catalogue.load(*files)
        self._model, self._embedder, self.files = model, embedder, tuple(files)
        self.strength, self.language = strength, language
        self.dtype, self.device, self._on_progress = dtype, device, on_progress

    @cached_property
    def model(self) -> LanguageModel:
        """The local model."""
        from thoughtmix.models import load_model

        if self._model is not None and not isinstance(self._model, str):
            return self._model
        return load_model(self._model, dtype=self.dtype, device=self.device, on_progress=self._on_progress)

    @cached_property
    def embedder(self) -> Embedder:
        from thoughtmix.models import load_embedder

        return self._embedder or load_embedder(on_progress=self._on_progress)

    def add_creative_noise(
        self,
        text: str,
        noise_type: str | Sequence[str],
        *,
        strength: str | None = None,
        language: str | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> str:
        """`text` rewritten in one direction.

        noise_type: a direction ("metaphor"), several at once ("poem+critic", or a list), or a family ("creative": one
        of its directions, by the seed). settings: those of `disturb`. Raises `UnknownName` with the nearest name that
        exists, `ModelError` when an endpoint finally fails.
        """
        named = [noise_type] if isinstance(noise_type, str) else list(noise_type)
        families = self.catalogue.families
        for name in (part.strip() for one in named for part in one.split("+")):
            if name not in self.catalogue and not (named == [name] and name in families):
                raise UnknownName("noise type", name, [*self.catalogue, *families])
        whole = named[0] in families and named[0] not in self.catalogue
        made = self.disturb(
            text, 1, families=named if whole else (), directions=() if whole else ["+".join(named)],
            strength=strength, language=language, seed=seed, measure=False, **settings,
        )  # fmt: skip
        if made[0].finish == "cancelled":
            raise ModelError(f"No answer: {made[0].origin.get('error', 'interrupted')}.", "Check --endpoint.")
        return made[0].text.strip()

    def disturb(
        self,
        text: str,
        n: int = 8,
        *,
        prompt: str | None = None,
        families: str | Sequence[str] = (),
        directions: str | Sequence[str] = (),
        strength: str | None = None,
        language: str | None = None,
        order: str = "families",
        tokens: float | None = None,
        mask: str = "random",
        seed: int = 0,
        max_new_tokens: int = 96,
        measure: bool = True,
        on_step: Callable[[StepEvent], None] | None = None,
        **settings: Any,
    ) -> ThoughtSet:
        """n versions of `text`, each in its own direction: the thought of seed s takes direction s mod their number.

        prompt: the question that the text answers, if there is one. families, directions, strength, language, order,
        tokens, mask: see `thoughtmix.noise.options.HELP`. settings: creativity, temperature, top_p, stop ... as in
        `thoughtmix.think`. With an endpoint, thoughts have no tokens and no likelihood; one that finally fails has
        finish "cancelled" and `origin["error"]`. Raises `InputError`, `ModelError` (no thought came), `Interrupted`.
        """
        given: dict[str, tuple[Any, Any]] = {  # and what it is when nobody says anything
            "idea": (text, ""), "strength": (strength or self.strength, "precise"), "mask": (mask, "random"),
            "language": (language or self.language, "en"), "order": (order, "families"), "tokens": (tokens, None),
            "families": (families, ""), "directions": (directions, ""), "file": (self.files, ()),
        }  # fmt: skip
        options = {k: v for k, (v, default) in given.items() if v != default and v not in ((), [])}
        for name in ("temperature", "top_p"):
            if isinstance(settings.get(name), list):
                settings[name] = tuple(settings[name])
        if isinstance(settings.get("stop"), str):
            settings["stop"] = (settings["stop"],)
        request = Request(n=n, seed=seed, max_new_tokens=max_new_tokens, options=options, on_step=on_step, **settings)
        if not text.strip():
            raise InputError("The idea is empty.", 'Type one: thoughtmix noise "a cafe where people repair things"')
        began = time.perf_counter()
        made, facts, name = self._remote(request, prompt) if self.endpoint else self._local(request, prompt)
        interrupted = bool(facts.pop("interrupted", False))
        result = ThoughtSet(
            prompt or text, tuple(made), thinker="noise", model=name, settings={"prompt": prompt, **request.recorded()},
            run={**facts, "wall_seconds": round(time.perf_counter() - began, 4)},
        )  # fmt: skip
        if interrupted:
            raise Interrupted(result)
        if all(t.origin.get("error") and not t.text for t in made):
            raise ModelError(f"{name} gave no thought: {made[0].origin['error']}.", "Check --endpoint, or try later.")
        if measure:
            from thoughtmix.metrics import measure as measured

            result = measured(result, embedder=self.embedder)
        return result

    def _local(self, request: Request, prompt: str | None) -> tuple[list[Thought], dict[str, Any], str]:
        from thoughtmix.thinkers.noise import disturb

        before = self.model.encode(prompt) if prompt else []
        made, facts = disturb(self.model, before, request)
        return made, dict(facts), self.model.name

    def _remote(self, request: Request, prompt: str | None) -> tuple[list[Thought], dict[str, Any], str]:
        assert self.endpoint is not None
        for name, off in (("top_k", 0), ("min_p", None), ("top_nsigma", 0.0)):
            if getattr(request, name) != off:
                raise InputError(f"An endpoint takes no {name}.", "Leave it out, or use a local model.")
        if isinstance(request.temperature, tuple) or isinstance(request.top_p, tuple):
            raise InputError("An endpoint takes one temperature and top_p for all thoughts.", "Pass one value.")
        text = str(request.options["idea"]).strip()
        creativity = 1.0 if request.creativity is None else request.creativity
        heat = 0.7 * creativity if request.temperature is None else request.temperature
        found = turns(ways(request.options, lambda: self.embedder), request.seeds)
        if request.creativity == 0:
            origin = {"thinker": "noise", "direction": "none", "family": "none", "idea": text}
            return [Thought(text, (), s, 0.0, "stop", origin=origin) for s in request.seeds], {}, self.endpoint.name
        before = [{"role": "user", "content": prompt}] if prompt else []
        asks = [
            Ask(messages(text, way, s, before), s % 2**31, request.max_new_tokens, heat,
                None if request.top_p == 1 else float(request.top_p), request.stop)
            for way, s in zip(found, request.seeds, strict=True)
        ]  # fmt: skip
        replies = self.endpoint.complete(asks, _told(request))
        made = [
            _thought(reply, way, s, text, heat)
            for reply, way, s in zip(replies, found, request.seeds, strict=True)
        ]  # fmt: skip
        facts = {"path": "endpoint", "endpoint": self.endpoint.facts, "interrupted": self.endpoint.interrupted,
                 "tokens": sum(r.tokens or 0 for r in replies)}  # fmt: skip
        return made, facts, self.endpoint.name


def _thought(reply: Reply, way: Way, seed: int, idea: str, temperature: float) -> Thought:
    origin = {"thinker": "noise", **way.origin, "temperature": temperature, "idea": idea, "tries": reply.tries}
    if reply.error:
        origin["error"] = reply.error
    return Thought(reply.text, (), seed, 0.0, reply.finish, origin=origin)


def _told(request: Request) -> Callable[[int, str], None] | None:
    """Pieces of an endpoint as `StepEvent`s; a piece counts as a token."""
    see = request.on_step
    if see is None:
        return None
    done, total = [0], request.n * request.max_new_tokens

    def piece(i: int, text: str) -> None:
        done[0] += 1
        pieces = [""] * request.n
        pieces[i] = text
        see(StepEvent(pieces, done[0], total, [False] * request.n))

    return piece
