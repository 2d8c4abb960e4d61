// Measures the npm package redlock on one Redis server, with a client for each waiter.
//
// Arguments: the server's address and the TTL in milliseconds. A line on standard input is
// `start SECONDS WAITERS LOCK`; the answer is one line of JSON with all durations in nanoseconds.

'use strict';

const readline = require('readline');
const Redis = require('ioredis');
const Redlock = require('redlock');

const [address, ttl] = [process.argv[2], Number(process.argv[3])];
const version = (name) => require(`${name}/package.json`).version;
const now = () => Number(process.hrtime.bigint());

function connect() {
  const split = address.lastIndexOf(':');
  const client = new Redis({ host: address.slice(0, split), port: Number(address.slice(split + 1)) });
  // The package's own delay between two attempts, and no limit of attempts.
  return { client, redlock: new Redlock([client], { retryCount: -1 }) };
}

// Acquires and releases the lock until `end`, at least once.
async function run({ redlock }, number, name, end, grants) {
  const [acquires, releases] = [[], []];
  do {
    const begin = now();
    const lock = await redlock.lock(name, ttl);
    const granted = now();
    grants.push([number, granted]);
    await lock.unlock();
    acquires.push(granted - begin);
    releases.push(now() - granted);
  } while (now() < end);
  return { acquires, releases };
}

// Lets all waiters acquire the lock for `span` nanoseconds.
async function measure(waiters, name, span) {
  const start = now();
  const grants = [];
  const runs = waiters.map((waiter, number) => run(waiter, number, name, start + span, grants));
  const measured = await Promise.all(runs);
  const took = now() - start;
  const handOvers = [];
  for (let at = 1; at < grants.length; at += 1) {
    if (grants[at - 1][0] !== grants[at][0]) {
      handOvers.push(grants[at][1] - grants[at - 1][1]);
    }
  }
  return {
    took,
    hand_overs: handOvers,
    acquires: measured.flatMap((one) => one.acquires),
    releases: measured.flatMap((one) => one.releases),
  };
}

async function main() {
  const clients = [];
  const versions = `redlock ${version('redlock')}, ioredis ${version('ioredis')}`;
  console.log(`ready ${versions}, Node.js ${process.versions.node}`);
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [, seconds, count, name] = line.trim().split(' ');
    while (clients.length < Number(count)) {
      clients.push(connect());
    }
    const waiters = clients.slice(0, Number(count));
    // The first pair of each waiter is not counted: it connects the client.
    await measure(waiters, `redlock-${name}`, 0);
    const answer = await measure(waiters, `redlock-${name}`, Number(seconds) * 1e9);
    console.log(JSON.stringify(answer));
  }
  clients.forEach(({ client }) => client.disconnect());
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
