"""Packages that some settings need and that not every host has. Runs in the training process.

Asked before torch is loaded, so that a run without them says so within a tenth of a second.
"""

from training import quantization
from training.config.schema import TrainerConfig

QUANT_OPTIMIZERS = frozenset({"adamw_bnb_8bit", "paged_adamw_8bit"})


def require_packages(config: TrainerConfig) -> None:
    """Raises JobFaultError `package_missing` for the first setting whose package isn't installed here."""
    asked = [name for name in ("load_in_8bit", "load_in_4bit") if getattr(config.model, name)]
    settings = [f"model.{name}" for name in asked]
    if config.hyperparams.optim in QUANT_OPTIMIZERS:
        settings.append(f"hyperparams.optim {config.hyperparams.optim}")
    if settings:
        quantization.require(settings[0])
