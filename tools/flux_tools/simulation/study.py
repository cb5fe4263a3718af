"""The studies of docs/scaling.md, each a deterministic function of its seed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flux_serving.scheduling.scheduler import DEFAULT_LIMITS, Limits
from flux_tools.simulation.machine import DEMO_CPU, H100_EAGER, Machine
from flux_tools.simulation.merit import Merit, judge
from flux_tools.simulation.policies import POLICIES, Policy, StepBatching
from flux_tools.simulation.simulation import Route, least_loaded, round_robin, simulate
from flux_tools.simulation.workload import DEMO, SMALL, Mix, arrivals

SEED = 1
SWEEP = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3)
HEADLINE_GPUS, HEADLINE_LOAD = 8, 0.9
RATES = (0.5, 1.0, 2.0)
#: Multiples of the number of requests: small differences and slow overload need longer runs.
ROUTING_TIMES, FLEET_TIMES = 5, 3
PATIENCE = (4, 16, 64, 1_000_000)
QUEUES = (8, 16, 32, 64)
#: Share of rejected requests above which a site is overloaded.
REFUSED_SHARE = 0.01
#: Latency targets of a fleet.
PROMISES: dict[str, Callable[[Merit], bool]] = {
    "p99 of all below 60 s": lambda merit: merit.p99 < 60,
    "p99 of all but background below 30 s": lambda merit: merit.p99_foreground < 30,
    "p99 slowdown below 20": lambda merit: merit.p99_slowdown < 20,
}


@dataclass(frozen=True)
class Site:
    """GPUs of one kind, their requests and their limits."""

    machine: Machine = H100_EAGER
    mix: Mix = field(default_factory=Mix)
    limits: Limits = DEFAULT_LIMITS
    gpus: int = 1
    route: Callable[[], Route] = lambda: least_loaded

    def capacity(self) -> float:
        """Return the requests per second that the site can process one by one: load 1."""
        return self.gpus / self.mix.mean_solo_seconds(self.machine)

    def run(self, policy: Policy, rate: float, requests: int) -> Merit:
        """Simulate the site. rate: requests per second."""
        gpus = [policy(self.machine, self.limits) for _ in range(self.gpus)]
        return judge(simulate(arrivals(self.mix, rate, requests, SEED), gpus, self.route()), self.machine, self.gpus)


H100 = Site()
CPU_LIMITS = replace(DEFAULT_LIMITS, step_tokens=2048)
SITES = {
    "H100, mixed sizes": H100,
    "H100, 512x512 only": Site(mix=SMALL),
    "demo checkpoint on two CPU cores, 64x64": Site(DEMO_CPU, DEMO, CPU_LIMITS),
}


def headline(requests: int) -> Iterator[dict[str, Any]]:
    """Yield the merit of every policy on the same requests."""
    site = replace(H100, gpus=HEADLINE_GPUS)
    for policy in POLICIES:
        began = time.monotonic()
        merit = site.run(policy, HEADLINE_LOAD * site.capacity(), requests)
        yield {"policy": policy.name, "wall_seconds": time.monotonic() - began, **asdict(merit)}


def sweep(requests: int) -> Iterator[dict[str, Any]]:
    for policy in POLICIES:
        for load in SWEEP:
            yield {"policy": policy.name, "load": load, **asdict(H100.run(policy, load * H100.capacity(), requests))}


def overload(requests: int) -> Iterator[dict[str, Any]]:
    """Yield the highest load, to 0.01, at which at most 1 % of the requests are rejected."""
    for name, site in SITES.items():
        for policy in POLICIES:
            good, bad = 0.5, 20.0
            while bad - good > 0.01:
                load = (good + bad) / 2
                refused = site.run(policy, load * site.capacity(), requests).refused_share
                good, bad = (load, bad) if refused <= REFUSED_SHARE else (good, load)
            rate = good * site.capacity()
            yield {"site": name, "policy": policy.name, "load": good, "rate": rate, "one_by_one": site.capacity()}


def fleet(requests: int) -> Iterator[dict[str, Any]]:
    """Yield the fewest GPUs that meet each target at each rate."""
    for rate in RATES:
        for policy in POLICIES:
            merits: dict[int, Merit] = {}
            row: dict[str, Any] = {"rate": rate, "policy": policy.name}
            for promise, kept in PROMISES.items():
                gpus = max(1, int(rate / H100.capacity()))
                while True:
                    if gpus not in merits:
                        merits[gpus] = replace(H100, gpus=gpus).run(policy, rate, requests)
                    if kept(merits[gpus]) and merits[gpus].refused_share <= REFUSED_SHARE:
                        break
                    gpus += 1
                row[promise] = gpus
            yield row


def routing(requests: int) -> Iterator[dict[str, Any]]:
    routes: dict[str, Callable[[], Route]] = {"least loaded": lambda: least_loaded, "round robin": round_robin}
    for name, route in routes.items():
        site = replace(H100, gpus=HEADLINE_GPUS, route=route)
        merit = site.run(StepBatching, HEADLINE_LOAD * site.capacity(), requests)
        yield {"route": name, **asdict(merit)}


def patience(requests: int) -> Iterator[dict[str, Any]]:
    for value in PATIENCE:
        for load in (0.9, 1.1):
            site = replace(H100, limits=replace(DEFAULT_LIMITS, patience=value))
            yield {"patience": value, "load": load, **asdict(site.run(StepBatching, load * site.capacity(), requests))}


def queue(requests: int) -> Iterator[dict[str, Any]]:
    for value in QUEUES:
        for load in (0.9, 1.1):
            site = replace(H100, limits=replace(DEFAULT_LIMITS, max_jobs=value))
            yield {"max_jobs": value, "load": load, **asdict(site.run(StepBatching, load * site.capacity(), requests))}


def everything(headline_requests: int, requests: int) -> dict[str, Any]:
    studies: dict[str, Iterator[dict[str, Any]]] = {
        "sweep": sweep(requests),
        "overload": overload(requests),
        "fleet": fleet(FLEET_TIMES * requests),
        "routing": routing(ROUTING_TIMES * requests),
        "patience": patience(requests),
        "queue": queue(requests),
        "headline": headline(headline_requests),
    }
    results: dict[str, Any] = {"requests": requests, "headline_requests": headline_requests}
    return results | {name: run_study(name, rows) for name, rows in studies.items()}


def run_study(name: str, rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all rows of a study, printing each as it comes."""
    found = []
    began = time.monotonic()
    for row in rows:
        found.append(row)
        print(f"{name}: " + ", ".join(f"{k} {_short(v)}" for k, v in row.items()), file=sys.stderr, flush=True)
    print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
