// The worker that backend-worker replaces: BullMQ Worker → Bottleneck (Redis datastore) → breaker over five Redis keys →
// retry → HTTP POST. Prints READY when it serves, and ends with SIGTERM.
//
// env: REDIS_URL, STUB_URL, CONCURRENCY, LIMIT_RPM, MAX_CONCURRENT, API_KEY
const { Worker } = require('bullmq');
const Bottleneck = require('bottleneck');
const Redis = require('ioredis');
const Breaker = require('./breaker');
const retry = require('./retry');

const number = (name) => Number.parseInt(process.env[name], 10);
const { hostname, port } = new URL(process.env.REDIS_URL);
const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null, enableReadyCheck: false };

const redis = new Redis(connection);
const limiter = new Bottleneck({
  id: 'openai',
  datastore: 'ioredis',
  Redis,
  clientOptions: connection,
  clearDatastore: false,
  reservoir: number('LIMIT_RPM'),
  reservoirRefreshAmount: number('LIMIT_RPM'),
  reservoirRefreshInterval: 60000,
  maxConcurrent: number('MAX_CONCURRENT'),
  minTime: 0,
  trackDoneStatus: true,
});
limiter.on('error', (error) => console.error('limiter', error.message));
const breaker = new Breaker(redis, 'openai');

async function call(job) {
  const response = await fetch(`${process.env.STUB_URL}/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${process.env.API_KEY ?? 'test'}` },
    body: JSON.stringify({ model: 'gpt-4o-mini', messages: [{ role: 'user', content: job.data.content }] }),
  });
  const text = await response.text();
  if (!response.ok) throw Object.assign(new Error(`upstream ${response.status}`), { status: response.status });
  return JSON.parse(text);
}

async function work(job) {
  await job.updateProgress(10);
  const onRetry = (_error, nth) => job.updateProgress(10 + nth * 5).catch(() => {});
  const result = await limiter.schedule(() => breaker.execute(() => retry(() => call(job), { onRetry })));
  await job.updateProgress(100);
  return result;
}

const worker = new Worker('ai-jobs', work, {
  connection,
  concurrency: number('CONCURRENCY'),
  stalledInterval: 30000,
  maxStalledCount: 2,
});
worker.on('error', (error) => console.error('worker', error.message));
Promise.all([worker.waitUntilReady(), limiter.ready()]).then(() => console.log('READY'));

process.on('SIGTERM', async () => {
  await worker.close();
  await limiter.disconnect();
  redis.disconnect();
  process.exit(0);
});
