"""A training process whose memory does not suffice at chosen steps: `python -m tests.training.short_of_memory SPEC`.

It is `python -m training train SPEC`, but for a stand-in for the GPU's allocator: from the third step on, a batch with
more than one example meets the exception that PyTorch raises, in the backward pass.
"""

import sys
from pathlib import Path
from typing import Any

FIRST_STEP = 2
"""Counted from 0."""


def main(spec: Path) -> int:
    """The exit code of the job."""
    import torch

    from training import job
    from training.trainer import JobTrainer

    compute = JobTrainer.compute_loss

    def scarce(self: JobTrainer, model: Any, inputs: dict[str, torch.Tensor], *rest: Any, **more: Any) -> Any:
        loss = compute(self, model, inputs, *rest, **more)
        if model.training and self.state.global_step >= FIRST_STEP and len(inputs["input_ids"]) > 1:
            loss.register_hook(_refuse)
        return loss

    def _refuse(_gradient: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    JobTrainer.compute_loss = scarce
    return job.main(spec)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
