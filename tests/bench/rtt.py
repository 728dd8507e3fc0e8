"""Far servers: what one connection carries when each round trip takes 10, 50 or 100 ms.

`tests.bench.proxy` delays both directions. Round trips per message are the time between the first
and the last 250, over the mails in between, over the round-trip time that NOOP shows through the
same proxy. One connection for everybody: what counts is what the dialogue makes of the distance.
"""

import smtplib
import statistics
import time
from dataclasses import dataclass
from typing import ClassVar

from tests.bench.contenders import Contender, Site
from tests.bench.events import write_batch
from tests.bench.measure import running
from tests.bench.sinks import TimedSink

RTTS_MS = (10, 50, 100)
PINGS = 10
WARM_UP = 5
# A lockstep client takes five round trips a mail: bound its time, not the mails.
LOCKSTEP_S = 12.0


@dataclass(frozen=True)
class FarResult:
    """One connection over one distance; `round_trips` per message."""

    HEADERS: ClassVar = ("", "RTT ms", "measured RTT ms", "mails", "mails/s", "round trips a mail")

    name: str
    rtt_ms: int
    measured_ms: float
    mails: int
    mails_per_s: float
    round_trips: float

    def cells(self) -> tuple[str, ...]:
        """A row under `HEADERS`."""
        return (
            self.name,
            str(self.rtt_ms),
            f"{self.measured_ms:.1f}",
            str(self.mails),
            f"{self.mails_per_s:.1f}",
            f"{self.round_trips:.2f}",
        )


def measure_far(contender: Contender, site: Site, sink: TimedSink, *, rtt_ms: int, run: str) -> FarResult:
    """Send over `site`, whose port is the proxy's, and read the times at the sink."""
    measured_ms = _ping_ms(site.sink_port)
    mails = int(LOCKSTEP_S / (5 * rtt_ms / 1000))
    with running(contender, site, sink, warm_up=WARM_UP) as worker:
        worker.fill(write_batch(site.folder, run, mails))
        worker.drain(mails)
    moments = sorted(at for at, _ in sink.answers(run))
    seconds = (moments[-1] - moments[0]) / 1e9 if len(moments) > 1 else float("inf")
    each_s = seconds / max(len(moments) - 1, 1)
    return FarResult(contender.name, rtt_ms, measured_ms, len(moments), 1 / each_s, each_s * 1000 / measured_ms)


def _ping_ms(port: int) -> float:
    """The median time of NOOP."""
    with smtplib.SMTP("127.0.0.1", port, local_hostname="bench", timeout=30) as client:
        client.ehlo()
        times = []
        for _ in range(PINGS):
            began = time.perf_counter()
            client.noop()
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)
