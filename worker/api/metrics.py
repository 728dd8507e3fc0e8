"""``GET /metrics``: what a process can be measured by, in Prometheus' text form or OpenMetrics.

Values are pulled: each is read when somebody asks, by a function of whoever owns it, so that
counting costs the mail nothing. The registry is this endpoint's own; nothing is global.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from schemas.smtp_config import ScopeLevel
from worker.api.plain import Page

if TYPE_CHECKING:  # a worker without an API does without FastAPI, too
    from fastapi import APIRouter

    from worker.api.auth import Gate

log = structlog.get_logger(__name__)

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z", re.ASCII)

Readings = Mapping[str, tuple[str, Callable[[], float | None]]]
"""By metric name: its description, and how its value is read now; None leaves it out of this answer."""


def metrics_router(gauges: Readings, gate: "Gate", counters: Readings | None = None) -> "APIRouter":
    """Build the endpoint over what goes up and down and what only goes up (names end in ``_total``).

    For the controller's principals only, which Prometheus is one of by a token (``authorization`` in its
    scrape config).

    The process's own CPU, memory and descriptors are there, too. Raises ValueError for a name that
    needs quotes in Prometheus' queries.
    """
    from fastapi import APIRouter, Depends, Request, Response

    from worker.api.described import WITH_PRINCIPAL, problems

    registry = _registry(gauges, counters or {})
    # What a process does is whoever runs it's to know; to tenants the page does not exist.
    router = APIRouter(tags=["health"], dependencies=[Depends(gate.at(ScopeLevel.CONTROLLER))])

    @router.get(
        "/metrics",
        summary="Measurements for Prometheus, for the controller",
        response_class=Response,
        responses=problems(404, *WITH_PRINCIPAL),
    )
    async def metrics(request: Request) -> Response:
        # The media type says which text form the asker reads.
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return router


def metrics_page(gauges: Readings) -> Callable[[], Page]:
    """The same as a page of a worker without an API, always in Prometheus' text form."""
    registry = _registry(gauges, {})
    encode, content_type = choose_encoder("")
    return lambda: Page(200, encode(registry), content_type)


def _registry(gauges: Readings, counters: Readings) -> CollectorRegistry:
    wrong = [name for name in (*gauges, *counters) if not _NAME.match(name)]
    if wrong:
        raise ValueError(f"not a metric's name: {wrong[0]!r}")
    registry = CollectorRegistry()
    registry.register(_Pulled(gauges, counters))
    ProcessCollector(registry=registry)
    return registry


class _Pulled(Collector):
    """Reads every value when it is collected."""

    def __init__(self, gauges: Readings, counters: Readings) -> None:
        self._read: list[tuple[Callable[..., Any], str, str, Callable[[], float | None]]] = [
            *((GaugeMetricFamily, name, text, read) for name, (text, read) in gauges.items()),
            *((CounterMetricFamily, name, text, read) for name, (text, read) in counters.items()),
        ]

    def describe(self) -> Iterable[Metric]:
        """The metrics without their values: registering asks, and must not read any."""
        return [family(name, text) for family, name, text, _ in self._read]

    def collect(self) -> Iterable[Metric]:
        """The metrics whose value is known now."""
        for family, name, text, read in self._read:
            try:
                value = read()
            except Exception:
                log.exception("a metric cannot be read", metric=name)
                continue
            if value is not None:
                yield family(name, text, value=float(value))
