"""Several processes that train one run: the losses of one process, wishes, checkpoints, what becomes of the others.

Two processes with gloo on the processor, forked once from this one, which has torch already. `test_terminal` and
`tests/e2e/test_two_processes` go the whole way, through torchrun's agent and signals.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from transformers import TrainerCallback

from monitoring.attempt import EXIT_FAULT, RANK_DIED, JobFaultError, JobPausedError
from monitoring.events import EVENTS_FILE, Checkpoint, EventWriter, JobSpec, Log, Wish
from monitoring.files import write_json
from tests.training.attempts import wait_until
from tests.training.trainjobs import REPOSITORY, TrainJob, make_job
from training import checkpoints, memory_probe
from training.config.loader import parse_config
from training.data.order import FILLER, SeededOrder
from training.distributed.gradients import ROOM_BYTES, GradientSum
from training.distributed.launch import Party, _come_to, process_count
from training.distributed.ranks import Ranks
from training.distributed.sharding import own_part
from training.distributed.worker import Outcome, Unheard
from training.engine import TrainerEngine
from training.job import find_resume
from training.trainer import JobTrainer
from training.wishes import Wishes

OOM = "CUDA out of memory. Tried to allocate 2.00 GiB."
HYPER: dict[str, Any] = {"num_train_epochs": 2.0, "precision": "fp32"}
ROWS = 35
"""27 to train on: the last batch of each round is short, and is filled up for the second process. 8 to evaluate on."""

DATA: dict[str, Any] = {"eval_fraction": 8 / ROWS}
PARTS: dict[str, Any] = {
    "hyperparams": {**HYPER, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "output": {"save_steps": 3}, "data": DATA,
}  # fmt: skip
WHOLE: dict[str, Any] = {"hyperparams": {**HYPER, "per_device_train_batch_size": 8}, "data": DATA}
HALVES: dict[str, Any] = {"hyperparams": {**HYPER, "per_device_train_batch_size": 4}, "data": DATA}
LORA: dict[str, Any] = {"model": {"method": "lora"}}

Around = Callable[[Ranks], AbstractContextManager[None]]


@dataclass(frozen=True)
class Trial:
    """A run for two processes. `around` is in force in each of them; one that pauses is gone on with in `again`."""

    job: TrainJob
    around: Around = lambda _ranks: nullcontext()
    callbacks: tuple[Callable[[Wishes, Ranks], TrainerCallback], ...] = ()
    again: TrainJob | None = None

    @property
    def curve(self) -> dict[int, float]:
        after = self.again.curve("loss") if self.again else {}
        return {**self.job.curve("loss"), **after}

    @property
    def faults(self) -> list[list[str]]:
        """Code, message and fix of what each process raised."""
        return [json.loads(path.read_text()) for path in sorted(self.job.attempt_dir.glob("fault-*"))]

    @property
    def warnings(self) -> list[str]:
        return [body.text for body in self.job.bodies(Log) if body.level == "warning"]


# --- What befalls a process ---


class PauseAt(TrainerCallback):  # type: ignore[misc]
    """The first process alone hears of the wish."""

    def __init__(self, wishes: Wishes, ranks: Ranks) -> None:
        self._wishes, self._ranks = wishes, ranks

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if state.global_step == 5 and self._ranks.leads:
            self._wishes.tell(Wish.PAUSE)


class Poison(TrainerCallback):  # type: ignore[misc]
    """The second process's part of the weights becomes worthless in the step that is saved next."""

    def __init__(self, wishes: Wishes, ranks: Ranks) -> None:
        self._ranks = ranks

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if state.global_step == 3 and not self._ranks.leads:
            with torch.no_grad():
                own_part(parts["model"].model.norm.weight).fill_(torch.nan)


@contextmanager
def scarce(is_too_much: Callable[[JobTrainer, bool, int], bool]) -> Iterator[None]:
    """A stand-in for the GPU's allocator, which refuses in the backward pass, or in an evaluation."""
    compute = JobTrainer.compute_loss

    def refuse(_gradient: torch.Tensor) -> None:
        raise torch.OutOfMemoryError(OOM)

    def tight(self: JobTrainer, model: Any, inputs: dict[str, torch.Tensor], *rest: Any, **more: Any) -> Any:
        loss = compute(self, model, inputs, *rest, **more)
        if is_too_much(self, model.training, len(inputs["input_ids"])):
            if not model.training:
                raise torch.OutOfMemoryError(OOM)
            loss.register_hook(refuse)
        return loss

    JobTrainer.compute_loss = tight
    try:
        yield
    finally:
        JobTrainer.compute_loss = compute


def second_process_short_in_mid_step(ranks: Ranks) -> AbstractContextManager[None]:
    """From the second batch of the third step on."""
    computed = []

    def is_too_much(trainer: JobTrainer, training: bool, rows: int) -> bool:
        computed.append(rows)
        return not ranks.leads and training and rows > 1 and len(computed) >= 6

    return scarce(is_too_much)


@contextmanager
def second_process_short_from_the_start(ranks: Ranks) -> Iterator[None]:
    """Two rows fit while it is trained, and one while it is evaluated."""

    def is_too_much(trainer: JobTrainer, training: bool, rows: int) -> bool:
        return not ranks.leads and rows > (2 if training else 1)

    is_worthwhile = memory_probe.is_worthwhile
    memory_probe.is_worthwhile = lambda: True
    try:
        with scarce(is_too_much):
            yield
    finally:
        memory_probe.is_worthwhile = is_worthwhile


@contextmanager
def both_short(ranks: Ranks) -> Iterator[None]:
    """On either process, so that none waits for the other for ever; in a run, torchrun ends those that would."""
    compute = JobTrainer.compute_loss

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError(OOM)

    JobTrainer.compute_loss = full
    try:
        yield
    finally:
        JobTrainer.compute_loss = compute


# --- The runs, all of them in two processes that are started once ---


def of_two(root: Path, distributed: str, settings: dict[str, Any], **changes: dict[str, Any]) -> TrainJob:
    environment = {"distributed": distributed, "gpus": 2, "nice": 0, "cpu_threads": 1}
    return make_job(root, rows=ROWS, **{**settings, "environment": environment, **changes})


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trial]:
    """Every run of this file that takes two processes, done."""
    root = tmp_path_factory.mktemp("two")
    ddp, fsdp = of_two(root / "ddp", "ddp", PARTS), of_two(root / "fsdp", "fsdp", PARTS)
    lora = of_two(root / "lora", "fsdp", PARTS, **LORA)
    found = {
        "ddp": Trial(ddp, callbacks=(PauseAt,), again=ddp.next_attempt()),
        "short": Trial(of_two(root / "short", "ddp", PARTS), second_process_short_in_mid_step),
        "probed": Trial(of_two(root / "probed", "ddp", HALVES), second_process_short_from_the_start),
        "fsdp": Trial(fsdp, callbacks=(PauseAt,), again=fsdp.next_attempt()),
        "lora": Trial(lora, callbacks=(PauseAt,), again=lora.next_attempt()),
        "poisoned": Trial(of_two(root / "poisoned", "fsdp", PARTS), callbacks=(Poison,)),
        "full": Trial(of_two(root / "full", "fsdp", PARTS), both_short),
    }
    _run_in_two(list(found.values()), root)
    return found


def _run_in_two(trials: list[Trial], root: Path) -> None:
    context = multiprocessing.get_context("fork")
    rendezvous = Path(tempfile.mkdtemp(dir=root)) / "rendezvous"
    ranks = [context.Process(target=_rank, args=(rank, rendezvous, trials)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(240)
        process.kill()
    assert [process.exitcode for process in ranks] == [0, 0]


def _rank(rank: int, rendezvous: Path, trials: list[Trial]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(GLOO_SOCKET_IFNAME="lo", MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    ranks = Ranks.join(rendezvous)
    for trial in trials:
        _attempt(trial.job, trial, ranks)
        if trial.again is not None:
            _attempt(trial.again, trial, ranks)
    os._exit(0)


def _attempt(job: TrainJob, trial: Trial, ranks: Ranks) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    wishes = Wishes()
    with EventWriter(job.attempt_dir / EVENTS_FILE) if ranks.leads else Unheard() as events, trial.around(ranks):
        resume = ranks.shared(find_resume(job.spec(), job.checkpoints, events) if ranks.leads else None)
        own = [make(wishes, ranks) for make in trial.callbacks]
        try:
            TrainerEngine(job.spec(), events, wishes, resume, ranks).run_job(parse_config(job.config), own)
        except JobPausedError:
            assert trial.again is not None
        except JobFaultError as fault:
            write_json(job.attempt_dir / f"fault-{ranks.rank}", [fault.code, fault.message, fault.fix])


def run_alone(root: Path, **changes: dict[str, Any]) -> TrainJob:
    job = make_job(root, rows=ROWS, **{**WHOLE, **changes})
    job.run_here()
    return job


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """The same run by one process: a batch of 8 in one piece."""
    return run_alone(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def lora_alone(tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    return run_alone(tmp_path_factory.mktemp("lora-alone"), **LORA)


def assert_same_curve(curve: dict[int, float], expected: dict[int, float]) -> None:
    assert list(curve) == list(expected)
    assert list(curve.values()) == pytest.approx(list(expected.values()), rel=1e-4)


def test_ddp_and_fsdp_draw_the_curve_of_one_process_through_a_pause(alone: TrainJob, trials: dict[str, Trial]) -> None:
    assert list(alone.curve("loss")) == list(range(1, 9))
    for name in ("ddp", "fsdp"):
        trial = trials[name]
        assert trial.again is not None
        assert_same_curve(trial.curve, alone.curve("loss"))
        assert max(trial.job.curve("loss")) == 5
        assert trial.job.curve("tokens")[5] == alone.curve("tokens")[5]
        assert trial.again.curve("tokens")[8] == alone.curve("tokens")[8]
        written = [*trial.job.bodies(Checkpoint), *trial.again.bodies(Checkpoint)]
        assert [body.step for body in written] == [3, 5, 6, 8]
    fsdp = trials["fsdp"].job
    optimizer = torch.load(checkpoints.path_of(fsdp.checkpoints, 5) / "optimizer.pt", weights_only=True)
    assert "model.norm.weight" in optimizer["state"], "the state of a divided optimizer goes by names"
    assert not list(fsdp.model_dir.parent.glob(".*"))


def test_an_adapter_under_fsdp_goes_on_from_its_checkpoint_as_if_undisturbed(
    lora_alone: TrainJob, trials: dict[str, Trial]
) -> None:
    lora = trials["lora"]
    assert max(lora.job.curve("loss")) == 5
    assert_same_curve(lora.curve, lora_alone.curve("loss"))
    held = load_file(checkpoints.path_of(lora.job.checkpoints, 5) / "adapter_model.safetensors")
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in held} == {"lora_A", "lora_B"}
    ours, theirs = (load_file(job.model_dir / "model.safetensors") for job in (lora.job, lora_alone))
    assert ours.keys() == theirs.keys(), "the finished model is whole and merged"


def test_memory_that_one_process_lacks_in_mid_step_changes_nothing_for_any(
    alone: TrainJob, trials: dict[str, Trial]
) -> None:
    short, undisturbed = trials["short"], trials["ddp"]
    assert_same_curve(short.curve, alone.curve("loss"))
    assert_same_curve(short.job.curve("grad_norm"), alone.curve("grad_norm"))
    assert short.job.curve("tokens") == alone.curve("tokens")
    assert undisturbed.again is not None
    evaluated = {**undisturbed.job.curve("eval_loss"), **undisturbed.again.curve("eval_loss")}
    assert_same_curve(short.job.curve("eval_loss"), evaluated)
    (said,) = [text for text in short.warnings if "Memory did not suffice" in text]
    assert said == "Memory did not suffice for another process: from here on each batch is computed in 2 parts."


def test_the_probe_finds_what_the_tightest_process_takes_and_an_evaluation_is_divided_by_one_alone(
    alone: TrainJob, trials: dict[str, Trial]
) -> None:
    probed = trials["probed"].job
    assert_same_curve(probed.curve("loss"), alone.curve("loss"))
    assert_same_curve(probed.curve("eval_loss"), alone.curve("eval_loss"))
    told = [(body.level, body.text) for body in probed.bodies(Log)]
    assert [text.split()[-2] for level, text in told if level == "warning"] == ["2", "4"]
    (fits,) = [text for _, text in told if text.startswith("The longest batch")]
    assert "fits in 2 parts" in fits


def test_a_process_whose_part_of_the_weights_is_no_number_ends_the_run_before_it_is_saved(
    trials: dict[str, Trial],
) -> None:
    poisoned = trials["poisoned"]
    assert len(poisoned.faults) == 2
    for code, message, _ in poisoned.faults:
        assert code == "loss_not_finite"
        assert message.startswith("Weights are no numbers after step 3")
    assert checkpoints.steps(poisoned.job.checkpoints) == []


def test_what_does_not_fit_under_fsdp_ends_the_run_with_what_mends_it(trials: dict[str, Trial]) -> None:
    for code, message, fix in trials["full"].faults:
        assert (code, message) == ("out_of_memory", f"The run does not fit into memory: {OOM}")
        assert "per_device_train_batch_size" in fix and "gradient_accumulation_steps" in fix
    assert len(trials["full"].faults) == 2


def test_gradients_are_sent_in_groups_and_large_ones_alone() -> None:
    large = torch.zeros(ROOM_BYTES // 4 + 1)
    weights = [torch.zeros(3), torch.zeros(2, 2), large, torch.zeros(5), torch.zeros(5, dtype=torch.bfloat16)]
    weights[1].grad = torch.arange(4.0).view(2, 2).t()
    groups = list(GradientSum.of(weights)._groups())
    assert [[gradient.numel() for gradient in group] for group in groups] == [[3, 4], [large.numel()], [5], [5]]
    assert groups[0][1].tolist() == [[0.0, 2.0], [1.0, 3.0]] and groups[0][1].is_contiguous()
    assert weights[0].grad is groups[0][0]


def test_a_filler_makes_batches_whole_and_the_order_stays() -> None:
    one, two = SeededOrder(11, 7, batch=4), SeededOrder(11, 7, batch=4, multiple=4)
    assert two.positions(1)[:11] == one.positions(1)
    assert two.positions(1)[11:] == [FILLER]
    assert len(two) == 12 and len(one) == 11


def test_as_many_processes_as_gpus_and_one_where_nothing_is_shared() -> None:
    spec = JobSpec(1, 1, "train", "train", "here", "/nowhere")
    ddp = parse_config({"environment": {"distributed": "ddp", "gpus": 3}})
    assert process_count(spec, ddp) == 3
    assert process_count(replace(spec, gpus=("GPU-a", "GPU-b")), ddp) == 2
    assert process_count(spec, parse_config({"environment": {"gpus": 3}})) == 1
    assert process_count(spec, parse_config({"environment": {"distributed": "fsdp"}})) == 1


def outcome(code: str = "", *, at: float = 0.0, paused: bool = False) -> Outcome:
    return Outcome(
        code=code, message=code, fix="", needed_bytes=None, is_paused=paused, values={"steps": 3}, time=at
    )  # fmt: skip


@pytest.mark.parametrize(
    ("outcomes", "died", "told"),
    [
        ({0: outcome("internal", at=1.0), 1: outcome("out_of_memory", at=2.0)}, {}, "out_of_memory"),
        ({1: outcome("out_of_memory", at=2.0)}, {1: 1, 0: -15}, "out_of_memory"),
        ({0: outcome("internal", at=1.0)}, {0: 1, 1: -9}, "Process 2 of the run's 2 was ended by SIGKILL."),
        ({}, {1: -9, 0: -15}, "Process 2 of the run's 2 was ended by SIGKILL."),
        ({}, {1: -15, 0: -15}, "Process 2 of the run's 2 was ended by SIGTERM."),
        ({0: outcome("internal", at=1.0)}, {0: 1, 1: -15}, "internal"),
        ({0: outcome("internal", at=1.0), 1: outcome()}, {0: 1}, "internal"),
        ({0: outcome("internal", at=1.0)}, {0: 1, 1: 3}, "Process 2 of the run's 2 ended with status 3."),
        ({0: outcome()}, {1: 1}, "Process 2 of the run's 2 ended with status 1."),
        ({}, {0: 1, 1: 1}, "Process 1 of the run's 2 ended with status 1."),
        ({}, {}, "The run's 2 processes could not be started."),
    ],
)
def test_the_fault_that_is_told_is_the_one_that_began_it(
    outcomes: dict[int, Outcome], died: dict[int, int], told: str
) -> None:
    with pytest.raises(JobFaultError) as caught:
        _come_to(outcomes, died, Party(2))
    assert caught.value.message == told
    assert caught.value.code == (told if told.isidentifier() else RANK_DIED)


def test_the_first_processs_end_is_the_runs() -> None:
    assert _come_to({0: outcome(), 1: outcome()}, {}, Party(2)) == {"steps": 3}
    assert _come_to({0: outcome(), 1: outcome()}, {1: -11}, Party(2)) == {"steps": 3}, "it had said its last word"
    with pytest.raises(JobPausedError):
        _come_to({0: outcome(paused=True), 1: outcome(paused=True)}, {}, Party(2))


def test_of_several_hosts_one_tells_its_own_processes_and_takes_what_nobody_foresaw_for_anothers_loss() -> None:
    second = Party(2, number=1, hosts=2)
    assert _come_to({2: outcome(), 3: outcome()}, {}, second) == {"steps": 3}
    with pytest.raises(JobFaultError) as caught:
        _come_to({2: outcome("internal", at=1.0), 3: outcome("internal", at=2.0)}, {}, second)
    assert (caught.value.code, caught.value.message) == (RANK_DIED, "Another host of the run was lost: internal")
    with pytest.raises(JobFaultError, match=r"^Process 4 of the run's 4 was ended by SIGKILL\.$"):
        _come_to({2: outcome("internal", at=1.0)}, {3: -9}, second)


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    child = (
        "import sys, time; from pathlib import Path; from training.distributed.worker import _end_with;"
        "_end_with(int(sys.argv[2])); Path(sys.argv[1]).touch(); time.sleep(60)"
    )
    parent = (
        f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}, sys.argv[1], str(os.getpid())])"
    )
    mark = tmp_path / "ready"
    process = subprocess.Popen([sys.executable, "-c", parent, str(mark)], cwd=REPOSITORY)
    wait_until(mark.exists, "the child is there")
    (started,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    started.wait(10)
    late = subprocess.run([sys.executable, "-c", child, str(mark), str(process.pid)], cwd=REPOSITORY, check=False)
    assert late.returncode == EXIT_FAULT, "its parent was gone before it could look"
