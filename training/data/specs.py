"""The shapes a dataset's row may have, and what is wrong with one that has none of them.

Runs in every process; imports nothing heavy (the web's preview and the `validate` job read rows by the same rules).
A row is one JSON object a line. Four shapes are known:

- `messages`: [{"role": "system" | "user" | "assistant", "content": "..."}]
- `prompt`, `completion`: two texts, or two lists of messages
- `instruction`, `output`, and `input` and `system` where there are some
- `text`: raw text, trained on as it is (loss on every token)

The first three become `{"messages": [...]}`. Keys beyond a shape's own are left out.

A file as a whole must follow one of three specs: `chat_sft_v1`, `completion_v1`, `regime3_v1`. What follows none of
them is refused. A spec may be met by several shapes, and a file may mix the shapes of its spec.
"""

import json
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TypedDict

from typing_extensions import TypeIs

Role = Literal["system", "user", "assistant"]
ROLES: Final[tuple[Role, ...]] = ("system", "user", "assistant")
Shape = Literal["messages", "prompt/completion", "instruction/output", "text"]
SpecName = Literal["chat_sft_v1", "completion_v1", "regime3_v1"]


class Message(TypedDict):
    role: Role
    content: str


class ChatExample(TypedDict):
    messages: list[Message]


class TextExample(TypedDict):
    text: str


Example = ChatExample | TextExample

SHAPE_KEYS: Final[dict[Shape, tuple[str, ...]]] = {
    "messages": ("messages",),
    "prompt/completion": ("prompt", "completion"),
    "instruction/output": ("instruction", "output"),
    "text": ("text",),
}
"""The keys that a row of each shape must have, in the order in which shapes are tried."""

KNOWN_KEYS: Final = frozenset({"messages", "prompt", "completion", "instruction", "input", "output", "system", "text"})
"""The keys that mean something in one shape or another."""

SPECS: Final[dict[SpecName, str]] = {
    "chat_sft_v1": "conversations: `messages`, `instruction` with `output`, or lists of messages as `prompt` and "
    "`completion`",
    "completion_v1": "texts: `prompt` with `completion`, or `text`",
    "regime3_v1": "conversations of which each answer has one pair of <<ANS_START>> and <<ANS_END>>",
}
"""What the rows of a file are, by the name of the spec."""

SHAPE_SPECS: Final[dict[Shape, SpecName]] = {
    "messages": "chat_sft_v1",
    "prompt/completion": "completion_v1",
    "instruction/output": "chat_sft_v1",
    "text": "completion_v1",
}
ANSWER_START, ANSWER_END = "<<ANS_START>>", "<<ANS_END>>"
"""The markers of `regime3_v1` (training.profiles.regime3 says what stands between them)."""

LONGEST_EXAMPLE_CHARACTERS = 2_000_000
"""More than any model reads at once; an example beyond it is a book that nobody has cut into rows."""

FAULT_CODES: Final[dict[str, str]] = {
    "bad_json": "The line is not JSON.",
    "invalid_utf8": "The line holds bytes or characters that UTF-8 can't.",
    "line_too_long": "The line is longer than the limit.",
    "not_an_object": "The line is JSON, but no object.",
    "unknown_shape": "The object has the keys of none of the known shapes.",
    "bad_messages": "`messages` is not a list of objects with role and content, or it is empty.",
    "missing_role": "A message has no role.",
    "bad_role": "A message has a role other than system, user or assistant.",
    "bad_content": "What must be text is something else.",
    "empty_content": "What must be text is empty.",
    "only_system": "There is a system message and nothing else.",
    "no_user": "No message is the user's.",
    "no_assistant": "No message is the assistant's, so there is nothing to learn.",
    "bad_cells": "A record of a table can't be parted into its cells, or has another number of them than the header.",
    "example_too_long": "The example has more characters than any model can read.",
    "other_spec": "The row follows another spec than the file.",
    "bad_markers": "The file is regime3_v1, and an answer hasn't one pair of markers.",
    "wrong_order": "The system message is not the first, or the assistant speaks before the user.",
}
"""Every code that a faulty row can have."""


class RowFaultError(ValueError):
    """A row can't be trained on: a code of FAULT_CODES and a sentence that says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ParsedRow(NamedTuple):
    """A row as it is trained on, the shape it came in, and the keys that were left out."""

    example: Example
    shape: Shape
    dropped_keys: tuple[str, ...] = ()
    is_mapped: bool = True
    """False when the row already was what it is mapped to, so that its own line can be kept."""
    spec: SpecName | None = None
    """Where it isn't the shape's own: lists of messages as prompt and completion are a conversation."""


def parse_line(line: bytes) -> ParsedRow:
    """Reads one line of a dataset. Raises RowFaultError."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowFaultError(
            "invalid_utf8",
            f"Byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8. Save the file as UTF-8.",
        ) from error
    except RecursionError as error:
        raise RowFaultError("bad_json", "The line nests too deeply. Write one flat object a line.") from error
    except ValueError as error:
        raise RowFaultError("bad_json", f"Not JSON: {error}. Write one JSON object a line.") from error
    row = parse_row(value)
    if b"\\u" in line:
        check_encodable(row.example)
    if len(line) > LONGEST_EXAMPLE_CHARACTERS:
        check_length(row.example)
    return row


def parse_row(value: object) -> ParsedRow:
    """Maps a row of any known shape. Raises RowFaultError."""
    if not isinstance(value, dict):
        raise RowFaultError(
            "not_an_object", f"The row is {_kind(value)}, not an object. Write each row as one JSON object."
        )
    for shape, keys in SHAPE_KEYS.items():
        if all(value.get(key) is not None for key in keys):
            return _PARSERS[shape](value)
    given = tuple(_short(key)[1:-1] for key in value if value[key] is not None)
    raise RowFaultError("unknown_shape", nearest_spec(given))


def check_length(example: Example) -> None:
    """Raises RowFaultError for an example that no model can read."""
    length = sum(map(len, texts_of(example)))
    if length > LONGEST_EXAMPLE_CHARACTERS:
        raise RowFaultError(
            "example_too_long",
            f"The example has {length:,} characters, about {length // 4:,} tokens; {LONGEST_EXAMPLE_CHARACTERS:,} "
            "characters may be. Cut it into several rows.",
        )


def spec_of(row: ParsedRow) -> SpecName:
    """The spec that a row follows by its shape: chat_sft_v1 or completion_v1."""
    return row.spec or SHAPE_SPECS[row.shape]


def has_answer_markers(example: Example) -> bool:
    """Whether each answer has one pair of markers, so that the row follows regime3_v1 too."""
    return is_chat(example) and _unmarked_answer(example) is None


def check_spec(row: ParsedRow, spec: SpecName) -> None:
    """Raises RowFaultError where a row doesn't follow the spec of its file."""
    if spec == "regime3_v1":
        number = _unmarked_answer(row.example) if is_chat(row.example) else 1
        if number is not None:
            raise RowFaultError(
                "bad_markers",
                f"The file is regime3_v1, as most of its first rows are, but answer {number} has no pair of "
                f"{ANSWER_START} and {ANSWER_END}, or more than one. Add them, or take the row out.",
            )
    elif (own := spec_of(row)) != spec:
        raise RowFaultError(
            "other_spec",
            f"The row is {own} ({row.shape}), but the file is {spec}, as most of its first rows are. Put such rows "
            "into a file of their own.",
        )


def _unmarked_answer(example: ChatExample) -> int | None:
    """The number of the first answer that hasn't one pair of markers, from 1."""
    answers = (message["content"] for message in example["messages"] if message["role"] == "assistant")
    for number, answer in enumerate(answers, start=1):
        once = answer.count(ANSWER_START) == 1 == answer.count(ANSWER_END)
        if not once or answer.index(ANSWER_START) > answer.index(ANSWER_END):
            return number
    return None


def has_known_shape(columns: Sequence[str]) -> bool:
    """Whether a table of these columns can have rows of a known shape."""
    return any(set(keys) <= set(columns) for keys in SHAPE_KEYS.values())


def nearest_spec(keys: Sequence[str]) -> str:
    """A sentence that names the spec and shape which a row's keys come nearest to, and what differs."""
    return _nearest(tuple(keys[:8]))


def texts_of(example: Example) -> list[str]:
    """All texts of an example, in order."""
    if is_chat(example):
        return [message["content"] for message in example["messages"]]
    return [example["text"]]


def is_chat(example: Example) -> TypeIs[ChatExample]:
    """Whether the example is a conversation; else it is raw text."""
    return "messages" in example


# --- One function a shape -------------------------------------------------------------------------------------------


def _parse_messages(value: dict[str, Any]) -> ParsedRow:
    messages = _messages(value["messages"], "messages")
    _check_conversation(messages)
    dropped = _beyond(value, "messages")
    is_mapped = bool(dropped) or any(len(item) > len(Message.__required_keys__) for item in value["messages"])
    return ParsedRow(ChatExample(messages=messages), "messages", dropped, is_mapped)


def _parse_prompt_completion(value: dict[str, Any]) -> ParsedRow:
    prompt, completion = value["prompt"], value["completion"]
    dropped = _beyond(value, "prompt", "completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        messages = [*_messages(prompt, "prompt"), *_messages(completion, "completion")]
        _check_conversation(messages)
        return ParsedRow(ChatExample(messages=messages), "prompt/completion", dropped, spec="chat_sft_v1")
    messages = [
        Message(role="user", content=_text(prompt, "`prompt`")),
        Message(role="assistant", content=_text(completion, "`completion`")),
    ]
    return ParsedRow(ChatExample(messages=messages), "prompt/completion", dropped)


def _parse_instruction(value: dict[str, Any]) -> ParsedRow:
    instruction = _text(value["instruction"], "`instruction`")
    given = value.get("input")
    if given is not None and not isinstance(given, str):
        raise RowFaultError("bad_content", f"`input` is {_kind(given)}. It must be text, or be left out.")
    messages = [
        Message(role="user", content=f"{instruction}\n\n{given}" if given and given.strip() else instruction),
        Message(role="assistant", content=_text(value["output"], "`output`")),
    ]
    if isinstance(system := value.get("system"), str) and system.strip():
        messages.insert(0, Message(role="system", content=system))
    dropped = _beyond(value, "instruction", "input", "output", "system")
    return ParsedRow(ChatExample(messages=messages), "instruction/output", dropped)


def _parse_text(value: dict[str, Any]) -> ParsedRow:
    return ParsedRow(TextExample(text=_text(value["text"], "`text`")), "text", _beyond(value, "text"))


_PARSERS: Final = {
    "messages": _parse_messages,
    "prompt/completion": _parse_prompt_completion,
    "instruction/output": _parse_instruction,
    "text": _parse_text,
}


# --- The parts of a row ---------------------------------------------------------------------------------------------


def _messages(value: object, key: str) -> list[Message]:
    if not isinstance(value, list):
        raise RowFaultError("bad_messages", f"`{key}` is {_kind(value)}. It must be a list of role/content objects.")
    if not value:
        raise RowFaultError("bad_messages", f"`{key}` is empty. Give at least one user and one assistant message.")
    return [_message(item, key, number) for number, item in enumerate(value, start=1)]


def _message(item: object, key: str, number: int) -> Message:
    if isinstance(item, dict):
        role, content = item.get("role"), item.get("content")
        if role in ROLES and isinstance(content, str) and content and not content.isspace():
            return {"role": role, "content": content}
    raise _message_fault(item, f"message {number} of `{key}`")


def _message_fault(item: object, name: str) -> RowFaultError:
    if not isinstance(item, dict):
        return RowFaultError(
            "bad_messages", f"{_sentence(name)} is {_kind(item)}. It must be an object with role and content."
        )
    role = item.get("role")
    if role is None or role == "":
        return RowFaultError("missing_role", f"{_sentence(name)} has no role. Give it one of {', '.join(ROLES)}.")
    if role not in ROLES:
        return RowFaultError(
            "bad_role", f"{_sentence(name)} has the role {_short(role)}. Use one of {', '.join(ROLES)}."
        )
    return _text_fault(item.get("content"), f"The content of {name}")


def _text(value: object, name: str) -> str:
    if isinstance(value, str) and value and not value.isspace():
        return value
    raise _text_fault(value, name)


def _text_fault(value: object, name: str) -> RowFaultError:
    if isinstance(value, str):
        return RowFaultError("empty_content", f"{name} is empty. Fill it in, or leave the row out.")
    return RowFaultError("bad_content", f"{name} is {_kind(value)}. It must be text.")


def _check_conversation(messages: list[Message]) -> None:
    roles = [message["role"] for message in messages]
    first = 1 if roles[0] == "system" else 0
    if roles[first : first + 1] == ["user"] and "assistant" in roles and "system" not in roles[1:]:
        return  # as nearly all are
    if set(roles) == {"system"}:
        raise RowFaultError("only_system", "Only a system message is there. Add what the user and the assistant say.")
    if "assistant" not in roles:
        raise RowFaultError(
            "no_assistant", "No message is the assistant's, so there is nothing to learn. Add an answer."
        )
    if "user" not in roles:
        raise RowFaultError(
            "no_user", "No message is the user's. Add the question, or give the row as `text` to train on all of it."
        )
    if "system" in roles[1:]:
        raise RowFaultError(
            "wrong_order", f"Message {roles.index('system', 1) + 1} is a system message. Only the first may be one."
        )
    if roles.index("assistant") < roles.index("user"):
        raise RowFaultError("wrong_order", "The assistant speaks before the user. Begin with a user message.")


def check_encodable(example: Example) -> None:
    """Raises RowFaultError for half of a surrogate pair, which JSON can spell, but no UTF-8 file or tokenizer hold."""
    for text in texts_of(example):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowFaultError(
                "invalid_utf8",
                f"The text holds \\u{ord(text[error.start]):04x}, half of a surrogate pair. Remove it or complete it.",
            ) from error


def check_no_nul(example: Example) -> None:
    """Raises RowFaultError for a NUL, which UTF-8 has, but PostgreSQL's texts don't."""
    if any("\0" in text for text in texts_of(example)):
        raise RowFaultError("bad_content", "The text holds a NUL, which no text has. Remove it.")


def _beyond(value: dict[str, Any], *known: str) -> tuple[str, ...]:
    return tuple(key for key in value if key not in known)


# --- Sentences ------------------------------------------------------------------------------------------------------


_KINDS: Final[dict[type, str]] = {
    bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object",
}  # fmt: skip


def _kind(value: object) -> str:
    return "null or missing" if value is None else _KINDS.get(type(value), type(value).__name__)


def _short(value: object, limit: int = 40) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _sentence(name: str) -> str:
    return name[0].upper() + name[1:]


@lru_cache(maxsize=256)
def _nearest(keys: tuple[str, ...]) -> str:
    """A file repeats few such sets of keys."""
    if "conversations" in keys:
        return (
            "Nearest is chat_sft_v1 (messages): rename `conversations` to `messages`, and in each message `from` to "
            "`role` (human: user, gpt: assistant) and `value` to `content`."
        )
    if not keys:
        return "The row has no keys with a value. Give it `messages`, `prompt` and `completion`, or `text`."

    def likeness(wanted: tuple[str, ...]) -> float:
        return sum(max(SequenceMatcher(None, key, has).ratio() for has in keys) for key in wanted) / len(wanted)

    shape, wanted = max(SHAPE_KEYS.items(), key=lambda item: likeness(item[1]))
    lacking = " and ".join(f"`{key}`" for key in wanted if key not in keys)
    given = ", ".join(f"`{key}`" for key in keys)
    return f"Nearest is {SHAPE_SPECS[shape]} ({shape}): {lacking} is missing; the row has {given}."
