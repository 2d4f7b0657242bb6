"""What the doctor finds, and how a check that takes too long is left behind. In commands and in the web process."""

import logging
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from django.db import close_old_connections, connection

log = logging.getLogger(__name__)
State = Literal["ok", "warn", "fail"]
COMMAND_SECONDS = 5.0


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what mends it (nothing where it is `ok`)."""

    name: str
    state: State
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Check:
    """Something that is looked at. `look` may take `seconds`; it changes nothing."""

    name: str
    seconds: float
    look: Callable[[], list[Finding]]


class Examination:
    """A check under way, in a thread of its own: one that hangs holds up neither the others nor the process's end."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self._findings: list[Finding] | None = None
        self._thread = threading.Thread(target=self._run, name=f"doctor {check.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._findings = self.check.look()
        except Exception as error:  # one check that stumbles must not hide the others
            log.exception("the check %s stumbled", self.check.name)
            found = f"The check failed: {type(error).__name__}: {error}."
            self._findings = [Finding(self.check.name, "fail", found, "The log of this process has the details.")]
        finally:
            close_old_connections()
            connection.close()

    def findings(self, seconds: float) -> list[Finding]:
        """What was found, after at most `seconds`."""
        self._thread.join(max(seconds, 0.0))
        if self._findings is not None:
            return self._findings
        found = f"No answer within {self.check.seconds:g} s."
        return [Finding(self.check.name, "fail", found, "Look whether its disk, its driver or its agent hangs.")]


def run(command: Sequence[str], seconds: float = COMMAND_SECONDS) -> tuple[int | None, str]:
    """A command's exit code and what it said, on one line; the code is None where it can't be run or doesn't end."""
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"{command[0]} doesn't answer within {seconds:g} s"
    except OSError as error:
        return None, f"{command[0]} can't be run ({error.strerror})"
    return done.returncode, " ".join((done.stdout.strip() or done.stderr.strip()).split())
