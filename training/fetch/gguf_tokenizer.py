"""A model's tokenizer as a GGUF file holds it: tokens, their kinds, merges, the rule that splits words, the template.

Runs in the `fetch` job. Byte-level BPE alone ("gpt2" in GGUF's terms), which the Llama 3, SmolLM2 and Qwen families
have. A rule that llama.cpp does not know is refused: the file would read every text a little differently.
"""

import json
from pathlib import Path
from typing import Any

import gguf

from monitoring.attempt import JobFaultError
from training.fetch.inspect import chat_template_of
from training.profiles.turn_ends import TURN_ENDS

LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {f"{LETTERS}|\\p{{N}}{REST}": "qwen2", f"{LETTERS}|\\p{{N}}{{1,3}}{REST}": "llama-bpe"}
"""Regular expressions of tokenizer.json, and what llama.cpp calls them."""

WHOLE_WORDS_FIRST = frozenset({"llama-bpe"})
"""The rules with which llama.cpp takes a word that is a token as it is, whatever the merges make of it."""


def describe_tokenizer(writer: Any, tokenizer: Any, vocabulary_size: int, folders: list[Path]) -> None:
    """Writes all of it. `tokenizer` is transformers' own, without a template; that of the first folder that has one is
    written. Raises JobFaultError `export_unsupported`."""
    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    if stored["model"]["type"] != "BPE" or stored["model"].get("byte_fallback"):
        raise _unsupported(f"its tokenizer is of the kind {stored['model']['type']}, not byte-level BPE")
    check_normalizer(stored["normalizer"])
    rule = word_rule(stored["pre_tokenizer"])
    check_merges(stored["model"], rule)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    tokens, kinds = _tokens(tokenizer, vocabulary_size)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    pairs = stored["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in pairs])
    _special_tokens(writer, tokenizer)
    template = next(filter(None, map(chat_template_of, folders)), None)
    if template is not None:
        writer.add_chat_template(template)


def check_normalizer(stored: dict[str, Any] | None) -> None:
    """Raises JobFaultError `export_unsupported` where texts are changed before they are split: llama.cpp changes none.
    NFC is let through, since nearly every text has that form already."""
    parts = [stored or {}] if (stored or {}).get("type") != "Sequence" else (stored or {})["normalizers"]
    others = sorted({part["type"] for part in parts if part} - {"NFC"})
    if others:
        raise _unsupported(f"its tokenizer changes texts first ({', '.join(others)}), and llama.cpp's does not")


def check_merges(stored: dict[str, Any], rule: str) -> None:
    """Raises JobFaultError `export_unsupported` where words that are tokens are treated in another way than llama.cpp
    treats them under the rule."""
    if bool(stored.get("ignore_merges")) != (rule in WHOLE_WORDS_FIRST):
        raise _unsupported(f"its tokenizer merges the letters of known words otherwise than llama.cpp does by {rule}")


def word_rule(stored: dict[str, Any] | None) -> str:
    """llama.cpp's name of a pre-tokenizer of tokenizer.json. Raises JobFaultError `export_unsupported`."""
    parts = [stored or {}] if (stored or {}).get("type") != "Sequence" else (stored or {})["pretokenizers"]
    *before, last = parts
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space"):
        if last.get("use_regex", True):
            if not before:
                return "gpt-2"
            if len(before) == 1 and before[0] == {"type": "Digits", "individual_digits": True}:
                return "smollm"
        elif len(before) == 1 and before[0].get("type") == "Split" and before[0].get("behavior") == "Isolated":
            pattern = before[0]["pattern"].get("Regex")
            if pattern in SPLITS and not before[0].get("invert"):
                return SPLITS[pattern]
    raise _unsupported("llama.cpp does not know the rule by which its tokenizer splits words")


def _tokens(tokenizer: Any, vocabulary_size: int) -> tuple[list[str], list[int]]:
    """Every token by its id, and its kind; ids of the embedding that no token has are filled up."""
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    if max(by_id) >= vocabulary_size:
        raise _unsupported(f"its tokenizer has {max(by_id) + 1:,} tokens and its weights {vocabulary_size:,}")
    added = tokenizer.added_tokens_decoder
    tokens: list[str] = []
    kinds: list[int] = []
    for number in range(vocabulary_size):
        tokens.append(by_id.get(number, f"[PAD{number}]"))
        if number not in by_id:
            kinds.append(gguf.TokenType.UNUSED)
        elif number not in added:
            kinds.append(gguf.TokenType.NORMAL)
        else:
            kinds.append(gguf.TokenType.CONTROL if added[number].special else gguf.TokenType.USER_DEFINED)
    return tokens, kinds


def _special_tokens(writer: Any, tokenizer: Any) -> None:
    first = tokenizer.encode("a")[:1]
    begins = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
    for number, write in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
        (_turn_end(tokenizer), writer.add_eot_token_id),
    ):
        if number is not None:
            write(number)
    writer.add_add_bos_token(begins)


def _turn_end(tokenizer: Any) -> int | None:
    vocabulary = tokenizer.get_vocab()
    return next((vocabulary[end] for end in TURN_ENDS if end in vocabulary), None)


def _unsupported(reason: str) -> JobFaultError:
    return JobFaultError(
        "export_unsupported", f"The model can't be exported to GGUF: {reason}.", "Serve it by the engine transformers."
    )
