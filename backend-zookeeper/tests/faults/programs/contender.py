"""Takes a lock with kazoo's recipe as it is told on its standard input: `acquire`, `release`."""

import sys

from kazoo.client import KazooClient
from kazoo.recipe.lock import Lock

hosts, path = sys.argv[1:3]
client = KazooClient(hosts=hosts, timeout=2.0)
client.start(timeout=20)
lock = Lock(client, path, "kazoo", extra_lock_patterns=["-lock-"])
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "acquire":
        lock.acquire()
        print("held", flush=True)
    else:
        lock.release()
        print("released", flush=True)
client.stop()
