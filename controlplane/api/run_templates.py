"""Run templates (/api/run-templates) and a run's settings before it starts. Runs in the web process."""

from typing import Any

from ninja import Body, Router, Status
from ninja.params.functions import Query

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.run_templates import (
    ChangeTemplate,
    PreviewRun,
    ReadConfig,
    RunDiff,
    RunPreview,
    SaveTemplate,
    Template,
    TemplateList,
)
from controlplane.errors import FieldFault, InvalidInputError
from controlplane.services import run_settings, run_templates, runs

router = Router(tags=["Runs"])


@router.get("/run-templates", response=TemplateList)
def list_templates(request: ActorRequest) -> dict[str, Any]:
    """All run templates, by name."""
    return {"templates": [run_templates.facts(row) for row in run_templates.list_templates()]}


@router.post("/run-templates", response={201: Template})
def save(request: ActorRequest, payload: SaveTemplate) -> Status[dict[str, Any]]:
    """Saves settings under a name: those given, or an existing run's (`run`). 409 where the name is taken."""
    if payload.run is None:
        row = run_templates.save(
            request.actor, name=payload.name, description=payload.description, config=payload.config,
            dataset=payload.dataset, model=payload.model,
        )  # fmt: skip
    else:
        if others := {"config", "dataset", "model"} & payload.model_fields_set:
            message = (
                f"A template is made of a run or of what is given, not of both: leave out {', '.join(sorted(others))}."
            )
            raise InvalidInputError(message, (FieldFault("run", message),))
        row = run_templates.save_run(
            request.actor, runs.get(payload.run), name=payload.name, description=payload.description
        )
    return Status(201, run_templates.facts(row))


@router.get("/run-templates/{int:template_id}", response=Template)
def get_template(request: ActorRequest, template_id: int) -> dict[str, Any]:
    """One run template."""
    return run_templates.facts(run_templates.get(template_id))


@router.patch("/run-templates/{int:template_id}", response=Template)
def change(request: ActorRequest, template_id: int, payload: ChangeTemplate) -> dict[str, Any]:
    """Changes what is given (its maker, or an admin); `config` as a whole. Runs keep what they were started with."""
    return run_templates.facts(run_templates.change(request.actor, template_id, payload.dict(exclude_unset=True)))


@router.delete("/run-templates/{int:template_id}", response={204: None})
def remove(request: ActorRequest, template_id: int) -> Status[None]:
    """Forgets a template (its maker, or an admin)."""
    run_templates.remove(request.actor, template_id)
    return Status(204, None)


@router.post("/runs/preview", response=RunPreview)
def preview(request: ActorRequest, payload: PreviewRun) -> dict[str, Any]:
    """What a run would be: its whole configuration, steps, learning rate. Starts nothing; 422 as `POST /api/runs`."""
    return run_settings.previewed(
        template=run_templates.named(payload.template) if payload.template is not None else None,
        dataset=payload.dataset, model=payload.model, profile=payload.profile, config=payload.config,
        based_on=runs.get(payload.based_on) if payload.based_on is not None else None,
    )  # fmt: skip


@router.post("/runs/config", response=ReadConfig)
def read_config(request: ActorRequest, payload: Body[dict[str, Any]]) -> dict[str, Any]:
    """Reads a configuration file (`curl -d @config.json`), nested or flat as the system before Pilothouse wrote it."""
    found = run_settings.read_file(payload)
    return {
        "config": found.config,
        "explained": [
            {"path": path, "value": value, "source": source, "key": key}
            for path, value, source, key in found.explained
        ],
        "left_out": [{"key": left.key, "reason": left.reason} for left in found.left_out],
    }  # fmt: skip


@router.get("/runs/{int:run_id}/diff", response=RunDiff, by_alias=True)
def diff(request: ActorRequest, run_id: int, other: int = Query(alias="with")) -> dict[str, Any]:
    """What differs in the settings of this run from those of run `with`, defaults resolved."""
    run, old = runs.get(run_id), runs.get(other)
    found = run_settings.run_differences(old, run)
    return {"run": run.pk, "with_run": old.pk, "differences": run_settings.told(found)}
