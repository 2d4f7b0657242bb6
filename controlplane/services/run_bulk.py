"""One thing done to many runs, each by its own permission. Runs in the web process."""

from collections.abc import Callable, Sequence

from controlplane.errors import InvalidInputError
from controlplane.models.access import Actor, Role
from controlplane.services import run_about, runs
from controlplane.services.bulk import Outcome, at, check_number, do_each, no_action

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


def do(actor: Actor, deed: str, run_ids: Sequence[int], text: str = "") -> Outcome:
    """Does one thing to each run; what refuses one leaves the others alone. `text`: the tags, or the group.

    Raises InvalidInputError, and nothing is done, for a deed that isn't there, tags or a group that can't be, and for
    none or too many runs.
    """
    actor.require(Role.USE)
    if deed not in DEEDS:
        raise no_action(deed, DEEDS)
    wanted = check_number("runs", run_ids)
    if deed in ("tag", "untag") and not run_about.checked_tags(text):
        raise InvalidInputError("Name at least one tag.", at("text"))
    if deed == "group":
        run_about.checked({"group": text})
    act, word = DEEDS[deed]
    return do_each(actor, wanted, lambda who, run_id: act(who, run_id, text), word)
