"""A run on a host with a home that the library's can't read: both sides are killed in mid-copy, and all comes home."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.fleet.local import ensure_agent
from tests.product import Product, wait_for
from tests.second_home import SECOND, kill_agent, second_home
from tests.tiny import write_style_dataset
from tests.travelled import CONFIG, check_library

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PADDING_BYTES = 128 << 20


@pytest.fixture
def second(own_product: Product, tmp_path: Path) -> Iterator[Path]:
    """The other host's home."""
    with second_home(own_product, tmp_path / "second" / "home") as home:
        yield home


def moving(product: Product) -> list[tuple[Any, ...]]:
    """The dataset's transfers: id and state."""
    return product.rows("SELECT id, state FROM controlplane_transfer WHERE item_kind = 'dataset'")


def test_a_run_on_another_host_though_both_sides_were_killed_in_mid_copy(
    own_product: Product, second: Path, tmp_path: Path
) -> None:
    product = own_product
    dataset = product.upload(write_style_dataset(tmp_path / "style.jsonl", rows=20, seed=7), "style")
    folder = product.home / "datasets" / dataset["sha256"]
    with (folder / "padding.bin").open("wb") as padding:
        padding.truncate(PADDING_BYTES)
    run = product.create_run("there", dataset["id"], {**CONFIG, "environment": {"host": SECOND}})

    staged = second / "tmp" / "incoming" / f"dataset-{dataset['sha256']}" / "files" / "padding.bin"
    wait_for("half of a copy", lambda: staged.exists() and staged.stat().st_size > PADDING_BYTES // 8)
    product.kill_web()
    kill_agent(second)
    inode, held = staged.stat().st_ino, staged.stat().st_size
    assert held < PADDING_BYTES, "it was killed in the middle"
    ensure_agent(second)
    product.start_web()

    done = product.wait_for_run(run["id"], timeout_seconds=300)
    arrived = second / "datasets" / dataset["sha256"] / "padding.bin"
    assert arrived.stat().st_ino == inode, "it went on behind what was there; nothing was sent twice"
    assert [state for _, state in moving(product)] == ["done"]
    spec = (second / "jobs" / str(run["job_id"]) / "attempts" / "1" / "spec.json").read_text()
    assert str(product.home) not in spec
    check_library(product, second, run["id"], done["result_model"])
