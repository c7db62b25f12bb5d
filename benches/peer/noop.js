// BullMQ's own worker with nothing to do: what the queue alone costs. With ANNOUNCE=1 each job that starts is a line on
// standard output.
//
// env: REDIS_URL, CONCURRENCY, ANNOUNCE
const fs = require('node:fs');
const { Worker } = require('bullmq');

const { hostname, port } = new URL(process.env.REDIS_URL);
const announce = process.env.ANNOUNCE === '1';
const work = async () => {
  if (announce) fs.writeSync(1, 'started\n');
};
const worker = new Worker('ai-jobs', work, {
  connection: { host: hostname, port: Number(port), maxRetriesPerRequest: null },
  concurrency: Number(process.env.CONCURRENCY),
});
worker.on('error', (error) => console.error('worker', error.message));
worker.waitUntilReady().then(() => console.log('READY'));

process.on('SIGTERM', async () => {
  await worker.close();
  process.exit(0);
});
