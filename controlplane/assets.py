"""Static files that come out of installed packages: Bootstrap, plotly.js, Swagger UI, served under `vendor/`.

Runs in `collectstatic`. Only the files that pages use are taken, so the first start doesn't compress a whole wheel.
"""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.contrib.staticfiles.finders import BaseFinder
from django.core.files.storage import FileSystemStorage

ASSETS = {
    "bootstrap": ("css/bootstrap.min.css", "css/bootstrap.min.css.map", "js/bootstrap.bundle.min.js",
                  "js/bootstrap.bundle.min.js.map"),
    "ninja": ("static/ninja/swagger-ui.css", "static/ninja/swagger-ui.css.map", "static/ninja/swagger-ui-bundle.js"),
    "plotly": ("package_data/plotly.min.js",),
}  # fmt: skip


def package_folder(package: str) -> Path:
    """Where an installed package's files lie. Raises RuntimeError with the fix when it isn't installed."""
    spec = find_spec(package)
    locations = list(spec.submodule_search_locations or []) if spec else []
    if not locations:
        raise RuntimeError(f"The Python package {package} is not installed: run bin/up again.")
    return Path(locations[0])


class PackageFinder(BaseFinder):
    """Finds `vendor/PACKAGE/NAME` in the packages of `ASSETS`."""

    def check(self, **_kwargs: Any) -> list[Any]:
        """Nothing to configure, so nothing to complain of."""
        return []

    def find(self, path: str, find_all: bool = False, **_kwargs: Any) -> Any:
        """The absolute path of one asset, or [] when it isn't ours (the form that Django expects)."""
        for name, storage in self.list([]):
            if path == f"{storage.prefix}/{name}":
                return [storage.path(name)] if find_all else storage.path(name)
        return []

    def list(self, ignore_patterns: Iterable[str] | None) -> Iterator[tuple[str, Any]]:
        """Every asset with the storage that holds it."""
        for package, names in ASSETS.items():
            storage: Any = FileSystemStorage(location=str(package_folder(package)))
            storage.prefix = f"vendor/{package}"
            for name in names:
                yield name, storage
