"""Text that goes into a CSV file: what a spreadsheet would take for a formula is quoted.

Runs in the web process.
"""

from typing import Any

BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def harmless(value: Any) -> Any:
    """The value as a cell of a table. Numbers stay numbers, negative ones too."""
    return f"'{value}" if isinstance(value, str) and value.startswith(BEGINS_A_FORMULA) else value
