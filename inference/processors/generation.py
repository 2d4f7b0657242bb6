"""A profile's processors in transformers' own `generate`, as a training run's samples are made. Runs in the training
process; serving has an engine of its own.
"""

from collections.abc import Sequence

import torch

from inference.processors.base import ProcessorFactory, Progress, RowProcessor, Vocabulary


class ProcessorsOfGenerate:
    """One call of `generate`: give it as `logits_processor=[...]`. `prompt_length` counts the tokens of the prompt."""

    def __init__(self, factories: Sequence[ProcessorFactory], vocabulary: Vocabulary, prompt_length: int) -> None:
        self._factories = factories
        self._vocabulary = vocabulary
        self._prompt_length = prompt_length
        self._rows: dict[int, list[RowProcessor]] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Takes ids [rows, tokens] and logits [rows, vocabulary]; returns the logits, changed or not."""
        return torch.stack([self._row(row, input_ids[row], scores[row]) for row in range(len(scores))])

    def _row(self, row: int, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        processors = self._rows.setdefault(row, [make(self._vocabulary) for make in self._factories])
        prompt, answer = ids[: self._prompt_length].tolist(), ids[self._prompt_length :].tolist()
        text = self._vocabulary.decode(answer).rstrip("\ufffd")  # half a character is no character yet
        progress = Progress(prompt, tuple(answer), text)
        logits = logits.clone()
        for processor in processors:
            logits = processor.process(logits, progress)
        return logits
