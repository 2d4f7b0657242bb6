"""Data base connections of threads that work all the time. Runs in the web process and the dispatcher.

Django closes a connection after every request. A thread that looks every second keeps its own: opening one costs as
much as a round of questions.
"""

from django.db import connections


def keep_sound() -> None:
    """Between two rounds: closes a connection on which something has failed, so that the next round opens another."""
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred:
            connection.close()


def let_go() -> None:
    """At the end of a thread."""
    connections.close_all()
