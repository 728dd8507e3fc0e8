"""``GET /metrics``: values that are read when somebody asks."""

import httpx
import pytest

from tests.support.gates import as_, gate
from worker.api.metrics import metrics_page, metrics_router
from worker.api.server import make_application


async def scrape(gauges, counters=None, accept="", who="viewer@controller"):
    transport = httpx.ASGITransport(make_application([metrics_router(gauges, gate(), counters)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://postbote") as client:
        return await client.get("/metrics", headers={"accept": accept, **as_(who)})


def lines_of(answer, prefix="postbote"):
    return [line for line in answer.text.splitlines() if prefix in line]


async def test_gauges_and_counters_are_told_with_their_descriptions():
    answer = await scrape({"postbote_depth": ("How deep", lambda: 3)}, {"postbote_sent_total": ("Sent", lambda: 7)})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert lines_of(answer) == [
        "# HELP postbote_depth How deep",
        "# TYPE postbote_depth gauge",
        "postbote_depth 3.0",
        "# HELP postbote_sent_total Sent",
        "# TYPE postbote_sent_total counter",
        "postbote_sent_total 7.0",
    ]


async def test_a_worker_without_an_api_tells_the_same():
    gauges = {"postbote_depth": ("How deep", lambda: 3)}
    page, answer = metrics_page(gauges)(), await scrape(gauges)
    assert (page.status, page.content_type) == (answer.status_code, answer.headers["content-type"])
    assert [line for line in page.body.decode().splitlines() if "postbote" in line] == lines_of(answer)


async def test_a_value_is_read_at_each_scrape_and_not_before():
    reads = iter([1, 2])
    gauges = {"postbote_depth": ("How deep", lambda: next(reads))}
    transport = httpx.ASGITransport(make_application([metrics_router(gauges, gate())]))
    headers = as_("viewer@controller")
    async with httpx.AsyncClient(transport=transport, base_url="http://postbote", headers=headers) as client:
        answers = [await client.get("/metrics") for _ in range(2)]
    assert [lines_of(answer)[-1] for answer in answers] == ["postbote_depth 1.0", "postbote_depth 2.0"]


def broken():
    raise ZeroDivisionError


@pytest.mark.parametrize("read", [lambda: None, broken], ids=["not known now", "cannot be read"])
async def test_a_value_that_is_not_there_is_left_out_and_the_others_are_told(read):
    answer = await scrape({"postbote_gone": ("Gone", read), "postbote_there": ("There", lambda: True)})
    assert answer.status_code == 200
    assert lines_of(answer, "postbote_gone ") == []
    assert "postbote_there 1.0" in answer.text


async def test_openmetrics_is_spoken_to_whoever_asks_for_it():
    answer = await scrape({"postbote_depth": ("How deep", lambda: 3)}, accept="application/openmetrics-text")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_the_process_is_measured_too():
    assert lines_of(await scrape({}), "process_resident_memory_bytes ")


def test_a_name_that_is_none_ends_the_start():
    with pytest.raises(ValueError, match="post bote"):
        metrics_router({"post bote": ("Wrong", lambda: 1)}, gate())


async def test_two_applications_have_their_own():
    assert "postbote_b" not in (await scrape({"postbote_a": ("A", lambda: 1)})).text


@pytest.mark.parametrize(
    ("who", "status"),
    [("admin@controller", 200), ("", 401), ("nobody", 401), ("admin@partner:acme", 404), ("admin@org:acme/dev", 404)],
)
async def test_what_a_process_does_is_the_controllers_to_know(who, status):
    read = []
    answer = await scrape({"postbote_depth": ("How deep", lambda: read.append(1) or 3)}, who=who)
    assert answer.status_code == status
    assert bool(read) is (status == 200)
