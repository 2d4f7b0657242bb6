"""The tables. Django finds models through this package; everything else imports the noun's own module."""

from controlplane.models.access import ApiKey, AuditLine, Setting, User
from controlplane.models.alerts import Alert, AlertDelivery, AlertRoute
from controlplane.models.chains import Chain
from controlplane.models.datasets import Dataset, Upload
from controlplane.models.deployments import Deployment
from controlplane.models.hosts import Gpu, Host
from controlplane.models.inbox import InboxFile
from controlplane.models.jobs import Attempt, Job
from controlplane.models.language_models import LanguageModel
from controlplane.models.live import LiveMessage, Topic
from controlplane.models.power import PowerSchedule
from controlplane.models.run_sweeps import RunSweep, RunTrial
from controlplane.models.runs import Checkpoint, MetricChunk, Run, Sample
from controlplane.models.telemetry import EnergyAccount, PowerSweep, TelemetrySample
from controlplane.models.templates import RunTemplate

__all__ = [
    "Alert", "AlertDelivery", "AlertRoute", "ApiKey", "Attempt", "AuditLine", "Chain", "Checkpoint", "Dataset",
    "Deployment", "EnergyAccount", "Gpu", "Host", "InboxFile", "Job", "LanguageModel", "LiveMessage", "MetricChunk",
    "PowerSchedule", "PowerSweep", "Run", "RunSweep", "RunTemplate", "RunTrial", "Sample", "Setting",
    "TelemetrySample", "Topic", "Upload", "User",
]  # fmt: skip
