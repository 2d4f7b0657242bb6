"""One thing done to many runs, each by its own permission. Runs in the web process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from controlplane.errors import FieldFault, InvalidInputError, PilothouseError
from controlplane.models.access import Actor, Role
from controlplane.services import run_about, runs

MOST_RUNS = 500
Deed = Callable[[Actor, int, str], object]
DEEDS: dict[str, tuple[Deed, str]] = {
    "tag": (lambda actor, run_id, text: run_about.add_tags(actor, run_id, text.split(",")), "tagged"),
    "untag": (lambda actor, run_id, text: run_about.remove_tags(actor, run_id, text.split(",")), "rid of the tag"),
    "group": (lambda actor, run_id, text: run_about.change(actor, run_id, {"group": text}), "put into the group"),
    "stop": (lambda actor, run_id, _text: runs.stop(actor, run_id, "save"), "asked to stop and save"),
    "cancel": (lambda actor, run_id, _text: runs.stop(actor, run_id, "now"), "ended"),
    "delete": (lambda actor, run_id, _text: runs.delete(actor, run_id), "deleted"),
}
"""What can be done, and the word for what was."""


@dataclass
class Outcome:
    """What became of each run: `done` their numbers, `refused` number and sentence."""

    word: str
    done: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)

    def reasons(self) -> dict[str, list[int]]:
        """The refused runs by the sentence that refused them."""
        found: dict[str, list[int]] = {}
        for run_id, reason in self.refused:
            found.setdefault(reason, []).append(run_id)
        return found


def do(actor: Actor, deed: str, run_ids: Sequence[int], text: str = "") -> Outcome:
    """Does one thing to each run; what refuses one leaves the others alone. `text`: the tags, or the group.

    Raises InvalidInputError, and nothing is done, for a deed that isn't there, tags or a group that can't be, and for
    none or too many runs.
    """
    actor.require(Role.USE)
    if deed not in DEEDS:
        raise InvalidInputError(f"There is no action {deed[:60]!r}. There are: {', '.join(DEEDS)}.", _at("action"))
    wanted = list(dict.fromkeys(run_ids))
    if not 1 <= len(wanted) <= MOST_RUNS:
        raise InvalidInputError(f"Choose 1 to {MOST_RUNS} runs, not {len(wanted)}.", _at("runs"))
    if deed in ("tag", "untag") and not run_about.checked_tags(text):
        raise InvalidInputError("Name at least one tag.", _at("text"))
    if deed == "group":
        run_about.checked({"group": text})
    act, word = DEEDS[deed]
    outcome = Outcome(word)
    for run_id in wanted:
        try:
            act(actor, run_id, text)
        except PilothouseError as error:
            outcome.refused.append((run_id, error.message))
        else:
            outcome.done.append(run_id)
    return outcome


def _at(path: str) -> tuple[FieldFault, ...]:
    return (FieldFault(path, path),)
