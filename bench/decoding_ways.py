"""One way of having the library's `generate` decode, asked for over a pipe: a side of `bench.beyond_eager`.

`python -m bench.decoding_ways WAY FOLDER` says {"compile_seconds"} when it is ready, then reads lines {"prompt",
"tokens"} and answers each with {"token_ids", "seconds"}. A process of its own, with torch's own number of threads; it
imports nothing of ours, and torchao where the way needs it alone.
"""

import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

STATIC = {"cache_implementation": "static", "disable_compile": True}
"""The library's cache of fixed size; what is compiled is chosen here, since of itself it compiles on GPUs alone."""


class EightBits(nn.Module):
    """A linear layer with 8 bits a weight and one scale a row, by torch's own kernel, which computes in bfloat16."""

    weight: torch.Tensor
    scales: torch.Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        scales = weight.abs().amax(1) / 127
        self.register_buffer("weight", (weight / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales.bfloat16())

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        flat = torch._weight_int8pack_mm(given.reshape(-1, given.shape[-1]), self.weight, self.scales)
        return flat.view(*given.shape[:-1], -1)


def loaded(folder: str, dtype: str) -> Any:
    """The model in evaluation mode."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def in_eight_bits(model: Any) -> Any:
    """The model with all its linear layers so, the output's too; no bias is expected."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, EightBits(layer))
    return model


def by_torchao(model: Any) -> Any:
    """The same by torchao."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_  # type: ignore[import-not-found] # the peer's own

    quantize_(model, Int8WeightOnlyConfig())
    return model


def compiled(model: Any) -> Any:
    """The model with its decode step compiled, for one row at a time; prompts are worked on as ever."""
    eager = model.forward
    step = torch.compile(eager, dynamic=False)

    @functools.wraps(eager)
    def forward(*args: Any, **given: Any) -> Any:
        is_step = given.get("input_ids") is not None and given["input_ids"].shape[1] == 1
        return (step if is_step else eager)(*args, **given)

    model.forward = forward
    return model


WAYS: dict[str, Callable[[str], tuple[Any, dict[str, Any]]]] = {
    "eager": lambda folder: (loaded(folder, "float32"), {}),
    "bfloat16": lambda folder: (loaded(folder, "bfloat16"), {}),
    "int8": lambda folder: (in_eight_bits(loaded(folder, "bfloat16")), {}),
    "compiled": lambda folder: (compiled(loaded(folder, "float32")), STATIC),
    "compiled int8": lambda folder: (compiled(in_eight_bits(loaded(folder, "bfloat16"))), STATIC),
    "compiled torchao": lambda folder: (compiled(by_torchao(loaded(folder, "bfloat16"))), STATIC),
}
"""How each is loaded, and what `generate` is told besides."""


def main(way: str, folder: str) -> None:
    """Answers until the pipe is closed."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model, settings = WAYS[way](folder)

    def answer(prompt: str, tokens: int) -> dict[str, Any]:
        batch = tokenizer(prompt, return_tensors="pt")
        started = time.perf_counter()
        with torch.inference_mode():
            row = model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=tokens,
                min_new_tokens=tokens, do_sample=False, **settings,
            )[0]  # fmt: skip
        seconds = time.perf_counter() - started
        return {"token_ids": row[batch["input_ids"].shape[1] :].tolist(), "seconds": seconds}

    asked = json.loads(sys.stdin.readline())  # the shape of the cache is compiled in: it must be the one that comes
    first, second = answer(**asked)["seconds"], answer(**asked)["seconds"]
    print(json.dumps({"compile_seconds": first - second}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
