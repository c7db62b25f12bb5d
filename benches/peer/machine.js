// Processes of the benchmark, and what the kernel and Redis say that they cost. Every process that is started here ends
// when this one does, however that comes.
const { fork, spawn } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const Redis = require('ioredis');

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const children = new Set();
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bench-peer-'));
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
  fs.rmSync(folder, { recursive: true, force: true });
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));

async function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${ms / 1000} s`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function adopt(child) {
  children.add(child);
  child.gone = new Promise((resolve) => child.on('exit', (code, signal) => resolve(code ?? signal)));
  child.gone.then(() => children.delete(child));
  return child;
}

/** Starts a program whose output says `mark` when it is ready. `onLine` hears of each line. */
async function start(command, args, env, mark, onLine = () => {}) {
  const inherited = Object.fromEntries(['PATH', 'HOME', 'TMPDIR'].map((name) => [name, process.env[name]]));
  const options = { cwd: folder, env: { ...inherited, ...env }, stdio: ['ignore', 'pipe', 'inherit'] };
  const child = adopt(spawn(command, args, options));
  let rest = '';
  let said = '';
  const ready = new Promise((resolve, reject) => {
    child.on('error', reject);
    child.gone.then((code) => reject(new Error(`${command} ended (${code}): ${said}`)));
    child.stdout.on('data', (chunk) => {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        said = `${said}${line}\n`.slice(-2000);
        if (line.includes(mark)) resolve();
        onLine(line);
      }
    });
  });
  ready.catch(() => {}); // The process may end after it was ready; that rejection is expected.
  await within(20000, command, ready);
  return child;
}

/** Ends a program the way a platform does. */
async function stop(child) {
  child.kill('SIGTERM');
  const code = await within(20000, child.spawnfile, child.gone);
  if (code !== 0) throw new Error(`${child.spawnfile} ended with ${code}`);
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.on('listening', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A redis-server of its own, which keeps nothing on disk. */
async function startRedis() {
  const port = await freePort();
  const args = ['--bind', '127.0.0.1', '--port', `${port}`, '--save', '', '--appendonly', 'no', '--dir', folder];
  const server = await start('redis-server', args, {}, 'Ready to accept connections');
  return { server, port, connection: { host: '127.0.0.1', port, maxRetriesPerRequest: null } };
}

/** The provider's stub: its base URL, and what it has to say. */
async function startStub(delay) {
  const child = adopt(fork(path.join(__dirname, 'stub.js'), { env: { DELAY_MS: `${delay}` } }));
  const next = () => within(20000, 'stub', new Promise((resolve) => child.once('message', resolve)));
  const { port } = await next();
  return {
    url: `http://127.0.0.1:${port}/v1`,
    announce: () => child.send('announce'),
    next,
    counts: () => {
      child.send('counts');
      return next();
    },
    stop: () => {
      child.disconnect();
      return child.gone;
    },
  };
}

/** CPU time of a process so far, ms; the kernel counts in ticks of 10 ms. */
function cpu(pid) {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** Memory of a process, MB. */
function memory(pid) {
  const status = fs.readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)[1]) / 1024;
  return { rss: field('VmRSS'), peak: field('VmHWM') };
}

/** What Redis has spent so far: CPU time, ms, and commands, those inside of scripts included. */
async function redisSpent(redis) {
  const info = await redis.info('everything');
  const field = (name) => Number(new RegExp(`^${name}:([\\d.]+)`, 'm').exec(info)[1]);
  const calls = [...info.matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm)];
  return {
    cpu: (field('used_cpu_user') + field('used_cpu_sys')) * 1000,
    commands: calls.reduce((sum, [, , count]) => sum + Number(count), 0),
  };
}

/** Counts what clients send, scripts' own commands aside, until told to stop. Slows Redis down. */
async function monitor(redis) {
  const watch = await redis.monitor();
  let sent = 0;
  watch.on('monitor', (_time, [command], source) => {
    if (source !== 'lua' && !/^(llen|info)$/i.test(command)) sent++;
  });
  return () => {
    watch.disconnect();
    return sent;
  };
}

module.exports = { Redis, cpu, memory, monitor, redisSpent, sleep, start, startRedis, startStub, stop, within };
