// Producer, onlooker and worker on BullMQ's own library, driven by the Rust tests line by line (`lines.mjs`).
//
// node driver.mjs <redis port, or those of a cluster's nodes> <queue> [version: 5.1, 5 (where none is named) or 6] [prefix of the keys]
import { createRequire } from 'node:module';
import { serve } from './lines.mjs';

const [port, name, main = '5', prefix = 'bull'] = process.argv.slice(2);
const require = createRequire(import.meta.url);
const nodes = port.split(',').map((one) => ({ host: '127.0.0.1', port: Number(one) }));
const onCluster = () => {
  const { Cluster } = require('ioredis');
  return new Cluster(nodes, { redisOptions: { maxRetriesPerRequest: null } });
};
const connection = nodes.length > 1 ? onCluster() : nodes[0];
const packages = { 5.1: 'bullmq5.1', 5: 'bullmq', 6: 'bullmq6' };
const bullmq = (version = main) => require(packages[version]);

const queues = {};
const queue = (version = main) => (queues[version] ??= new (bullmq(version).Queue)(name, { connection, prefix }));
let flowProducer;
const flows = () => (flowProducer ??= new (bullmq().FlowProducer)({ connection, prefix }));

// Every event of the queue, in order, as QueueEvents emits them.
const events = [];
const queueEvents = new (bullmq().QueueEvents)(name, { connection, prefix, lastEventId: '0-0' });
const emit = queueEvents.emit.bind(queueEvents);
queueEvents.emit = (event, ...rest) => {
  if (event !== 'error' && !event.includes(':')) events.push({ event, ...(rest.length > 1 ? rest[0] : {}) });
  return emit(event, ...rest);
};

async function look(id) {
  // Before the fields: they are at least as new as the state that they are judged by.
  const state = await queue().getJobState(id);
  const job = await queue().getJob(id);
  if (!job) return null;
  const { progress, returnvalue, failedReason, stacktrace, attemptsMade, attemptsStarted, stalledCounter } = job;
  const { delay, processedBy, processedOn, finishedOn } = job;
  const { logs } = await queue().getJobLogs(id);
  return {
    state, progress, returnvalue, failedReason, stacktrace, attemptsMade, attemptsStarted,
    stalledCounter, delay, processedBy, processed: processedOn !== undefined, finished: finishedOn !== undefined, logs,
  };
}

// What a worker does with a job stands in the job: `data.steps`, one for each delivery, the last one again and again.
const workers = [];
const started = [];
let release;
const released = new Promise((resolve) => (release = resolve));
const nap = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function act(library, worker, job, token) {
  started.push(job.id);
  const nth = started.filter((id) => id === job.id).length;
  const steps = job.data.steps ?? ['complete'];
  await job.updateProgress(10);
  switch (steps[Math.min(nth, steps.length) - 1]) {
    case 'stumble':
      throw new Error('the provider "stumbled"');
    case 'refuse':
      throw new library.UnrecoverableError('no such voice');
    case 'gate':
      await job.moveToDelayed(Date.now() + 60_000, token);
      throw new library.DelayedError();
    case 'limit':
      await worker.rateLimit(200);
      throw new library.RateLimitError();
    case 'hand-back':
      await job.moveToWait(token);
      throw new library.WaitingError();
    case 'hold':
      await released;
      break;
    case 'nap':
      await nap(5);
      break;
  }
  await job.updateProgress(100);
  return { ok: true };
}

const operations = {
  add: async ({ name, data, opts, version }) => (await queue(version).add(name, data, opts)).id,
  addBulk: async ({ jobs }) => (await queue().addBulk(jobs)).length,
  look: ({ id }) => look(id),
  state: ({ id, version }) => queue(version).getJobState(id),
  events: () => events,
  counts: () => queue().getJobCounts(),
  pause: ({ version }) => queue(version).pause(),
  resume: ({ version }) => queue(version).resume(),
  retry: async ({ id, opts }) => (await queue().getJob(id)).retry('failed', opts),
  reprioritize: async ({ id, priority }) => (await queue().getJob(id)).changePriority({ priority }),
  prioritized: async () => (await queue().getPrioritized(0, -1)).map((job) => job.id),
  promote: async ({ id }) => (await queue().getJob(id)).promote(),
  remove: async ({ id, opts }) => (await queue().getJob(id)).remove(opts),
  // Says whether it was allowed to.
  tryRemove: async ({ id }) => (await queue().getJob(id)).remove().then(() => true, () => false),
  obliterate: () => queue().obliterate({ force: true }),
  concurrency: ({ count }) => queue().setGlobalConcurrency(count),
  rateLimit: ({ max, duration }) => queue().setGlobalRateLimit(max, duration),
  schedule: ({ id, every }) => queue().upsertJobScheduler(id, { every }, { name: 'process-image', data: {} }),
  flow: async (tree) => (await flows().add(tree)).job.id,
  children: async ({ id }) => (await queue().getJob(id)).getChildrenValues(),
  // Every job of the queue as Node's classes read it, and how many `completed` events QueueEvents has had for each.
  census: async () => {
    const jobs = {};
    const completed = {};
    for (const state of ['wait', 'paused', 'prioritized', 'delayed', 'waiting-children', 'active', 'failed', 'completed']) {
      for (let from = 0, page = [null]; page.length > 0; from += 500) {
        page = await queue().getJobs([state], from, from + 499, true);
        for (const job of page.filter(Boolean)) {
          const { attemptsMade, failedReason, returnvalue } = job;
          jobs[job.id] = { state, attemptsMade, failedReason, success: returnvalue?.success === true };
        }
      }
    }
    for (const { event, jobId } of events) if (event === 'completed') completed[jobId] = (completed[jobId] ?? 0) + 1;
    return { jobs, completed, counts: await queue().getJobCounts() };
  },
  workers: async ({ version }) => (await queue(version).getWorkers()).map(({ name, rawname }) => ({ name, rawname })),
  // A worker of BullMQ's own, beside ours or instead of it.
  work: async ({ version, ...options }) => {
    const library = bullmq(version);
    const worker = new library.Worker(name, (job, token) => act(library, worker, job, token), {
      connection, prefix, concurrency: 1, name: 'w', drainDelay: 1, ...options,
    });
    worker.on('error', () => {}); // A job that was taken from it: the tests look at what becomes of the job.
    workers.push(worker);
    await worker.waitUntilReady();
  },
  started: () => started,
  release: () => release(),
  stop: () => Promise.all(workers.splice(0).map((worker) => worker.close())),
};

await queueEvents.waitUntilReady();
await queue().waitUntilReady();
await serve(operations);
process.exit(0);
