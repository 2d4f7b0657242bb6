"""Text from tokens: whole characters only, whatever the tokens are."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from inference.engine.text import HELD_TOKENS_LIMIT, REPLACEMENT, IncrementalText, TokenBytes
from tests.tiny import build_tiny_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A byte-level tokenizer that never saw an emoji: each is four tokens or more."""
    return AutoTokenizer.from_pretrained(build_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """SentencePiece's way: unknown characters are tokens like <0xF0>."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁Hello", "▁world", "!"]
    ids = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.BPE(ids, [], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


def pieces(tokenizer: Any, token_ids: list[int]) -> list[str]:
    text = IncrementalText(tokenizer)
    return [*(text.push(token_id) for token_id in token_ids), text.finish()]


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_characters=REPLACEMENT, exclude_categories=["Cs"]), max_size=40))
def test_pieces_add_up_to_the_text_and_hold_no_half_character(tokenizer: Any, text: str) -> None:
    given_out = pieces(tokenizer, tokenizer.encode(text, add_special_tokens=False))
    assert "".join(given_out) == text
    assert not any(REPLACEMENT in piece for piece in given_out)


def test_an_emoji_comes_whole_with_its_last_token(tokenizer: Any) -> None:
    ids = tokenizer.encode("🛡️", add_special_tokens=False)
    assert len(ids) > 4
    given_out = pieces(tokenizer, ids)
    assert [piece for piece in given_out if piece] == ["🛡", "\ufe0f"]
    assert given_out[:3] == ["", "", ""]


def test_half_an_emoji_at_the_end_is_dropped(tokenizer: Any) -> None:
    ids = tokenizer.encode("end 🌊", add_special_tokens=False)
    assert "".join(pieces(tokenizer, ids[:-1])) == "end "


def test_broken_bytes_are_held_for_a_bounded_time_and_harm_no_later_character(tokenizer: Any) -> None:
    broken = tokenizer.encode("🌊", add_special_tokens=False)[:1] * 40
    given_out = pieces(tokenizer, [*broken, *tokenizer.encode("🌊!", add_special_tokens=False)])
    assert any(given_out[:HELD_TOKENS_LIMIT])
    assert "".join(given_out).endswith("🌊!")


def test_byte_fallback_characters_and_spaces_survive(byte_fallback_tokenizer: PreTrainedTokenizerFast) -> None:
    ids_of = byte_fallback_tokenizer.get_vocab()
    ids = [ids_of["▁Hello"], *(ids_of[f"<0x{byte:02X}>"] for byte in "🌊🧭".encode()), ids_of["▁world"], ids_of["!"]]
    given_out = pieces(byte_fallback_tokenizer, ids)
    assert "".join(given_out) == "Hello🌊🧭 world!"
    assert not any(REPLACEMENT in piece for piece in given_out)


def test_special_tokens_have_no_text(tokenizer: Any) -> None:
    ids = tokenizer.encode("a<|im_end|>b", add_special_tokens=False)
    assert tokenizer.eos_token_id in ids
    assert "".join(pieces(tokenizer, ids)) == "ab"


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_token_bytes_add_up_to_the_text(tokenizer: Any, text: str) -> None:
    token_bytes = TokenBytes(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(token_bytes.of(token_id) for token_id in ids) == text.encode()


def test_bytes_of_byte_fallback_tokens(byte_fallback_tokenizer: PreTrainedTokenizerFast) -> None:
    ids_of = byte_fallback_tokenizer.get_vocab()
    token_bytes = TokenBytes(byte_fallback_tokenizer)
    assert token_bytes.of(ids_of["<0xF0>"]) == b"\xf0"
    assert token_bytes.of(ids_of["▁Hello"]) == b" Hello"
    assert token_bytes.of(100_000) == b""
