"""EleutherAI's lm-eval pointed at /v1 with a task of one's own: its score is what the answers deserve.

`bin/test -m peer`: its packages are installed into an environment of their own, so a package index must be reachable.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench import peer_environment
from tests.product import Product

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(900)]
QUESTIONS = [f"What is the {thing} for?" for thing in ("anchor", "rope", "mast", "sail", "rudder", "bell")]
RIGHT = 4
"""So many rows expect what the model answers, the others something else."""

TASK = """
task: harbour
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["<never>"], max_gen_toks: 12, temperature: 0, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def answer_of(client: httpx.Client, question: str) -> str:
    body = {"model": "tiny", "messages": [{"role": "user", "content": question}], "max_tokens": 12, "temperature": 0}
    answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    return str(answer["choices"][0]["message"]["content"])


def write_task(folder: Path, client: httpx.Client) -> None:
    rows: list[dict[str, Any]] = [{"question": text, "answer": answer_of(client, text)} for text in QUESTIONS]
    for row in rows[RIGHT:]:
        row["answer"] += " not"
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "harbour.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"))


def test_its_score_is_what_the_answers_deserve(product: Product, tmp_path: Path) -> None:
    with product.client("admin", timeout=300) as client:
        client.post("/api/models/set_active", json={"id": "tiny"}).raise_for_status()
        write_task(tmp_path, client)
    python = peer_environment.make(tmp_path / "peer", ["lm_eval[api]"])
    address = f"base_url={product.url}/v1/chat/completions,model=tiny,num_concurrent=2,tokenized_requests=False"
    command = [
        str(python), "-m", "lm_eval", "--model", "local-chat-completions", "--model_args", address,
        "--tasks", "harbour", "--include_path", str(tmp_path), "--apply_chat_template",
        "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    environment = {
        **product.environment, "OPENAI_API_KEY": product.keys["use"], "HF_HOME": str(tmp_path / "hf"),
        "HF_DATASETS_OFFLINE": "1",
    }  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (written,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(written.read_text())["results"]["harbour"]
    assert results["exact_match,none"] == pytest.approx(RIGHT / len(QUESTIONS))
