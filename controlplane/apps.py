"""The Django app. Runs in the web process."""

from django.apps import AppConfig


class ControlPlaneConfig(AppConfig):
    """One app for the whole control plane: one set of migrations, one label."""

    name = "controlplane"
    label = "controlplane"
    verbose_name = "Pilothouse"

    def ready(self) -> None:
        """Connects the kinds of jobs and the alerts; they import models, so it can't be done earlier."""
        from controlplane.kinds.registry import connect
        from controlplane.services import activation, arrivals, queue, run_alerts

        connect()
        activation.connect()
        arrivals.connect()
        run_alerts.connect()
        queue.connect()
