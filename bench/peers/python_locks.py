"""Measures a lock of a Python library, with a client for each waiter.

Arguments: `kazoo` or `python-redis-lock`, the server's address, and the session timeout or TTL in
seconds. A line on standard input is `start SECONDS WAITERS LOCK [LOAD PERMITS]`; the answer is one
line of JSON with all durations in nanoseconds. LOAD is `readers`, `mixed` or `permits`, for kazoo.
"""

import json
import os
import platform
import sys
import threading
import time
import traceback

now = time.monotonic_ns


class Kazoo:
    """kazoo's Lock; each client has a session."""

    def __init__(self, address, ttl):
        from kazoo.client import KazooClient

        self.client = KazooClient(hosts=address, timeout=ttl)
        self.client.start(timeout=20)

    @staticmethod
    def version():
        import kazoo.version

        return f"kazoo {kazoo.version.__version__}"

    def lock(self, name):
        from kazoo.recipe.lock import Lock

        return Lock(self.client, f"/kazoo/{name}")

    def shared_lock(self, name, number, load, permits):
        """The lock of a waiter with this number; in a mixed load every twentieth writes."""
        from kazoo.recipe.lock import ReadLock, Semaphore, WriteLock

        path = f"/kazoo/{name}"
        if load == "permits":
            return Semaphore(self.client, path, max_leases=permits)
        writes = load == "mixed" and number % 20 == 0 and number > 0
        return (WriteLock if writes else ReadLock)(self.client, path)

    def close(self):
        self.client.stop()
        self.client.close()


class PythonRedisLock:
    """python-redis-lock; each client has a connection pool."""

    def __init__(self, address, ttl):
        import redis

        host, port = address.rsplit(":", 1)
        self.client = redis.Redis(host=host, port=int(port))
        self.ttl = int(ttl)

    @staticmethod
    def version():
        import redis
        import redis_lock

        return f"python-redis-lock {redis_lock.__version__}, redis-py {redis.__version__}"

    def lock(self, name):
        import redis_lock

        return redis_lock.Lock(self.client, f"python-{name}", expire=self.ttl)

    def close(self):
        self.client.close()


LIBRARIES = {"kazoo": Kazoo, "python-redis-lock": PythonRedisLock}


class Waiter:
    """One waiter, with its own client, its own lock object, and its measurements."""

    def __init__(self, lock):
        self.lock = lock
        self.acquires = []
        self.releases = []

    def run(self, number, end, grants):
        """Acquires and releases the lock until `end`, at least once."""
        self.acquires, self.releases = [], []
        while not self.acquires or now() < end:
            begin = now()
            self.lock.acquire()
            granted = now()
            grants.append((number, granted))
            self.lock.release()
            self.acquires.append(granted - begin)
            self.releases.append(now() - granted)


def measure(waiters, span):
    """Lets all waiters acquire the lock for `span` nanoseconds; returns the duration and the grants."""
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
    library, address, ttl = LIBRARIES[sys.argv[1]], sys.argv[2], float(sys.argv[3])
    clients = []
    print(f"ready {library.version()}, Python {platform.python_version()}", flush=True)
    for line in sys.stdin:
        _, seconds, count, name, *load = line.split()
        while len(clients) < int(count):
            clients.append(library(address, ttl))
        waiters = [
            Waiter(client.shared_lock(name, number, load[0], int(load[1])) if load else client.lock(name))
            for number, client in enumerate(clients[: int(count)])
        ]
        # The first pair of each waiter is not counted: it creates what the lock needs in the store.
        measure(waiters, 0)
        took, grants = measure(waiters, int(float(seconds) * 1e9))
        # Waiters that share a lock may report their grants in another order than they had them.
        hand_overs = [
            max(0, later - earlier)
            for (holder, earlier), (following, later) in zip(grants, grants[1:])
            if holder != following
        ]
        answer = {
            "took": took,
            "hand_overs": hand_overs,
            "acquires": [time for waiter in waiters for time in waiter.acquires],
            "releases": [time for waiter in waiters for time in waiter.releases],
        }
        print(json.dumps(answer), flush=True)
    for client in clients:
        client.close()


main()
