"""From the name in a request to the engines that may answer it. Runs in the web process, beside its event loop.

A name is a model's, a split's, or one of the words for the active model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from controlplane.errors import PilothouseError, UnavailableError
from controlplane.models import Deployment, LanguageModel, Split
from controlplane.models.access import Actor
from controlplane.models.language_models import ModelState
from controlplane.services import activation, deployments, key_limits, models, splits
from controlplane.services.routing import Engine

ANY_MODEL = ("", "active", "default")


@dataclass(frozen=True)
class Found:
    """A model and its ready engines; without one, whether one `is_coming`, and what to say if it never does."""

    model_name: str
    engines: Sequence[Engine]
    is_coming: bool
    problem: PilothouseError


Ready = Sequence[tuple[Engine, tuple[str, ...], bool]]
"""As `deployments.engines` tells them."""


def at_once(ready: Ready, asked: str, actor: Actor | None) -> Found | None:
    """What `find` would find, where these engines alone decide it; None where the data base must be asked.

    Raises ForbiddenError as `find` does.
    """
    names = _served(asked, ready)
    return _found(ready, _allowed(actor, names)) if names else None


def find(asked: str, actor: Actor | None, user: str = "") -> Found:
    """The engines for a request. One that is loaded on demand is started here.

    Raises NotFoundError for a name that nothing has, ForbiddenError for a model that the actor's key may not use,
    UnavailableError where no engine is ready and none is coming.
    """
    ready = deployments.engines()
    names = _allowed(actor, _names(asked, ready, user))
    if found := _found(ready, names):
        return found
    for name in names:
        coming = _coming(name)
        if coming is not None:
            return Found(name, (), True, _still(coming))
    raise _not_served(names[0] if asked not in ANY_MODEL else "")


def _found(ready: Ready, names: Sequence[str]) -> Found | None:
    for name in names:
        engines = [replace(engine, model_name=name) for engine, served, _ in ready if name in served]
        if engines:
            return Found(name, engines, False, _not_served(name))
    return None


def _allowed(actor: Actor | None, names: Sequence[str]) -> list[str]:
    """Those that the actor's key may use. Raises ForbiddenError where it is none of them."""
    allowed = [name for name in names if actor is None or key_limits.may_use(actor, name)]
    if not allowed:
        key_limits.check_model(actor, names[0])
    return allowed


def _served(asked: str, ready: Ready) -> list[str]:
    """The models that may answer, as far as ready engines say so."""
    if asked in ANY_MODEL:
        return [engine.model_name for engine, _, is_active in ready if is_active]
    return [asked] if any(asked in served for _, served, _ in ready) else []


def _names(asked: str, ready: Ready, user: str) -> list[str]:
    """The models that may answer, the first choice first."""
    if served := _served(asked, ready):
        return served
    if asked in ANY_MODEL:
        return [_coming_to_the_place()]
    if LanguageModel.objects.filter(name=asked).exists():
        return [asked]
    split = Split.objects.filter(name=asked).first()
    if split is None:
        raise models.unknown(asked)
    return splits.in_order(split, user)


def _coming_to_the_place() -> str:
    """The model that is active and restarts, or is to become active."""
    place = deployments.active() or deployments.live().filter(wants_active=True).order_by("-id").first()
    if place is None:
        raise _not_served("")
    return place.model.name


def _coming(name: str) -> Deployment | None:
    """The engine of the model that is on its way; where it is loaded on demand, one is started."""
    for row in deployments.live().order_by("-id"):
        if name in deployments.served_names(row):
            return row
    model = LanguageModel.objects.filter(name=name, load_on_demand=True, state=ModelState.READY).first()
    return activation.load(model) if model is not None else None


def _not_served(name: str) -> UnavailableError:
    what = f"The model {name!r} is not being served" if name else "No model is active"
    return UnavailableError(f"{what}: activate it on the Models page, then ask again.", 10)


def _still(row: Deployment) -> UnavailableError:
    again = deployments.restart(row.job)
    if again is not None:
        return UnavailableError(
            f"The engine of {row.model.name} ended unexpectedly and is being started again: ask again in a moment.", 5
        )
    return UnavailableError(f"The engine of {row.model.name} is {row.status}: ask again in a moment.", 5)
