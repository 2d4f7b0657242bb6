"""Logging in, logging out, choosing a password. Runs in the web process."""

from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from controlplane.pages.actors import person
from controlplane.pages.forms.people import LoginForm, PasswordForm
from controlplane.services import access, guesses


class Login(LoginView):
    """The only page that everybody sees."""

    template_name = "account/login.html"
    authentication_form = LoginForm
    redirect_authenticated_user = True

    def form_invalid(self, form: Any) -> HttpResponse:
        """The form again, with the status that says so to programs."""
        response = super().form_invalid(form)
        response.status_code = 429 if guesses.is_locked(self.request) else 422
        return response


class Logout(LogoutView):
    """Ends the session; POST alone."""


def password(request: HttpRequest) -> HttpResponse:
    """The form that changes one's own password; the only page while it is a one-time one."""
    user = person(request)
    form = PasswordForm(user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        access.change_password(user, form.cleaned_data["new_password1"], Path(django_settings.HOME))
        update_session_auth_hash(request, user)
        messages.success(request, "Your password is set.")
        return redirect("bridge")
    return render(request, "account/password.html", {"form": form}, status=422 if form.errors else 200)
