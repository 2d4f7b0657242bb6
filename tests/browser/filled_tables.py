"""`python -m tests.browser.filled_tables NAME COUNT`: so many rows of that name in every table; 0 takes them away.

Run in a process of its own, with PILOTHOUSE_HOME set. Rows alone: nothing of them is ever launched.
"""

import os
import sys

import django

BEYOND = 9_000
"""From here on rows are numbered, so that nothing real is like them."""


def main(name: str, count: int) -> None:
    """Makes them, or takes away all that have been made."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    django.setup()
    from django.db import transaction

    from controlplane.models import Job
    from tests.controlplane.listed_tables import LISTINGS, rows_named

    with transaction.atomic():
        for word, listing in LISTINGS.items():
            for number in range(BEYOND, BEYOND + count):
                listing.make(number, name)
            if not count:
                gone = rows_named(word, name)
                Job.objects.filter(pk__in=[row.job_id for row in gone if getattr(row, "job_id", None)]).delete()
                gone.delete()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
