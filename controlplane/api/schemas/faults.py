"""How every error of /api is told."""

from ninja import Schema


class Fault(Schema):
    """One value that can't be taken."""

    path: str
    message: str


class Refusal(Schema):
    """A sentence that says what to do; `faults` where single values are at fault."""

    detail: str
    faults: list[Fault] | None = None
