"""The tables. Django finds models through this package; everything else imports the noun's own module."""

from controlplane.models.access import ApiKey, AuditLine, Setting, User
from controlplane.models.alerts import Alert, AlertDelivery, AlertRoute
from controlplane.models.datasets import Dataset, Upload
from controlplane.models.deployments import Deployment
from controlplane.models.hosts import Gpu, Host
from controlplane.models.jobs import Attempt, Job
from controlplane.models.language_models import LanguageModel
from controlplane.models.live import LiveMessage, Topic
from controlplane.models.power import PowerSchedule
from controlplane.models.runs import Checkpoint, MetricChunk, Run, Sample
from controlplane.models.telemetry import EnergyAccount, PowerSweep, TelemetrySample
from controlplane.models.templates import RunTemplate

__all__ = [
    "Alert", "AlertDelivery", "AlertRoute", "ApiKey", "Attempt", "AuditLine", "Checkpoint", "Dataset", "Deployment",
    "EnergyAccount", "Gpu", "Host", "Job", "LanguageModel", "LiveMessage", "MetricChunk", "PowerSchedule", "PowerSweep",
    "Run", "RunTemplate", "Sample", "Setting", "TelemetrySample", "Topic", "Upload", "User",
]  # fmt: skip
