"""The serving engine beside one padded batch of `generate` and beside `transformers serve`, in one run.

`python -m bench.serving [--model FOLDER] [--rounds 3] [--tokens 64] [--without-peer]`. Without a model it makes one of
SmolLM2-135M's shape with random weights. All sides run in turns, each in a process of its own, fp32, greedy, with the
same prompts and lengths; the peer's packages go into an environment of its own. Printed: tokens a second at 1, 4 and 8
clients, and the ratios that are goals. A ratio is the median over rounds, each of sides that ran one after the other;
"of CPU time" says more on a machine that has other work.
"""

import argparse
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import peer_environment
from bench.machine import described
from bench.serving_sides import Engine, Generate, Side, Taken, TransformersServe

CLIENTS = (1, 4, 8)
MIB = 2**20
Rounds = dict[tuple[str, int], list[Taken]]
"""What each side took at each number of clients, round by round."""


def make_model(folder: Path) -> Path:
    """Random weights in the shape of SmolLM2-135M, with the tests' tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tests.tiny import build_tiny_model

    build_tiny_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def measure(sides: list[Side], rounds: int, tokens: int) -> Rounds:
    """Every side at every number of clients, in turns; one token each before, so that nobody pays for a first time."""
    taken: Rounds = {}
    for side in sides:
        side.take(2, 2)
    for clients in CLIENTS:
        for _ in range(rounds):
            for side in sides:
                taken.setdefault((side.name, clients), []).append(side.take(clients, tokens))
        for side in sides:
            mine = taken[side.name, clients]
            first = [one.first_token_seconds for one in mine if one.first_token_seconds is not None]
            shown = f", first token {statistics.median(first) * 1000:.0f} ms" if first else ""
            rate = statistics.median(one.by_clock for one in mine)
            print(f"{clients} clients, {side.name}: {rate:.1f} tokens/s{shown}", flush=True)
    return taken


def ratio(taken: Rounds, other: str, clients: int, of: Callable[[Taken], float]) -> float:
    """The engine's figure by the other's, the median over rounds."""
    pairs = zip(taken[Engine.name, clients], taken[other, clients], strict=True)
    return statistics.median(of(own) / of(theirs) for own, theirs in pairs)


def by_clock(taken: Taken) -> float:
    return taken.by_clock


def first_token(taken: Taken) -> float:
    """Only of sides that stream."""
    assert taken.first_token_seconds is not None
    return taken.first_token_seconds


def tell_goals(taken: Rounds, engine: Side, generate: Side, peers: list[Side]) -> None:
    """One line a goal."""

    def tell(what: str, value: float, goal: float, *, least: bool = True) -> None:
        verdict = "met" if (value >= goal if least else value <= goal) else "MISSED"
        print(f"{what}: {value:.2f} (goal {'>=' if least else '<='} {goal:g}) {verdict}", flush=True)

    tell("8 clients, tokens/s by generate's", ratio(taken, generate.name, 8, by_clock), 0.95)
    print(f"  of CPU time: {ratio(taken, generate.name, 8, lambda one: one.by_processor):.2f}")
    over = (engine.peak_bytes() - generate.peak_bytes()) / MIB
    tell("most memory beyond generate's, MiB", over, 500, least=False)
    if peers:
        batching, plain = peers
        tell("8 clients, tokens/s by transformers serve's, batching", ratio(taken, batching.name, 8, by_clock), 1.05)
        tell("1 client, tokens/s by transformers serve's, batching", ratio(taken, batching.name, 1, by_clock), 1.5)
        tell("1 client, tokens/s by transformers serve's", ratio(taken, plain.name, 1, by_clock), 1.0)
        first = ratio(taken, batching.name, 8, first_token)
        tell("8 clients, first token by transformers serve's, batching", first, 0.5, least=False)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--without-peer", action="store_true", help="beside generate alone")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the sides are stopped too
    print(described(), flush=True)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        work = Path(name)
        folder = arguments.model or make_model(work / "model")
        sides: list[Side] = []

        def start(make: Callable[[], Side]) -> Side:
            side = make()
            stack.callback(side.stop)
            sides.append(side)
            return side

        generate, engine = start(lambda: Generate(folder, work)), start(lambda: Engine(folder, work))
        peers: list[Side] = []
        if not arguments.without_peer:
            python = peer_environment.make(work / "peer", ["transformers[serving]"])
            for batches in (True, False):
                peers.append(start(lambda b=batches: TransformersServe(python, folder, work, batches=b)))  # type: ignore[misc]
        taken = measure(sides, arguments.rounds, arguments.tokens)
        tell_goals(taken, engine, generate, peers)


if __name__ == "__main__":
    main()
