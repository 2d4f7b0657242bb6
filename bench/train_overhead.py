"""What the control plane costs a training: `python -m bench.train_overhead [--pairs 5] [--steps 40]`.

Interleaved pairs of the same fine-tune: a run under Pilothouse (web server, agent, supervisor, events, live topics),
and a bare script on transformers' Trainer. Printed: the ratio of steps a second (the batches are the same, so it is
that of tokens a second), and how much later the first point can be read than the bare script logs its first step.
Goals: ratio at least 0.97; first point at most 2 s later.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.machine import described, interval
from tests.product import CHECKOUT, Product, wait_for
from tests.tiny import build_tiny_model, write_style_dataset

WARM_UP_STEPS = 5
"""The first steps pay for caches and allocation in both; the rate is taken behind them."""


def build_model(folder: Path, layers: int, hidden: int) -> Path:
    """A Qwen3 of the wanted size with random weights and the tiny model's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    build_tiny_model(folder)
    config = AutoConfig.from_pretrained(folder)
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = layers, hidden, 3 * hidden
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = hidden // 64, hidden // 64, 64
    config.layer_types = None
    config.max_window_layers = layers
    AutoModelForCausalLM.from_config(type(config)(**{**config.to_dict(), "layer_types": None})).save_pretrained(folder)
    return folder


def rate(logged: list[float]) -> float:
    """Steps a second behind the warm-up."""
    kept = logged[WARM_UP_STEPS:]
    return (len(kept) - 1) / (kept[-1] - kept[0])


def bare(model: Path, rows: Path, steps: int, batch: int, threads: int) -> tuple[float, float]:
    """Steps a second and seconds to the first log line of the bare script."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "bench.bare_trainer", str(model), str(rows), str(steps), str(batch)]
    started = time.time()
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return rate(said["logged"]), said["logged"][0] - started


def piloted(product: Product, dataset: int, steps: int, batch: int, threads: int) -> tuple[float, float]:
    """Steps a second, and seconds from the request to the first point that the API answers."""
    config: dict[str, Any] = {
        "hyperparams": {"max_steps": steps, "per_device_train_batch_size": batch, "precision": "fp32"},
        "data": {"shuffle": False, "length_grouping": False, "eval_fraction": 0},
        "monitoring": {"eval_steps": 10**6},
        "output": {"save_steps": 10**6},
        "environment": {"cpu_threads": threads, "nice": 0},
    }
    with product.client("use") as client:
        started = time.time()
        body = {"name": "overhead", "dataset": dataset, "model": "tiny", "config": config}
        run = client.post("/api/runs", json=body).raise_for_status().json()

        def first_point() -> float | None:
            series = client.get(f"/api/runs/{run['id']}/metrics", params={"keys": "loss"}).json()["series"]
            return time.time() if series.get("loss", {}).get("step") else None

        shown = wait_for("the first point", first_point, 120) - started
    # Asking the server all the time would take the processor away from what is measured.
    ended = product.attempt_folder(run["job_id"]) / "exit.json"
    wait_for("the run's end", ended.exists, 600)
    product.wait_for_run(run["id"])
    lines = (product.attempt_folder(run["job_id"]) / "events.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, lines) if event["kind"] == "metrics"]
    return rate([event["time"] for event in events if "loss" in event["values"]]), shown


def main() -> None:
    """Runs the pairs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    print(described())
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        folder = Path(scratch)
        model = build_model(folder / "model", given.layers, given.hidden)
        rows = write_style_dataset(folder / "rows.jsonl", rows=given.steps * given.batch, seed=5)
        product = Product(folder / "product", model)
        try:
            product.start()
            dataset = product.upload(rows, "overhead")["id"]
            pairs = []
            for number in range(given.pairs):
                ours = piloted(product, dataset, given.steps, given.batch, given.threads)
                theirs = bare(model, rows, given.steps, given.batch, given.threads)
                pairs.append((ours, theirs))
                print(f"pair {number + 1}: {ours[0]:.3f} against {theirs[0]:.3f} steps/s; "
                      f"first point {ours[1]:.2f} s against {theirs[1]:.2f} s", flush=True)  # fmt: skip
        finally:
            product.close()
    ratios = [ours[0] / theirs[0] for ours, theirs in pairs]
    later = [ours[1] - theirs[1] for ours, theirs in pairs]
    low, high = interval(ratios)
    print(f"throughput ratio: median {statistics.median(ratios):.3f} (95 % {low:.3f} to {high:.3f}); goal >= 0.97")
    print(f"first point later by: median {statistics.median(later):.2f} s (of {min(later):.2f} to {max(later):.2f}); "
          "goal <= 2 s")  # fmt: skip


if __name__ == "__main__":
    main()
