"""`python -m tests.chaos`: run the scenarios, print one table, write build/chaos.json.

Exit code 1 where anything was lost, mailed twice without excuse or without its flag, or where the
SMTP server and the audit disagree. The seed is printed; with it the same faults come in the same order.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.chaos import report
from tests.chaos.count import WINDOW_S
from tests.chaos.driver import DRAIN_S, Result, Run, run_scenario
from tests.chaos.scenarios import BY_NAME, SCENARIOS, Scenario
from tests.chaos.world import Servers
from tests.services import opensearch, rabbitmq, sessions
from tests.services.ways import ServiceUnavailable

_LONG_DRAIN_S = 300.0


@contextmanager
def servers() -> Iterator[Servers]:
    """Start RabbitMQ and OpenSearch side by side; both end with this process."""
    session = sessions.current()
    broker, search = rabbitmq.broker(session), opensearch.server(session)
    with ThreadPoolExecutor() as pool:
        for started in [pool.submit(broker.start), pool.submit(search.start)]:
            started.result()
    yield Servers(broker, search)


def planned(scenario: Scenario, arguments: argparse.Namespace) -> Run:
    """How much of it these arguments ask for."""
    long = arguments.long
    return Run(
        seed=arguments.seed,
        events=arguments.events or (scenario.long_events if long else scenario.events),
        steps=arguments.steps or (scenario.long_steps if long else scenario.steps),
        drain_s=_LONG_DRAIN_S if long else DRAIN_S,
        window_s=arguments.window_ms / 1000,
        logs=arguments.logs,
    )


def run_all(chosen: Sequence[Scenario], arguments: argparse.Namespace) -> list[Result]:
    """Run them one after the other; what is finished is written at once."""
    results: list[Result] = []
    with servers() as shared:
        for scenario in chosen:
            plan = planned(scenario, arguments)
            print(
                f"{time.strftime('%H:%M:%S')} {scenario.name}: {plan.events:,} events, {plan.steps} steps", flush=True
            )
            shape = replace(scenario.shape, defect=arguments.defect, watch=arguments.watch)
            results.append(asyncio.run(run_scenario(shared, replace(scenario, shape=shape), plan)))
            report.write_json(results, report.BUILD / "chaos.json")
            report.write_stories(results, report.BUILD / "chaos-stories")
    return results


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--long", action="store_true", help="10,000 events a scenario, hundreds of kills")
    parser.add_argument("--scenario", nargs="+", choices=list(BY_NAME), metavar="NAME", default=list(BY_NAME))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--events", type=int, help="events a scenario")
    parser.add_argument("--steps", type=int, help="faults a scenario")
    parser.add_argument("--window-ms", type=float, default=1000 * WINDOW_S, help="see docs/chaos.md")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep what the workers and the sink wrote")
    parser.add_argument("--defect", help="run workers with a deliberate defect: see tests/chaos/defective.py")
    parser.add_argument("--watch", action="store_true", help="workers log long turns of their loops (in --logs)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = parse(argv)
    print(f"seed {arguments.seed}", flush=True)
    try:
        results = run_all([s for s in SCENARIOS if s.name in arguments.scenario], arguments)
    except ServiceUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    report.print_table(results)
    return 1 if any(result.red for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
