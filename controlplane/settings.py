"""Django settings of the web process. Everything that an owner may change comes from the environment.

PILOTHOUSE_HOME   where all data lies (default: var/ in the checkout)
DATABASE_URL      PostgreSQL instead of the SQLite file in the home folder; DATABASE_CONNECTIONS: how many, at most
RAY_ADDRESS       the head of a fleet, HOST:PORT, whose hosts then appear by themselves
REDIS_URL         a Redis channel layer, for more than one web process
PILOTHOUSE_ALLOWED_HOSTS, PILOTHOUSE_TRUSTED_ORIGINS   comma-separated, when served beyond loopback
PILOTHOUSE_BEHIND_PROXY   `yes`: a proxy with TLS stands before it, and it alone reaches the port

`manage.py doctor` changes nothing, so on a home where nothing is it makes neither folders nor a key.
"""

import os
import secrets
import sys
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from controlplane.databases import database

BASE_DIR = Path(__file__).resolve().parent.parent
ONLY_LOOKS = sys.argv[1:2] == ["doctor"]
HOME = Path(os.environ.get("PILOTHOUSE_HOME") or BASE_DIR / "var").resolve()
RAY_ADDRESS = os.environ.get("RAY_ADDRESS", "")


def _prepare_home(home: Path) -> None:
    """The folders that Django's own start-up checks want to see."""
    for name in ("tmp", "logs"):
        (home / name).mkdir(parents=True, exist_ok=True)


def _secret_key(path: Path) -> str:
    """The key of this installation, made at the first start (mode 600)."""
    if ONLY_LOOKS and not path.exists():
        return secrets.token_urlsafe(48)  # this process's own: nobody is logged in by it
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_urlsafe(48))
    return path.read_text().strip()


def _channel_layer() -> dict[str, Any]:
    """Redis where REDIS_URL names one; else this process's memory."""
    url = os.environ.get("REDIS_URL", "").strip()
    if not url:
        return {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 2000}}
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ImproperlyConfigured("REDIS_URL must look like redis://:PASSWORD@HOST:6379/0 (rediss:// with TLS).")
    if find_spec("channels_redis") is None:
        raise ImproperlyConfigured("Redis's driver isn't installed: bin/setup --extras redis")
    return {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [url]}}


def _names(variable: str) -> list[str]:
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


if not ONLY_LOOKS:
    _prepare_home(HOME)
SECRET_KEY = _secret_key(HOME / "secret_key")
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", *_names("PILOTHOUSE_ALLOWED_HOSTS")]
CSRF_TRUSTED_ORIGINS = _names("PILOTHOUSE_TRUSTED_ORIGINS")
BEHIND_PROXY = os.environ.get("PILOTHOUSE_BEHIND_PROXY") == "yes"
"""Whether X-Forwarded-For and X-Forwarded-Proto are believed (`manage.py serve`): a client could make them up."""


INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "django.contrib.staticfiles",
    "axes",
    "channels",
    "csp",
    "django_htmx",
    "controlplane.apps.ControlPlaneConfig",
]
MIDDLEWARE = [
    "controlplane.api.metrics.count_traffic",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "controlplane.nul.NulMiddleware",
    "controlplane.pages.middleware.PagesMiddleware",
]
ROOT_URLCONF = "controlplane.urls"
ASGI_APPLICATION = "controlplane.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "controlplane.pages.context.navigation",
            ],
            "builtins": ["controlplane.pages.tags"],
        },
    },
]

DATABASES = {"default": database(HOME)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CHANNEL_LAYERS: dict[str, Any] = {"default": _channel_layer()}

AUTH_USER_MODEL = "controlplane.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]  # a name alone: anybody could shut its owner out
AXES_CLIENT_IP_CALLABLE = "controlplane.services.guesses.network_of"
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False  # the moment that the page names must stay true
AXES_DISABLE_ACCESS_LOG = True  # the audit log and `last_login` tell of logins
AXES_ENABLE_ADMIN = AXES_VERBOSE = False
AXES_SENSITIVE_PARAMETERS = ["username", "password", "csrfmiddlewaretoken"]
SILENCED_SYSTEM_CHECKS = ["axes.W002"]  # its middleware would put a page of its own in the place of ours
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "bridge"
LOGOUT_REDIRECT_URL = "login"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = BEHIND_PROXY
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_HSTS_SECONDS = 365 * 86_400 if BEHIND_PROXY else 0  # sent with what came by TLS alone
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:", "blob:"],
        "connect-src": [SELF],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    },
}

LANGUAGE_CODE = "en-us"
TIME_ZONE = os.environ.get("TZ") or "UTC"
USE_I18N = False
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = HOME / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "controlplane.assets.PackageFinder",
]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "controlplane.pages.storage.ModuleStaticFilesStorage"},
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 5 << 20
FILE_UPLOAD_MAX_MEMORY_SIZE = 1 << 20
FILE_UPLOAD_TEMP_DIR = str(HOME / "tmp")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "line"},
        "web": {
            "class": "logging.NullHandler",
        }
        if ONLY_LOOKS
        else {
            "class": "logging.handlers.RotatingFileHandler",
            "filename": HOME / "logs" / "web.log",
            "maxBytes": 10 << 20,
            "backupCount": 3,
            "delay": True,
            "formatter": "line",
        },
    },
    "root": {"handlers": ["console", "web"], "level": os.environ.get("PILOTHOUSE_LOG_LEVEL", "INFO")},
    "loggers": {
        "httpx": {"level": "WARNING"},
        "axes": {"level": "ERROR"},
        "daphne": {"level": "WARNING"},
        "psycopg.pool": {"level": "ERROR"},
    },
}
