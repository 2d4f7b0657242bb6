"""The tables. Django finds models through this package; everything else imports the noun's own module."""

from controlplane.models.access import ApiKey, AuditLine, Setting, User
from controlplane.models.alerts import Alert, AlertDelivery, AlertRoute
from controlplane.models.chains import Chain
from controlplane.models.conversations import CollectedExample, Conversation, Turn, Vote
from controlplane.models.curves import Metric, MetricBlock, MetricChunk, Resumption
from controlplane.models.datasets import Dataset, Upload
from controlplane.models.deployments import Deployment, Split
from controlplane.models.evaluations import Evaluation, Promotion
from controlplane.models.exports import ModelExport
from controlplane.models.generated import DataGeneration, GeneratedExample
from controlplane.models.hosts import Gpu, Host
from controlplane.models.inbox import InboxFile
from controlplane.models.jobs import Attempt, Job
from controlplane.models.language_models import LanguageModel
from controlplane.models.live import LiveMessage, Topic
from controlplane.models.members import Member
from controlplane.models.power import PowerSchedule
from controlplane.models.run_sweeps import RunSweep, RunTrial
from controlplane.models.run_views import RunView
from controlplane.models.runs import Checkpoint, Run, RunTag, RunWriter, Sample
from controlplane.models.telemetry import EnergyAccount, PowerSweep, TelemetrySample
from controlplane.models.templates import RunTemplate
from controlplane.models.transfers import HostCopy, Transfer
from controlplane.models.usage import ServedSpan, UsageDay
from controlplane.models.web_processes import Lease, WebProcess

__all__ = [
    "Alert", "AlertDelivery", "AlertRoute", "ApiKey", "Attempt", "AuditLine", "Chain", "Checkpoint", "CollectedExample",
    "Conversation",
    "DataGeneration", "Dataset", "Deployment", "EnergyAccount", "Evaluation",
    "GeneratedExample", "Gpu", "Host", "HostCopy", "InboxFile", "Job", "LanguageModel", "Lease", "LiveMessage",
    "Member", "Metric", "MetricBlock", "MetricChunk", "ModelExport",
    "PowerSchedule", "PowerSweep", "Promotion",
    "Resumption", "Run", "RunSweep", "RunTag", "RunTemplate", "RunTrial", "RunView", "RunWriter", "Sample",
    "ServedSpan", "Setting", "Split", "TelemetrySample", "Topic", "Transfer", "Turn", "Upload", "UsageDay",
    "User", "Vote", "WebProcess",
]  # fmt: skip
