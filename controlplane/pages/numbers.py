"""Settings' numbers in few characters, as a person types them: 0.0002, 1e-5. Runs in the web process."""

import re


def short(value: float, digits: int = 6) -> str:
    """The number with at most so many significant digits; an exponent without the zeros and the plus that `g` gives."""
    return re.sub(r"e(-?)\+?0*", r"e\1", f"{value:.{digits}g}")
