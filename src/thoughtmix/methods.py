"""Methods under names of their own: what `think(thinker=...)` does, for those who look for it by another name."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, Interrupted, ModelError, UnknownName
from thoughtmix.core.options import parse_options
from thoughtmix.core.request import OnStep, Prompt, Request, TextEmbedder
from thoughtmix.core.types import ThoughtSet
from thoughtmix.models.endpoint import Endpoint
from thoughtmix.noise.catalogue import Catalogue
from thoughtmix.thinkers.noise import NoiseThinker, disturb

if TYPE_CHECKING:
    from thoughtmix.engine.engine import Engine
    from thoughtmix.models import LanguageModel


class SemanticNoiser:
    """Disturbs texts in directions of a catalogue: the thinker `noise` for a text that stands alone.

    Args:
        model: As in `thoughtmix.Pipeline` (None: the default one), or with an endpoint its model's name there (None:
            the first that it lists).
        endpoint: The URL of an OpenAI-compatible server, or an `Endpoint`; the key comes from THOUGHTMIX_API_KEY or,
            for api.openai.com, OPENAI_API_KEY.
        files: TOML files with directions of your own.
        strength, language: Defaults of `disturb`.
        embedder: For measuring and for order="different"; None: the packaged one.
        dtype, device, on_progress: As in `thoughtmix.Pipeline`.

    Models are loaded at the first call.
    """

    def __init__(
        self,
        model: str | LanguageModel | None = None,
        endpoint: str | Endpoint | None = None,
        *,
        files: Sequence[str] = (),
        strength: str = "precise",
        language: str = "en",
        embedder: TextEmbedder | None = None,
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
    def engine(self) -> Engine:
        """What writes: the endpoint, else the local model."""
        if self.endpoint is not None:
            from thoughtmix.engine.endpoint import EndpointEngine

            return EndpointEngine(self.endpoint)
        from thoughtmix.engine.local import LocalEngine

        return LocalEngine(self.model)

    @cached_property
    def embedder(self) -> TextEmbedder:
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

        Args:
            text: What to disturb.
            noise_type: A direction ("metaphor"), several at once ("poem+critic", or a list), or a family ("creative":
                one of its directions, by the seed).
            settings: Those of `disturb`.

        Raises:
            UnknownName: With the nearest name that exists.
            ModelError: An endpoint finally failed.
        """
        named = [noise_type] if isinstance(noise_type, str) else list(noise_type)
        families = self.catalogue.families
        for name in (part.strip() for one in named for part in one.split("+")):
            if name not in self.catalogue and not (named == [name] and name in families):
                raise UnknownName("noise type", name, [*self.catalogue, *families])
        family = named[0] in families and named[0] not in self.catalogue
        made = self.disturb(
            text,
            1,
            families=named if family else (),
            directions=() if family else ["+".join(named)],
            strength=strength,
            language=language,
            seed=seed,
            measure=False,
            **settings,
        )
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
        on_step: OnStep | None = None,
        **settings: Any,
    ) -> ThoughtSet:
        """n versions of `text`, each in its own direction: the thought of seed s takes direction s mod their number.

        Args:
            text: What to disturb.
            prompt: The question that the text answers, if there is one.
            families, directions, strength, language, order, tokens, mask: The options of the thinker `noise`.
            settings: creativity, temperature, top_p, stop ... as in `thoughtmix.think`.

        Returns:
            The versions. With an endpoint they have no tokens and no likelihood; one that finally fails has finish
            "cancelled" and `origin["error"]`.

        Raises:
            InputError: What cannot be served as written.
            ModelError: No version came.
            Interrupted: On Ctrl-C.
        """
        if not text.strip():
            raise InputError("The idea is empty.", 'Type one: thoughtmix noise "a cafe where people repair things"')
        given: dict[str, tuple[Any, Any]] = {  # and what it is when nobody says anything
            "strength": (strength or self.strength, "precise"),
            "language": (language or self.language, "en"),
            "order": (order, "families"),
            "mask": (mask, "random"),
            "tokens": (tokens, None),
            "families": (families, ""),
            "directions": (directions, ""),
            "file": (list(self.files), []),
        }
        options = {k: v for k, (v, default) in given.items() if v != default and v not in ((), [])}
        for name in ("temperature", "top_p"):
            if isinstance(settings.get(name), list):
                settings[name] = tuple(settings[name])
        if isinstance(settings.get("stop"), str):
            settings["stop"] = (settings["stop"],)
        typed = parse_options(NoiseThinker.Options, {"idea": text, **options}, "noise")
        request = Request(
            n=n,
            seed=seed,
            max_new_tokens=max_new_tokens,
            options=typed,
            on_step=on_step,
            embedder=lambda: self.embedder,
            **settings,
        )
        asked = None if prompt is None else Prompt(prompt)
        return self._set(text, asked, request, typed, measure)

    def _set(
        self, text: str, prompt: Prompt | None, request: Request, options: NoiseThinker.Options, measure: bool
    ) -> ThoughtSet:
        began = time.perf_counter()
        made, facts = disturb(self.engine, prompt, request, options)
        facts = {**facts, "wall_seconds": round(time.perf_counter() - began, 4)}
        interrupted = bool(facts.pop("interrupted", False))
        result = ThoughtSet(
            prompt.text if prompt else text,
            tuple(made),
            thinker="noise",
            model=self.engine.name,
            settings={"prompt": prompt.text if prompt else None, **request.recorded()},
            run=facts,
        )
        if interrupted:
            raise Interrupted(result)
        if all(t.origin.get("error") and not t.text for t in made):
            why = made[0].origin["error"]
            raise ModelError(f"{self.engine.name} gave no thought: {why}.", "Check --endpoint, or try later.")
        if measure:
            from thoughtmix.metrics import measure as measured

            result = measured(result, embedder=self.embedder)
        return result
