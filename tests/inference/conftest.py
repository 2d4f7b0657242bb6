"""The taught model, one engine in this process and one serve job for the whole session."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from inference.engine.llama_cpp import LlamaCppEngine
from inference.engine.llama_loading import LlamaSettings, load_llama
from inference.engine.loading import LoadedModel, load_model
from inference.engine.rolling import RollingEngine
from inference.engine.transformers import TransformersEngine
from inference.processors import ProcessorFactory
from monitoring.events import Artefact
from tests.inference.exports import export, reloaded
from tests.inference.models import build_adapters, build_taught_model
from tests.inference.serving import MODEL_NAME, TOKEN, ServeJob

MAX_BATCH = 4
MakeEngine = Callable[..., RollingEngine[Any]]
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
def adapter_folders(taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of the taught model, by their names."""
    return build_adapters(taught_model, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="session")
def loaded(taught_model: Path) -> LoadedModel:
    """The taught model, loaded in this process."""
    return load_model(Artefact("taught", str(taught_model)), None, dtype="float32", cpu_threads=1)


@pytest.fixture(params=["transformers", "llama_cpp"])
def make_engine(request: pytest.FixtureRequest, loaded: LoadedModel) -> Iterator[MakeEngine]:
    """Makes engines of each kind on the taught model, and closes them."""
    made: list[RollingEngine[Any]] = []

    def make(factories: Sequence[ProcessorFactory] = (), **settings: Any) -> RollingEngine[Any]:
        if request.param == "transformers":
            made.append(TransformersEngine(loaded, factories, **settings))
        else:
            made.append(LlamaCppEngine(reloaded(source, settings["max_batch"]), factories, **settings))
        return made[-1]

    source: Any = request.getfixturevalue("exported") if request.param == "llama_cpp" else None
    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def engine(make_engine: MakeEngine) -> RollingEngine[Any]:
    """An engine of four rows without processors."""
    return make_engine(max_batch=MAX_BATCH, max_queue=64)


@pytest.fixture
def transformers_engine(loaded: LoadedModel) -> Iterator[TransformersEngine]:
    """The same, of one kind."""
    engine = TransformersEngine(loaded, [], max_batch=MAX_BATCH, max_queue=64)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def exported(taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """The taught model as a GGUF file of float32, in llama.cpp, with keys and values of float32."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python (the extra llama_cpp) is not installed")
    folder = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(taught_model, folder)
    export(folder, "F32")
    settings = LlamaSettings("F32", "float32", "cpu", max_batch=MAX_BATCH, max_model_length=0, cpu_threads=1)
    return load_llama(Artefact("taught", str(folder)), None, settings)


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
