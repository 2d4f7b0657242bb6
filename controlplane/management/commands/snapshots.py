"""`manage.py snapshots list | show NAME | take | restore NAME ITEM`: snapshots from a terminal."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import filesizeformat

from controlplane.errors import PilothouseError
from controlplane.services import snapshots


class Command(BaseCommand):
    help = "Lists snapshots, shows what is in one, takes one, restores one item of one."

    def add_arguments(self, parser: CommandParser) -> None:
        """What to do, and with which snapshot and item."""
        parser.add_argument("action", choices=["list", "show", "take", "restore"])
        parser.add_argument("name", nargs="?", default="", help="the snapshot")
        parser.add_argument("item", nargs="?", default="", help="what to restore: a key that show lists")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Does it here, without a job. Raises CommandError with the reason why it can't."""
        try:
            getattr(self, f"_{options['action']}")(options["name"], options["item"])
        except PilothouseError as error:
            raise CommandError(error.message) from error

    def _list(self, _name: str, _item: str) -> None:
        for row in snapshots.list_snapshots():
            said = row["fault"] or f"{row['items']} items, {filesizeformat(row['bytes'])}"
            self.stdout.write(f"{row['name']}  {said}")

    def _show(self, name: str, _item: str) -> None:
        for item in snapshots.get(name).items:
            self.stdout.write(f"{item['key']}  {filesizeformat(item['bytes'])}  {item['title']}")

    def _take(self, _name: str, _item: str) -> None:
        result = snapshots.take()
        self.stdout.write(f"{result['snapshot']}  {filesizeformat(result['copied_bytes'])} copied")
        for left in result["skipped"]:
            self.stderr.write(f"left out: {left['item']}: {left['reason']}")

    def _restore(self, name: str, item: str) -> None:
        result = snapshots.restore(name, item)
        self.stdout.write(f"{result['item']} is back at {result['path']}")
