"""`scripts/failover`: runs the acts through each door and prints a table."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from flux_client import FAIL_OVER, RetryPolicy
from flux_tools.demo.folders import demo_checkpoints
from flux_tools.documents import table_head, table_row
from flux_tools.failover.doors import DOORS
from flux_tools.failover.options import read_options
from flux_tools.failover.play import play
from flux_tools.failover.replica import Replica
from flux_tools.failover.shares import shares

ROOT = Path(__file__).resolve().parents[3]


def _print_shares(replicas: Sequence[Replica], images: Sequence[bytes], callers: int) -> int:
    """Print the shares with three servers, then, without the first, with two. Return the exit status."""
    print(table_head(["servers", "the first is", "requests", "lost", "its share", "longest request"]), flush=True)
    lost = 0
    for first in range(len(replicas) - 1):
        for row in shares(replicas[first:], images, callers):
            figures = (row.requests, row.lost, f"{row.share:.0%}", f"{row.longest_s:.1f} s")
            print(table_row([row.servers, row.situation, *figures]), flush=True)
            lost += row.lost
    return 1 if lost else 0


def main() -> int:
    given = read_options()
    retry = RetryPolicy(attempts=1) if given.no_retry else FAIL_OVER
    images = [path.read_bytes() for path in sorted((ROOT / "tools/flux_tools/demo/unseen").glob("*.png"))]
    lost = 0
    with tempfile.TemporaryDirectory() as name, ExitStack() as held:
        folder = Path(name)
        log = held.enter_context((folder / "log").open("wb"))
        checkpoints = demo_checkpoints(ROOT / "checkpoints/demo")
        count = 3 if given.shares else 2
        replicas = [Replica(ROOT / "model_repository", checkpoints, log) for _ in range(count)]
        for replica in replicas:
            held.callback(replica.stop)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Replica.start, replicas))
        if given.shares:
            return _print_shares(replicas, images, given.callers)
        print(table_head(["door", "act", "requests", "lost", "longest request", "traffic back after"]))
        for door in given.doors:
            for outcome in play(replicas, DOORS[door], folder, images, retry=retry, callers=given.callers):
                longest = max(call.seconds for call in outcome.calls)
                figures = (len(outcome.calls), len(outcome.lost), f"{longest:.1f} s", f"{outcome.back_s:.1f} s")
                print(table_row([door, outcome.act, *figures]), flush=True)
                for error, count in Counter(outcome.lost).items():
                    print(f"{count} x {error}", file=sys.stderr)
                lost += len(outcome.lost)
    left = [each for replica in replicas for each in replica.left()]
    print(f"\nprocesses and shared memory left behind: {', '.join(left) or 'none'}")
    return 1 if lost or left else 0


if __name__ == "__main__":
    sys.exit(main())
