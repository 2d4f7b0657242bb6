"""What a data profile makes of a dataset: rows before and after. Runs in the web process, reads no row but those.

A row's number is what training gives the profile too, so what is shown is what will be trained on.
"""

from collections.abc import Mapping
from typing import Any

from controlplane.errors import ConflictError
from controlplane.models import Dataset
from controlplane.services import config_faults, datasets
from training.data.specs import Example, RowFaultError, is_chat, parse_row
from training.profiles.base import Profile


def preview(
    dataset: Dataset, offset: int, limit: int, profile_name: str, *, system_prompt: str = "",
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """As `datasets.preview`, and with each row `after`: what the profile makes of it (raw text stays as it is).

    Raises what that raises, InvalidInputError for a profile that can't be used, ConflictError for a row that it can't
    shape.
    """
    profile = config_faults.profile_of(
        profile_name, system_prompt=system_prompt, options=options, options_path="profile"
    )
    found = datasets.preview(dataset, offset, limit)
    rows = [{**row, "after": _after(profile, row, offset + place)} for place, row in enumerate(found["rows"])]
    return {**found, "rows": rows, "profile": _facts(profile)}


def _facts(profile: Profile) -> dict[str, str]:
    return {"name": profile.name, "version": profile.version, "description": profile.description}


def _after(profile: Profile, row: dict[str, Any], index: int) -> Example:
    try:
        example = parse_row(row).example
        return profile.transform(example, index) if is_chat(example) else example
    except RowFaultError as error:
        raise ConflictError(f"Row {index + 1} can't be trained on: {error}") from error
    except Exception as error:  # a profile is another's code: whatever it raises is told with the row's number
        raise ConflictError(f"The profile {profile.name} can't shape row {index + 1}: {error}") from error
