"""The verb `evaluate`: a model's answers and losses on the rows of a dataset, row by row and in all.

Runs in the inference process, as its main thread. Losses come first, then answers at full batch throughput. Whatever is
done is in the attempt's logs at once: killed in the middle, the next attempt goes on from there.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from inference.engine.base import EngineError, GenerationRequest, InvalidRequestError
from inference.evaluation.cases import Case, Cases
from inference.evaluation.lines import line_of
from inference.evaluation.log import EXAMPLES_FILE, LOSSES_FILE, RowLog
from inference.evaluation.losses import losses
from inference.evaluation.options import EvaluationOptions
from inference.evaluation.scores import Judge
from inference.evaluation.summary import summary
from inference.offline import OfflineAnswer, OfflineModel, answered, opened
from inference.progress import RowProgress
from monitoring.attempt import JobFaultError
from monitoring.events import EventWriter, JobSpec, Phase


class _Logs(NamedTuple):
    measured: RowLog
    examples: RowLog


def evaluate(spec: JobSpec, events: EventWriter, spec_path: Path) -> dict[str, Any]:
    """Evaluates `spec.inputs.model` on `spec.inputs.dataset`; returns the values of the `result` event."""
    if spec.inputs.dataset is None:
        raise JobFaultError("no_dataset", "The spec names no dataset to evaluate on.", "Choose a dataset.")
    options = EvaluationOptions.from_config(spec.config)
    events.emit(Phase(name="launching"))
    folder = spec_path.parent
    with (
        RowLog(folder, LOSSES_FILE) as measured,
        RowLog(folder, EXAMPLES_FILE) as examples,
        opened(spec, events) as model,
    ):
        logs = _Logs(measured, examples)
        cases = Cases(Path(spec.inputs.dataset.path), model.profile, take=options.take, seed=options.seed)
        if measured.rows or examples.rows:
            done = f"{len(measured.rows)} losses and {len(examples.rows)} rows"
            events.log(f"goes on: {done} of {len(cases)} are done already")
        events.emit(Phase(name="active"))
        began = time.monotonic()
        _measure(model, cases, measured, events)
        tokens = _answer(model, cases, options, logs, events)
        values = summary(examples.read(), options)
        _refuse_nothing(values, examples, options)
        seconds = time.monotonic() - began
    return {**values, "seconds": round(seconds, 3), "generated_tokens": tokens, "examples_file": EXAMPLES_FILE}


def _measure(model: OfflineModel, cases: Cases, measured: RowLog, events: EventWriter) -> None:
    """Logs the loss of every row that has none yet."""
    waiting = [row for row in cases.rows if row not in measured.rows]
    if not waiting:
        return
    progress = RowProgress(events, len(cases), done=len(cases) - len(waiting), note="measuring losses")
    found = losses(model.engine, model.loaded, model.chat_template, (cases.read(row) for row in waiting))
    for loss in found:
        measured.add(asdict(loss))
        progress.add()


def _answer(model: OfflineModel, cases: Cases, options: EvaluationOptions, logs: _Logs, events: EventWriter) -> int:
    """Answers and scores every row that isn't logged yet; returns the tokens generated."""
    waiting = [row for row in cases.rows if row not in logs.examples.rows]
    losses_by_row = {value["row"]: value for value in logs.measured.read()}
    note = "answering" if options.wants_answers else "writing down"
    progress = RowProgress(events, len(cases), done=len(cases) - len(waiting), note=note)
    judge = Judge(options, model.profile)
    tokens = 0
    for case, answer in _answers(model, cases, options, waiting):
        logs.examples.add(line_of(case, answer, judge, losses_by_row.get(case.row, {}), options))
        tokens += answer.usage.completion_tokens if answer is not None and answer.usage is not None else 0
        progress.add()
    return tokens


def _answers(
    model: OfflineModel, cases: Cases, options: EvaluationOptions, waiting: list[int]
) -> Iterator[tuple[Case, OfflineAnswer | None]]:
    """Each row with what the model says to it; None where nothing is asked."""
    if not options.wants_answers:
        for row in waiting:
            yield cases.read(row), None
        return
    asked: deque[Case] = deque()

    def requests() -> Iterator[GenerationRequest | EngineError]:
        for row in waiting:
            case = cases.read(row)
            asked.append(case)
            yield _request(model, case, options)

    for answer in answered(model.engine, requests(), in_flight=model.in_flight):
        yield asked.popleft(), answer


def _request(model: OfflineModel, case: Case, options: EvaluationOptions) -> GenerationRequest | EngineError:
    """A case as a request; what can't be asked is an error in its place."""
    if case.fault or case.expected is None:
        return InvalidRequestError(case.fault or "The row is raw text: there is nothing to ask.")
    try:
        return model.request([dict(turn) for turn in case.prompt], max_tokens=options.max_tokens)
    except EngineError as error:
        return error


def _refuse_nothing(values: dict[str, Any], examples: RowLog, options: EvaluationOptions) -> None:
    """Raises JobFaultError where no row at all could be evaluated."""
    has_loss = options.wants_loss and values["avg_loss"] is not None
    if has_loss or values["failed"] < values["total_samples"]:
        return
    if any(value["scores"] and not value.get("unanswered") for value in examples.read()):
        return
    first = next((value["error"] for value in examples.read() if value["error"]), "")
    raise JobFaultError(
        "nothing_evaluated",
        f"None of the {values['total_samples']:,} rows could be evaluated. The first: {first}",
        "Choose another dataset, or a model with a longer context.",
    )
