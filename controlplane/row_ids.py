"""Numbers of rows as texts carry them: in addresses, forms, names of folders. Runs in the web process."""

MAX_DIGITS = 18
"""More can be beyond the 63 bits of a data base's integer."""


def row_id(text: str) -> int | None:
    """The number that a text is; None for any other text, and for a number that no row can have."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None
