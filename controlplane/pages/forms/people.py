"""Forms of logging in, passwords, people and keys. Runs in the web process."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm, SetPasswordForm

from controlplane.models import User
from controlplane.models.access import ROLE_CHOICES, KeyLimits
from controlplane.pages.forms.base import PageForm, dress
from controlplane.pages.forms.edits import EditForm
from controlplane.services import guesses
from controlplane.services.access import MOST_A_MINUTE

ROLE_WORDS = {
    "read": "read: look at everything",
    "use": "use: upload, train, chat, queue",
    "admin": "admin: also power, activate, people, keys",
}


class LoginForm(AuthenticationForm):
    """Name and password."""

    error_messages = {
        "invalid_login": "That name and password don't belong together. Mind capitals and small letters.",
        "inactive": "This account is switched off. Ask an admin.",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["username"].label = "Name"
        for field in self.fields.values():
            dress(field.widget)

    def get_invalid_login_error(self) -> forms.ValidationError:
        """Why nobody was let in, and when to try again after too many wrong passwords."""
        if self.request is None or not guesses.is_locked(self.request):
            return super().get_invalid_login_error()
        minutes = guesses.minutes_locked(str(self.cleaned_data["username"]), self.request)
        return forms.ValidationError(
            f"There were too many wrong passwords for this name. Try again in {minutes} minutes, or ask an admin to "
            "unlock it.",
            code="locked",
        )


if TYPE_CHECKING:
    NewPasswordForm = SetPasswordForm[User]
else:
    NewPasswordForm = SetPasswordForm  # generic for the type checker alone


class PasswordForm(NewPasswordForm):
    """A new password, twice; the old one too, unless it was a one-time password that has just been used."""

    old_password = forms.CharField(
        label="Present password", strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "autofocus": True}),
    )  # fmt: skip
    field_order = ("old_password", "new_password1", "new_password2")

    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        super().__init__(user, *args, **kwargs)
        self.fields["new_password1"].label = "New password"
        self.fields["new_password1"].help_text = "At least 10 characters, not a common one, not your name."
        self.fields["new_password2"].label = "New password again"
        self.fields["new_password2"].help_text = ""
        if user.must_change_password:
            del self.fields["old_password"]
        for field in self.fields.values():
            dress(field.widget)

    def clean_old_password(self) -> str:
        """Refuses a wrong present password."""
        old = str(self.cleaned_data["old_password"])
        if not self.user.check_password(old):
            raise forms.ValidationError("That isn't your present password.")
        return old

    def clean(self) -> dict[str, Any]:
        """A one-time password stays one-time."""
        cleaned = super().clean() or {}
        chosen = cleaned.get("new_password1")
        if chosen and self.user.must_change_password and self.user.check_password(chosen):
            self.add_error("new_password1", "Choose another one than the one-time password.")
        return cleaned


class PersonForm(PageForm):
    """Somebody new."""

    username = forms.CharField(label="Name", max_length=150, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    role = forms.ChoiceField(label="Role", choices=list(ROLE_WORDS.items()), initial="use")


class RoleForm(PageForm):
    """Another role for somebody."""

    role = forms.ChoiceField(choices=ROLE_CHOICES)


class LimitsForm(EditForm):
    """What a key may ask of engines."""

    requests_per_minute = forms.IntegerField(
        label="Requests a minute", min_value=0, max_value=MOST_A_MINUTE, required=False, help_text="Empty: no limit."
    )
    tokens_per_minute = forms.IntegerField(
        label="Tokens a minute", min_value=0, max_value=MOST_A_MINUTE, required=False,
        help_text="Prompts and answers together. Empty: no limit.",
    )  # fmt: skip
    models = forms.MultipleChoiceField(
        label="Only these models", required=False, widget=forms.CheckboxSelectMultiple, help_text="None: all of them."
    )

    def __init__(self, names: Iterable[str], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["models"].widget.attrs["class"] = "form-check-input"
        self.offer("models", [(name, name) for name in names])

    def limits(self) -> KeyLimits:
        """What was typed, as the service takes it."""
        typed = self.cleaned_data
        return KeyLimits(typed["requests_per_minute"] or 0, typed["tokens_per_minute"] or 0, tuple(typed["models"]))


class KeyForm(LimitsForm):
    """A new API key."""

    field_order = ("name", "role", "days")

    name = forms.CharField(
        label="What it is for", max_length=100,
        widget=forms.TextInput(attrs={"placeholder": "nightly notebook", "autocomplete": "off"}),
    )  # fmt: skip
    role = forms.ChoiceField(label="Role", choices=list(ROLE_WORDS.items()), initial="use")
    days = forms.IntegerField(
        label="Ends after", min_value=1, max_value=3650, required=False,
        help_text="Days until it stops working. Empty: never.",
    )  # fmt: skip
