"""The container files and the Kubernetes samples, as their linters see them. That images build, nobody here can see."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from tests.product import CHECKOUT

CONTAINERS = CHECKOUT / "deploy" / "containers"
KUBERNETES = CHECKOUT / "deploy" / "kubernetes"
DOCKERFILES = sorted(CONTAINERS.glob("*.Dockerfile"))
YAML_RULES = (
    "{extends: default, rules: {line-length: {max: 120}, document-start: disable, octal-values: disable, "
    "braces: {max-spaces-inside: 0}, indentation: {indent-sequences: consistent}}}"
)


def documents(name: str) -> list[dict[str, Any]]:
    """The resources of a sample."""
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def run_tool(name: str, *arguments: str) -> str:
    """What a linter of the environment says; it must be content."""
    command = [str(Path(sys.executable).parent / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_hadolint_finds_no_fault() -> None:
    assert len(DOCKERFILES) == 2
    assert run_tool("hadolint", *map(str, DOCKERFILES)) == ""


def test_yamllint_finds_no_fault() -> None:
    assert run_tool("yamllint", "-d", YAML_RULES, str(CONTAINERS), str(KUBERNETES)) == ""


def test_kubernetes_knows_every_field() -> None:
    kinds = [resource["kind"] for resource in documents("pilothouse.yaml")]
    assert kinds.count("Deployment") == 2
    for resource in documents("pilothouse.yaml"):
        kubernetes_validate.validate(resource, "1.37", strict=True)


def test_kubernetes_would_find_a_fault() -> None:
    resource = documents("pilothouse.yaml")[1]
    resource["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(resource, "1.37", strict=True)


def test_the_pods_of_the_ray_cluster_are_pods() -> None:
    """KubeRay's own kinds are in no schema here; what they are made of is."""
    (cluster,) = documents("raycluster.yaml")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, "1.37", strict=True)


def test_compose_takes_the_file() -> None:
    compose = PyCompose.from_yaml((CONTAINERS / "compose.yaml").read_text())
    compose.validate()
    assert sorted(compose.services or ()) == ["agent", "postgres", "redis", "web"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_images_name_is_there(path: Path) -> None:
    text = path.read_text()
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.search(r"--extras (\S+)", text)
    assert asked is not None
    assert set(asked[1].split(",")) <= set(extras)
    for script in re.findall(r'"(deploy/[^"]+)"', text):
        assert (CHECKOUT / script).stat().st_mode & 0o111
    pinned = re.search(r"torch==[\d.]+", text)
    assert pinned is None or pinned[0] in (CHECKOUT / "constraints.txt").read_text().splitlines()


def test_images_run_as_nobody_special_and_hold_no_secret() -> None:
    for path in DOCKERFILES:
        assert "\nUSER 10001\n" in path.read_text()
    ignored = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv", "var"} <= set(ignored), "a home in the checkout would be copied, with its keys"
