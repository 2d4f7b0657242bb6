"""What happened lately, as sentences made of audit lines. Runs in the web process."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from controlplane.models import AuditLine


@dataclass(frozen=True)
class Happening:
    """One sentence and when it became true."""

    time: datetime
    text: str


WORDS = {
    "run.create": "{actor} queued {target}", "run.delete": "{actor} deleted {target}",
    "dataset.create": "{actor} uploaded {target}", "dataset.delete": "{actor} deleted the dataset {target}",
    "model.register": "{actor} added the model {target}", "model.delete": "{actor} deleted the model {target}",
    "evaluation.create": "{actor} had {model} evaluated on {dataset}",
    "data_generation.create": "{actor} had {target} generated",
    "data_generation.dataset": "{actor} made {target} of generated data",
    "promotion.create": "{actor} wants {target} active if it beats {against}",
    "promotion.activated": "{target} beat the active model and takes its place",
    "promotion.refused": "{target} did not beat the active model",
    "model.activate": "{actor} activated {target}", "power.set": "{actor} set the power of {target} to {profile}",
    "key.create": "{actor} made the key {target}", "key.revoke": "{actor} revoked the key {target}",
    "person.create": "{actor} added {target}", "person.role": "{actor} made {target} {role}",
    "alert.acknowledge": "{actor} has seen the alert about {subject}",
    "alert_route.create": "{actor} made the route {target}", "alert_route.delete": "{actor} deleted the route {target}",
    "setting.put": "{actor} set {target} to {value}", "job.cancel": "{actor} cancelled {target}",
    "job.stop": "{actor} stopped {target}", "job.pause": "{actor} paused {target}",
    "job.priority": "{actor} gave {target} the priority {priority}", "deployment.ready": "{model} is being served",
    "gpu_process.end": "{actor} wanted {target} ended, for its GPU memory",
}  # fmt: skip


def sentences(lines: Iterable[AuditLine]) -> list[Happening]:
    """The lines that tell something to a person, in the order given."""
    found = []
    for line in lines:
        text = _sentence(line)
        if text:
            found.append(Happening(line.time, text))
    return found


def _sentence(line: AuditLine) -> str:
    if line.action == "job.status":
        after = line.detail.get("after")
        return f"{line.target} {after}" if after in ("done", "failed") else ""
    pattern = WORDS.get(line.action)
    if pattern is None:
        return ""
    words = {**line.detail, "actor": line.actor, "target": line.target}
    return pattern.format_map(_Words(words))


class _Words(dict[str, object]):
    def __missing__(self, key: str) -> str:
        return "–"
