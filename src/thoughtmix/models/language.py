"""A language model with its tokenizer: prompts in, ids out, and back to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.models.chat_template import render
from thoughtmix.models.checkpoint import predicts_masks
from thoughtmix.models.encoder_decoder import is_encoder_decoder
from thoughtmix.models.grammar import GrammarCompiler
from thoughtmix.models.plain_tokenizer import decoder_of
from thoughtmix.models.text_encoder import TextEncoder
from thoughtmix.models.tools import CallForm, call_form
from thoughtmix.models.tried import Pristine

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})
_TYPE_A_PROMPT = 'Type a prompt: thoughtmix think "Name a fruit."'
_WRITE_A_MESSAGE = 'Write {"role": "user", "content": "..."}.'


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A language model ready to use, in eval mode."""

    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    name: str
    is_default: bool = False
    causal: bool = True
    """It writes from left to right. False: a mask predictor of ours, which only the thinker `diffusion` takes."""
    virtual: tuple[int, ...] = ()
    """Tokens that every sequence begins with, of no text: the virtual ones of a tuned prompt (PEFT's prompt tuning)."""
    languages: tuple[str, ...] = ()
    """What it was trained to write, as codes ("en"); (): not said."""
    pristine: Pristine | None = field(default=None, repr=False)
    """Of the default model: what its files say of it."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @cached_property
    def encoder_decoder(self) -> bool:
        """Whether the prompt goes to an encoder, and only the answer is the decoder's."""
        return is_encoder_decoder(self.model)

    @cached_property
    def context_length(self) -> int | None:
        """Most tokens of prompt and answer together, or of each where the prompt has an encoder; None when the config
        names no limit."""
        config: Any = self.model.config.get_text_config()
        for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
            value = getattr(config, name, None)
            if isinstance(value, int) and value > 0:
                return value
        return None

    @cached_property
    def vocabulary(self) -> int:
        """How many token ids it has an embedding for."""
        embedding: Any = self.model.get_input_embeddings()
        return len(embedding.weight)  # PEFT's wrappers have no num_embeddings

    @cached_property
    def kv_numbers(self) -> int:
        """Numbers that a token's keys and values are, by the config; a guess where it does not say."""
        config: Any = self.model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None) or 1
        width = getattr(config, "hidden_size", None) or 1024
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        head_width = getattr(config, "head_dim", None) or width // heads
        layers = getattr(config, "num_hidden_layers", None) or 1
        return int(2 * layers * kv_heads * head_width)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end an answer: the generation config's, the tokenizer's, and a chat turn's end."""
        config: Any = self.model.generation_config  # None where somebody took it away
        named = [config.eos_token_id if config else None, self.tokenizer.eos_token_id]
        ids = [i for value in named for i in (value if isinstance(value, (list, tuple)) else [value])]
        return frozenset(int(i) for i in (*ids, _turn_end(self.tokenizer)) if i is not None)

    def begun(self, ids: Sequence[int]) -> list[int]:
        """ids behind the virtual tokens, which they may already begin with."""
        k = len(self.virtual)
        return list(ids) if tuple(ids[:k]) == self.virtual else [*self.virtual, *ids]

    @property
    def codec(self) -> Any:
        """What makes tokens of texts and texts of tokens: the tokenizer, or as much of it as that takes."""
        return self.tokenizer

    @cached_property
    def encoder(self) -> TextEncoder:
        """Texts and chats into ids, where nothing that people write becomes a control token."""
        return TextEncoder(self.codec, self.name)

    @cached_property
    def tool_form(self) -> CallForm:
        """How it calls tools."""
        return call_form(self.tokenizer)

    @cached_property
    def grammars(self) -> GrammarCompiler:
        """Grammars over its tokens; each is compiled once."""
        head: Any = self.model.get_output_embeddings()
        return GrammarCompiler(self.tokenizer, self.name, len(head.weight))

    def encode(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        raw: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """Token ids of a prompt, ending where the answer begins. Control tokens (`<|im_end|>`) come from the chat
        template and the tokenizer's frame alone: where a prompt has their names, it is text. An encoder without a
        template has no turns to forge, and the names of its sentinels (`<extra_id_0>`) are those tokens.

        Args:
            prompt: A text, which becomes one user message in the model's chat template unless there is none; or
                messages `{"role": ..., "content": ...}`, which need a template. When the last is the assistant's, the
                answer continues it.
            raw: Continue a text as it stands, in which the names of control tokens are those tokens.
            template_kwargs: What the template gets beside the messages; texts, numbers and booleans.
            tools: Functions that the template tells the model of, as OpenAI writes them (see `tool_form`).

        Raises:
            InputError: It is empty, malformed, or refused by the template.
        """
        template = bool(self.codec.chat_template)
        if isinstance(prompt, str):
            if not prompt.strip():
                raise InputError("The prompt is empty.", _TYPE_A_PROMPT)
            if raw or not template:
                _require_unicode(prompt)
                if raw or self.encoder_decoder:
                    ids: Any = self.codec(prompt, add_special_tokens=True, verbose=False)["input_ids"]
                    return self.begun(_some(list(ids)))
                return self.begun(_some(self.encoder.text(prompt)))
            prompt = [{"role": "user", "content": prompt}]
        elif raw:
            raise InputError("raw continues a text, but messages were given.", "Pass a text, or drop raw.")
        messages = _messages(prompt)
        if not template:
            raise InputError(f"{self.name} has no chat template.", "Pass a text instead of messages.")
        return self.begun(_some(self.encoder.chat(messages, template_kwargs=template_kwargs, tools=tools)))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return decoder_of(self.codec)(list(ids))


def wrap_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "") -> LanguageModel:
    """A `LanguageModel` of a model and tokenizer that are loaded already. Puts the model in eval mode.

    Raises:
        ModelError: It has no language-model head.
    """
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):  # the model that PEFT changed, adapters in
        peft: Any = model
        model = peft.get_base_model()
    if model.get_output_embeddings() is None:
        raise ModelError(f"{type(model).__name__} has no language-model head.", "Load it with AutoModelForCausalLM.")
    model.eval()
    title = name or model.config.name_or_path or type(model).__name__
    return LanguageModel(model, tokenizer, title, causal=not predicts_masks(model.config))


def _messages(prompt: Any) -> list[dict[str, str]]:
    """The conversation, checked."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, (bytes, bytearray)):
        raise InputError(f"A prompt is a text or a list of messages, not {type(prompt).__name__}.", _TYPE_A_PROMPT)
    for i, message in enumerate(prompt):
        where = f"messages[{i}]"
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise InputError(f"{where} lacks role or content.", _WRITE_A_MESSAGE)
        role = message["role"]
        if not isinstance(role, str) or role not in _ROLES:
            raise InputError(f"{where} has role {role!r}.", f"Known: {', '.join(sorted(_ROLES))}.")
        if not isinstance(message["content"], str):
            raise InputError(f"{where} has content that is no text.", _WRITE_A_MESSAGE)
        _require_unicode(message["content"])
    if not any(message["content"].strip() for message in prompt):
        raise InputError("The conversation is empty.", _TYPE_A_PROMPT)
    return [dict(message) for message in prompt]


def _require_unicode(text: str) -> None:
    """Refuse what a command line makes of bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError("The prompt is not valid Unicode.", "Save it as UTF-8.") from None


def _some(ids: list[int]) -> list[int]:
    if not ids:
        raise InputError("The prompt has no tokens.", _TYPE_A_PROMPT)
    return ids


def _turn_end(tokenizer: Any) -> int | None:
    """The special token that ends an assistant's turn, read off the chat template itself."""
    if not tokenizer.chat_template:
        return None
    said = "thoughtmix"
    turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}]
    try:
        text = render(tokenizer, turn)
    except Exception:  # a template that refuses even this has no turn to end
        return None
    if said not in text:
        return None
    after = tokenizer(text.rpartition(said)[2].lstrip(), add_special_tokens=False)["input_ids"]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return after[0] if after and after[0] in special.union(tokenizer.all_special_ids) else None
