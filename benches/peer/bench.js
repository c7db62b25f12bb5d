// Measures this Node worker and backend-worker alternately, each with a redis-server and a stub of its own, and prints the
// table of the README. See README.md; started by scripts/bench-peer.sh.
//
// node bench.js <backend-worker> <bench binary> [--long]
const os = require('node:os');
const path = require('node:path');
const { Queue } = require('bullmq');
const { Redis, cpu, memory, monitor, redisSpent, sleep, start, startRedis, startStub, stop, within } = require('./machine');
const { table } = require('./table');

const [binary, noOpBinary, ...flags] = process.argv.slice(2);
if (!noOpBinary) throw new Error('node bench.js <backend-worker> <bench binary> [--long]');
const long = flags.includes('--long');
const ROUNDS = long ? 5 : 2;
const SCALE = long ? 3 : 1;

const QUEUE = 'ai-jobs';
// The web API's own options and payload.
const OPTIONS = {
  attempts: 3,
  backoff: { type: 'exponential', delay: 2000 },
  removeOnComplete: { age: 3600, count: 100 },
  removeOnFail: { age: 86400, count: 500 },
};
const job = (n) => ({
  name: 'generate-flashcards',
  data: { content: 'x'.repeat(200), subject: 'Science', topic: 'Biology', userId: `user-${n}` },
  opts: { jobId: `generate-flashcards-${n}-abcdef` },
});
// High enough to be checked and never to bind.
const RPM = '100000000';

// How each side is started: the full stack before a stub, and a worker with nothing to do.
const node = (script, env, hear) => start(process.execPath, [path.join(__dirname, script)], env, 'READY', hear);
const SIDES = {
  node: {
    full: ({ url, stub, concurrency }) =>
      node('worker.js', {
        NODE_ENV: 'production',
        REDIS_URL: url,
        STUB_URL: stub.url,
        CONCURRENCY: `${concurrency}`,
        MAX_CONCURRENT: `${concurrency}`,
        LIMIT_RPM: RPM,
      }),
    noOp: ({ url, concurrency, hear }) =>
      node('noop.js', { REDIS_URL: url, CONCURRENCY: `${concurrency}`, ANNOUNCE: hear ? '1' : '0' }, hear),
  },
  rust: {
    full: ({ url, stub, concurrency }) =>
      start(
        binary,
        [],
        {
          REDIS_URL: url,
          PORT: '0',
          QUEUES: `bullmq:${QUEUE}=${concurrency}`,
          OPENAI_API_KEY: 'test',
          OPENAI_BASE_URL: stub.url,
          OPENAI_RATE_LIMIT_RPM: RPM,
          OPENAI_MAX_CONCURRENT: `${concurrency}`,
          LOG_FORMAT: 'json',
        },
        '"ready',
      ),
    noOp: ({ url, concurrency, hear }) =>
      start(noOpBinary, ['serve', url, QUEUE, `${concurrency}`, ...(hear ? ['announce'] : [])], {}, 'READY', hear),
  },
};

/** Starts everything that one measurement needs, hands it to `measure`, and ends it all. */
async function rig(side, kind, { concurrency, delay = 0, hear }, measure) {
  const server = await startRedis();
  const stub = kind === 'full' ? await startStub(delay) : undefined;
  const redis = new Redis(server.connection);
  const queue = new Queue(QUEUE, { connection: server.connection, defaultJobOptions: OPTIONS });
  const url = `redis://127.0.0.1:${server.port}`;
  const worker = await SIDES[side][kind]({ url, stub, concurrency, hear });
  const result = await measure({ queue, redis, stub, worker });
  // The stub has seen each job once, and none of them failed: the figures are of work that was done.
  const [failed, delayed] = await Promise.all([redis.zcard(`bull:${QUEUE}:failed`), redis.zcard(`bull:${QUEUE}:delayed`)]);
  if (failed + delayed > 0) throw new Error(`${side}: ${failed} jobs failed, ${delayed} were put off`);
  if (stub) {
    const { served, held } = await stub.counts();
    if (served !== result.enqueued) throw new Error(`${side}: ${result.enqueued} jobs made ${served} calls`);
    result.held = held / served;
  }
  await queue.close();
  redis.disconnect();
  await stop(worker);
  if (stub) await stub.stop();
  await stop(server.server);
  return result;
}

async function add(queue, first, count) {
  for (let n = first; n < first + count; n += 1000) {
    const chunk = Math.min(1000, first + count - n);
    await queue.addBulk([...Array(chunk)].map((_, i) => job(n + i)));
  }
}

/** Waits until no job waits or runs; returns how often Redis was asked. */
async function drained(redis) {
  for (let polls = 1; ; polls++) {
    const [waiting, active] = await Promise.all([redis.llen(`bull:${QUEUE}:wait`), redis.llen(`bull:${QUEUE}:active`)]);
    if (waiting + active === 0) return polls;
    await sleep(10);
  }
}

/** A warm worker and a full queue: from its resume until it is empty. */
function throughput(side, kind, { concurrency, delay, jobs, count = false }) {
  return rig(side, kind, { concurrency, delay }, async ({ queue, redis, worker, ...rig }) => {
    const warmUp = Math.min(jobs, 50 * concurrency);
    await add(queue, 0, warmUp);
    await within(60000, `${side}: the warm-up`, drained(redis));
    await queue.pause();
    await add(queue, warmUp, jobs);
    await sleep(200);
    const counted = count && (await monitor(redis));
    const spent = await redisSpent(redis);
    const own = cpu(worker.pid);
    const resumed = performance.now();
    await queue.resume();
    const polls = await within(120000, `${side}: the run`, drained(redis));
    const seconds = (performance.now() - resumed) / 1000;
    const ownAfter = cpu(worker.pid);
    const spentAfter = await redisSpent(redis);
    return {
      enqueued: warmUp + jobs,
      rate: jobs / seconds,
      seconds,
      cpu: (ownAfter - own) / jobs,
      redisCpu: (spentAfter.cpu - spent.cpu) / jobs,
      commands: (spentAfter.commands - spent.commands - 2 * polls - 1) / jobs,
      sent: counted ? counted() / jobs : undefined,
      ...memory(worker.pid),
    };
  });
}

/** From before `queue.add` on an idle queue until the processor starts, or the stub sees the request. */
function pickup(side, kind, { samples }) {
  let started = () => {};
  const hear = (line) => line === 'started' && started(process.hrtime.bigint());
  return rig(side, kind, { concurrency: 20, hear: kind === 'noOp' && hear }, async ({ queue, redis, stub }) => {
    stub?.announce();
    const delays = [];
    const warmUp = 50;
    for (let n = 0; n < warmUp + samples; n++) {
      await sleep(10 + 10 * Math.random()); // The queue gets idle again.
      // hrtime is the machine's monotonic clock: the stub's and ours are the same.
      const arrival = stub
        ? stub.next().then(({ arrived }) => BigInt(arrived))
        : within(20000, side, new Promise((resolve) => (started = resolve)));
      const { name, data, opts } = job(n);
      const before = process.hrtime.bigint();
      const added = queue.add(name, data, opts);
      const after = await arrival;
      await added;
      if (n >= warmUp) delays.push(Number(after - before) / 1e6);
    }
    await within(20000, side, drained(redis));
    delays.sort((a, b) => a - b);
    const p = (share) => delays[Math.floor(delays.length * share)];
    return { enqueued: warmUp + samples, p50: p(0.5), p99: p(0.99), rate: -p(0.5) };
  });
}

/** Both sides in turns; of each the best round, and the rates of all. */
async function compare(what, measure) {
  const rounds = { node: [], rust: [] };
  for (let round = 0; round < ROUNDS; round++) {
    for (const side of Object.keys(SIDES)) {
      const result = await measure(side);
      rounds[side].push(result);
      const [load] = os.loadavg();
      const figures = Object.entries(result).filter(([, value]) => value !== undefined);
      const text = figures.map(([name, value]) => `${name} ${Number(value.toPrecision(4))}`).join(', ');
      console.error(`${what}, ${side}: ${text} (load ${load.toFixed(1)})`);
    }
  }
  const best = (results) => results.reduce((a, b) => (b.rate > a.rate ? b : a));
  return { node: best(rounds.node), rust: best(rounds.rust) };
}

async function main() {
  const full = (concurrency, delay, jobs) =>
    compare(`full stack, ${delay} ms, concurrency ${concurrency}`, (side) =>
      throughput(side, 'full', { concurrency, delay, jobs: SCALE * jobs }),
    );
  const noOp = (concurrency) =>
    compare(`no-op, concurrency ${concurrency}`, (side) =>
      throughput(side, 'noOp', { concurrency, jobs: SCALE * 40000 }),
    );
  const sent = async (kind) => ({
    node: (await throughput('node', kind, { concurrency: 20, jobs: 500, count: true })).sent,
    rust: (await throughput('rust', kind, { concurrency: 20, jobs: 500, count: true })).sent,
  });
  const figures = {
    full: await full(20, 0, 8000),
    full100: long ? await full(100, 0, 8000) : undefined,
    ideal20: await full(20, 50, 2000),
    ideal100: await full(100, 50, 8000),
    noOp20: await noOp(20),
    noOp100: await noOp(100),
    pickup: await compare('pickup, no-op', (side) => pickup(side, 'noOp', { samples: SCALE * 200 })),
    pickupFull: await compare('pickup, full stack', (side) => pickup(side, 'full', { samples: SCALE * 200 })),
    sent: { full: await sent('full'), noOp: await sent('noOp') },
  };
  console.log(table(figures, { rounds: ROUNDS }));
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
