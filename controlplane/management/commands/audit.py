"""`manage.py audit verify | export FILE`: whether the audit log is whole, and all of it as a file."""

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.services import audit_seal
from monitoring.files import replacing


class Command(BaseCommand):
    help = "Checks the seals of the audit log, or writes all of it to a file, a JSON object a line."

    def add_arguments(self, parser: CommandParser) -> None:
        """What to do, and the file to write."""
        parser.add_argument("action", choices=["verify", "export"])
        parser.add_argument("file", nargs="?", type=Path, help="where export writes; it must not be there yet")

    def handle(self, *_args: Any, action: str, file: Path | None, **_options: Any) -> None:
        """Does it. Raises CommandError where the log isn't whole, and where there is no such place."""
        if action == "verify":
            self._verify()
        elif file is None:
            raise CommandError("export wants a file: manage.py audit export FILE.")
        else:
            self._export(file)

    def _verify(self) -> None:
        found = audit_seal.examine()
        if not found.is_sound:
            raise CommandError(f"The audit log isn't whole. {found.fault} Lines 1 to {found.sealed} are as written.")
        self.stdout.write(f"{found.sealed} lines are as they were written; {found.waiting} aren't sealed yet.")

    def _export(self, file: Path) -> None:
        if file.exists():
            raise CommandError(f"{file} is there already: name another file.")
        if not file.resolve().parent.is_dir():
            raise CommandError(f"There is no folder {file.resolve().parent}: make it first.")
        count = 0
        with replacing(file, mode=0o600) as stream:
            for line in audit_seal.exported():
                stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                count += 1
        self.stdout.write(f"{count} lines written to {file}.")
