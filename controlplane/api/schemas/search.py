"""What GET /api/search answers."""

from typing import Literal

from ninja import Schema


class Found(Schema):
    """Something by its name. `id`: a row's number, or a model's name; `can_activate`: a model that could be, by you."""

    kind: Literal["run", "model", "dataset"]
    id: int | str
    name: str
    detail: str
    can_activate: bool


class SearchAnswer(Schema):
    """Models first, then runs, then datasets; of each the newest."""

    results: list[Found]
