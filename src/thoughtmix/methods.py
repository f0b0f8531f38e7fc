"""Methods under names of their own: what `think(thinker=...)` does, for those who look for it by another name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import ModelError, UnknownName
from thoughtmix.core.options import parse_options
from thoughtmix.core.request import OnStep, TextEmbedder
from thoughtmix.core.types import ThoughtSet
from thoughtmix.models.endpoint import Endpoint
from thoughtmix.noise.catalogue import Catalogue
from thoughtmix.pipeline import Pipeline
from thoughtmix.thinkers.noise import NoiseThinker

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel


class SemanticNoiser:
    """Disturbs texts in directions of a catalogue: the thinker `noise` for a text that stands alone.

    Args:
        model: As in `thoughtmix.Pipeline` (None: the default one), or with an endpoint its model's name there (None:
            the first that it lists).
        endpoint: The URL of an OpenAI-compatible server, or an `Endpoint`; the key comes from THOUGHTMIX_API_KEY or,
            for api.openai.com, OPENAI_API_KEY.
        files: TOML files with directions of your own.
        strength: precise, vague or chaotic, where `disturb` is not told.
        language: Of the instructions, en or fr, where `disturb` is not told.
        embedder: For measuring and for order="different"; None: the packaged one.
        dtype: As in `thoughtmix.Pipeline`.
        device: As in `thoughtmix.Pipeline`.
        on_progress: As in `thoughtmix.Pipeline`.

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
        self.files, self.strength, self.language = tuple(files), strength, language
        self.catalogue = Catalogue.load(*files)
        self.pipeline = Pipeline(
            model if not isinstance(endpoint, Endpoint) else None,
            dtype=dtype,
            device=device,
            embedder=embedder,
            endpoint=endpoint,
            on_progress=on_progress,
        )

    @property
    def model(self) -> LanguageModel:
        """The local model."""
        return self.pipeline.model

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
            strength: As in `disturb`.
            language: As in `disturb`.
            seed: As in `disturb`.
            settings: As in `disturb`.

        Raises:
            UnknownName: With the nearest name that exists.
            ModelError: An endpoint finally failed.
        """
        names = [noise_type] if isinstance(noise_type, str) else list(noise_type)
        families = self.catalogue.families
        family = len(names) == 1 and names[0] in families and names[0] not in self.catalogue
        for name in (part.strip() for one in names for part in one.split("+")):
            if name not in self.catalogue and not family:
                raise UnknownName("noise type", name, [*self.catalogue, *families])
        made = self.disturb(
            text,
            1,
            families=names if family else (),
            directions=() if family else ["+".join(names)],
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
        holes: float | None = None,
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
            families: style, angle, constraint, creative or your own; left out, all of them take turns.
            directions: Single directions; poem+critic is both at once.
            strength: precise, vague or chaotic.
            language: Of the instructions: en or fr.
            order: families take turns, or different: the n most different instructions first.
            holes: Share of the words that become holes to fill in; None: none.
            mask: Which words: random ones, or span (stretches of them).
            seed: Of the first version.
            max_new_tokens: Longest version, in tokens.
            measure: False leaves out embedding and metrics.
            on_step: Called with a `StepEvent` after every step.
            settings: creativity, temperature, top_p, stop ... as in `thoughtmix.think`.

        Returns:
            The versions. One for which an endpoint finally failed has finish "cancelled" and `origin["error"]`.

        Raises:
            InputError: What cannot be served as written.
            ModelError: No version came.
            Interrupted: On Ctrl-C.
        """
        given = {
            "idea": text,
            "standalone": prompt is None,
            "families": families,
            "directions": directions,
            "strength": strength or self.strength,
            "language": language or self.language,
            "order": order,
            "holes": holes,
            "mask": mask,
            "file": self.files,
        }
        # A mask predictor, which follows no instructions, refuses directions that were given: the defaults were not.
        options = parse_options(NoiseThinker.Options, given, "noise").model_dump(exclude_defaults=True)
        return self.pipeline(
            text if prompt is None else prompt,
            n,
            "noise",
            options=options,
            seed=seed,
            max_new_tokens=max_new_tokens,
            measure=measure,
            on_step=on_step,
            **settings,
        )
