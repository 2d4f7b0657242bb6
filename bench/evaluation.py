"""Rows per second of an evaluation beside padded batches of `generate` offline, on the same rows.

`python -m bench.evaluation [--model FOLDER] [--rows 48] [--tokens 32] [--rounds 3]`. Without a model it makes one of
SmolLM2-135M's shape with random weights. Both sides are greedy in fp32, with the same batch and the same lengths, in
turns, each in a process of its own: one that computed in ours would hold workers that the other has to share processors
with. Ours is the whole verb `evaluate` (answers, scores, a log on disk) from its first question on; the peer answers
and throws the answers away. The first ratio is of the clock's time; the second, of processor time, says more on a
machine that has other work.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil
from transformers import AutoTokenizer

from bench.machine import described
from bench.serving import make_model
from bench.serving_sides import PROMPT, Generate
from inference.offline import BATCH_ON_CPU
from monitoring.events import EVENTS_FILE, SPEC_FILE, Progress, Result, decode_event

LOOK_SECONDS = 0.05


class Took(NamedTuple):
    """Tokens generated, seconds by the clock and of the processor."""

    tokens: int
    seconds: float
    processor_seconds: float

    def rates(self) -> tuple[float, float]:
        """Tokens per second, of either kind."""
        return self.tokens / self.seconds, self.tokens / self.processor_seconds


def questions(rows: int) -> list[str]:
    """Of one to four sentences, in an order that nobody has sorted."""
    return [PROMPT * (1 + row * 7 % 4) for row in range(rows)]


def write_rows(folder: Path, rows: int) -> None:
    """A dataset of these questions."""
    folder.mkdir()
    turns = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}]
        for question in questions(rows)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in turns))


def ours(model: Path, data: Path, folder: Path, tokens: int) -> Took:
    """An evaluation, from the first question to the result."""
    folder.mkdir(parents=True)
    spec = {
        "spec_version": 1, "job_id": 1, "attempt": 1, "kind": "eval", "verb": "evaluate", "host": "bench",
        "output_dir": str(folder), "gpus": [], "model_dir": "",
        "inputs": {"model": {"id": "m", "path": str(model)}, "dataset": {"id": "1", "path": str(data)}},
        "config": {"serving": {"dtype": "float32"}, "evaluation": {"metrics": ["accuracy"], "max_tokens": tokens}},
    }  # fmt: skip
    (folder / SPEC_FILE).write_text(json.dumps(spec))
    command = [sys.executable, "-m", "inference", "evaluate", str(folder / SPEC_FILE)]
    with (folder / "log.txt").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        used = _processor_seconds(process, folder / EVENTS_FILE)
    events = [decode_event(line) for line in (folder / EVENTS_FILE).read_bytes().splitlines()]
    began = next(event.time for event in events if _is_first_question(event.body))
    last = events[-1]
    assert isinstance(last.body, Result), (folder / "log.txt").read_text()[-2000:]
    return Took(int(last.body.values["generated_tokens"]), last.time - began, used)


def _processor_seconds(process: "subprocess.Popen[bytes]", events: Path) -> float:
    """What an evaluation uses from its first question on, as far as a look now and then can tell."""
    watched, first, used = psutil.Process(process.pid), 0.0, 0.0
    while process.poll() is None:
        lines = events.read_bytes().rpartition(b"\n")[0].splitlines() if events.exists() else []
        try:
            times = watched.cpu_times()
        except psutil.Error:
            break
        used = times.user + times.system
        if not any(_is_first_question(decode_event(line).body) for line in lines):
            first = used
        time.sleep(LOOK_SECONDS)
    return used - first


def _is_first_question(body: Any) -> bool:
    return isinstance(body, Progress) and body.note.startswith("answering")


def theirs(peer: Generate, texts: list[str], tokens: int) -> Took:
    """The same rows in padded batches of the library's `generate`, in their order."""
    used, seconds, count = peer.processor_seconds(), 0.0, 0
    for start in range(0, len(texts), BATCH_ON_CPU):
        answer = peer.ask(texts[start : start + BATCH_ON_CPU], tokens)
        seconds += answer["seconds"]
        count += answer["tokens"]
    return Took(count, seconds, peer.processor_seconds() - used)


def main() -> None:
    """Prints a line a round and the medians."""
    parser = argparse.ArgumentParser(prog="python -m bench.evaluation", description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    print(described(), flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-evaluation-") as scratch:
        work = Path(scratch)
        model, data = asked.model or make_model(work / "model"), work / "data"
        write_rows(data, asked.rows)
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
        chats = [[{"role": "user", "content": question}] for question in questions(asked.rows)]
        texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
        peer = Generate(model, work)
        by_clock, by_processor = [], []
        try:
            peer.ask(texts[:1], 2)  # nobody pays for a first time
            for turn in range(asked.rounds):
                own, other = ours(model, data, work / f"round-{turn}", asked.tokens), theirs(peer, texts, asked.tokens)
                by_clock.append(own.rates()[0] / other.rates()[0])
                by_processor.append(own.rates()[1] / other.rates()[1])
                print(
                    f"round {turn + 1}: evaluation {own.rates()[0]:.0f} tokens/s ({own.tokens} tokens), generate "
                    f"{other.rates()[0]:.0f}; ratio {by_clock[-1]:.2f} by the clock, {by_processor[-1]:.2f} by "
                    "processor time",
                    flush=True,
                )
        finally:
            peer.stop()
        print(
            f"median ratio {median(by_clock):.2f} by the clock, {median(by_processor):.2f} by processor time (goal 0.9)"
        )


if __name__ == "__main__":
    main()
