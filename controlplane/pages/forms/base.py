"""What all forms share: Bootstrap's classes, and marks on the fields that have a fault. Runs in the web process."""

from typing import Any, cast

from django import forms

from controlplane.errors import InvalidInputError

CLASSES = {
    forms.Select: "form-select", forms.CheckboxInput: "form-check-input", forms.RadioSelect: "form-check-input",
}  # fmt: skip


class PageForm(forms.Form):
    """A form as pages show it. What was typed always comes back."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            dress(field.widget)

    def full_clean(self) -> None:
        """Marks faulty fields for the eye, as `aria-invalid` does for the ear."""
        super().full_clean()
        for name in self.errors:
            self._mark(name)

    def add_error(self, field: str | None, error: Any) -> None:
        """The same for a fault that a service found."""
        super().add_error(field, error)
        if field is not None:
            self._mark(field)

    def offer(self, name: str, choices: list[tuple[str, str]]) -> None:
        """Gives a field of choice its choices: keys and words."""
        cast(forms.ChoiceField, self.fields[name]).choices = choices

    def _mark(self, name: str) -> None:
        if name in self.fields:
            widget = self.fields[name].widget
            known = widget.attrs.get("class", "")
            if "is-invalid" not in known:
                widget.attrs["class"] = f"{known} is-invalid".strip()

    def refuse(self, error: InvalidInputError, names: dict[str, str] | None = None) -> None:
        """Puts a service's refusal beside the fields that it names, the rest on top.

        `names` translates the service's paths into field names; a path that is a field's name needs none.
        """
        placed = False
        for fault in error.faults:
            name = (names or {}).get(fault.path, fault.path)
            if name in self.fields:
                self.add_error(name, _sentence(fault.message))
                placed = True
        if not placed:
            self.add_error(None, error.message)


def dress(widget: forms.Widget) -> None:
    """Gives a widget Bootstrap's class."""
    for kind, name in CLASSES.items():
        if isinstance(widget, kind):
            widget.attrs.setdefault("class", name)
            return
    widget.attrs.setdefault("class", "form-control")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] if text else text
