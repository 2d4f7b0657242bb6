"""Settings' numbers as a person types them."""

import pytest

from controlplane.pages.numbers import short


@pytest.mark.parametrize(
    ("value", "text"),
    [(2e-4, "0.0002"), (1e-5, "1e-5"), (1.5e-7, "1.5e-7"), (-3e-10, "-3e-10"), (1e10, "1e10"), (0.0, "0"), (3.0, "3")],
)
def test_a_number_is_written_without_empty_signs(value: float, text: str) -> None:
    assert short(value) == text
    assert float(text) == value
