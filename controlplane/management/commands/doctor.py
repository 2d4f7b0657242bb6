"""`manage.py doctor`: looks at drivers, power rights, clocks, disk, port, versions, tables, agents. Changes nothing."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.services.doctor import Finding, examine, worst

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


class Command(BaseCommand):
    help = "Looks at everything that must be so: a line each, with what mends it. Ends with 1 where something fails."
    requires_system_checks: list[str] = []  # a broken installation is what it is for

    def add_arguments(self, parser: CommandParser) -> None:
        """`--json`, and where the server listens."""
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")
        parser.add_argument("--host", default="127.0.0.1", help="where the server listens")
        parser.add_argument("--port", type=int, default=8080)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Prints; raises CommandError with the number of failures, or where there is nothing to look at."""
        _require_an_installation(Path(settings.HOME))
        findings = examine(options["host"], options["port"])
        if options["json"]:
            document = {"state": worst(findings), "findings": [asdict(finding) for finding in findings]}
            self.stdout.write(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            self._print(findings)
        failed = sum(finding.state == "fail" for finding in findings)
        if failed:
            raise CommandError(f"{failed} of {len(findings)} checks failed.")

    def _print(self, findings: list[Finding]) -> None:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            self.stdout.write(f"{MARKS[finding.state]}  {finding.name:{width}}  {finding.found}")
            if finding.fix:
                self.stdout.write(f"{'':{width + 8}}→ {finding.fix}")


def _require_an_installation(home: Path) -> None:
    """Raises CommandError on a home without its data base file, which a look would make."""
    if not os.environ.get("DATABASE_URL") and not (home / "db.sqlite3").exists():
        raise CommandError(f"Nothing is set up in {home}: bin/up does that. Another home: PILOTHOUSE_HOME=DIR.")
