"""Faster ways to decode for one client, beside eager `generate` in fp32, in one run.

`python -m bench.beyond_eager [--model FOLDER] [--tokens 32] [--rounds 5] [--ways NAME...]`. Without a model it makes
one of SmolLM2-135M's shape with random weights. The ways (`bench.decoding_ways`): bfloat16; 8 bits a weight by torch's
own kernel; a compiled decode step with a static cache, in fp32, in 8 bits, and in 8 bits by torchao, which goes into an
environment of its own. Each is a process of its own; all answer the same prompt in turns, greedy. Printed: milliseconds
a token, the ratio to eager (median over rounds; the goal is 1.5), the time to compile, which a start would take longer,
and how many tokens from the first on are eager's.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from bench import peer_environment
from bench.machine import described
from bench.serving import make_model
from bench.serving_sides import PROMPT, ProcessSide

EAGER = "eager"
WAYS = (EAGER, "bfloat16", "int8", "compiled", "compiled int8", "compiled torchao")
GOAL = 1.5


class Way(ProcessSide):
    """One way in its process; `compile_seconds` is what its first answer took longer than its second."""

    def __init__(self, name: str, python: str, folder: Path, work: Path, tokens: int) -> None:
        self.name = name
        self._asked = json.dumps({"prompt": PROMPT, "tokens": tokens}).encode() + b"\n"
        self._log = work / f"{name}.log"
        super().__init__([python, "-m", "bench.decoding_ways", name, str(folder)], self._log, pipes=True)
        self.compile_seconds = float(self.ask()["compile_seconds"])

    def ask(self) -> dict[str, Any]:
        """One answer. Ends the benchmark where the process has died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(self._asked)
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} has ended:\n{self._log.read_text()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def common(left: list[int], right: list[int]) -> int:
    """How many tokens two answers have in common from the first on."""
    return next((at for at, (one, other) in enumerate(zip(left, right, strict=True)) if one != other), len(left))


def measure(ways: list[Way], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Every way in turns."""
    taken: dict[str, list[dict[str, Any]]] = {way.name: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            taken[way.name].append(way.ask())
    return taken


def tell(ways: list[Way], taken: dict[str, list[dict[str, Any]]], tokens: int) -> None:
    """A line a way."""
    eager = taken[EAGER]
    for way in ways:
        mine = taken[way.name]
        ratio = median(other["seconds"] / own["seconds"] for own, other in zip(mine, eager, strict=True))
        line = f"{way.name}: {median(one['seconds'] for one in mine) / tokens * 1000:.1f} ms a token"
        if way.name != EAGER:
            line += f", {ratio:.2f} times eager (goal {GOAL}) {'met' if ratio >= GOAL else 'MISSED'}"
            line += f", {common(mine[0]['token_ids'], eager[0]['token_ids'])} of {tokens} tokens as eager's"
        if way.name.startswith("compiled"):
            line += f", {way.compile_seconds:.0f} s to compile"
        print(line, flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.beyond_eager", description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS[1:], default=list(WAYS[1:]), help="beside eager")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the ways are stopped too
    print(described(), flush=True)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        work = Path(name)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(work / "inductor")  # nothing is found compiled
        folder = asked.model or make_model(work / "model")
        ways = []
        for way in (EAGER, *asked.ways):
            python = sys.executable
            if way.endswith("torchao"):
                python = str(peer_environment.make(work / "torchao", ["torchao"]))
            ways.append(Way(way, python, folder, work, asked.tokens))
            stack.callback(ways[-1].stop)
            print(f"{way} is ready; its first answer took {ways[-1].compile_seconds:.1f} s longer", flush=True)
        tell(ways, measure(ways, asked.rounds), asked.tokens)


if __name__ == "__main__":
    main()
