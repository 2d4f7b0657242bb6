"""The taught model, one engine in this process and one serve job for the whole session."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest
import torch

from inference.engine.loading import LoadedModel, load_model
from inference.engine.transformers import TransformersEngine
from monitoring.events import Artefact
from tests.inference.models import build_taught_model
from tests.inference.serving import MODEL_NAME, TOKEN, ServeJob

MAX_BATCH = 4
MAX_QUEUE = 3


@pytest.fixture(scope="session")
def taught_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that knows the answers of CHATS."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return build_taught_model(tmp_path_factory.mktemp("taught"))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def loaded(taught_model: Path) -> LoadedModel:
    """The taught model, loaded in this process."""
    return load_model(Artefact("taught", str(taught_model)), None, dtype="float32", cpu_threads=1)


@pytest.fixture
def engine(loaded: LoadedModel) -> Iterator[TransformersEngine]:
    """An engine of four rows without processors."""
    engine = TransformersEngine(loaded, [], max_batch=MAX_BATCH, max_queue=64)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def generate(loaded: LoadedModel) -> Callable[[list[int], int], list[int]]:
    """What the library's `generate` makes of a prompt, greedy and alone: the new token ids."""

    def run(prompt: list[int], max_tokens: int) -> list[int]:
        with torch.inference_mode():
            row = loaded.model.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=max_tokens,
                do_sample=False,
            )[0]  # fmt: skip
        new: list[int] = row[len(prompt) :].tolist()
        return new

    return run


@pytest.fixture(scope="session")
def job(taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeJob]:
    """A serve job for every test that speaks HTTP: four rows, a queue of three."""
    config = {"max_batch": MAX_BATCH, "max_queue": MAX_QUEUE, "dtype": "float32"}
    job = ServeJob.start(tmp_path_factory.mktemp("serve"), taught_model, config)
    yield job
    job.stop()


@pytest.fixture
def http(job: ServeJob) -> Iterator[httpx.Client]:
    """A plain HTTP client with the token."""
    with job.client() as client:
        yield client


@pytest.fixture
def client(job: ServeJob) -> Iterator[openai.OpenAI]:
    """The official client, which knows nothing of us."""
    with openai.OpenAI(base_url=f"{job.url()}/v1", api_key=TOKEN, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def model_name() -> str:
    """The name that the job serves the model under."""
    return MODEL_NAME
