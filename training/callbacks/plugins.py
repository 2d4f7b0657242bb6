"""A user's own callbacks, found by entry point. Runs in the training process.

A package names a class of transformers' TrainerCallback, to be called without arguments, in the entry-point group
`pilothouse.callbacks`; every run then has it.
"""

from importlib.metadata import entry_points

from transformers import TrainerCallback

from monitoring.attempt import JobFaultError

ENTRY_POINT_GROUP = "pilothouse.callbacks"


def load_callbacks() -> list[TrainerCallback]:
    """The callbacks of all installed packages. Raises JobFaultError `callback_broken`."""
    callbacks = []
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            callbacks.append(entry.load()())
        except Exception as error:  # another's code: whatever it raises is told by its name
            raise JobFaultError(
                "callback_broken",
                f"The callback {entry.name!r} ({entry.value}) can't be used: {error}",
                "Mend or uninstall the package that brings it.",
            ) from error
    return callbacks
