"""A pytest plugin, loaded before Django's settings are: every test run has a home of its own and needs no network.

PILOTHOUSE_TEST_POSTGRES=yes gives it a PostgreSQL of its own too, in place of SQLite (`bin/test --postgres`).
"""

import atexit
import os
import shutil
import tempfile

_home = tempfile.mkdtemp(prefix="pilothouse-tests-")
os.environ["PILOTHOUSE_HOME"] = _home
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests share the cores; threads would wait for each other
os.environ.pop("HF_TOKEN", None)
for name in ("DATABASE_URL", "REDIS_URL"):
    os.environ.pop(name, None)
atexit.register(shutil.rmtree, _home, ignore_errors=True)

if os.environ.get("PILOTHOUSE_TEST_POSTGRES") == "yes":
    from tests.servers import PostgresServer

    _server = PostgresServer()
    atexit.register(_server.close)
    _server.start()
    os.environ["DATABASE_URL"] = _server.url("pilothouse")
