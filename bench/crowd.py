#!/usr/bin/env python3
"""Measures a crowd of processes that wait for one lock, with `tenure run` on `file:` and with flock(1).

    python3 bench/crowd.py PATH/TO/tenure [DIRECTORY] [PROCESSES...]

The directory (default: a temporary one in the current directory) must be on the file system to
measure. For each number of processes (default: 10 100 1000), both programs start them one after the
other while the lock is held, and then free the lock. Each process runs `true`. The script prints
the times from the first start to the last entry in the queue, and from the release to the last exit,
as ratios to flock(1) of the same run. It also prints the processor time of a process that enters and
leaves the queue behind the others, and the ratio of the two commands without a crowd.
"""

import os
import collections
import fcntl
import json
import statistics
import subprocess
import sys
import tempfile
import time

WAIT = "300s"
NULL = subprocess.DEVNULL


def spawn(command, count):
    return [subprocess.Popen(command, stdin=NULL, stdout=NULL, stderr=NULL) for _ in range(count)]


def wait_all(processes):
    """Waits for the processes and returns how many ended with each exit code."""
    return dict(collections.Counter(process.wait() for process in processes))


def poll(condition):
    delay = 0.02
    while not condition():
        time.sleep(delay)


def flock_crowd(directory, count):
    path = os.path.join(directory, "flock")
    with open(path, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        inode = f":{os.fstat(held.fileno()).st_ino} "

        def waiting():
            with open("/proc/locks") as locks:
                return sum(" -> " in line and inode in line for line in locks)

        started = time.monotonic()
        processes = spawn(["flock", path, "true"], count)
        poll(lambda: waiting() >= count)
        joined = time.monotonic()
        fcntl.flock(held, fcntl.LOCK_UN)
        codes = wait_all(processes)
    return joined - started, time.monotonic() - joined, codes


class Tenure:
    def __init__(self, program, directory):
        self.command = [program, "--url", "file:" + os.path.join(directory, "locks")]

    def run(self, name, *options):
        return [*self.command, "run", "-q", *options, name, "--", "true"]

    def waiters(self, name):
        """Returns how many processes wait, or a negative number if the state is not readable."""
        status = subprocess.run(
            [*self.command, "--output", "json", "status", name], capture_output=True, text=True
        )
        try:
            return len(json.loads(status.stdout)["queue"])
        except (ValueError, KeyError):
            return -1

    def crowd(self, count):
        name = f"crowd-{count}"
        holder = subprocess.Popen(
            [*self.command, "run", "-q", "-w", WAIT, name, "--", "cat"],
            stdin=subprocess.PIPE,
            stdout=NULL,
        )
        poll(lambda: self.waiters(name) >= 0)
        started = time.monotonic()
        processes = spawn(self.run(name, "-w", WAIT), count)

        def joined():
            gone = sum(process.poll() is not None for process in processes)
            return self.waiters(name) >= count - gone

        poll(joined)
        ready = time.monotonic()
        joins = [processor_time(self.run(name, "-w", "100ms")) for _ in range(20)]
        held = time.monotonic()
        holder.stdin.close()
        codes = wait_all(processes)
        served = time.monotonic() - held
        assert holder.wait() == 0, "the holder failed"
        return ready - started, served, codes, statistics.median(joins)


def processor_time(command):
    process = subprocess.Popen(command, stdin=NULL, stdout=NULL, stderr=NULL)
    usage = os.wait4(process.pid, 0)[2]
    process.returncode = 0
    return usage.ru_utime + usage.ru_stime


def timed(command):
    started = time.monotonic()
    subprocess.run(command, stdin=NULL, stdout=NULL, stderr=NULL)
    return time.monotonic() - started


def alone(command):
    return statistics.median(timed(command) for _ in range(50))


def main():
    program = os.path.abspath(sys.argv[1])
    parent = sys.argv[2] if len(sys.argv) > 2 else "."
    counts = [int(text) for text in sys.argv[3:]] or [10, 100, 1000]
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        tenure = Tenure(program, directory)
        ours = alone(tenure.run("alone"))
        theirs = alone(["flock", os.path.join(directory, "alone"), "true"])
        print(f"alone      tenure {ours * 1e3:.1f} ms, flock {theirs * 1e3:.1f} ms, "
              f"ratio {ours / theirs:.1f}", flush=True)
        for count in counts:
            flock_join, flock_serve, flock_codes = flock_crowd(directory, count)
            join, serve, codes, one_join = tenure.crowd(count)
            print(
                f"{count:5} processes: exit codes {codes} (flock {flock_codes}), "
                f"start {join:.2f} s (flock {flock_join:.2f} s), "
                f"serve {serve:.2f} s (flock {flock_serve:.2f} s, ratio {serve / flock_serve:.1f}), "
                f"ratio of both {(join + serve) / (flock_join + flock_serve):.1f}, "
                f"join and leave {one_join * 1e3:.1f} ms, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
