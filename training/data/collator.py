"""Examples of unequal length as one batch of tensors. Runs in the training process and its data workers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.data.encoding import IGNORED

Feature = dict[str, list[int]]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PaddingCollator:
    """Fills up to the longest example, on the right; lengths become a multiple of `multiple`.

    Gives `input_ids`, `attention_mask` and `labels`, each (examples, tokens), int64.
    """

    pad_token_id: int
    multiple: int = 1

    def __call__(self, features: Sequence[Feature]) -> Batch:
        longest = max(len(feature["input_ids"]) for feature in features)
        width = -(-longest // self.multiple) * self.multiple
        shape = (len(features), width)
        input_ids = torch.full(shape, self.pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED, dtype=torch.long)
        for row, feature in enumerate(features):
            length = len(feature["input_ids"])
            input_ids[row, :length] = torch.tensor(feature["input_ids"])
            labels[row, :length] = torch.tensor(feature["labels"])
            attention_mask[row, :length] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


@dataclass(frozen=True)
class PackingCollator:
    """Joins the examples to one row without padding.

    Gives `input_ids`, `labels` and `position_ids`, each (1, tokens), int64. Positions start again with each example and
    there is no attention mask: by that alone the model knows where an example begins. The first label of each is
    ignored, since what stands before it is another example.
    """

    def __call__(self, features: Sequence[Feature]) -> Batch:
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        for feature in features:
            ids += feature["input_ids"]
            labels += [IGNORED, *feature["labels"][1:]]
            positions += range(len(feature["input_ids"]))
        rows = {"input_ids": ids, "labels": labels, "position_ids": positions}
        return {name: torch.tensor([values], dtype=torch.long) for name, values in rows.items()}
