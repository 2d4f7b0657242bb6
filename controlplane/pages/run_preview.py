"""Three examples of the chosen dataset before and after the chosen profile, for the form that starts a run.

Runs in the web process. Texts are cut to what a page can show; what the profile has added is marked.
"""

import json
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from controlplane.errors import PilothouseError
from controlplane.services import datasets, profile_preview

ROWS = 3
TURNS = 8
HEAD_CHARACTERS, TAIL_CHARACTERS = 500, 250


@dataclass(frozen=True)
class Turn:
    """One turn as it is shown. `before` and `behind` are what the profile has put around `kept`."""

    role: str
    kept: str
    before: str = ""
    behind: str = ""
    is_new: bool = False


@dataclass(frozen=True)
class Sample:
    """A row before and after; `more` turns of each aren't shown."""

    number: int
    before: list[Turn]
    after: list[Turn]
    more_before: int
    more_after: int

    @property
    def is_unchanged(self) -> bool:
        return not any(turn.is_new or turn.before or turn.behind for turn in self.after)


@require_POST
def run_preview(request: HttpRequest) -> HttpResponse:
    """The form's choices come along; they may be long, hence no GET. Changes nothing."""
    chosen = request.POST
    try:
        found = profile_preview.preview(
            datasets.get(chosen.get("dataset", "")), 0, ROWS, chosen.get("profile", ""),
            system_prompt=chosen.get("profile.system_prompt", ""), options=_options(chosen.get("profile.options", "")),
        )  # fmt: skip
    except PilothouseError as error:
        return render(request, "runs/preview.html", {"reason": error.message})
    samples = [_sample(number, row) for number, row in enumerate(found["rows"], start=1)]
    return render(request, "runs/preview.html", {"samples": samples, "profile": found["profile"]})


def _options(text: str) -> dict[str, Any]:
    """What is typed there; while it isn't an object of JSON, the form says so and the preview goes without."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _sample(number: int, row: dict[str, Any]) -> Sample:
    before, after = _turns(row), _turns(row["after"])
    extra = len(after) - len(before)
    is_aligned = extra >= 0 and [role for role, _ in after[extra:]] == [role for role, _ in before]
    shown = []
    for place, (role, text) in enumerate(after):
        original = before[place - extra][1] if is_aligned and place >= extra else None
        shown.append(_changed(role, text, original))
    return Sample(
        number, [Turn(role, _cut(text)) for role, text in before[:TURNS]], shown[:TURNS],
        max(0, len(before) - TURNS), max(0, len(after) - TURNS),
    )  # fmt: skip


def _turns(row: dict[str, Any]) -> list[tuple[str, str]]:
    if "messages" not in row:
        return [("text", row["text"])]
    return [(message["role"], message["content"]) for message in row["messages"]]


def _changed(role: str, text: str, original: str | None) -> Turn:
    """The turn with what was added around the original's words; as a whole new where they aren't there any more."""
    words = original.strip() if original is not None else ""
    if not words or words not in text:
        return Turn(role, _cut(text), is_new=text != original)
    before, _, behind = text.partition(words)
    head, tail = before.rstrip(), behind.lstrip()
    # Blank space next to the words belongs to them: marked, it would be a blot.
    kept = before[len(head) :] + _cut(words) + behind[: len(behind) - len(tail)]
    return Turn(role, kept, _cut(head), _cut(tail))


def _cut(text: str) -> str:
    """The text, without its middle where it is long."""
    left_out = len(text) - HEAD_CHARACTERS - TAIL_CHARACTERS
    if left_out <= 0:
        return text
    return f"{text[:HEAD_CHARACTERS]}\n… {left_out:,} characters …\n{text[-TAIL_CHARACTERS:]}"
