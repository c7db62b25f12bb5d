// The web API, as far as it uses BullMQ: it adds jobs, and tells its clients what becomes of them, with the classes of
// BullMQ's own library. It runs nothing. The tests drive it over HTTP; its first line on standard output is its port,
// and it ends with its standard input.
//
// node web-api.mjs <redis port>
import { createHash, randomUUID } from 'node:crypto';
import http from 'node:http';
import { Queue, QueueEvents } from 'bullmq';
import Redis from 'ioredis';

const connection = { host: '127.0.0.1', port: Number(process.argv[2]) };
const redis = new Redis({ ...connection, maxRetriesPerRequest: null });
const queue = new Queue('ai-jobs', {
  connection,
  defaultJobOptions: {
    attempts: 3,
    backoff: { type: 'exponential', delay: Number(process.env.BACKOFF ?? 2000) },
    removeOnComplete: { age: 3600, count: 1000 },
    removeOnFail: { age: 86400 },
  },
});
const queueEvents = new QueueEvents('ai-jobs', { connection });

// The key of a request: a client with the same request gets the answer that was paid for already.
function idempotencyKey(type, data) {
  const hash = createHash('sha256').update(JSON.stringify(data)).digest('hex');
  return `idempotency:${type}:${hash}`;
}

// What an earlier job has left: {jobId, result, cachedAt}, or null.
async function checkIdempotency(key) {
  const cached = await redis.get(key);
  return cached && JSON.parse(cached);
}

async function generateFlashcards(data, answer) {
  const missing = ['content', 'subject', 'topic', 'userId'].filter((field) => !data[field]);
  if (missing.length > 0) return answer(400, { success: false, error: `missing: ${missing.join(', ')}` });
  const key = idempotencyKey('generate-flashcards', data);
  const cached = await checkIdempotency(key);
  if (cached) return answer(200, { success: true, cached: true, jobId: cached.jobId, result: cached.result });
  const jobId = `ai-${Date.now()}-${randomUUID().slice(0, 8)}`;
  const job = await queue.add('generate-flashcards', data, { jobId, idempotencyKey: key });
  return answer(202, { success: true, jobId: job.id, idempotencyKey: key, status: 'queued' });
}

async function jobStatus(id, answer) {
  const job = await queue.getJob(id);
  if (!job) return answer(404, { success: false, status: 'not_found', jobId: id });
  const status = await job.getState();
  // Read again: the fields are then at least as new as the state.
  const { progress, returnvalue, failedReason, attemptsMade } = await queue.getJob(id);
  return answer(200, {
    success: true, jobId: id, status, progress, attemptsMade,
    ...(status === 'completed' && { result: returnvalue }),
    ...(status === 'failed' && { error: failedReason }),
  });
}

function jobEvents(id, request, response) {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
  const send = (event, body) => response.write(`event: ${event}\ndata: ${JSON.stringify({ jobId: id, ...body })}\n\n`);
  const listeners = {
    active: () => send('active', {}),
    progress: ({ data }) => send('progress', { progress: data }),
    delayed: () => send('retrying', {}),
    completed: ({ returnvalue }) => { send('completed', { result: returnvalue }); response.end(); },
    failed: ({ failedReason }) => { send('failed', { error: failedReason }); response.end(); },
  };
  for (const [event, listener] of Object.entries(listeners)) {
    const forJob = (args) => args.jobId === id && listener(args);
    queueEvents.on(event, forJob);
    response.on('close', () => queueEvents.off(event, forJob));
  }
  send('connected', {});
}

const server = http.createServer(async (request, response) => {
  const answer = (code, body) => {
    response.writeHead(code, { 'content-type': 'application/json' });
    response.end(JSON.stringify(body));
  };
  const url = new URL(request.url, 'http://localhost');
  try {
    if (request.method === 'POST' && url.pathname === '/api/ai/generate-flashcards') {
      let body = '';
      for await (const chunk of request.setEncoding('utf8')) body += chunk;
      await generateFlashcards(JSON.parse(body), answer);
    } else if (url.pathname.startsWith('/api/job-status/')) {
      await jobStatus(decodeURIComponent(url.pathname.slice('/api/job-status/'.length)), answer);
    } else if (url.pathname === '/api/job-events') {
      jobEvents(url.searchParams.get('jobId'), request, response);
    } else if (url.pathname === '/api/queue/stats') {
      const counts = await queue.getJobCounts('waiting', 'active', 'completed', 'failed', 'delayed');
      answer(200, { success: true, stats: { queue: 'ai-jobs', ...counts } });
    } else {
      answer(404, { success: false, error: 'no such route' });
    }
  } catch (error) {
    answer(500, { success: false, error: String(error) });
  }
});

await Promise.all([queue.waitUntilReady(), queueEvents.waitUntilReady()]);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.resume().on('end', () => process.exit(0));
