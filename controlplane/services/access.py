"""People, keys and the audit log. Runs in the web process."""

import hashlib
import secrets
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.legible import is_legible
from controlplane.models import ApiKey, AuditLine, LanguageModel, User
from controlplane.models.access import NO_LIMITS, SYSTEM, Actor, KeyLimits, Role
from controlplane.recall import memory
from controlplane.services.wrong_keys import wrong_keys
from monitoring.files import write_bytes

KEY_PREFIX = "ph_"
LAST_USED_EVERY = timedelta(minutes=1)
MOST_A_MINUTE = 1_000_000_000
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


def create_key(
    actor: Actor, name: str, role: str, expires_at: datetime | None = None, limits: KeyLimits = NO_LIMITS
) -> tuple[ApiKey, str]:
    """Makes a key and returns it with its plain text, which is stored nowhere."""
    actor.require(Role.ADMIN)
    word = _role(role).word
    if not name.strip() or len(name) > 100:
        raise InvalidInputError("A key needs a name of 1 to 100 characters.")
    plain = KEY_PREFIX + secrets.token_urlsafe(32)
    with transaction.atomic():
        key = ApiKey.objects.create(
            name=name.strip(), role=word, prefix=plain[:8], hash=_hash(plain), created_by=actor.name,
            expires_at=expires_at, **_columns(limits),
        )  # fmt: skip
        audit(actor, "key.create", key.name, role=word, **_told(limits))
    return key, plain


def set_key_limits(actor: Actor, key_id: int, limits: KeyLimits) -> ApiKey:
    """Gives a key other limits, from its next request on. Raises NotFoundError, InvalidInputError."""
    actor.require(Role.ADMIN)
    with transaction.atomic():
        key = _key(key_id)
        ApiKey.objects.filter(pk=key_id).update(**_columns(limits))
        audit(actor, "key.limits", key.name, **_told(limits))
        key.refresh_from_db()
    return key


def _columns(limits: KeyLimits) -> dict[str, Any]:
    """The limits as columns. Raises InvalidInputError for a number that can't be, and for a model that isn't there."""
    for name in ("requests_per_minute", "tokens_per_minute"):
        if not 0 <= getattr(limits, name) <= MOST_A_MINUTE:
            fault = f"from 0 (no limit) to {MOST_A_MINUTE:,}"
            raise InvalidInputError(
                f"{name} lies between 0 (no limit) and {MOST_A_MINUTE:,}.", (FieldFault(name, fault),)
            )
    known = set(LanguageModel.objects.filter(name__in=limits.models).values_list("name", flat=True))
    if missing := [name for name in limits.models if name not in known]:
        raise InvalidInputError(
            f"There is no model {', '.join(missing)}: a key is limited to models that are there.",
            (FieldFault("models", "names of models that are there"),),
        )
    return {
        "requests_per_minute": limits.requests_per_minute, "tokens_per_minute": limits.tokens_per_minute,
        "allowed_models": sorted(known),
    }  # fmt: skip


def _told(limits: KeyLimits) -> dict[str, Any]:
    """The limits that there are, for the audit log."""
    return {name: value for name, value in _columns(limits).items() if value}


def _key(key_id: int) -> ApiKey:
    key = ApiKey.objects.filter(pk=key_id).first()
    if key is None:
        raise NotFoundError(f"There is no key {key_id}.")
    return key


def get_key(actor: Actor, key_id: int) -> ApiKey:
    """A key. Raises NotFoundError."""
    actor.require(Role.ADMIN)
    return _key(key_id)


def authenticate_key(plain: str, address: str = "") -> Actor | None:
    """The actor of a valid key, or None. The look-up is by hash, so its time tells nothing of the key.

    Raises TooManyGuessesError where too many wrong ones came from there.
    """
    hashed = _hash(plain)
    wrong_keys.check(address, hashed)
    return _heeded(_actor(_used(hashed), address), hashed, address)


async def recognise_key(plain: str, address: str = "") -> Actor | None:
    """The same on an event loop, without the data base as long as nothing in that has changed."""
    hashed = _hash(plain)
    wrong_keys.check(address, hashed)
    key = await memory.told(("key", hashed), partial(_used, hashed), lambda key: not _is_use_due(key))
    return _heeded(_actor(key, address), hashed, address)


def _heeded(actor: Actor | None, hashed: str, address: str) -> Actor | None:
    wrong_keys.note(address, hashed, actor is not None)
    return actor


def _actor(key: ApiKey | None, address: str) -> Actor | None:
    return key.actor(address) if key is not None and key.is_valid() else None


def _used(hashed: str) -> ApiKey | None:
    """The key with this hash. Where it is valid, that it was used is written down, once a minute."""
    key = ApiKey.objects.filter(hash=hashed).first()
    if key is not None and key.is_valid() and _is_use_due(key):
        key.last_used_at = timezone.now()
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=key.last_used_at)
    return key


def _is_use_due(key: ApiKey) -> bool:
    return key.last_used_at is None or timezone.now() - key.last_used_at > LAST_USED_EVERY


def revoke_key(actor: Actor, key_id: int) -> ApiKey:
    """Makes a key useless at once."""
    actor.require(Role.ADMIN)
    with transaction.atomic():
        key = _key(key_id)
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
    if not username or len(username) > 150 or not is_legible(username):
        raise InvalidInputError("A user name has 1 to 150 printable characters.")
    if username.lower().startswith("key "):
        raise InvalidInputError('A user name can\'t begin with "key ": that is how keys are called. Choose another.')
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
