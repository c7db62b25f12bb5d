// Enqueues a job from Node with BullMQ 5, and waits for its result:
//
//   npm install bullmq@5
//   node examples/enqueue_from_node.mjs redis://127.0.0.1:6379
//
// A worker that serves `bullmq:ai-jobs` has to run. `jobs/schemas` describes the data of every job type.
import { createRequire } from 'node:module';

// Looks for bullmq where the caller has installed it.
const require = createRequire(`${process.cwd()}/`);
const { Queue, QueueEvents } = require('bullmq');

const url = new URL(process.argv[2] ?? 'redis://127.0.0.1:6379');
const connection = { host: url.hostname, port: Number(url.port || 6379) };
const queue = new Queue('ai-jobs', { connection });
const events = new QueueEvents('ai-jobs', { connection });
events.on('progress', ({ jobId, data }) => console.error(`${jobId}: ${data} %`));

try {
  const job = await queue.add(
    'generate-flashcards',
    {
      content: 'Plants turn light, water and carbon dioxide into sugar and oxygen.',
      subject: 'Biology',
      topic: 'Photosynthesis',
      userId: '42',
      nativeLanguage: 'Spanish',
      targetLanguage: 'English',
    },
    { attempts: 3, backoff: { type: 'exponential', delay: 2000 } },
  );
  console.error(`enqueued ${job.id}`);
  const deck = await job.waitUntilFinished(events, 120_000);
  console.log(JSON.stringify(deck, null, 2));
} finally {
  await events.close();
  await queue.close();
}
