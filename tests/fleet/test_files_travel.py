"""On a real cluster of two nodes with a home each: trained on the second and served on the first; served there too."""

from pathlib import Path

import pytest

from tests.fleet.cluster import Cluster
from tests.tiny import write_style_dataset
from tests.travelled import CONFIG, check_library, check_served_here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_trained_on_the_second_node_and_served_on_the_first(fleet: Cluster, tmp_path: Path) -> None:
    product = fleet.web
    ((second,),) = product.rows("SELECT name FROM controlplane_host WHERE carrier = 'ray'")
    dataset = product.upload(write_style_dataset(tmp_path / "style.jsonl", rows=20, seed=11), "for the second node")
    config = {**CONFIG, "environment": {"host": second}}
    run = product.create_run("on the second node", dataset["id"], config)
    done = product.wait_for_run(run["id"], timeout_seconds=300)
    check_library(product, fleet.second.home, run["id"], done["result_model"])
    check_served_here(product, done["result_model"])
    with product.client("admin", timeout=200) as client:
        there = client.post("/api/models/set_active", json={"id": "tiny", "host": second})
        assert there.status_code == 200, there.text
        held = client.get(f"/api/hosts/{second}/files").json()
        assert "tiny" in {copy["title"] for copy in held["copies"]}
        asked = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "What is the anchor for?"}]}
        assert client.post("/v1/chat/completions", json=asked).status_code == 200
