"""n thoughts, each under its own routing profile, in one batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.core.request import Prompt, Request
from thoughtmix.core.types import Thought
from thoughtmix.engine.engine import LocalModelEngine
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.requests import as_thoughts, run_facts, sampling_params, thought_sequences
from thoughtmix.engine.row_state import Read
from thoughtmix.experts.analysis import PROMPTS, Specialization, analyze_expert_specialization
from thoughtmix.experts.controller import ExpertController
from thoughtmix.experts.families import find_moe_layers
from thoughtmix.experts.profile import ROUTER, Profile, all_experts, load_profiles
from thoughtmix.experts.row_state import ExpertRowState

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

DEFAULT_TEMPERATURE = 0.7
NOISE = Profile("noise")
"""The model's own routing under noise of the thought's own seed."""
_FOUND: WeakKeyDictionary[PreTrainedModel, Specialization] = WeakKeyDictionary()


def discovered(model: LanguageModel) -> Specialization:
    """What the experts are for by the built-in prompts; found once for each loaded model."""
    if model.model not in _FOUND:
        _FOUND[model.model] = analyze_expert_specialization(model)
    return _FOUND[model.model]


def profiles_of(model: LanguageModel, wanted: str | Sequence[str | Profile]) -> list[Profile]:
    """Profiles by name, in order: noise, router (the model's own), all (every expert), discovered (one a built-in label
    that has one), the name of such a label, or a file of `thoughtmix experts map --profiles`. A text may name several,
    with commas between. Raises `InputError`."""
    names: list[str | Profile] = [*wanted.split(",")] if isinstance(wanted, str) else list(wanted)
    if not names:
        raise InputError("No profile was named.", "Pass profiles=noise.")
    out: list[Profile] = []
    for name in names:
        out.extend([name] if isinstance(name, Profile) else _named(model, name.strip()))
    return out


def _named(model: LanguageModel, name: str) -> list[Profile]:
    if name == "noise":
        return [NOISE]
    if name == "router":
        return [ROUTER]
    if name == "all":
        return [all_experts([layer.num_experts for layer in find_moe_layers(model.model)])]
    if name.endswith(".json"):
        return load_profiles(name)
    if name != "discovered" and name not in PROMPTS:
        raise UnknownName("profile", name, ["noise", "router", "all", "discovered", *PROMPTS, "FILE.json"])
    found = discovered(model)
    made = found.profiles() if name == "discovered" else [p for p in [found.profile(name)] if p]
    if not made:
        what = "the built-in labels" if name == "discovered" else repr(name)
        raise InputError(
            f"No expert of {model.name} is used for {what} beyond chance.",
            "Pass profiles=noise, or use texts of your own: thoughtmix experts map MODEL --texts FILE --profiles OUT",
        )
    return made


def think_under(
    engine: LocalModelEngine,
    prompt: Prompt,
    request: Request,
    assigned: Sequence[Profile],
    *,
    strength: float = 1.0,
    head: int = 0,
    read: Read = "shared",
) -> tuple[list[Thought], Mapping[str, Any]]:
    """Thought i of the request under assigned[i]. creativity scales biases and noise; at 0 nothing is steered and,
    unless a temperature is given, nothing drawn. read: see `Engine.generate`."""
    creativity = 1.0 if request.creativity is None else float(request.creativity)
    temperature = DEFAULT_TEMPERATURE * (creativity > 0) if request.temperature is None else request.temperature
    params = sampling_params(request, temperature)
    with ExpertController(engine.model.model, scoped=True) as controller:
        controller.set([p.scaled(strength * creativity) if creativity else ROUTER for p in assigned])
        noise = [creativity if p is NOISE else 0.0 for p in assigned]
        if any(noise):
            controller.perturb(noise, request.seeds, head)
        done = engine.generate(
            thought_sequences(request, [prompt] * request.n, params),
            row_state=ExpertRowState(controller, request.n),
            read=read,
            on_step=request.on_step,
        )
    origins = [
        {"thinker": "experts", "profile": p.name, "creativity": creativity, "temperature": sampling.temperature}
        for sampling, p in zip(params, assigned, strict=True)
    ]
    return as_thoughts(done.outputs, request.seeds, origins), {**run_facts(done), "read": read}


def generate_thought_branches(
    model: LanguageModel | str | Sequence[Mapping[str, str]],
    prompt: str | Sequence[Mapping[str, str]] | LanguageModel,
    profiles: str | Sequence[str | Profile] | None = None,
    *,
    strength: float = 1.0,
    read: Read = "each",
    head: int = 0,
    raw: bool = False,
    **settings: Any,
) -> list[Thought]:
    """One thought under each profile, in their order, in one batch.

    profiles: see `profiles_of`; None: the model's own routing, all experts at once, each discovered profile, and noise.
    settings: those of `Request` (seed, max_new_tokens, creativity, temperature, ...); n is the number of profiles.
    `thought.origin["profile"]` names the profile. Model and prompt may stand in either order: the original prototype
    has `generate_thought_branches(prompt, model)`. Raises `InputError`.
    """
    pair: tuple[Any, Any] = (model, prompt) if hasattr(model, "tokenizer") else (prompt, model)
    loaded, said = pair
    if not hasattr(loaded, "tokenizer"):
        raise InputError("There is no loaded model among the two.", "Pass load_model(NAME) and a prompt.")
    if profiles is None:
        chosen = [ROUTER, *profiles_of(loaded, "all"), *discovered(loaded).profiles(), NOISE]
    else:
        chosen = profiles_of(loaded, profiles)
    request = dataclasses.replace(Request(**settings), n=len(chosen))
    asked = Prompt.from_user(said, raw)
    return think_under(LocalEngine(loaded), asked, request, chosen, strength=strength, head=head, read=read)[0]
