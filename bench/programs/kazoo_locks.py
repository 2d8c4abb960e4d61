"""Measures kazoo's Lock, with a client for each waiter.

Arguments: the server's address and the session timeout in seconds. A line on standard input is
`start SECONDS WAITERS LOCK`; the answer is one line of JSON with all durations in nanoseconds.
"""

import json
import os
import platform
import sys
import threading
import time
import traceback

import kazoo.version
from kazoo.client import KazooClient
from kazoo.recipe.lock import Lock

now = time.monotonic_ns


class Waiter:
    """One waiter: its own client, its own lock object, and what it has measured."""

    def __init__(self, client, path):
        self.lock = Lock(client, path)
        self.acquires = []
        self.releases = []

    def run(self, number, end, grants):
        """Takes and releases the lock until `end`, at least once."""
        self.acquires, self.releases = [], []
        while not self.acquires or now() < end:
            asked = now()
            self.lock.acquire()
            got = now()
            grants.append((number, got))
            self.lock.release()
            self.acquires.append(got - asked)
            self.releases.append(now() - got)


def connect(address, timeout):
    client = KazooClient(hosts=address, timeout=timeout)
    client.start(timeout=20)
    return client


def measure(waiters, span):
    """Lets all waiters take the lock for so many nanoseconds: how long it took, and the grants."""
    begin = threading.Event()
    grants, end = [], [0]

    def body(number):
        try:
            begin.wait()
            waiters[number].run(number, end[0], grants)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(len(waiters))]
    for thread in threads:
        thread.start()
    start = now()
    end[0] = start + span
    begin.set()
    for thread in threads:
        thread.join()
    return now() - start, grants


def main():
    address, timeout = sys.argv[1], float(sys.argv[2])
    clients = []
    print(f"ready kazoo {kazoo.version.__version__}, Python {platform.python_version()}", flush=True)
    for line in sys.stdin:
        _, seconds, count, lock = line.split()
        while len(clients) < int(count):
            clients.append(connect(address, timeout))
        waiters = [Waiter(client, f"/kazoo/{lock}") for client in clients[: int(count)]]
        # Each has a turn first that is not counted: it makes the nodes above the lock.
        measure(waiters, 0)
        total, grants = measure(waiters, int(float(seconds) * 1e9))
        # Whoever takes the lock twice in a row has handed it over to nobody.
        hand_overs = [
            got - since
            for (holder, since), (number, got) in zip(grants, grants[1:])
            if holder != number
        ]
        answer = {
            "took": total,
            "hand_overs": hand_overs,
            "acquires": [took for waiter in waiters for took in waiter.acquires],
            "releases": [took for waiter in waiters for took in waiter.releases],
        }
        print(json.dumps(answer), flush=True)
    for client in clients:
        client.stop()
        client.close()


main()
