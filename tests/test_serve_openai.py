"""What OpenAI's own client expects of streams, log-probabilities and fields that mean nothing here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest
import serving
from tiny import fresh
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from thoughtmix.core.request import StepEvent
from thoughtmix.core.types import Thought
from thoughtmix.engine.engine import SequenceOutput
from thoughtmix.models import LanguageModel, wrap_model
from thoughtmix.serve.logprobs import Draw, TokenPlacer, Vocabulary
from thoughtmix.serve.streaming import _StepReader

SAID: list[Any] = [{"role": "user", "content": "w5 w9 w77"}]
WORDS = "a😊b 漢字 naïve — ok"


def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE (GPT-2, Llama 3, SmolLM): every byte is a token, a few pairs are too."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1, **{letter: i + 2 for i, letter in enumerate(alphabet)}}
    merges = [("Ġ", "o"), ("o", "k"), ("ð", "Ł")]
    vocabulary |= {a + b: len(vocabulary) + i for i, (a, b) in enumerate(merges)}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def sentence_piece() -> PreTrainedTokenizerFast:
    """As Llama 2's: words with a mark for the space before them, and a token for every byte."""
    marked = ["▁a", "b", "▁", "▁na", "ve", "▁ok", "a", "o", "k", "n", "v", "e", "—"]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": byte + 3 for byte in range(256)}}
    vocabulary |= {piece: len(vocabulary) + i for i, piece in enumerate(marked)}
    merges = [("▁", "a"), ("▁", "o"), ("▁o", "k"), ("▁", "n"), ("▁n", "a"), ("v", "e")]
    for a, b in merges:
        vocabulary.setdefault(a + b, len(vocabulary))
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


class _Model:
    """As much of a language model as a vocabulary looks at."""

    causal = True

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.eos_ids = tokenizer, frozenset({tokenizer.eos_token_id})


TOKENIZERS = pytest.mark.parametrize("tokenizer", [byte_level(), sentence_piece()], ids=["bytes", "sentencepiece"])


# --- bytes and places of tokens ---


def placed(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], text: str | None = None) -> list[Any]:
    placer = TokenPlacer(Vocabulary(_Model(tokenizer)))  # type: ignore[arg-type]
    placer.add([Draw(i, -1.0) for i in ids])
    return placer.finish(tokenizer.decode(ids, skip_special_tokens=True) if text is None else text)


@TOKENIZERS
def test_bytes_are_the_tokens_own_and_join_to_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer(WORDS, add_special_tokens=False)["input_ids"]
    tokens = placed(tokenizer, ids)
    assert len(tokens) == len(ids), "one a token"
    assert b"".join(token.bytes for token in tokens).decode() == "".join(token.piece for token in tokens) == WORDS
    assert [len(token.bytes) for token in tokens if not token.piece], "a part of a character has bytes and no text"
    assert all(token.bytes for token in tokens)
    for token in tokens:
        assert WORDS[token.offset :].startswith(token.piece)
    smile = next(token for token in tokens if token.piece == "😊")
    assert smile.bytes == "😊".encode()[-1:], "the others have the bytes before"


@TOKENIZERS
def test_nothing_past_a_stop_and_no_end_token(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer(WORDS, add_special_tokens=False)["input_ids"]
    for end in range(len(WORDS) + 1):
        tokens = placed(tokenizer, [*ids, tokenizer.eos_token_id], WORDS[:end])
        assert b"".join(token.bytes for token in tokens).decode() == WORDS[:end]
        assert "".join(token.piece for token in tokens) == WORDS[:end]
        assert all(token.offset < end for token in tokens)
    assert len(placed(tokenizer, [*ids, tokenizer.eos_token_id], WORDS)) == len(ids)
    cut = placed(tokenizer, tokenizer("b 😊", add_special_tokens=False)["input_ids"][:-1])
    assert b"".join(token.bytes for token in cut) == "b 😊".encode()[:-1], "half a character stays what it is"


@TOKENIZERS
def test_a_growing_text_gives_the_same_places(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer(WORDS, add_special_tokens=False)["input_ids"]
    placer = TokenPlacer(Vocabulary(_Model(tokenizer)))  # type: ignore[arg-type]
    got, shown = [], 0
    for at, i in enumerate(ids):
        placer.add([Draw(i, -1.0)])
        decoded = tokenizer.decode(ids[: at + 1])
        if not decoded.endswith("\N{REPLACEMENT CHARACTER}"):
            shown = max(shown, len(decoded) - 1)  # the last character is held back
        new = placer.take(shown)
        assert all(token.offset + len(token.piece) <= shown for token in new)
        got += new
    assert 3 < len(got) < len(ids)
    assert got + placer.finish(WORDS) == placed(tokenizer, ids)


def test_alternatives_have_names_of_their_own() -> None:
    tokenizer = byte_level()
    vocabulary = Vocabulary(_Model(tokenizer))  # type: ignore[arg-type]
    first, second = tokenizer.convert_tokens_to_ids(["ð", "Ł"])
    assert vocabulary.token_text(first) == "bytes:\\xf0" and vocabulary.token_text(second) == "bytes:\\x9f"
    assert vocabulary.token_text(tokenizer.convert_tokens_to_ids("Ġo")) == " o"
    assert vocabulary.token_text(1) == "</s>" and vocabulary.token_bytes(1) == b""


# --- the official client, on a model whose tokens are bytes ---


@pytest.fixture(scope="module")
def bytes_model() -> LanguageModel:
    """Random, and so it writes bytes that are often no characters."""
    from transformers import AutoModelForCausalLM

    config = fresh("llama").config
    config.vocab_size, config.bos_token_id, config.eos_token_id = 272, 0, 1
    config.max_position_embeddings = 1024
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.25)
    return wrap_model(model.eval().requires_grad_(False), byte_level(), name="tiny-bytes")


@pytest.fixture(scope="module")
def client(bytes_model: LanguageModel) -> Iterator[openai.OpenAI]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "language_model", lambda family: bytes_model)
        with serving.running() as here, openai.OpenAI(base_url=f"{here.url}/v1", api_key="x", max_retries=0) as made:
            yield made


def test_chat_logprobs_of_any_bytes(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(
        model="default", messages=SAID, n=6, seed=1, max_tokens=24, logprobs=True, top_logprobs=3
    )
    for choice in got.choices:
        assert choice.logprobs is not None and choice.logprobs.content
        raw = b"".join(bytes(token.bytes or []) for token in choice.logprobs.content)
        assert raw.decode("utf-8", "replace") == choice.message.content
        for token in choice.logprobs.content:
            assert len(token.top_logprobs) == 3
            assert (
                token.token == "bytes:" + "".join(f"\\x{b:02x}" for b in token.bytes or [])
                or token.bytes == list(token.token.encode())
                or not token.bytes
            )


def test_a_character_that_was_cut_is_left_out(client: openai.OpenAI) -> None:
    """The tokens ran out within a character: neither text nor log-probabilities have a part of it."""
    from thoughtmix.serve.logprobs import without_half_character

    tokenizer = byte_level()
    vocabulary = Vocabulary(_Model(tokenizer))  # type: ignore[arg-type]
    ids = tokenizer("b 😊", add_special_tokens=False)["input_ids"]
    half = Thought(tokenizer.decode(ids[:-1]), tuple(ids[:-1]), 0, 0.0, "length")
    assert half.text.endswith("\N{REPLACEMENT CHARACTER}")
    text = without_half_character(half, vocabulary).text
    assert text == "b " and b"".join(t.bytes for t in placed(tokenizer, ids[:-1], text)).decode() == text
    real = tokenizer("b \N{REPLACEMENT CHARACTER}", add_special_tokens=False)["input_ids"]
    written = Thought(tokenizer.decode(real), tuple(real), 0, 0.0, "length")
    assert without_half_character(written, vocabulary) == written, "the model wrote that one"
    how: dict[str, Any] = {"model": "default", "messages": SAID, "n": 8, "seed": 3, "max_tokens": 9}
    whole = [choice.message.content for choice in client.chat.completions.create(**how).choices]
    parts = [""] * 8
    for chunk in client.chat.completions.create(stream=True, **how):
        parts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert parts == whole


def test_completions_alternatives_and_offsets(client: openai.OpenAI) -> None:
    got = client.completions.create(
        model="default", prompt="a😊", n=6, seed=1, max_tokens=24, logprobs=5, stop=["o"], temperature=1.0
    )
    assert any(choice.finish_reason == "stop" for choice in got.choices)
    for choice in got.choices:
        found = choice.logprobs
        assert found is not None and found.tokens is not None and found.text_offset is not None
        assert "".join(found.tokens) == choice.text
        for token, offset, best in zip(found.tokens, found.text_offset, found.top_logprobs or [], strict=True):
            assert choice.text[offset:].startswith(token) and len(best) == 5
        assert len(found.token_logprobs or []) == len(found.tokens)


def test_two_ids_with_one_text_do_not_collide() -> None:
    from thoughtmix.serve.answers import CompletionFormat

    form = CompletionFormat(serving.service(), 4)
    own, form.vocabulary.token_text = form.vocabulary.token_text(5), lambda token: "same"  # type: ignore[method-assign]
    placer = TokenPlacer(form.vocabulary)
    placer.add([Draw(5, -1.0, [(5, -1.0), (6, -2.0), (7, -3.0)])])
    made = form.logprobs(placer.finish(own))
    assert made is not None
    assert made["top_logprobs"] == [{own: -1.0, "same": -2.0, "token_id:7": -3.0}]


# --- streams ---


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}, {"stream_options": None}])
@pytest.mark.parametrize("more", [{}, {"select": 1}, {"thinker": "noise"}, {"thinker": "hybrid", "measure": True}])
def test_every_chunk_has_a_choice(client: openai.OpenAI, options: dict[str, Any], more: dict[str, Any]) -> None:
    stream = client.chat.completions.create(
        model="default", messages=SAID, n=2, seed=1, max_tokens=6, stream=True, extra_body=more, **options
    )
    texts, facts = {0: "", 1: ""}, None
    for chunk in stream:
        choice = chunk.choices[0]  # as every tutorial has it
        texts[choice.index] += choice.delta.content or ""
        assert chunk.usage is None
        facts = facts or getattr(chunk, "thoughtmix", None)
    assert texts[0] and facts is not None and facts["run"], "the set's own facts come with the last"


def test_usage_comes_when_asked_for(client: openai.OpenAI) -> None:
    chunks = list(
        client.completions.create(
            model="default", prompt="ab", seed=1, max_tokens=6, stream=True, stream_options={"include_usage": True}
        )
    )
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == [] and chunks[-1].thoughtmix["metrics"] == {}  # type: ignore[attr-defined]


def test_progress_is_a_comment(client: openai.OpenAI) -> None:
    body = {"messages": SAID, "n": 2, "seed": 1, "max_tokens": 6, "stream": True, "thinker": "noise"}
    with httpx.stream("POST", f"{client.base_url}chat/completions", json=body, timeout=60) as stream:
        lines = [line for line in stream.iter_lines() if line]
    comments = [line for line in lines if line.startswith(":")]
    assert comments and all(line.startswith(": progress ") for line in comments)
    assert all(line.startswith((": ", "data: ")) for line in lines)


def test_a_steps_new_draws_are_read_once() -> None:
    class Request:
        streams = True

        class request:
            n = 2

    read = _StepReader(Request, 1)  # type: ignore[arg-type]
    outputs = [SequenceOutput([5], [-1.0], top=[([5, 6], [-1.0, -2.0])]), SequenceOutput()]
    first = read(StepEvent(["a", ""], 1, 4, [False, False], outputs))
    assert first.draws == [[Draw(5, -1.0, [(5, -1.0)])], []]
    outputs[0].token_ids.append(7)
    outputs[0].logprobs.append(-0.5)
    outputs[0].top.append(([7, 8], [-0.5, -3.0]))
    assert read(StepEvent(["b", ""], 2, 4, [False, False], outputs)).draws == [[Draw(7, -0.5, [(7, -0.5)])], []]
    assert read(StepEvent(["", ""], 2, 4, [False, False])).draws == [[], []], "an engine that does not say"


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_streamed_chunks_carry_their_own_logprobs(client: openai.OpenAI, kind: str) -> None:
    more: dict[str, Any] = {"model": "default", "n": 3, "seed": 1, "max_tokens": 24, "stop": ["o"]}
    with_text = without = 0
    texts, raws, values = [""] * 3, [b""] * 3, [0, 0, 0]
    if kind == "chat":
        for chat in client.chat.completions.create(messages=SAID, stream=True, logprobs=True, top_logprobs=2, **more):
            for choice in chat.choices:
                tokens = (choice.logprobs.content if choice.logprobs else None) or []
                texts[choice.index] += choice.delta.content or ""
                raws[choice.index] += b"".join(bytes(token.bytes or []) for token in tokens)
                values[choice.index] += len(tokens)
                with_text += bool(choice.delta.content and tokens)
                without += bool(choice.delta.content and not tokens)
        whole = client.chat.completions.create(messages=SAID, logprobs=True, top_logprobs=2, **more)
        counts = [len((c.logprobs.content if c.logprobs else None) or []) for c in whole.choices]
        assert [raw.decode("utf-8", "replace") for raw in raws] == texts
    else:
        for chunk in client.completions.create(prompt="ab", stream=True, logprobs=2, **more):
            for part in chunk.choices:
                found = part.logprobs
                if found is not None:
                    assert found.text_offset is None or all(offset >= 0 for offset in found.text_offset)
                    for token, offset in zip(found.tokens or [], found.text_offset or [], strict=True):
                        assert offset == len(texts[part.index]) or not token
                        texts[part.index] += token
                    values[part.index] += len(found.tokens or [])
                with_text += bool(part.text and found and found.tokens)
                without += bool(part.text and not (found and found.tokens))
        plain = client.completions.create(prompt="ab", logprobs=2, **more)
        assert texts == [choice.text for choice in plain.choices]
        counts = [len((c.logprobs.tokens if c.logprobs else None) or []) for c in plain.choices]
    assert values == counts and with_text > 9 and without == 0


# --- fields that ask for nothing ---

NOTHING: list[dict[str, Any]] = [
    {"tools": []},
    {"tools": None},
    {"tool_choice": "none"},
    {"parallel_tool_calls": False},
    {"parallel_tool_calls": True},
    {"reasoning_effort": "low"},
    {"verbosity": "low"},
    {"modalities": ["text"]},
    {"prompt_cache_key": "x"},
    {"safety_identifier": "x"},
    {"n": None},
    {"stream": None},
    {"stop": None},
    {"options": None},
    {"measure": None},
    {"temperature": None},
    {"top_p": None},
    {"logprobs": None},
    {"top_logprobs": None},
    {"max_tokens": None, "max_completion_tokens": 6},
    {"response_format": None},
    {"response_format": {"type": "text"}},
    {"audio": None},
    {"prediction": None},
    {"functions": None},
    {"web_search_options": None},
    {"stream_options": None},
    {"logit_bias": None},
    {"user": None},
    {"metadata": None},
    {"store": None},
]


@pytest.mark.parametrize("more", NOTHING, ids=lambda more: ",".join(f"{k}={v}" for k, v in more.items()))
def test_what_asks_for_nothing_changes_nothing(client: openai.OpenAI, more: dict[str, Any]) -> None:
    body: dict[str, Any] = {"max_tokens": 6, "seed": 1}
    want = client.chat.completions.create(model="default", messages=SAID, **body)
    got = client.chat.completions.create(model="default", messages=SAID, extra_body={**body, **more})
    assert got.choices[0].message.content == want.choices[0].message.content


def test_an_answer_may_be_sent_back(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="default", messages=SAID, max_tokens=6, seed=1).choices[0].message
    for message in (first.model_dump(), first.model_dump(exclude_unset=True), first):
        talk: list[Any] = [*SAID, message, {"role": "user", "content": "w5"}]
        assert client.chat.completions.create(model="default", messages=talk, max_tokens=6).choices
    for key, value in (("tool_calls", [{"id": "x"}]), ("tool_call_id", "x"), ("reasoning_content", "x")):
        talk = [{"role": "assistant", "content": "w5", key: value}]
        with pytest.raises(openai.BadRequestError, match=key) as refused:
            client.chat.completions.create(model="default", messages=talk)
        assert str(refused.value.param).startswith("messages.0")


def test_the_smallest_nucleus_is_the_likeliest_token(client: openai.OpenAI) -> None:
    greedy = client.completions.create(model="default", prompt="ab", max_tokens=12, temperature=0)
    sharp = client.completions.create(model="default", prompt="ab", max_tokens=12, n=3, top_p=0, temperature=1.5)
    assert {choice.text for choice in sharp.choices} == {greedy.choices[0].text}
