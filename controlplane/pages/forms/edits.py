"""Forms that change what is there, and lose nobody's change on the way. Runs in the web process.

Such a form carries marks of what it was filled with. When it comes back, a field that somebody else has changed
meanwhile and this person has not takes theirs; one that both have changed refuses the form, and shows both.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django import forms
from django.db import transaction
from django.forms import BoundField
from django.http import HttpRequest, QueryDict

from controlplane.pages.forms.base import PageForm

SEEN = "seen"
"""The hidden input with the marks, as fragments/seen.html writes it. Who sends none is asked nothing."""

CLASH = "Somebody has changed this to \u2068{now}\u2069 meanwhile. Save again to put yours in its place."
"""Whatever way the value is written, it is isolated from the sentence."""


class EditForm(PageForm):
    """A form whose `initial` is what is there now."""

    @property
    def seen(self) -> str:
        """The marks of what is there now, for the next time."""
        return json.dumps({field.name: _mark(self._now(field)) for field in self})

    def full_clean(self) -> None:
        """First catches up with what others have changed."""
        clashes = self._catch_up() if self.is_bound and SEEN in self.data else []
        super().full_clean()
        for name, now in clashes:
            self.add_error(name, CLASH.format(now=now))

    def _catch_up(self) -> list[tuple[str, str]]:
        """Takes over what this person left alone; returns what both have changed, with what is there now."""
        marks, clashes = _marks(self.data[SEEN]), []
        data = QueryDict(mutable=True)
        data.update(self.data)
        for field in self:
            now, typed, seen = self._now(field), _shown(field, field.data), marks.get(field.html_name)
            if seen is None or seen == _mark(now) or typed == now:
                continue
            if seen != _mark(typed):
                clashes.append((field.name, _words(field, now)))
            elif now:
                data.setlist(field.html_name, now.split("\n") if _is_many(field) else [now])
            else:
                data.pop(field.html_name, None)
        self.data = data
        return clashes

    def _now(self, field: BoundField) -> str:
        return _shown(field, self.get_initial_for_field(field.field, field.name))


@contextmanager
def one_at_a_time(request: HttpRequest) -> Iterator[None]:
    """What is sent is compared and stored in one transaction, so that nobody comes in between."""
    if request.method != "POST":
        yield
        return
    with transaction.atomic():
        yield


def _marks(text: str) -> dict[str, str]:
    try:
        marks = json.loads(text)
    except ValueError:
        return {}
    return marks if isinstance(marks, dict) else {}


def _mark(shown: str) -> str:
    return hashlib.sha256(shown.encode(errors="surrogatepass")).hexdigest()[:12]


def _shown(field: BoundField, value: Any) -> str:
    """A value as its field sends it; several choices as lines."""
    widget = field.field.widget
    if isinstance(widget, forms.CheckboxInput):
        return "on" if value else ""
    written = widget.format_value(field.field.prepare_value(value))
    if isinstance(written, list | tuple):
        return "\n".join(sorted(map(str, written)))
    return "" if written is None else str(written).replace("\r\n", "\n")


def _words(field: BoundField, shown: str) -> str:
    """A value as people read it."""
    if isinstance(field.field.widget, forms.CheckboxInput):
        return "switched on" if shown else "switched off"
    return (", ".join(shown.split("\n")) if _is_many(field) else shown) or "nothing"


def _is_many(field: BoundField) -> bool:
    return isinstance(field.field, forms.MultipleChoiceField)
