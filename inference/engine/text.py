"""From token ids to text, piece by piece, without ever showing half a character.

Runs in the inference process. A byte-level tokenizer may spread one emoji over four tokens: its text is held back
until the character is whole.
"""

import json
import re
from typing import Any

REPLACEMENT = "\ufffd"
LONGEST_CHARACTER_TOKENS = 4
HELD_TOKENS_LIMIT = 12

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


class IncrementalText:
    """The text of one choice as it grows.

    Decodes a short window of tokens: those of the last piece (some tokenizers write a space or not by what comes
    before) and those that are not text yet.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._context_text = ""
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that this token completes, "" while a character is unfinished."""
        self._pending.append(token_id)
        text = self._decode(self._context + self._pending)
        if not text.endswith(REPLACEMENT):
            return self._take(text, self._pending, [])
        if len(self._pending) < HELD_TOKENS_LIMIT:
            return ""
        return self._take_broken()

    def finish(self) -> str:
        """What is still held: an unfinished character at the end is dropped."""
        text = self._decode(self._context + self._pending)
        return self._take(text, self._pending, []).rstrip(REPLACEMENT)

    def _take_broken(self) -> str:
        """No character is that long, so the bytes are broken: gives them out but for a character just begun."""
        for held in range(1, LONGEST_CHARACTER_TOKENS):
            done, rest = self._pending[:-held], self._pending[-held:]
            text = self._decode(self._context + done)
            if not text.endswith(REPLACEMENT):
                break
        return self._take(text, done, rest)

    def _take(self, text: str, done: list[int], rest: list[int]) -> str:
        new = text[len(self._context_text) :]
        self._context, self._pending = done, rest
        self._context_text = self._decode(done)
        return new

    def _decode(self, token_ids: list[int]) -> str:
        if not token_ids:
            return ""
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class TokenBytes:
    """The bytes that single tokens stand for, as log-probabilities show them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._bytes_of = _byte_level_alphabet() if _is_byte_level(tokenizer) else None

    def of(self, token_id: int) -> bytes:
        """The token's bytes; those of half a character where it is one."""
        name = self._tokenizer.convert_ids_to_tokens(int(token_id))
        if name is None:
            return b""
        if self._bytes_of is not None and all(character in self._bytes_of for character in name):
            return bytes(self._bytes_of[character] for character in name)
        if match := _BYTE_TOKEN.match(name):
            return bytes([int(match.group(1), 16)])
        return str(name).replace("\u2581", " ").encode()


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    return '"ByteLevel"' in json.dumps(json.loads(backend.to_str()).get("decoder"))


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's map from printable characters to bytes: a visible byte is itself, the others follow from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + n): byte for n, byte in enumerate(hidden)}
