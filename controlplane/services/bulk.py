"""One thing done to many rows of a table, each by its own permission. Runs in the web process."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.errors import FieldFault, InvalidInputError, NotFoundError, PilothouseError
from controlplane.models.access import Actor, Role
from controlplane.row_ids import row_id
from controlplane.services import (
    access,
    alerts,
    conversations,
    data_generation,
    dataset_checks,
    datasets,
    evaluations,
    inbox,
    jobs,
    models,
    run_sweeps,
    sweeps,
)

MOST = 500
Key = int | str


@dataclass(frozen=True)
class Deed:
    """One thing that can be done: `act` does it to one row, `done` is the word for what was.

    `label`, `question` and `text` are its button and what is asked before it (no question: nothing is).
    """

    act: Callable[[Actor, Any], object]
    done: str
    label: str
    question: str = ""
    text: str = ""
    is_bad: bool = False


@dataclass(frozen=True)
class Noun:
    """What the rows of a table are called, and what can be done to many. `by_name`: they are known by a name."""

    one: str
    many: str
    deeds: Mapping[str, Deed]
    by_name: bool = False

    def counted(self, keys: Sequence[Key]) -> str:
        """These rows in words."""
        return f"{self.one.capitalize()} {keys[0]}" if len(keys) == 1 else f"{len(keys):,} {self.many}"


@dataclass
class Outcome:
    """What became of each row: `done` their keys, `refused` key and sentence."""

    word: str
    done: list[Key] = field(default_factory=list)
    refused: list[tuple[Key, str]] = field(default_factory=list)

    def reasons(self) -> dict[str, list[Key]]:
        """The refused rows by the sentence that refused them."""
        found: dict[str, list[Key]] = {}
        for key, reason in self.refused:
            found.setdefault(reason, []).append(key)
        return found


_CANCEL = ("cancelled", "Cancel", "Cancel what is chosen?", "What runs of it ends now; what has ended is left alone.")
_ENDED_ALONE = "What is still at work is left alone."
NOUNS: dict[str, Noun] = {
    "jobs": Noun("job", "jobs", {
        "retry": Deed(jobs.retry, "put back into the queue", "Retry"),
        "high": Deed(lambda actor, key: jobs.set_priority(actor, key, "high"), "given high priority", "High"),
        "normal": Deed(lambda actor, key: jobs.set_priority(actor, key, "normal"), "given normal priority", "Normal"),
        "low": Deed(lambda actor, key: jobs.set_priority(actor, key, "low"), "given low priority", "Low"),
        "cancel": Deed(jobs.cancel, *_CANCEL, is_bad=True),
    }),
    "datasets": Noun("dataset", "datasets", {
        "check": Deed(
            lambda actor, key: dataset_checks.validate(actor, datasets.get(key), "quick"), "being checked", "Check"
        ),
        "delete": Deed(
            datasets.delete, "deleted", "Delete", "Delete what is chosen?",
            "Files and rows go from the disk. What a run uses is left alone.", is_bad=True,
        ),
    }),
    "models": Noun("model", "models", {
        "delete": Deed(
            models.delete, "deleted", "Delete", "Delete what is chosen?",
            "Files go from the disk. What is served, or others are made of, is left alone.", is_bad=True,
        ),
    }, by_name=True),
    "evaluations": Noun("evaluation", "evaluations", {
        "cancel": Deed(
            lambda actor, key: jobs.cancel(actor, evaluations.get(key).job_id), *_CANCEL, is_bad=True
        ),
        "delete": Deed(
            evaluations.delete, "deleted", "Delete", "Delete what is chosen?", _ENDED_ALONE, is_bad=True
        ),
    }),
    "generations": Noun("generation", "generations", {
        "cancel": Deed(
            lambda actor, key: jobs.cancel(actor, data_generation.get(key).job_id), *_CANCEL, is_bad=True
        ),
        "delete": Deed(
            lambda actor, key: data_generation.delete(actor, data_generation.get(key)), "deleted", "Delete",
            "Delete what is chosen?", f"Their rows go; datasets made of them stay. {_ENDED_ALONE}", is_bad=True,
        ),
    }),
    "sweeps": Noun("sweep", "sweeps", {
        "pause": Deed(run_sweeps.pause, "paused", "Pause"),
        "resume": Deed(run_sweeps.resume, "going on", "Resume"),
        "stop": Deed(run_sweeps.stop, "stopped", "Stop", "Stop what is chosen?", "Runs that are there go on.", True),
        "delete": Deed(
            run_sweeps.delete, "deleted", "Delete", "Delete what is chosen?", f"Runs stay. {_ENDED_ALONE}", is_bad=True
        ),
    }),
    "conversations": Noun("conversation", "conversations", {
        "delete": Deed(
            conversations.delete, "deleted", "Delete", "Delete what is chosen?",
            "Conversations go with all their branches. Votes and collected rows stay.", is_bad=True,
        ),
    }),
    "alerts": Noun("alert", "alerts", {"acknowledge": Deed(alerts.acknowledge, "acknowledged", "Acknowledge")}),
    "inbox": Noun("file", "files", {
        "retry": Deed(inbox.retry, "tried again", "Retry"),
        "dismiss": Deed(inbox.dismiss, "off the list", "Dismiss"),
    }),
    "power-sweeps": Noun("sweep", "sweeps", {"cancel": Deed(
        sweeps.cancel, "being cancelled", "Cancel", "Cancel what is chosen?", "The power from before returns.", True,
    )}),
    "keys": Noun("key", "keys", {
        "revoke": Deed(
            access.revoke_key, "revoked", "Revoke", "Revoke what is chosen?",
            "Whatever uses these keys is refused from this moment on.", is_bad=True,
        ),
    }),
}  # fmt: skip
"""What can be done in which table."""


def noun(word: str) -> Noun:
    """What a table's rows are. Raises NotFoundError."""
    if word not in NOUNS:
        raise NotFoundError(f"There is no table {word[:60]!r}. There are: {', '.join(NOUNS)}.")
    return NOUNS[word]


def do(actor: Actor, word: str, action: str, texts: Sequence[str]) -> Outcome:
    """Does one thing to each row of a table; what refuses one leaves the others alone. `texts`: the rows' keys.

    Raises InvalidInputError, and nothing is done, for a deed that isn't there, and for none or too many rows;
    NotFoundError for a table that isn't there.
    """
    what = noun(word)
    actor.require(Role.USE)
    if action not in what.deeds:
        raise no_action(action, what.deeds)
    deed = what.deeds[action]
    keys = check_number(what.many, [key for text in texts if (key := text if what.by_name else row_id(text))])
    return do_each(actor, keys, deed.act, deed.done)


def no_action(action: str, deeds: Iterable[str]) -> InvalidInputError:
    """The refusal of a deed that isn't there."""
    return InvalidInputError(f"There is no action {action[:60]!r}. There are: {', '.join(deeds)}.", at("action"))


def check_number(many: str, keys: Iterable[Key]) -> list[Key]:
    """Each key once. Raises InvalidInputError for none or too many."""
    wanted = list(dict.fromkeys(keys))
    if not 1 <= len(wanted) <= MOST:
        raise InvalidInputError(f"Choose 1 to {MOST} {many}, not {len(wanted)}.", at(many))
    return wanted


def do_each(actor: Actor, keys: Iterable[Key], act: Callable[[Actor, Any], object], word: str) -> Outcome:
    """The deed, row by row."""
    outcome = Outcome(word)
    for key in keys:
        try:
            act(actor, key)
        except PilothouseError as error:
            outcome.refused.append((key, error.message))
        else:
            outcome.done.append(key)
    return outcome


def at(path: str) -> tuple[FieldFault, ...]:
    """Where a refusal belongs."""
    return (FieldFault(path, path),)
