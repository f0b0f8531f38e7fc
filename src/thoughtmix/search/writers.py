"""What goes on with the texts of a tree: tokens after tokens, from the keys and values of what was read; or words after
words, where an engine takes and gives text alone.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from thoughtmix.core.errors import ModelError
from thoughtmix.core.request import OnStep, Prompt
from thoughtmix.engine.engine import Engine, Generation, LocalModelEngine, SequenceOutput, SequenceRequest
from thoughtmix.engine.requests import add_endpoint_facts
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.engine.without_replacement import Excluded
from thoughtmix.search.proposals import Proposal
from thoughtmix.search.tree import Node

if TYPE_CHECKING:
    from thoughtmix.engine import Prefix

GO_ON = (
    "Your answer breaks off where it ends. Write only what comes next, from exactly there: do not repeat any of it, "
    "and say nothing about it. If it is complete, write nothing."
)
"""How a chat model is asked to go on with an answer of its own."""


@runtime_checkable
class Writer(Protocol):
    """Continues nodes of one tree."""

    prompt: str
    """What was asked, for evaluators."""
    prompt_ids: list[int]
    """Its token ids; [] where it has none."""

    @property
    def name(self) -> str:
        """Of the model."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """For `ThoughtSet.run`."""
        ...

    def write(
        self,
        nodes: Sequence[Node],
        seeds: Sequence[int],
        most: Sequence[int],
        stop: tuple[str, ...],
        to_the_end: bool,
        on_step: OnStep | None = None,
    ) -> Generation:
        """One batch: after nodes[i], at most most[i] tokens, drawn by seeds[i]. to_the_end: up to an end or a string of
        `stop`. on_step: as of `Engine.generate`. A row that failed has an `error`."""
        ...

    def read(self, node: Node, row: SequenceOutput) -> tuple[str, bool]:
        """The whole text up to a new node, and whether it ended by itself."""
        ...

    def added(self, node: Node) -> str:
        """What a node adds to its parent's text."""
        ...


class TokenWriter:
    """By an engine with the model in this process: only new tokens are computed, and none is drawn twice at a node."""

    facts: Mapping[str, Any] = {}

    def __init__(self, engine: LocalModelEngine, prompt_ids: Sequence[int], proposal: Proposal) -> None:
        self.engine, self.prompt_ids, self.proposal = engine, list(prompt_ids), proposal
        self.prompt = engine.model.decode(prompt_ids)

    @property
    def name(self) -> str:
        return self.engine.model.name

    def write(
        self,
        nodes: Sequence[Node],
        seeds: Sequence[int],
        most: Sequence[int],
        stop: tuple[str, ...],
        to_the_end: bool,
        on_step: OnStep | None = None,
    ) -> Generation:
        prompts = {node: tuple(self.prompt_ids + node.tokens) for node in nodes}
        some = all(len(ids) > 1 for ids in prompts.values())  # of a prompt of one token there is no prefix
        prefixes = {node: _longest_prefix(node, len(ids)) if some else None for node, ids in prompts.items()}
        row_state = self.proposal.row_state(self.engine.model, seeds)
        if all(node.parent is not None for node in nodes) and row_state.unshared_suffix > 1:
            row_state.unshared_suffix = 1  # it is for a prompt's end: later, the last token is enough
        requests = [
            SequenceRequest(
                prompts[node],
                seed,
                self.proposal.sampling,
                max_new_tokens,
                stop if to_the_end else (),
                prefix=prefixes[node],
                exclude=() if to_the_end else _exclusions(node),
            )
            for node, seed, max_new_tokens in zip(nodes, seeds, most, strict=True)
        ]
        return self.engine.generate(
            requests,
            row_state=row_state,
            keep_prefixes=not to_the_end,
            without_replacement=not to_the_end,
            on_step=on_step,
        )

    def read(self, node: Node, row: SequenceOutput) -> tuple[str, bool]:
        tokens, model = node.tokens, self.engine.model
        ended = row.finish == "stop" and bool(tokens) and tokens[-1] in model.eos_ids
        return model.decode(tokens[:-1] if ended else tokens), ended

    def added(self, node: Node) -> str:
        return self.engine.model.decode(node.token_ids)


class TextWriter:
    """By any engine: a chat model is asked to go on with what it said. Its tokens are words, known by their checksums.

    A word that the token limit may have cut is left to the continuation. What the model repeats of its text is dropped.
    """

    prompt_ids: list[int]

    def __init__(self, engine: Engine, prompt: Prompt, sampling: SamplingParams) -> None:
        self.engine, self.asked, self.sampling = engine, prompt, sampling
        self.prompt, self.prompt_ids = prompt.text, []
        self.facts: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self.engine.name

    def write(
        self,
        nodes: Sequence[Node],
        seeds: Sequence[int],
        most: Sequence[int],
        stop: tuple[str, ...],
        to_the_end: bool,
        on_step: OnStep | None = None,
    ) -> Generation:
        done = self.engine.generate(
            [
                SequenceRequest(self._prompt(node), seed, self.sampling, max_new_tokens, stop)
                for node, seed, max_new_tokens in zip(nodes, seeds, most, strict=True)
            ],
            on_step=on_step,
        )
        for node, row in zip(nodes, done.outputs, strict=True):
            row.text = _new_text(node.text, row)
            row.token_ids = [zlib.crc32(word.encode()) for word in row.text.split()]
            if node.text and row.finish == "stop" and not row.text:
                row.error, row.token_ids = None, [0]  # there was nothing to add: it is complete
            elif not row.text and not done.interrupted:
                row.error = row.error or "the answer is empty"
        if done.outputs and all(row.error for row in done.outputs) and not done.interrupted:
            raise ModelError(f"{self.name} gave nothing: {done.outputs[0].error}.", "Check --endpoint, or try later.")
        said = done.extra.get("endpoint")
        if said:
            before = self.facts.get("endpoint")
            self.facts["endpoint"] = add_endpoint_facts(before, said) if before else said
        return done

    def read(self, node: Node, row: SequenceOutput) -> tuple[str, bool]:
        before = node.parent.text if node.parent is not None else ""
        return joined(before, row.text), row.finish == "stop"

    def added(self, node: Node) -> str:
        return node.text if node.parent is None else node.text[len(node.parent.text) :]

    def _prompt(self, node: Node) -> Prompt:
        if not node.text:
            return self.asked
        said = [{"role": "assistant", "content": node.text}, {"role": "user", "content": GO_ON}]
        return Prompt((*self.asked.conversation, *said))


def joined(before: str, after: str) -> str:
    """Two stretches of a text. There is a space between them, but not before a mark that has none."""
    if not before or not after or before[-1].isspace() or re.match(r"[\s.,;:!?)\]}'’”%]", after):
        return before + after
    return f"{before} {after}"


def _new_text(before: str, row: SequenceOutput) -> str:
    """What a row adds to a text: without what it repeats, and a word that may be cut."""
    text = row.text
    if row.finish == "length" and len(text.split()) > 1 and not text[-1].isspace():
        text = text[: len(text) - len(text.split()[-1])]
    text = text.rstrip()
    if not before:
        return text
    for size in range(min(len(before), len(text)), 11, -1):  # shorter ones may be meant
        if before.endswith(text[:size]):
            return text[size:].lstrip()
    body = text.lstrip()
    return body.removeprefix("...").removeprefix("…").lstrip() if body.startswith(("...", "…")) else text.lstrip(" ")


def _exclusions(node: Node) -> tuple[Excluded, ...]:
    """What is not to be drawn at a node again."""
    return tuple(Excluded(c.token_ids, c.shares) for c in node.children if c.shares)


def _longest_prefix(node: Node, length: int) -> Prefix | None:
    """The longest beginning that was read, all but the last token at most: the node's own, or an ancestor's."""
    for ancestor in reversed(node.lineage):
        if ancestor.prefix is not None and ancestor.prefix.keys is not None:
            return ancestor.prefix.cut(min(ancestor.prefix.length, length - 1))
    return None
