// A producer and onlooker on BullMQ's own library, driven by the Rust tests: one JSON request a line on standard input,
// one JSON answer a line on standard output.
//
// node driver.mjs <redis port> <queue>
import readline from 'node:readline';
import * as v5 from 'bullmq';
import * as v6 from 'bullmq6';

const [port, name] = process.argv.slice(2);
const connection = { host: '127.0.0.1', port: Number(port) };

const queues = {};
const queue = (version = 5) =>
  (queues[version] ??= new (version === 6 ? v6 : v5).Queue(name, { connection }));
const flows = new v5.FlowProducer({ connection });

// Every event of the queue, in order, as QueueEvents emits them.
const events = [];
const queueEvents = new v5.QueueEvents(name, { connection, lastEventId: '0-0' });
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
  const { delay, processedBy, finishedOn } = job;
  const { logs } = await queue().getJobLogs(id);
  return {
    state, progress, returnvalue, failedReason, stacktrace, attemptsMade, attemptsStarted,
    stalledCounter, delay, processedBy, finished: finishedOn !== undefined, logs,
  };
}

const nodeWorkers = [];
const operations = {
  add: async ({ name, data, opts, version }) => (await queue(version).add(name, data, opts)).id,
  addBulk: async ({ jobs }) => (await queue().addBulk(jobs)).length,
  look: ({ id }) => look(id),
  state: ({ id, version }) => queue(version).getJobState(id),
  events: () => events,
  counts: () => queue().getJobCounts(),
  pause: ({ version }) => queue(version).pause(),
  resume: ({ version }) => queue(version).resume(),
  retry: async ({ id }) => (await queue().getJob(id)).retry(),
  concurrency: ({ count }) => queue().setGlobalConcurrency(count),
  rateLimit: ({ max, duration }) => queue().setGlobalRateLimit(max, duration),
  schedule: ({ id, every }) => queue().upsertJobScheduler(id, { every }, { name: 'process-image', data: {} }),
  flow: async (tree) => (await flows.add(tree)).job.id,
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
  // A worker of BullMQ's own beside ours.
  work: async () => {
    const worker = new v5.Worker(name, async (job) => ({ by: 'node', id: job.id }), { connection, concurrency: 4 });
    nodeWorkers.push(worker);
    await worker.waitUntilReady();
  },
  stop: () => Promise.all(nodeWorkers.map((worker) => worker.close())),
};

await queueEvents.waitUntilReady();
await queue().waitUntilReady();
for await (const line of readline.createInterface({ input: process.stdin })) {
  const { op, args } = JSON.parse(line);
  let answer;
  try {
    answer = { ok: (await operations[op](args)) ?? null };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
