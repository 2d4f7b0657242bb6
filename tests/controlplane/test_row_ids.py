"""Numbers of rows in texts: what is one, and what no row can have."""

import pytest

from controlplane.row_ids import row_id


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("0", 0), ("9" * 18, 10**18 - 1), ("", None), ("-1", None), ("1.0", None), ("٣", None), ("²", None),
     (" 7", None), ("1" * 19, None)],
)  # fmt: skip
def test_a_text_is_a_rows_number_or_is_none(text: str, number: int | None) -> None:
    assert row_id(text) == number
