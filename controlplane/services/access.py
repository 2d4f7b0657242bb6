"""People, keys and the audit log. Runs in the web process."""

import hashlib
import secrets
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, InvalidInputError, NotFoundError
from controlplane.models import ApiKey, AuditLine, User
from controlplane.models.access import SYSTEM, Actor, Role
from monitoring.files import write_bytes

KEY_PREFIX = "ph_"
LAST_USED_EVERY = timedelta(minutes=1)
ONE_TIME_PASSWORD_FILE = "admin-password"  # noqa: S105 - the name of a file


def audit(actor: Actor, action: str, target: object = "", **detail: Any) -> AuditLine:
    """Writes down who did what. Belongs inside the transaction of the change."""
    return AuditLine.objects.create(
        actor=actor.name, address=actor.address, action=action, target=str(target)[:200], detail=detail
    )


def _hash(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()


def _role(word: str) -> Role:
    try:
        return Role.parse(word)
    except ValueError as error:
        raise InvalidInputError(str(error)) from error


def create_key(actor: Actor, name: str, role: str, expires_at: datetime | None = None) -> tuple[ApiKey, str]:
    """Makes a key and returns it with its plain text, which is stored nowhere."""
    actor.require(Role.ADMIN)
    word = _role(role).word
    if not name.strip() or len(name) > 100:
        raise InvalidInputError("A key needs a name of 1 to 100 characters.")
    plain = KEY_PREFIX + secrets.token_urlsafe(32)
    with transaction.atomic():
        key = ApiKey.objects.create(
            name=name.strip(), role=word, prefix=plain[:8], hash=_hash(plain), created_by=actor.name,
            expires_at=expires_at,
        )  # fmt: skip
        audit(actor, "key.create", key.name, role=word)
    return key, plain


def authenticate_key(plain: str, address: str = "") -> Actor | None:
    """The actor of a valid key, or None. The look-up is by hash, so its time tells nothing of the key."""
    key = ApiKey.objects.filter(hash=_hash(plain)).first()
    if key is None or not key.is_valid():
        return None
    now = timezone.now()
    if key.last_used_at is None or now - key.last_used_at > LAST_USED_EVERY:
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)
    return key.actor(address)


def revoke_key(actor: Actor, key_id: int) -> ApiKey:
    """Makes a key useless at once."""
    actor.require(Role.ADMIN)
    with transaction.atomic():
        key = ApiKey.objects.filter(pk=key_id).first()
        if key is None:
            raise NotFoundError(f"There is no key {key_id}.")
        if key.revoked_at is None:
            ApiKey.objects.filter(pk=key_id).update(revoked_at=timezone.now())
            audit(actor, "key.revoke", key.name)
        key.refresh_from_db()
    return key


def create_user(actor: Actor, username: str, role: str) -> tuple[User, str]:
    """Makes a person with a one-time password, which must be changed at the first login."""
    actor.require(Role.ADMIN)
    word = _role(role).word
    username = username.strip()
    if not username or len(username) > 150 or not username.isprintable():
        raise InvalidInputError("A user name has 1 to 150 printable characters.")
    password = secrets.token_urlsafe(12)
    with transaction.atomic():
        if User.objects.filter(username=username).exists():
            raise ConflictError(f"There is already a person called {username}.")
        user = User.objects.create_user(username=username, password=password, role=word, must_change_password=True)
        audit(actor, "person.create", username, role=word)
    return user, password


def set_role(actor: Actor, user_id: int, role: str) -> User:
    """Changes what a person may do. The last active admin stays one."""
    actor.require(Role.ADMIN)
    word = _role(role).word
    with transaction.atomic():
        user = _person(user_id)
        if user.role == "admin" and word != "admin":
            _refuse_last_admin(user)
        User.objects.filter(pk=user_id).update(role=word)
        audit(actor, "person.role", user.get_username(), role=word)
        user.refresh_from_db()
    return user


def set_active(actor: Actor, user_id: int, active: bool) -> User:
    """Lets a person in or keeps them out. The last active admin stays in."""
    actor.require(Role.ADMIN)
    with transaction.atomic():
        user = _person(user_id)
        if not active and user.role == "admin":
            _refuse_last_admin(user)
        User.objects.filter(pk=user_id).update(is_active=active)
        audit(actor, "person.enable" if active else "person.disable", user.get_username())
        user.refresh_from_db()
    return user


def _person(user_id: int) -> User:
    user = User.objects.filter(pk=user_id).first()
    if user is None:
        raise NotFoundError(f"There is no person {user_id}.")
    return user


def _refuse_last_admin(user: User) -> None:
    if not User.objects.filter(role="admin", is_active=True).exclude(pk=user.pk).exists():
        raise ConflictError("This is the last admin: make somebody else admin first.")


def change_password(user: User, password: str, home: Path) -> None:
    """Sets a person's password (validated by the form) and takes away the one-time password file."""
    with transaction.atomic():
        user.set_password(password)
        user.must_change_password = False
        user.save(update_fields=["password", "must_change_password"])
        audit(user.actor(), "person.password", user.get_username())
    path = home / ONE_TIME_PASSWORD_FILE
    if path.exists() and path.read_text().partition("\n")[0] == f"user: {user.get_username()}":
        path.unlink(missing_ok=True)


def ensure_first_admin(home: Path) -> Path | None:
    """Where nobody is there yet, makes `admin`; its one-time password lies in the file returned (mode 600)."""
    if User.objects.exists():
        return None
    path = home / ONE_TIME_PASSWORD_FILE
    with transaction.atomic():  # an admin whose password nobody could read would shut everyone out
        user, password = create_user(SYSTEM, "admin", "admin")
        write_bytes(path, f"user: {user.get_username()}\npassword: {password}\n".encode(), mode=0o600)
    return path
