"""`manage.py unlock NAME`: forgets the wrong passwords for a person's name, so that they may log in again."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.models import User
from controlplane.models.access import SYSTEM
from controlplane.services.guesses import unlock


class Command(BaseCommand):
    help = "Forgets the wrong passwords for a person's name, so that they may log in again at once."

    def add_arguments(self, parser: CommandParser) -> None:
        """The person's name."""
        parser.add_argument("name")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Says who may log in again."""
        user = User.objects.filter(username=options["name"]).first()
        if user is None:
            raise CommandError(f"There is no person called {options['name']}. Settings, People lists them.")
        unlock(SYSTEM, user.pk)
        print(f"{user.get_username()} may try to log in again.")
