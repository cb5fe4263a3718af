"""Simulates how a client chooses a server, with the client's code: a section of docs/scaling.md."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any, Protocol

from flux_client.balancing import Balancer, Reading, RequestInFlight
from flux_client.server_pool import TICK_S
from flux_serving.scheduling.placement import seconds_left
from flux_serving.scheduling.step_costs import Costs
from flux_tools.documents import table
from flux_tools.simulation.capacity import highest_safe_percent
from flux_tools.simulation.merit import Merit, judge
from flux_tools.simulation.policies import Gpu, StepBatching
from flux_tools.simulation.rounding import number
from flux_tools.simulation.simulation import Clock, Route, SimulationOutcome, round_robin, simulate
from flux_tools.simulation.study import H100, SEED, Site
from flux_tools.simulation.workload import SimulatedRequest, arrivals

Row = dict[str, Any]

TITLE = "## Which server gets a request"
TEMPLATE = Path(__file__).with_name("servers.template.md")

#: Servers of one GPU each.
COUNTS = (2, 8, 64)
LOADS = (0.5, 0.8, 0.95)
#: Maximum number of requests per point.
MOST_REQUESTS = 6_000
#: Numbers of clients that share the requests, in the last columns.
MANY_CLIENTS = (8, 32)
#: Number of servers in the table of safe loads.
SAFE_SERVERS = 8
IN_TURN, AT_RANDOM, FEWEST, OURS = "in turn", "at random", "fewest of two", "this client"


class Door(Protocol):
    """Distributes requests to servers: a proxy or one or more clients."""

    def route(self, gpus: Sequence[Gpu], request: SimulatedRequest) -> int:
        """Return the index of the server."""

    def tick(self, now: float, outcome: SimulationOutcome) -> None:
        """Observe the outcome so far. Called at least every TICK_S of virtual time and before each request."""


class BlindDoor:
    """A door without information about the servers."""

    def __init__(self, route: Route) -> None:
        self.route = route

    def tick(self, now: float, outcome: SimulationOutcome) -> None:
        """Do nothing."""


class FewestRequests:
    """A proxy that draws two servers and chooses the one with fewer active requests (Envoy's LEAST_REQUEST)."""

    def __init__(self) -> None:
        self._rng = random.Random(SEED)

    def route(self, gpus: Sequence[Gpu], request: SimulatedRequest) -> int:
        return min(self._rng.sample(range(len(gpus)), 2), key=lambda index: len(gpus[index]))

    def tick(self, now: float, outcome: SimulationOutcome) -> None:
        """Do nothing: `route` reads the number of active requests."""


class BalancedClients:
    """Clients that each use `flux_client`'s Balancer. A random client sends the next request."""

    def __init__(self, gpus: Sequence[StepBatching], site: Site, clients: int) -> None:
        self._gpus = {str(index): gpu for index, gpu in enumerate(gpus)}
        self._site = site
        self._now = 0.0
        self._rng = random.Random(SEED)
        self._clients = [Balancer(self._gpus, lambda: self._now, random.Random(client)) for client in range(clients)]
        self._sent: dict[int, tuple[Balancer, RequestInFlight]] = {}
        self._seen = 0

    def route(self, gpus: Sequence[Gpu], request: SimulatedRequest) -> int:
        client = self._rng.choice(self._clients)
        server = client.choose()
        self._sent[id(request)] = client, client.began(server)
        return int(server)

    def tick(self, now: float, outcome: SimulationOutcome) -> None:
        self._now = now
        for request, _ in outcome.finished[self._seen :]:
            client, sent = self._sent.pop(id(request))
            client.ended(sent)
        self._seen = len(outcome.finished)
        for client in self._clients:
            for server, gpu in self._gpus.items():
                if client.wants_reading(server):
                    client.reported(server, self._read(gpu))

    def _read(self, gpu: StepBatching) -> Reading:
        jobs, costs, room = gpu.backlog
        return Reading.of_instances([seconds_left(jobs, costs or Costs(), self._site.limits)], [len(jobs)], [room])


DOORS: dict[str, Callable[[Sequence[StepBatching], Site], Door]] = {
    IN_TURN: lambda gpus, site: BlindDoor(round_robin()),
    AT_RANDOM: lambda gpus, site: BlindDoor(partial(_at_random, random.Random(SEED))),
    FEWEST: lambda gpus, site: FewestRequests(),
    OURS: partial(BalancedClients, clients=1),
    **{f"{clients} of these clients": partial(BalancedClients, clients=clients) for clients in MANY_CLIENTS},
}


def servers(requests: int) -> Iterator[Row]:
    """Yield the comparison by count and load, then the highest safe load of each door.

    requests: for each load tried in the search for the safe load.
    """
    for count in COUNTS:
        for load in LOADS:
            for door in DOORS:
                merit = run_door(replace(H100, gpus=count), door, load, min(MOST_REQUESTS, requests // 5 * count))
                yield {"servers": count, "load": load, "door": door, **asdict(merit)}
    site = replace(H100, gpus=SAFE_SERVERS)
    for door in DOORS:
        percent = highest_safe_percent(partial(_merit_at, site, door, requests))
        yield {"servers": SAFE_SERVERS, "safe_load": percent / 100, "door": door}


def _merit_at(site: Site, door: str, requests: int, percent: int) -> Merit:
    return run_door(site, door, percent / 100, requests)


def run_door(site: Site, door: str, load: float, requests: int) -> Merit:
    gpus = [StepBatching(site.machine, site.limits) for _ in range(site.gpus)]
    passing = DOORS[door](gpus, site)
    # Keep all requests alive: BalancedClients identifies them by id().
    asked = list(arrivals(site.mix, load * site.capacity(), requests, SEED))
    outcome = simulate(asked, gpus, passing.route, clock=Clock(TICK_S, passing.tick))
    return judge(outcome, site.machine, site.gpus)


def section(rows: Sequence[Row], requests: int) -> str:
    """Return the section of docs/scaling.md, including its title. requests: as for `servers`."""
    lines = []
    compared = [row for row in rows if "load" in row]
    for (count, load), group in groupby(compared, lambda row: (row["servers"], row["load"])):
        cells = [f"{number(row['p50'])} / {number(row['p99'])} / {number(row['mean_slowdown'])}" for row in group]
        lines.append([count, load, *cells])
    return Template(TEMPLATE.read_text()).substitute(
        title=TITLE,
        requests=f"{MOST_REQUESTS:,}",
        clients=" or ".join(map(str, MANY_CLIENTS)),
        compared=table(["servers", "load", *DOORS], lines),
        safe_servers=SAFE_SERVERS,
        safe_requests=f"{requests:,}",
        safe=table([*DOORS], [[f"{row['safe_load']:.2f}" for row in rows if "safe_load" in row]]),
    )


def _at_random(rng: random.Random, gpus: Sequence[object], request: SimulatedRequest) -> int:
    return rng.randrange(len(gpus))
