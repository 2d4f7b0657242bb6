"""The fleet and a host's page: every reading in words, whose memory it is, and who may end what nobody owns."""

import json
import re
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from controlplane.fleet.protocol import AgentRefusedError, EndAnswer
from controlplane.models import Host
from controlplane.models.access import SYSTEM
from controlplane.pages import gpu_details, instruments
from controlplane.services import gpu_processes, settings
from tests.controlplane.hosts import EndingAgent
from tests.controlplane.page_reading import Page, read
from tests.factories import client_of, gpu_process, make_gpu, make_host, make_job, make_run

pytestmark = pytest.mark.django_db
UUID = "GPU-00000001"


def page_of(role: str, path: str) -> Page:
    response = client_of(role).get(path)
    assert response.status_code == 200
    page = Page(response.content.decode())
    assert not page.refused
    assert not page.unbalanced
    return page


@pytest.fixture
def run_id(home: object) -> int:
    return make_run("the run", status="running").pk


@pytest.fixture
def tower(run_id: int) -> Host:
    """A host with a GPU that a run, something left over and a stranger share."""
    from controlplane.models import Run

    job_id = Run.objects.get(pk=run_id).job_id
    host = make_host("tower")
    processes = [
        gpu_process(300, job_id=job_id, is_ours=True), gpu_process(200, is_ours=True),
        gpu_process(400, command="blender", user="anna"), gpu_process(500, start_ticks=None),
    ]  # fmt: skip
    make_gpu(host, uuid=UUID, processes=processes, throttle_reasons=["sw_power_cap", "something_new"], pcie_width=8)
    return host


def rows(page: Page) -> dict[str, str]:
    """The lines of the GPU's readings."""
    names = [item.text for item in page.all("dt")]
    values = [" ".join(item.text.split()) for item in page.all("dd")]
    return dict(zip(names, values, strict=True))


@pytest.mark.usefixtures("tower")
def test_every_reading_of_a_gpu_is_told_in_words() -> None:
    told = rows(page_of("read", "/hosts/tower/"))
    assert told["SM clock"] == "1,695 of 2,100 MHz"
    assert told["memory clock"] == "9,501 of 9,751 MHz"
    assert told["held down by"] == "the power limit, something_new"
    assert told["performance state"] == "P2"
    assert told["PCIe link"] == "gen 4 ×8 of gen 4 ×16"
    assert told["PCIe traffic"] == "0 B/s out, 0 B/s in"
    assert told["ECC"] == "not supported"
    assert told["power range"] == "100 to 366 W, by default 350 W"
    assert told["UUID"] == UUID
    assert told["swap"] == "0.0 of 2 GiB"
    assert told["eth0"] == "12.0 kB/s in, 3.4 kB/s out"
    assert told["Package id 0"] == "48 °C"
    assert told["clock"] == "synchronised"


@pytest.mark.parametrize(
    ("reading", "label", "text"),
    [
        ({"throttle_reasons": []}, "held down by", "nothing"),
        ({"throttle_reasons": None}, "held down by", "–"),
        ({"clock_sm_mhz": None}, "SM clock", "–"),
        ({"clock_sm_mhz": None, "unsupported": ["clock_sm_mhz"]}, "SM clock", "not supported"),
        ({"clock_sm_max_mhz": None}, "SM clock", "1,695 MHz"),
        ({"fan_speed_percent": None, "unsupported": ["fan_speed_percent"]}, "fan", "not supported"),
        ({"fan_speed_percent": 0}, "fan", "0 %"),
        ({"pcie_width_max": None}, "PCIe link", "gen 4 ×16"),
        ({"ecc_enabled": False, "unsupported": []}, "ECC", "off"),
        ({"ecc_enabled": True, "ecc_corrected_count": 3, "ecc_uncorrected_count": 0, "unsupported": []}, "ECC",
         "on, 3 corrected, 0 uncorrected"),
        ({"ecc_enabled": True, "ecc_uncorrected_count": 2, "unsupported": []}, "ECC", "on, – corrected, 2 uncorrected"),
        ({"power_limit_min_watts": None, "unsupported": ["power_limit_min_watts"]}, "power range", "not supported"),
        ({"pcie_sent_bytes_per_second": 2_500_000}, "PCIe traffic", "2.5 MB/s out, 0 B/s in"),
    ],
)  # fmt: skip
def test_a_reading_that_is_not_there_is_no_zero(reading: dict[str, Any], label: str, text: str) -> None:
    gpu = make_gpu(**reading)
    value = next(row.value for row in gpu_details.rows(gpu.reading) if row.label == label)
    assert " ".join("".join(Page(f"<p>{value}</p>").one("p").text).split()) == text


def test_the_process_table_names_each_owner(tower: Host, run_id: int) -> None:
    page = page_of("admin", "/hosts/tower/")
    table = {int(row.get("data-pid")): " ".join(row.text.split()) for row in page.all("tr") if row.get("data-pid")}
    assert list(table) == [500, 400, 300, 200]
    assert f"run {run_id}" in table[300]
    assert any(link.get("href") == f"/runs/{run_id}/" for link in page.all("a"))
    assert "nobody" in table[400]
    assert "anna" in table[400]
    assert "nobody" not in table[300]


def cells(page: Page) -> dict[str, str]:
    """The first line of the process table by its labels."""
    row = next(row for row in page.all("tr") if row.get("data-pid"))
    found = {cell.get("data-label"): " ".join(cell.text.split()) for cell in page.all("td")[: len(page.all("th"))]}
    assert row
    return {str(label): text for label, text in found.items() if label}


def test_the_process_table_tells_what_each_uses() -> None:
    host = make_host("tower")
    make_gpu(host, processes=[gpu_process(300, command="python -m training train /jobs/1/spec.json")])
    shown = cells(page_of("read", "/hosts/tower/"))
    assert shown["GPU memory"] == "0.3 GiB"
    assert (shown["GPU %"], shown["CPU %"], shown["host memory"]) == ("61 %", "104 %", "3.0 GiB")
    assert shown["command"] == "python -m training train /jobs/1/spec.json"


def test_what_a_process_uses_is_not_0_where_nobody_tells() -> None:
    host = make_host("tower")
    unknown = {"utilization_sm_percent": None, "cpu_percent": None, "rss_bytes": None}
    gpu = make_gpu(host, processes=[gpu_process(300, **unknown)], unsupported=["processes.utilization_sm_percent"])
    shown = cells(page_of("read", "/hosts/tower/"))
    assert (shown["GPU %"], shown["CPU %"], shown["host memory"]) == ("not supported", "–", "–")
    for name in unknown:  # as an agent of an older version has it
        del gpu.reading["processes"][0][name]
    gpu.reading["unsupported"] = []
    gpu.save()
    shown = cells(page_of("read", "/hosts/tower/"))
    assert (shown["GPU %"], shown["CPU %"], shown["host memory"]) == ("–", "–", "–")


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize("path", ["/hosts/tower/", "/hosts/", "/"])
def test_what_nobody_owns_has_a_button_for_admins_alone(path: str) -> None:
    page = page_of("admin", path)
    assert page.all("input", name="pid", value="200")
    stranger = page.all("button", data_pid="400")
    assert stranger
    assert all(button.get("data-open") == "end-process" for button in stranger)
    assert "required" in page.one("input", name="others").attributes
    assert not page.all("input", value="400")
    assert not page.all("input", value="300")
    for role in ("read", "use"):
        page = page_of(role, path)
        assert not page.all("button", data_pid="400")
        assert not page.all("input", name="pid")


def test_what_is_not_known_of_memory_is_neither_none_nor_zero() -> None:
    host = make_host("unknown")
    make_gpu(host, 0, memory_used_bytes=None, processes=[gpu_process(77, memory_used_bytes=None)])
    make_gpu(host, 1, memory_used_bytes=None, memory_total_bytes=None)
    make_gpu(host, 2, memory_used_bytes=6 << 30, unsupported=["processes"])
    make_gpu(host, 3, memory_used_bytes=0)
    client = client_of("admin")
    cards = [read(client.get(f"/hosts/unknown/gpus/{index}")).one("section") for index in range(4)]
    told = [re.sub(r"\s+", " ", card.text) for card in cards]
    assert "python (pid 77) · size not known" in told[0]
    assert "0.0 GiB" not in told[0]
    assert "memory in use: not known" in told[1]
    assert "driver and others · 6.0 GiB" in told[2]
    assert [index for index in range(4) if "no memory in use" in told[index]] == [3]
    owner = instruments.gpu_card(host, host.gpus.get(index=0)).owners[0]
    assert (owner.bytes, owner.share) == (None, 0.0)


def test_nobody_is_said_to_hold_nothing_where_that_is_not_known() -> None:
    client, words = client_of("admin"), "Nothing holds memory of the GPUs."
    host = make_host("tells", gpus=1)
    assert words in client.get("/hosts/tells/details").content.decode()
    make_gpu(host, 1, unsupported=["processes"])
    make_gpu(host, 2, fault="GPU 2 can't be read: GPU is lost.")
    told = [line.text for line in read(client.get("/hosts/tells/details")).all("p", class_="muted")]
    assert told == [
        "GPU 1 doesn't tell which processes hold its memory.",
        "Who holds memory of GPU 2 isn't known: GPU 2 can't be read: GPU is lost.",
    ]


@pytest.mark.usefixtures("tower")
def test_a_process_that_the_agent_cannot_see_is_not_to_be_ended_here() -> None:
    page = page_of("admin", "/hosts/tower/")
    assert any("can't see this process" in button.get("title") for button in page.all("button", disabled=""))


@pytest.mark.usefixtures("tower")
def test_a_card_has_three_sparklines_that_the_history_fills() -> None:
    page = page_of("read", "/hosts/")
    names = [spark.get("data-spark") for spark in page.all("svg") if spark.get("data-spark").startswith(UUID)]
    assert names == [
        f"{UUID}/{name}" for name in ("temperature_celsius", "power_draw_watts", "utilization_gpu_percent")
    ]
    assert page.one("section", data_gpu=UUID).get("data-history") == "/api/hosts/tower/history"


@pytest.mark.usefixtures("tower")
def test_the_host_page_has_charts_of_the_gpus_and_of_the_machine() -> None:
    page = page_of("read", "/hosts/tower/")
    asked = [json.loads(chart.get("data-series")) for chart in page.elements if "history-chart" in chart.get("class")]
    assert [f"{UUID}/power_draw_watts", "GPU 0", False] in asked[0]
    assert [f"{UUID}/power_limit_watts", "limit of GPU 0", True] in asked[0]
    assert len(asked) == 10
    make_host("dinghy")
    page = page_of("read", "/hosts/dinghy/")
    assert len([chart for chart in page.elements if "history-chart" in chart.get("class")]) == 4


def test_a_driver_that_does_not_answer_is_said_with_its_time() -> None:
    host = make_host("tower", gpus=1)
    since = timezone.now().timestamp() - 600
    host.reading = {**host.reading, "gpu_fault": "NVML hangs.", "gpu_fault_since": since}
    host.save()
    page = page_of("read", "/hosts/tower/")
    local = timezone.localtime(timezone.now()).fromtimestamp(since, timezone.get_current_timezone())
    said = f"The driver is not answering since {local:%H:%M:%S}. NVML hangs."
    assert page.by_id("main").text.count(said) == 1
    host.reading = {**host.reading, "gpus": []}
    host.save()
    for path in ("/hosts/tower/", "/hosts/"):
        text = page_of("read", path).by_id("main").text
        assert text.count(said) == 1
        assert "No GPU on this host" not in text
    host.reading = {**host.reading, "gpu_fault": None, "gpu_fault_since": None}
    host.save()
    assert "No GPU on this host" in page_of("read", "/hosts/").by_id("main").text


def test_more_cards_with_jobs_take_no_more_queries(run_id: int) -> None:
    admin, counts = client_of("admin"), []
    admin.get("/hosts/")
    for name, count in (("one", 1), ("eight", 8)):
        host = make_host(name)
        for index in range(count):
            job = make_job("eval", "running", host=host)
            make_gpu(host, index, processes=[gpu_process(100 + index, job_id=job.pk, is_ours=True)])
        with CaptureQueriesContext(connection) as queries:
            assert b"eval job" in admin.get(f"/hosts/{name}/").content
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_a_card_that_was_replaced_is_shown_as_the_new_one() -> None:
    host = make_host("tower", gpus=1)
    old = host.gpus.get().uuid
    host.reading = {**host.reading, "gpus": []}
    host.save()
    make_gpu(host, 0, uuid="GPU-new", name="NEW CARD")
    answer = client_of("admin").get("/hosts/tower/gpus/0")
    assert answer.status_code == 200
    assert b"NEW CARD" in answer.content
    assert old.encode() not in answer.content


@pytest.mark.parametrize(
    ("skew", "words", "amber"),
    [(0.02, "in step with the web server's", False), (-1.5, "1.5 s behind the web server's", False),
     (2.4, "2.4 s ahead of the web server's", True), (-3700.0, "1 h 1 min behind the web server's", True)],
)  # fmt: skip
def test_a_clock_that_is_off_is_said_in_amber(skew: float, words: str, amber: bool) -> None:
    make_host("tower", clock_skew_seconds=skew)
    page = page_of("read", "/hosts/tower/")
    assert words in rows(page)["clock"]
    notice = next(item for item in page.all("p") if "data-skew-notice" in item.attributes)
    assert ("hidden" in notice.attributes) is not amber


def test_from_when_on_a_clock_is_off_is_a_setting() -> None:
    settings.put(SYSTEM, "hosts.max_clock_skew_seconds", 5)
    make_host("tower", clock_skew_seconds=4)
    page = page_of("read", "/hosts/tower/")
    assert "hidden" in next(item for item in page.all("p") if "data-skew-notice" in item.attributes).attributes


@pytest.mark.usefixtures("tower")
def test_the_page_stands_on_the_signature_that_its_script_compares() -> None:
    page = page_of("read", "/hosts/tower/details")
    host = Host.objects.get(name="tower")
    shown = next(item.get("data-signature") for item in page.elements if "data-signature" in item.attributes)
    assert shown == instruments.signature(host.reading)
    moved = json.loads(json.dumps(host.reading))
    moved["gpus"][0] |= {"clock_sm_mhz": 5, "throttle_reasons": [], "temperature_celsius": 99}
    assert instruments.signature(moved) == shown
    moved["gpus"][0]["processes"].pop()
    assert instruments.signature(moved) != shown


# --- Ending ---


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> EndingAgent:
    stand_in = EndingAgent()
    monkeypatch.setattr(gpu_processes, "carrier", lambda _host: stand_in)
    return stand_in


def end(role: str = "admin", **fields: str) -> Any:
    body = {"pid": "200", "start_ticks": "1200", "boot_id": "boot", **fields}
    return client_of(role).post("/hosts/tower/processes/end", body, headers={"HX-Request": "true"})


@pytest.mark.usefixtures("tower")
def test_the_button_ends_ours_and_says_so_in_its_place(agent: EndingAgent) -> None:
    answer = end()
    assert (answer.status_code, Page(answer.content.decode()).one("span", role="status").text) == (200, "ended")
    assert agent.asked == [(200, 1200, "boot", False)]


@pytest.mark.usefixtures("tower")
def test_the_dialog_says_on_the_next_page_what_came_of_it(agent: EndingAgent) -> None:
    agent.answer = EndAnswer(ended=False, reason="It lives on.")
    client = client_of("admin")
    body = {"pid": "400", "start_ticks": "1400", "boot_id": "boot", "others": "yes"}
    page = Page(client.post("/hosts/tower/processes/end", body, follow=True).content.decode())
    assert "Process 400 (blender) on tower: It lives on." in page.by_id("messages").text
    assert agent.asked == [(400, 1400, "boot", True)]


@pytest.mark.usefixtures("tower")
def test_a_refusal_is_a_sentence_beside_the_button(agent: EndingAgent) -> None:
    agent.answer = AgentRefusedError("other_process", "The number 200 is another process's by now.", "Reload the list.")
    answer = end()
    assert answer.status_code == 409
    assert answer.content.decode() == "The number 200 is another process's by now. Reload the list."


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize("fields", [{"pid": "-1"}, {"pid": "1"}, {"pid": ""}, {"start_ticks": "None"}])
def test_a_process_that_is_not_named_rightly_is_not_ended(agent: EndingAgent, fields: dict[str, str]) -> None:
    assert end(**fields).status_code == 422
    assert agent.asked == []


@pytest.mark.usefixtures("tower")
def test_only_admins_end_processes(agent: EndingAgent) -> None:
    assert end("use").status_code == 403
    assert agent.asked == []
