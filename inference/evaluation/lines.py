"""What is logged of an evaluated row. Runs in the inference process of the verb `evaluate`."""

from typing import Any

from inference.engine.base import InvalidRequestError
from inference.evaluation.cases import Case
from inference.evaluation.options import EvaluationOptions
from inference.evaluation.scores import Judge
from inference.offline import OfflineAnswer


def line_of(
    case: Case, answer: OfflineAnswer | None, judge: Judge, loss: dict[str, Any], options: EvaluationOptions
) -> dict[str, Any]:
    """A row as it is logged. `answer` None: nothing was asked; `loss` is its line of the losses.

    `error` says what failed of that which was asked for, `loss_error` why there is no loss. `retry` stands where the
    row itself isn't at fault, so that another attempt may do better. A row that can be asked and isn't answered counts
    as wrong (`unanswered`); one that can't be asked has no scores.
    """
    loss_error = loss.get("error", "")
    error, retry = case.fault, False
    if answer is not None and answer.error is not None and case.expected is not None:
        error, retry = answer.error.message, not isinstance(answer.error, InvalidRequestError)
    if options.wants_loss:
        error, retry = error or loss_error, retry or bool(loss.get("retry"))
    line: dict[str, Any] = {
        "row": case.row, "error": error, "scores": {}, "nats": loss.get("sum"), "tokens": loss.get("tokens"),
    }  # fmt: skip
    line |= {"loss_error": loss_error} if loss_error else {}
    line |= {"retry": True} if retry else {}
    if options.keep_texts:
        line |= {"question": case.question, "expected": case.expected}
    if answer is None or case.fault or case.expected is None:
        return line
    score = judge.score(case, answer.text) if answer.error is None else judge.unanswered(case)
    line |= {"scores": dict(score.values)}
    line |= {"bleu_counts": list(score.bleu_counts)} if score.bleu_counts else {}
    if answer.error is not None:
        return line | {"unanswered": True}
    line |= {"finish_reason": answer.finish_reasons[0]}
    if options.keep_texts:
        line |= {"answer": answer.text, "faults": [fault.message for fault in score.faults]}
    return line
