"""Thoughts by experts: each thought runs under its own routing of a mixture-of-experts model."""

from __future__ import annotations

from typing import Literal

from thoughtmix.core.errors import ThoughtmixError
from thoughtmix.core.options import Names, ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request
from thoughtmix.engine.engine import Capability, Engine, LocalModelEngine, local_model
from thoughtmix.thinkers.base import Thinker, Thoughts, Work


class ExpertsThinker(Thinker):
    name = "experts"
    summary = "Steers the routing of a mixture-of-experts model, each thought by its own profile or noise."
    needs = frozenset({Capability.LEFT_TO_RIGHT, Capability.TOKENS, Capability.ROW_STATE, Capability.WEIGHTS})
    streams = continues = True
    guided = True

    class Options(ThinkerOptions):
        profiles: Names = option(
            ("noise",),
            "noise, router, all, discovered, a built-in label, or FILE.json; several with commas",
            served=True,
            served_pattern=r"[\w-]+",
            min_length=1,
        )
        boost: float = option(
            1.0, "How much of a profile's biases: 1 as found", served=True, gt=-1e6, lt=1e6, old="strength"
        )
        head: int = option(
            0, "This many of a token's experts stay as the router wants under noise", served=True, ge=0, lt=10**6
        )
        read: Literal["shared", "each"] = option(
            "shared",
            "Who reads the prompt: shared, once, by the model's own routing; each, every thought by its own",
            served=True,
        )

    def suits(self, engine: Engine) -> bool:
        if not super().suits(engine) or not isinstance(engine, LocalModelEngine):
            return False
        from thoughtmix.experts.families import find_moe_layers

        try:
            return bool(find_moe_layers(engine.model.model))
        except ThoughtmixError:
            return False

    def work(self, engine: Engine, n: int, read: int, length: int, options: ThinkerOptions) -> Work:
        readers = n if self.Options.model_validate(options).read == "each" else 1
        return Work(readers * read + n * length)

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        """A thought's profile follows from its seed: profile number seed mod their count. Tokens are drawn at
        temperature 0.7 (0 at creativity 0, so that all thoughts are one) unless one is given."""
        from thoughtmix.experts.branches import profiles_of, think_under

        local, options = local_model(engine, self.name), self.Options.model_validate(request.options)
        found = profiles_of(local.model, options.profiles)
        assigned = [found[seed % len(found)] for seed in request.seeds]
        thoughts, facts = think_under(
            local, prompt, request, assigned, strength=options.boost, head=options.head, read=options.read
        )
        return thoughts, {**facts, "profiles": [p.name for p in found]}


THINKER = ExpertsThinker()
