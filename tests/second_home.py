"""A second host of a running product: another home on this machine with an agent of its own, which the product knows.

with second_home(product, folder) as home:
    product.create_run("there", dataset, {"environment": {"host": SECOND}})
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from controlplane.fleet.local import LocalCarrier, ensure_agent
from monitoring.home_id import home_id
from tests.product import Product

SECOND = "second"
ADD = "from controlplane.models import Host; Host.objects.create(name={name!r}, home_id={id!r}, facts={facts!r})"


@contextmanager
def second_home(product: Product, home: Path) -> Iterator[Path]:
    """The home; its agent and whatever it runs end with the block."""
    facts = ensure_agent(home)
    try:
        product.manage("shell", "-c", ADD.format(name=SECOND, id=home_id(home), facts=dict(facts)))
        yield home
    finally:
        ensure_agent(home)
        carrier = LocalCarrier(home)
        carrier.stop_all(20.0)
        carrier.shutdown()


def kill_agent(home: Path) -> None:
    """SIGKILL to the agent of a home; it is gone afterwards."""
    process = psutil.Process(int((home / "agent.lock").read_text()))
    process.kill()
    process.wait(30)
