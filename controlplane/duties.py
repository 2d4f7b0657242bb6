"""What the web process does again and again beside dispatching: each duty in a thread of its own. Runs in there.

A duty is a function without arguments that looks at the data base and does what is due; it keeps nothing, so that a
restart loses nothing. One that fails is logged and does its work the next time.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from controlplane import carrying, generating, homecoming, inner_jobs
from controlplane.kept_connections import keep_sound, let_go
from controlplane.services import (
    alert_watch,
    alerts,
    audit_seal,
    conversations,
    copies,
    data_generation_dataset,
    disk_guard,
    drift,
    engine_watch,
    evaluations,
    evaluations_promotion,
    external_runs,
    fleet_figures,
    generations,
    guesses,
    inbox_work,
    notifications,
    run_sweep_work,
    schedules,
    snapshots,
    sweep_run,
    telemetry,
    thermal,
    upkeep,
    usage,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Duty:
    """Something that is done every so many seconds."""

    name: str
    every_seconds: float
    work: Callable[[], object]

    def run(self, stopping: threading.Event) -> None:
        """Does it until `stopping` is set."""
        while not stopping.wait(self.every_seconds):
            try:
                self.work()
            except Exception:  # this loop must live
                log.exception("the duty %s stumbled", self.name)
            finally:
                keep_sound()
        let_go()


DUTIES: tuple[Duty, ...] = (
    Duty("telemetry", 10.0, telemetry.thin),
    Duty("alerts", 5.0, alert_watch.look),
    Duty("notifications", 2.0, notifications.send_pending),
    Duty("old alerts", 3600.0, alerts.prune),
    Duty("thermal guard", 5.0, thermal.look),
    Duty("thermal guard's power", 5.0, thermal.rule_power),
    Duty("drain and maintenance", 2.0, upkeep.look),
    Duty("fleet's figures", 1.0, fleet_figures.tell),
    Duty("disk guard", 15.0, disk_guard.look),
    Duty("idle engines", 5.0, engine_watch.end_idle),
    Duty("old usage", 3600.0, usage.prune),
    Duty("old conversations", 3600.0, conversations.prune),
    Duty("old wrong passwords", 3600.0, guesses.prune),
    Duty("old generations", 3600.0, generations.prune),
    Duty("audit seals", 2.0, audit_seal.seal_new),
    Duty("silent runs", 60.0, external_runs.give_up_silent),
    Duty("power drift", 30.0, drift.reconcile),
    Duty("power schedules", 30.0, schedules.apply_due),
    Duty("power sweeps", 2.0, sweep_run.work),
    Duty("inbox", 1.0, inbox_work.work),
    Duty("inner jobs", 1.0, inner_jobs.work),
    Duty("generations", 0.02, generating.work),
    Duty("snapshots", 60.0, snapshots.plan_due),
    Duty("run sweeps", 2.0, run_sweep_work.work),
    Duty("evaluations' figures", 2.0, evaluations.measure),
    Duty("promotions", 2.0, evaluations_promotion.work),
    Duty("files between hosts", 1.0, carrying.work),
    Duty("results coming home", 1.0, homecoming.work),
    Duty("copies of what was deleted", 60.0, copies.tidy),
    Duty("generated data", 2.0, data_generation_dataset.work),
)
