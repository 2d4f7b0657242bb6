"""People, keys and what they did. Runs in the web process."""

from dataclasses import dataclass
from enum import IntEnum

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils import timezone

from controlplane.errors import ForbiddenError


class Role(IntEnum):
    """What somebody may do, in order of power: `read` looks, `use` works, `admin` rules."""

    READ = 1
    USE = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """The role as people and the API write it."""
        return self.name.lower()

    @classmethod
    def parse(cls, word: str) -> "Role":
        """The role of a word. Raises ValueError for any other."""
        try:
            return cls[word.upper()]
        except KeyError:
            raise ValueError(f"There is no role {word!r}: choose admin, use or read.") from None


ROLE_CHOICES = [("read", "read"), ("use", "use"), ("admin", "admin")]


@dataclass(frozen=True)
class KeyLimits:
    """What a key may ask of engines in a minute, and of which models; 0 and an empty tuple: as much as it likes."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    models: tuple[str, ...] = ()


NO_LIMITS = KeyLimits()
LONGEST_OWNER = 160


@dataclass(frozen=True)
class Actor:
    """Who acts: a person, a key, or the product itself."""

    name: str
    role: Role
    user_id: int | None = None
    key_id: int | None = None
    address: str = ""
    limits: KeyLimits = NO_LIMITS

    @property
    def owner(self) -> str:
        """Whose private texts are whose: "user:3", "key:7". Names show who acted, but two keys may share one."""
        if self.key_id is not None:
            return f"key:{self.key_id}"
        return f"user:{self.user_id}" if self.user_id is not None else f"name:{self.name}"

    def require(self, role: Role) -> None:
        """Raises ForbiddenError when this actor's role is smaller than `role`."""
        if self.role < role:
            raise ForbiddenError(
                f"This needs the role {role.word}; {self.name} has {self.role.word}. Ask an admin to change it."
            )

    def may_change(self, created_by: str) -> bool:
        """Whether this actor may delete or stop what `created_by` made."""
        return self.role >= Role.ADMIN or (self.role >= Role.USE and created_by == self.name)

    def require_owner(self, what: str, created_by: str) -> None:
        """Raises ForbiddenError when this actor may not change `what` ("Run 7"), which `created_by` made."""
        self.require(Role.USE)
        if not self.may_change(created_by):
            raise ForbiddenError(f"{what} belongs to {created_by}: only they or an admin may change it.")


SYSTEM = Actor(name="pilothouse", role=Role.ADMIN)


class User(AbstractUser):
    """A person who may log in."""

    role = models.CharField(max_length=8, choices=ROLE_CHOICES, default="read")
    must_change_password = models.BooleanField(default=False)
    hides_first_steps = models.BooleanField(default=False)

    def actor(self, address: str = "") -> Actor:
        """This person as the one who acts."""
        return Actor(name=self.get_username(), role=Role.parse(self.role), user_id=self.pk, address=address)


class ApiKey(models.Model):
    """A key for scripts. Only its SHA-256 is stored; the key is 256 random bits, so a slow hash would add nothing."""

    name = models.CharField(max_length=100)
    role = models.CharField(max_length=8, choices=ROLE_CHOICES)
    prefix = models.CharField(max_length=12)
    hash = models.CharField(max_length=64, unique=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)
    last_used_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    requests_per_minute = models.PositiveIntegerField(default=0)
    tokens_per_minute = models.PositiveIntegerField(default=0)
    allowed_models = models.JSONField(default=list)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def is_valid(self) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > timezone.now())

    def actor(self, address: str = "") -> Actor:
        """This key as the one who acts."""
        limits = KeyLimits(self.requests_per_minute, self.tokens_per_minute, tuple(self.allowed_models))
        return Actor(f"key {self.name}", Role.parse(self.role), key_id=self.pk, address=address, limits=limits)


class AuditLine(models.Model):
    """Who did what to what, from where. Never changed, never deleted by the product.

    `seal_number` and `seal` come a moment later (`services.audit_seal`): they tell whether somebody else did.
    """

    time = models.DateTimeField(default=timezone.now, db_index=True)
    actor = models.CharField(max_length=150)
    address = models.CharField(max_length=64, blank=True)
    action = models.CharField(max_length=64)
    target = models.CharField(max_length=200, blank=True)
    detail = models.JSONField(default=dict, blank=True)
    seal_number = models.PositiveBigIntegerField(null=True, blank=True, unique=True)
    seal = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["actor", "id"]), models.Index(fields=["action", "id"])]

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.target}"


class Setting(models.Model):
    """One setting that was changed from its default (`services.settings` holds the defaults)."""

    key = models.CharField(max_length=100, primary_key=True)
    value = models.JSONField()

    def __str__(self) -> str:
        return self.key
