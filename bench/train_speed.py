"""Training without the control plane beside its peers: `python -m bench.train_speed [--pairs 5] [--steps 20]`.

1. Interleaved pairs of the same fine-tune: `python -m training train SPEC`, and TRL's SFTTrainer, which the script
   installs into an environment of its own. The batches are the same, so the ratio of steps a second is that of tokens
   a second. A pair's ratio is the median over its steps of their time by our time for the same batch: a moment in which
   the machine was elsewhere spoils one step, not the pair. The first losses must agree. Goal: at least 0.97.
2. Interleaved pairs of ours on a set of mixed lengths: batches of like lengths (`data.length_grouping`) against batches
   as chance makes them. The ratio is that of real tokens (padding not counted) a second. Goal: at least 1.5.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from bench import peer_environment
from bench.machine import described, interval
from bench.train_overhead import WARM_UP_STEPS, build_model, rate
from monitoring.events import Artefact, Metrics, Phase
from tests.product import CHECKOUT
from tests.tiny import PROSE, write_style_dataset
from tests.training.trainjobs import TrainJob

SHORTEST_WORDS, LONGEST_WORDS = 8, 400
SAME_LOSS = 1e-3
TEMPLATE = (
    "{% for message in messages %}{% if not loop.first %}\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}\n<|im_start|>assistant\n{% endif %}"
)
"""ChatML with nothing behind the last turn: TRL would count a line break there as part of the answer, and we don't."""


def ours(folder: Path, model: Path, rows: Path, *, steps: int, batch: int, grouping: bool = False) -> TrainJob:
    """One finished job of ours on `rows`, in `folder`."""
    (folder / "dataset").mkdir(parents=True)
    (folder / "dataset" / "rows.jsonl").symlink_to(rows)
    config: dict[str, Any] = {
        "hyperparams": {"max_steps": steps, "per_device_train_batch_size": batch, "precision": "fp32"},
        "data": {"shuffle": grouping, "length_grouping": grouping, "eval_fraction": 0},
        "output": {"save_steps": 10**6},
        "environment": {"cpu_threads": int(os.environ["OMP_NUM_THREADS"]), "nice": 0},
    }
    job = TrainJob(folder, config, Artefact(id="model", path=str(model), sha256="0" * 64)).start()
    assert job.process is not None
    if job.process.wait():
        raise SystemExit((job.attempt_dir / "log.txt").read_text())
    return job


def logged(job: TrainJob) -> list[tuple[float, float, float]]:
    """Of each step when it was logged (Unix seconds), its loss, and the sum of real tokens up to it."""
    points = [(event.time, event.body.values) for event in job.events() if isinstance(event.body, Metrics)]
    return [(time, float(values["loss"]), float(values["tokens"])) for time, values in points if "loss" in values]


def trl(python: Path, model: Path, rows: Path, *, steps: int, batch: int) -> list[tuple[float, float]]:
    """Of each step of the peer when it was logged, and its loss."""
    command = [str(python), str(CHECKOUT / "bench" / "trl_trainer.py"), str(model), str(rows), str(steps), str(batch)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=rows.parent)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [(time, loss) for time, loss in json.loads(done.stdout.strip().splitlines()[-1])["logged"]]


def set_template(model: Path) -> None:
    """Gives the model's tokenizer TEMPLATE."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)


def write_mixed(path: Path, count: int) -> Path:
    """Chats whose answers have 8 to 400 words, evenly on a logarithmic scale."""
    chance, words = random.Random(3), PROSE.split()
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            length = round(SHORTEST_WORDS * (LONGEST_WORDS / SHORTEST_WORDS) ** chance.random())
            answer = " ".join(chance.choices(words, k=length))
            turns = [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": answer}]
            stream.write(json.dumps({"messages": turns}) + "\n")
    return path


def tokens_a_second(job: TrainJob) -> float:
    """Real tokens a second over all steps: none is left out, since with grouping the longest batch comes first."""
    began = next(event.time for event in job.events() if event.body == Phase(name="active"))
    last = logged(job)[-1]
    return last[2] / (last[0] - began)


def step_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over the steps behind the warm-up of their time by ours, from the moments when steps were logged."""
    ours, peers = ([b - a for a, b in pairwise(times[WARM_UP_STEPS:])] for times in (mine, theirs))
    return statistics.median(peer / own for own, peer in zip(ours, peers, strict=True))


def against_trl(folder: Path, model: Path, given: argparse.Namespace) -> list[float]:
    """The ratios of the pairs. Raises SystemExit when the two sides don't compute the same."""
    python = peer_environment.make(folder / "trl", ["trl==1.16.0"])
    rows = write_style_dataset(folder / "rows.jsonl", rows=given.steps * given.batch, seed=5)
    ratios = []
    for number in range(given.pairs):
        job = ours(folder / f"ours-{number}", model, rows, steps=given.steps, batch=given.batch)
        mine, theirs = logged(job), trl(python, model, rows, steps=given.steps, batch=given.batch)
        if abs(mine[0][1] - theirs[0][1]) > SAME_LOSS:
            raise SystemExit(f"not equal terms: the first loss is {mine[0][1]:.4f} here, {theirs[0][1]:.4f} there")
        times = [time for time, *_ in mine], [time for time, _ in theirs]
        ratios.append(step_ratio(*times))
        print(f"pair {number + 1}: {ratios[-1]:.3f} by steps; {rate(times[0]):.3f} against {rate(times[1]):.3f} "
              f"steps/s; losses {mine[0][1]:.4f} to {mine[-1][1]:.4f} and {theirs[0][1]:.4f} to {theirs[-1][1]:.4f}",
              flush=True)  # fmt: skip
    return ratios


def against_chance(folder: Path, model: Path, given: argparse.Namespace) -> list[float]:
    """The ratios of real tokens a second, grouped by length to left to chance, over one epoch."""
    rows = write_mixed(folder / "mixed.jsonl", given.steps * given.batch)
    ratios = []
    for number in range(given.pairs):
        pair = []
        for grouping in (True, False):
            place = folder / f"mixed-{number}-{grouping}"
            job = ours(place, model, rows, steps=given.steps, batch=given.batch, grouping=grouping)
            pair.append(tokens_a_second(job))
        ratios.append(pair[0] / pair[1])
        print(f"pair {number + 1}: {pair[0]:.0f} grouped against {pair[1]:.0f} tokens/s", flush=True)
    return ratios


def summary(what: str, ratios: Sequence[float], goal: float) -> str:
    """One line: median, interval, goal."""
    low, high = interval(ratios)
    return f"{what}: median {statistics.median(ratios):.3f} (95 % {low:.3f} to {high:.3f}); goal >= {goal}"


def main() -> None:
    """Runs the pairs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", choices=("trl", "lengths"))
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    print(described())
    with tempfile.TemporaryDirectory(prefix="train-speed-") as scratch:
        folder = Path(scratch)
        model = build_model(folder / "model", given.layers, given.hidden)
        set_template(model)
        lengths = against_chance(folder, model, given) if given.only != "trl" else []
        peers = against_trl(folder, model, given) if given.only != "lengths" else []
    if peers:
        print(summary("steps/s against TRL's SFTTrainer", peers, 0.97))
    if lengths:
        print(summary("tokens/s of batches of like lengths against chance", lengths, 1.5))


if __name__ == "__main__":
    main()
