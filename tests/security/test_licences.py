"""What the product installs may be given on: each licence is a permissive one, or its exception has a reason."""

import re
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).resolve().parents[2]
PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|0BSD|Zlib|CC0|Unlicense|HPND|ZPL|CNRI|BSL-1\.0|LLVM", re.I
)
COPYLEFT = re.compile(r"\bA?GPL|GNU (Affero )?General|LGPL|Lesser|MPL|Mozilla|EPL|Eclipse", re.I)
EXCEPTIONS = {
    "certifi": "MPL on its files alone, which are used unchanged",
    "psycopg": "LGPL: a library that is imported and can be exchanged",
    "psycopg-binary": "LGPL, as psycopg",
    "psycopg-pool": "LGPL, as psycopg",
    "tqdm": "MPL on its files alone, which are used unchanged",
}
OURS = ("ray", "postgres", "redis")
"""The extras that a product runs with; `dev` is installed nowhere but where it is tested."""


def installed() -> dict[str, Distribution]:
    """What the product needs, and what that needs, as far as it is installed here."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    waiting = [*project["dependencies"], *(line for extra in OURS for line in project["optional-dependencies"][extra])]
    wanted = [Requirement(line) for line in waiting]
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        for extra in ("", *requirement.extras):
            name = canonicalize_name(requirement.name)
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                found[name] = distribution(name)
            except PackageNotFoundError:
                continue
            for line in found[name].requires or ():
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    wanted.append(needed)
    return found


def licence_of(package: Distribution) -> str:
    """What a package says of its licence: the expression, else the classifiers, else the first line of the field."""
    about = package.metadata
    if expressions := about.get_all("License-Expression"):
        return str(expressions[0])
    classifiers = [line for line in about.get_all("Classifier") or () if line.startswith("License ::")]
    told = "; ".join(line.rpartition(" :: ")[2] for line in classifiers)
    return told or "".join(about.get_all("License") or ()).strip().partition("\n")[0]


def faults(licences: dict[str, str]) -> dict[str, str]:
    """Packages whose licence is copyleft or unknown and that have no reason here."""
    return {
        name: licence for name, licence in licences.items()
        if name not in EXCEPTIONS and (COPYLEFT.search(licence) or not PERMISSIVE.search(licence))
    }  # fmt: skip


def test_every_licence_is_permissive_or_has_a_reason() -> None:
    licences = {name: licence_of(package) for name, package in installed().items()}
    assert len(licences) > 50
    assert faults(licences) == {}
    assert set(EXCEPTIONS) <= set(licences), "an exception that nothing needs any more"


def test_copyleft_and_silence_are_found() -> None:
    asked = {"a": "GPL-3.0-or-later", "b": "", "c": "GNU Affero General Public License v3", "d": "MIT", "e": "LGPL-3.0"}
    assert set(faults(asked)) == {"a", "b", "c", "e"}
