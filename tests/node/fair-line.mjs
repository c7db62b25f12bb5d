// Measures how long students wait for a limit: replicas and the simulator as processes, jobs added by BullMQ's Queue.
//
// node fair-line.mjs <binary> <scenario> [replicas]   (see scripts/fair-line.sh)
//   burst      one student adds BURST jobs (700), then 20 others one each; ends when the others are done, or all with ALL=1
//   crowd      50 students add BURST jobs in random order; ends when all of them are done. LAYOUT=apalis adds them in that layout
//   steady     40 students add 20 jobs a minute for MINUTES (9), one adds 200 at once after the first minute
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

const [binary, scenario = 'burst', replicas = '3'] = process.argv.slice(2);
const { Queue } = createRequire(import.meta.url)('bullmq');
const number = (name, fallback) => Number(process.env[name] ?? fallback);
const [rpm, burst, minutes, latency] = [number('RPM', 50), number('BURST', 700), number('MINUTES', 9), process.env.LATENCY ?? '500ms'];
const layout = process.env.LAYOUT ?? 'bullmq';
const nap = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const children = [];
const start = (command, args, env) => {
  const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'inherit'], cwd: tmpdir() });
  children.push(child);
  child.on('exit', (code, signal) => {
    if (signal === 'SIGKILL') return;
    console.error(`${command} ${args[0]} ended with ${code ?? signal}: the run is void`);
    process.exit(1);
  });
  return child;
};
const until = (child, pattern) => new Promise((resolve) => {
  let text = '';
  child.stdout.on('data', (data) => {
    text = (text + data).slice(-20000);
    const found = text.match(pattern);
    if (found) resolve(found);
  });
});
const stop = () => {
  for (const child of children) child.kill('SIGKILL');
};
process.on('exit', stop);

const folder = mkdtempSync(path.join(tmpdir(), 'fair-line-'));
const port = 10000 + Math.floor(Math.random() * 20000); // Below those that connections get.
await until(start('redis-server', ['--port', port, '--save', '', '--dir', folder], process.env), /Ready to accept/);
const simulate = start(binary, ['simulate', '--listen', `127.0.0.1:${port + 1}`, '--latency', latency], process.env);
const variables = {};
await until(simulate, /AZURE_VISION_ENDPOINT=\S+/).then((found) => {
  for (const line of found.input.split('\n')) {
    const [, name, value] = line.match(/^([A-Z_]+)=(.*)$/) ?? [];
    if (name) variables[name] = value;
  }
});
const env = {
  PATH: process.env.PATH, ...variables, REDIS_URL: `redis://127.0.0.1:${port}`, PORT: '0', LOG_FORMAT: 'json', RUST_LOG: 'info',
  QUEUES: `${layout}:ai-jobs`, OPENAI_RATE_LIMIT_RPM: `${rpm}`,
  ...Object.fromEntries(Object.entries(process.env).filter(([name]) => /^(FAIRNESS_KEY|CIRCUIT_MAX_WAIT|CONCURRENCY|OPENAI_MAX_CONCURRENT)$/.test(name))),
};
for (let n = 0; n < Number(replicas); n += 1) await until(start(binary, ['run'], env), /"ready: health/);

const connection = { host: '127.0.0.1', port };
const queue = new Queue('ai-jobs', { connection });
const began = performance.now();
const added = new Map(); // job → when, and whose
let count = 0;
const add = async (student, jobs = 1) => {
  const batch = [];
  for (let n = 0; n < jobs; n += 1) {
    count += 1;
    const id = `job-${count}`;
    added.set(id, { student, at: performance.now() - began });
    batch.push({ name: 'generate-flashcards', data: { content: id, subject: 'x', topic: 'y', userId: student }, opts: { jobId: id, attempts: 3 } });
  }
  if (layout === 'apalis') await addApalis(batch);
  else await queue.addBulk(batch);
};
// What `apalis_redis` writes.
const addApalis = async (batch) => {
  const redis = await queue.client;
  for (const { name, data, opts } of batch) {
    const id = `01JD${opts.jobId.slice(4).padStart(22, '0')}`; // An ULID.
    await redis.multi()
      .hset('ai-jobs:data', { [id]: JSON.stringify({ type: name, data }) })
      .hset(`ai-jobs:meta:${id}`, { attempts: 0, max_attempts: 3, status: 'Pending' })
      .rpush('ai-jobs:active', id)
      .exec();
  }
};
// When the provider was asked for a job, by the simulator's clock.
const asked = new Map();
let next = 0, offset = null, most = { delayed: 0, active: 0 };
const look = async () => {
  const stats = await (await fetch(`http://127.0.0.1:${port + 1}/_sim/stats`)).json();
  offset ??= performance.now() - began - stats.uptime_ms;
  for (;;) {
    const page = await (await fetch(`http://127.0.0.1:${port + 1}/_sim/journal?since=${next}`)).json();
    for (const entry of page.entries) if (!asked.has(entry.marker)) asked.set(entry.marker, entry.at_ms + offset);
    next = page.next;
    if (page.entries.length === 0) break;
  }
  const counts = await queue.getJobCounts('wait', 'active', 'delayed', 'failed', 'completed');
  if (layout === 'apalis') {
    const redis = await queue.client;
    [counts.completed, counts.failed] = [await redis.zcard('ai-jobs:ended:done'), await redis.zcard('ai-jobs:ended:dead')];
  }
  most = { delayed: Math.max(most.delayed, counts.delayed), active: Math.max(most.active, counts.active) };
  return { counts, stats: stats.providers.openai };
};
await look();

// CPU of Redis, s.
const redisCpu = async () => {
  const info = await (await queue.client).info('cpu');
  return ['used_cpu_user', 'used_cpu_sys'].reduce((sum, name) => sum + Number(info.match(`${name}:([0-9.]+)`)[1]), 0);
};
// What replicas without work, and the looks of this script, cost in a second. IDLE is how long that is measured, s.
const idle = number('IDLE', 0);
const beforeIdle = await redisCpu();
for (const end = performance.now() + idle * 1000; performance.now() < end;) {
  await nap(500);
  await look();
}
const idleCpu = idle > 0 ? (await redisCpu() - beforeIdle) / idle : 0;
const [startCpu, startedAt] = [await redisCpu(), performance.now()];

const light = () => [...added.keys()].filter((id) => added.get(id).student !== 'heavy');
if (scenario === 'burst') {
  await add('heavy', burst);
  for (let n = 0; n < 20; n += 1) await add(`student-${n}`);
  const wanted = () => (process.env.ALL ? [...added.keys()] : light());
  while (wanted().some((id) => !asked.has(id))) {
    await nap(500);
    await look();
  }
} else if (scenario === 'crowd') {
  for (let n = 0; n < burst; n += 1) await add(`student-${Math.floor(Math.random() * 50)}`);
  for (;;) {
    const { counts } = await look();
    if (counts.completed + counts.failed >= burst) break;
    await nap(500);
  }
} else {
  const lights = async (ms) => {
    const end = performance.now() + ms;
    while (performance.now() < end) {
      await nap(-Math.log(1 - Math.random()) * 3000); // 20 a minute, at random
      await add(`student-${Math.floor(Math.random() * 40)}`);
      await look();
    }
  };
  await lights(60_000);
  await add('heavy', 200);
  await lights((minutes - 1) * 60_000);
  while ([...added.keys()].some((id) => !asked.has(id))) {
    await nap(500);
    await look();
  }
}
await nap(2000);
const { counts, stats } = await look();
const waits = (ids) => ids.map((id) => (asked.get(id) - added.get(id).at) / 1000).sort((a, b) => a - b);
const say = (name, ids) => {
  const all = waits(ids.filter((id) => asked.has(id)));
  const at = (share) => (all[Math.min(all.length - 1, Math.floor(all.length * share))] ?? 0).toFixed(1);
  console.log(`${name}: ${all.length} asked for; wait p50 ${at(0.5)} s, p95 ${at(0.95)} s, max ${at(1)} s`);
};
say('others', light());
say('heavy', [...added.keys()].filter((id) => added.get(id).student === 'heavy'));
const times = [...asked.values()].sort((a, b) => a - b);
const span = Math.min(600_000, times.at(-1) - times[0]);
const within = times.filter((at) => at - times[0] < span).length;
console.log(`${counts.failed} failed, ${counts.completed} completed; at most ${most.delayed} delayed and ${most.active} active at a look`);
console.log(`${within} requests in ${(span / 1000).toFixed(0)} s: ${((within / (rpm * span / 60_000)) * 100).toFixed(1)} % of the limit; at most ${stats.max_per_minute} in a minute of ${rpm}`);
const [cpu, seconds] = [await redisCpu() - startCpu, (performance.now() - startedAt) / 1000];
const ended = counts.completed + counts.failed;
const each = (s) => ((s / ended) * 1e6).toFixed(0);
console.log(`Redis: ${each(cpu)} µs of CPU for each of ${ended} jobs that ended`);
if (idle > 0) console.log(`Redis: ${each(cpu - idleCpu * seconds)} µs of it are more than the ${(idleCpu * 1000).toFixed(2)} ms a second that an idle fleet costs`);
// What the commands were: each script is one EVALSHA or FCALL, and the commands inside of scripts count too.
const calls = [...(await (await queue.client).info('commandstats')).matchAll(/cmdstat_([^:]+):calls=(\d+),usec=(\d+)/g)];
const of = (names) => calls.filter(([, name]) => names.includes(name)).reduce((sum, [, , n]) => sum + Number(n), 0) / ended;
const all = calls.reduce((sum, [, , n]) => sum + Number(n), 0) / ended;
console.log(`Redis: ${of(['evalsha', 'fcall']).toFixed(2)} scripts and ${all.toFixed(1)} commands a job, those inside of scripts included`);
if (process.env.COMMANDS) {
  for (const [, name, n, usec] of calls.sort((a, b) => b[2] - a[2])) console.log(`  ${name}: ${(n / ended).toFixed(2)} a job, ${(usec / n).toFixed(1)} µs each`);
}
await queue.close();
stop();
process.exit(0);
