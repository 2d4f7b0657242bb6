"""Weights held in 8 and 4 bits, by bitsandbytes. Runs in the training and in the inference process.

Torch is met inside of functions alone: whether the package is there is asked before torch has been loaded.
"""

import logging
from importlib.util import find_spec
from typing import Any

from monitoring.attempt import JobFaultError

PACKAGE = "bitsandbytes"
"""It also has the optimizers that keep 8-bit moments; the extra `quant`."""


def require(setting: str) -> None:
    """Raises JobFaultError `package_missing`, which names the setting that needs it, where it isn't installed here."""
    if find_spec(PACKAGE) is None:
        raise JobFaultError(
            "package_missing",
            f"{setting} needs the package {PACKAGE}, which is not installed on this host.",
            "Run bin/setup --extras quant there, or turn the setting off.",
        )


def loading_settings(bits: int, computed_in: Any) -> Any:
    """What transformers is given as `quantization_config`; `bits` is 8 or 4, `computed_in` a torch.dtype."""
    from transformers import BitsAndBytesConfig

    logging.getLogger(PACKAGE).setLevel(logging.ERROR)  # it warns of its casts in each layer of each step
    return BitsAndBytesConfig(
        load_in_8bit=bits == 8,
        load_in_4bit=bits == 4,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=computed_in,
    )


def let_files_go(model: Any) -> None:
    """On a processor what isn't quantized lies in the mapped file, and would hold the whole of it in memory."""
    for weight in model.parameters():
        if weight.device.type == "cpu" and weight.is_floating_point():
            weight.data = weight.data.clone()
