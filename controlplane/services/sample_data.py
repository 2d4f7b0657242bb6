"""The dataset that comes with the product, for whoever has none at hand. Runs in the web process."""

from pathlib import Path

from django.core.files import File

from controlplane.models import Dataset
from controlplane.models.access import Actor
from controlplane.services import dataset_intake
from controlplane.services.lineage import Lineage

FILE = Path(__file__).resolve().parent.parent / "samples" / "harbour.jsonl"
NAME = "harbour"
EVAL_FRACTION = 0.05
ORIGIN = Lineage("pilothouse sample", "1")


def use(actor: Actor) -> tuple[Dataset, bool]:
    """Takes it in as any upload: checked, hashed, with its lineage. Returns it and whether it is new."""
    with FILE.open("rb") as stream:
        return dataset_intake.receive_small(actor, File(stream, name=FILE.name), NAME, EVAL_FRACTION, ORIGIN)
