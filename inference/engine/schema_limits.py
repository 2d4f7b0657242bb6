"""How large a form an answer may be asked for in. Runs in the inference process; knows no library.

Whoever holds a key may send a schema, and compiling one costs processor time that the answers of all others need: what
a program writes by hand or from its types stays far below these bounds.
"""

import json
from typing import Any

MOST_CHARACTERS = 64 * 1024
MOST_CHARACTERS_OF_TOOLS = 256 * 1024
MOST_LEVELS = 64
MOST_ALTERNATIVES = 512
MOST_COMBINED = 16
"""Of `allOf`: what must hold at once is compiled as a product."""


def is_too_deep(value: Any) -> bool:
    """Whether what was read from JSON is nested so deep that what writes it again might not come back."""
    waiting = [(value, 1)]
    while waiting:
        inner, level = waiting.pop()
        if level > MOST_LEVELS:
            return True
        below = inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ()
        waiting.extend((part, level + 1) for part in below)
    return False


def fault_of_schema(schema: Any) -> str:
    """What is too much about a schema, "" where nothing is."""
    if is_too_deep(schema):
        return f"is nested more than {MOST_LEVELS} levels deep"
    if len(json.dumps(schema)) > MOST_CHARACTERS:
        return f"is longer than {MOST_CHARACTERS} characters"
    alternatives, waiting = 0, [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            combined = value.get("allOf")
            if isinstance(combined, list) and len(combined) > MOST_COMBINED:
                return f"has an allOf of more than {MOST_COMBINED}"
            listed = (value.get(name) for name in ("anyOf", "oneOf", "enum"))
            alternatives += sum(len(entries) for entries in listed if isinstance(entries, list))
        waiting.extend(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
    if alternatives > MOST_ALTERNATIVES:
        return f"has more than {MOST_ALTERNATIVES} alternatives (anyOf, oneOf, enum)"
    return ""
