"""Texts and chats into token ids, where only the template and the tokenizer's frame make control tokens.

A tokenizer takes `<|im_end|>` for the token that ends a turn wherever it stands, also in what a user typed: that forges
turns. Here what people write stays text, whatever it looks like. Texts without such names, nearly all, are encoded by
the tokenizer as ever. For the others:

1. each name of a control token in the messages is replaced by a mark of ordinary characters;
2. the template is rendered, so each name that is left is the template's own: it becomes a twin, a name nobody can type;
3. the marks become the names again, and a copy of the tokenizer, which knows the twins and not the names, encodes it.

One call encodes the whole, so tokens end where they always do. The tokenizer itself is never changed: threads share it.
"""

from __future__ import annotations

import inspect
import json
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.models.chat_template import render
from thoughtmix.models.plain_tokenizer import PlainTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_STRANGE = "\U0010fffd \U00010380"  # a letter for private use, which some normalisers drop, and a Ugaritic one
_KEPT_FORMS = 256  # control tokens of so many forms of conversation are remembered
_SHORTEST = 3  # an ordinary added token is a control token only if it is as long as this, <s>, and the template's


class TextEncoder:
    """Encodes for one tokenizer. Safe for many threads.

    Args:
        tokenizer: Of the model.
        name: What errors call the model.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer, self.name = tokenizer, name
        self._lock = threading.Lock()
        self._known: _Control | None = None

    def text(self, text: str, frame: bool = True) -> list[int]:
        """Ids of a text in which nothing is a control token. frame: with the tokenizer's own before and after it."""
        control = self._control()
        if not control.pattern.search(text):
            ids = self._ids(text, frame)
            if control.special(ids) == control.frame(frame):
                return ids
        return control.encode(text, frame)

    def spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """`text` without its frame, and where in it, (begin, end) in characters, each token stands."""
        control = self._control()
        blind = control.blind if control.pattern.search(text) else None
        if blind is not None:
            found = blind.encode(text, add_special_tokens=False)
            return list(found.ids), list(found.offsets)
        if isinstance(self.tokenizer, PlainTokenizer):
            plain = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
            return list(plain.ids), list(plain.offsets)
        both = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(both["input_ids"]), list(both["offset_mapping"])

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        after: str = "",
        template_kwargs: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """Ids of a conversation in the chat template, up to where the answer begins, or goes on if the last message is
        the assistant's.

        Args:
            messages: `{"role": ..., "content": text}`; an assistant's may have `tool_calls`.
            after: One of the contents. Only what the template puts after it is encoded.
            template_kwargs: What the template gets beside the messages: names -> texts, numbers, booleans. Control
                tokens in a text are text here, too.
            tools: Functions that the template tells the model of.

        Raises:
            InputError: A name or a value of `template_kwargs` is none to pass; the template refuses the conversation,
                drops `after`, or makes control tokens of what it says.
        """
        control = self._control()
        more = self._checked(template_kwargs or {})
        if tools:
            more = {**more, "tools": list(tools)}
        self._check_names([*messages, *tools])
        if not any(control.pattern.search(text) for text in [*_texts(messages), *_texts(list(more.values()), False)]):
            ids = self._ids(self._cut(self._render(control.shaped(messages), more), after), False)
            if control.special(ids) == self._expected(control, messages, after, more):
                return ids
        marks: list[str] = []

        def as_marks(message: Mapping[str, Any]) -> Any:
            return _mapped(message, lambda text: control.mark(text, marks, message["role"] != "assistant"))

        marked = [as_marks(message) for message in messages]
        marked_more = {k: _mapped(v, lambda text: control.mark(text, marks, True), False) for k, v in more.items()}
        text = self._cut(self._render(control.shaped(marked), marked_more), after)
        twins = control.pattern.sub(lambda found: control.twins[found[0]], text)
        restored = re.sub(rf"{control.nonce}m(\d+)m", lambda found: marks[int(found[1])], twins)
        mangled = control.nonce in re.sub(rf"{control.nonce}t[0-9a-f]+t", "", restored).lower()
        ids = [] if mangled else control.encode(restored, False)
        if mangled or control.special(ids) != self._expected(control, messages, after, more):
            shown = next(iter(marks), "what it says")
            raise InputError(
                f"The chat template of {self.name} rewrites texts, so {shown} in one cannot be told from its own.",
                "Take it out of the messages.",
            )
        return ids

    def next_turn(self, text: str, template_kwargs: Mapping[str, Any] | None = None) -> list[int]:
        """Ids between an answer and the next: its end, a user's turn that says `text`, the start of the next answer;
        read off the chat template. Raises `InputError` where the template cannot go on after an answer."""
        mark = "thoughtmix was here"
        said = (("user", "?"), ("assistant", mark), ("user", text))
        turns = [{"role": role, "content": content} for role, content in said]
        return self.chat(turns, after=mark, template_kwargs=template_kwargs)

    def _control(self) -> _Control:
        """Made anew when somebody has added tokens, or has set another template."""
        key = (len(self.tokenizer), repr(self.tokenizer.chat_template))
        with self._lock:
            if self._known is None or self._known.key != key:
                self._known = _Control(self.tokenizer, key)
            return self._known

    def _ids(self, text: str, frame: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=frame, verbose=False)["input_ids"])

    def _check_names(self, given: Sequence[Mapping[str, Any]]) -> None:
        """Names within tools and their calls cannot be told from the template's own. Raises `InputError`."""
        pattern = self._control().pattern
        for name in _names(list(given)):
            found = pattern.search(name)
            if found:
                raise InputError(f"The name {name[:80]!r} holds a control token, {found[0]}.", "Name it otherwise.")

    def _checked(self, template_kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        if not template_kwargs:
            return template_kwargs
        own = {"messages", *_arguments_of_a_template(self.tokenizer)}
        for name, value in template_kwargs.items():
            if name in own or name.endswith(("_token", "_tokens")):
                raise InputError(f"A chat template gets no {name!r} from outside.", "Leave it out.")
            if not isinstance(value, (str, bool, int, float, type(None))):
                raise InputError(f"{name!r} of a chat template is no text, number or boolean.", "Leave it out.")
        return template_kwargs

    def _render(self, messages: Sequence[Mapping[str, Any]], more: Mapping[str, Any]) -> str:
        begun = messages[-1]["role"] == "assistant"
        try:
            return render(self.tokenizer, messages, more, generation=not begun, goes_on=begun)
        except Exception as error:  # a template may refuse an order of roles with any Jinja error
            raise InputError(
                f"The chat template of {self.name} refuses this: {error}.", "Change the messages."
            ) from None

    def _cut(self, rendered: str, after: str) -> str:
        if after and after not in rendered:
            raise InputError(f"The chat template of {self.name} drops earlier answers.", "Ask without them.")
        return rendered.rpartition(after)[2] if after else rendered

    def _expected(
        self, control: _Control, messages: Sequence[Mapping[str, Any]], after: str, more: Mapping[str, Any]
    ) -> list[int]:
        """The special tokens that the template makes of a conversation of this form, whatever is said in it."""

        def plain_text(text: str) -> str:
            return text if text == after or not text.strip() else "x"

        def plain_message(message: Mapping[str, Any]) -> dict[str, Any]:
            """Of calls only the control tokens go: templates look at what else they hold."""
            calls = {k: v for k, v in message.items() if k == "tool_calls"}
            words = {k: v for k, v in message.items() if k != "tool_calls"}
            return {**_mapped(words, plain_text), **_mapped(calls, lambda text: control.pattern.sub("x", text))}

        plain = [plain_message(m) for m in messages]
        harmless = {k: _mapped(v, lambda text: control.pattern.sub("x", text), False) for k, v in more.items()}
        form = repr((plain, after, harmless))
        known = control.forms.get(form)
        if known is None:
            known = control.special(self._ids(self._cut(self._render(control.shaped(plain), harmless), after), False))
            if len(control.forms) >= _KEPT_FORMS:
                control.forms.clear()
            control.forms[form] = known
        return known


class _Control:
    """A tokenizer's control tokens: the special ones, and added ones that its chat template writes (`<think>`, say, is
    often no special token). key: when this holds."""

    def __init__(self, tokenizer: Any, key: tuple[int, str]) -> None:
        self.tokenizer, self.key = tokenizer, key
        self.nonce = f"q{secrets.token_hex(12)}"  # letters and digits: no normaliser changes it, no template escapes it
        self.forms: dict[str, list[int]] = {}
        template = json.dumps(tokenizer.chat_template or "", ensure_ascii=False)
        special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        others: dict[str, int] = {}
        for i, token in tokenizer.added_tokens_decoder.items():
            if token.special:
                special[token.content] = i
            elif len(token.content.strip()) >= _SHORTEST and not token.content.isalnum() and token.content in template:
                others[token.content] = i
        self._special = special
        names = {**others, **special}
        self.ids = names
        self.pattern, self._special_pattern = _any_of(names), _any_of(special)
        self.twins = {name: f"{self.nonce}t{i:x}t" for name, i in names.items()}
        roles = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        strange = {tokenizer.unk_token_id, *tokenizer(_STRANGE, add_special_tokens=False)["input_ids"]}
        # what stands for strange characters is no control token, unless it has another role as well (GPT-2)
        self._counted = set(special.values()) - (strange - roles)
        self._lock = threading.Lock()

    def special(self, ids: Sequence[int]) -> list[int]:
        """The special tokens among ids."""
        return [i for i in ids if i in self._counted]

    def frame(self, wanted: bool) -> list[int]:
        """The special tokens that stand around a text."""
        return self.special(self.tokenizer("", add_special_tokens=True)["input_ids"]) if wanted else []

    def mark(self, text: str, marks: list[str], strict: bool) -> str:
        """Names of control tokens as marks. strict False: an assistant's words, of whose names those that are no
        special tokens stay what they were when the model wrote them."""

        def noted(found: re.Match[str]) -> str:
            marks.append(found[0])
            return f"{self.nonce}m{len(marks) - 1}m"

        return (self.pattern if strict else self._special_pattern).sub(noted, text)

    def encode(self, text: str, frame: bool) -> list[int]:
        """Ids of a text whose control tokens are written as twins. Raises `InputError` where others come out."""
        blind = self.blind
        if blind is not None:
            ids = list(blind.encode(text, add_special_tokens=frame).ids)
        else:
            ids = self._piecewise(text, frame)
        written = [i for twin, i in self._of_twin.items() for _ in range(text.count(twin)) if i in self._counted]
        if sorted(self.special(ids)) != sorted([*written, *self.frame(frame)]):
            raise InputError("A text holds the name of a control token that this tokenizer cannot split.", "Remove it.")
        return ids

    @cached_property
    def _of_twin(self) -> dict[str, int]:
        return {twin: self.ids[name] for name, twin in self.twins.items()}

    @cached_property
    def blind(self) -> Tokenizer | None:
        """The tokenizer without the names of control tokens; None where it cannot be copied."""
        with self._lock:
            return _blind_copy(getattr(self.tokenizer, "backend_tokenizer", None), self._of_twin)

    def _piecewise(self, text: str, frame: bool) -> list[int]:
        """For tokenizers that are no `tokenizers.Tokenizer`: what stands between twins is encoded by itself."""
        ids: list[int] = []
        for piece in re.split(f"({self.nonce}t[0-9a-f]+t)", text):
            if piece in self._of_twin:
                ids.append(self._of_twin[piece])
            elif piece:
                ids += self.tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return list(self.tokenizer.build_inputs_with_special_tokens(ids)) if frame else ids

    def shaped(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Contents as the template reads them: texts, or lists of parts."""
        if not self._wants_parts:
            return [dict(m) for m in messages]
        return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]

    @cached_property
    def _wants_parts(self) -> bool:
        """Whether a content is shown only as a list of parts. Such templates drop a text, and say nothing."""

        def shows(content: Any) -> bool:
            try:
                turn = [{"role": "user", "content": content}]
                return self.nonce in render(self.tokenizer, turn)
            except Exception:  # any Jinja error
                return False

        return not shows(self.nonce) and shows([{"type": "text", "text": self.nonce}])


def _arguments_of_a_template(tokenizer: Any) -> set[str]:
    """Names that `apply_chat_template` takes for itself."""
    if isinstance(tokenizer, PlainTokenizer):
        from transformers import PreTrainedTokenizerBase

        return set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
    return set(inspect.signature(tokenizer.apply_chat_template).parameters)


def _blind_copy(backend: Any, of_twin: Mapping[str, int]) -> Tokenizer | None:
    """A copy of a tokenizer whose control tokens are known by their twins alone, in its list of added tokens and in the
    model's vocabulary, which Unigram looks its pieces up in. None where that cannot be done."""
    from tokenizers import Tokenizer

    if not isinstance(backend, Tokenizer):
        return None
    state = json.loads(backend.to_str())
    state["truncation"] = state["padding"] = None
    twins = {i: twin for twin, i in of_twin.items()}
    for token in state["added_tokens"]:
        token["content"] = twins.get(token["id"], token["content"])
    model, renamed = state["model"], {}
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        model["vocab"] = [[twins.get(i, piece), score] for i, (piece, score) in enumerate(vocabulary)]
    else:
        renamed = {name: twins[i] for name, i in vocabulary.items() if i in twins}
        model["vocab"] = {renamed.get(name, name): i for name, i in vocabulary.items()}
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    if renamed and model.get("merges"):

        def harmless(merge: Any) -> bool:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            return not renamed.keys() & {left, right, left + right}

        model["merges"] = [merge for merge in model["merges"] if harmless(merge)]
    try:
        copy = Tokenizer.from_str(json.dumps(state, ensure_ascii=False))
    except Exception:  # the library raises plain exceptions
        return None
    return copy if all(copy.token_to_id(twin) == i for twin, i in of_twin.items()) else None


def _any_of(names: Mapping[str, int]) -> re.Pattern[str]:
    """Matches the longest of the names that stand somewhere, as a tokenizer does."""
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _texts(value: Any, top: bool = True) -> list[str]:
    """All that messages say, in their contents and elsewhere. top: a mapping is a message, whose role is no text."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for name, part in value.items() if not (top and name == "role") for text in _texts(part, False)]
    return [text for part in value for text in _texts(part, top)] if isinstance(value, (list, tuple)) else []


def _mapped(value: Any, change: Callable[[str], str], top: bool = True) -> Any:
    """A message, or part of one, with its texts changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {k: part if top and k == "role" else _mapped(part, change, False) for k, part in value.items()}
    return [_mapped(part, change, top) for part in value] if isinstance(value, (list, tuple)) else value


def _names(value: Any) -> list[str]:
    """Of all that mappings hold, at any depth."""
    if isinstance(value, Mapping):
        return [*map(str, value), *(name for part in value.values() for name in _names(part))]
    return [name for part in value for name in _names(part)] if isinstance(value, (list, tuple)) else []
