// The figures as a Markdown table, each beside its aim.

const number = (digits) => (value) => value.toLocaleString('en-US', { maximumFractionDigits: digits, minimumFractionDigits: digits });
const whole = number(0);
const micros = (ms) => `${whole(ms * 1000)} µs`;
const percent = (share) => `${number(1)(share * 100)} %`;
const ms = (value) => `${number(2)(value)} ms`;
const mb = (value) => `${number(1)(value)} MB`;

/** More is better: `aim` is the least ratio. */
const times = (name, show, node, rust, aim) => ({
  name,
  node: show(node),
  rust: show(rust),
  measured: `${number(1)(rust / node)} ×`,
  aim: aim && `≥ ${aim} ×`,
  met: rust / node >= aim,
});

/** Less is better: `aim` is the largest ratio. */
const part = (name, show, node, rust, aim) => ({
  name,
  node: show(node),
  rust: show(rust),
  measured: rust * 2 < node ? `1/${number(1)(node / rust)}` : number(2)(rust / node),
  aim: aim && (aim < 0.5 ? `≤ 1/${1 / aim}` : `≤ ${aim}`),
  met: rust / node <= aim,
});

/** The share of what a worker without any cost of its own would do. */
function share(concurrency, { node, rust }, aim) {
  const of = ({ rate, held }) => rate / ((1000 / held) * concurrency);
  return {
    name: `full stack, 50 ms stub, concurrency ${concurrency}: share of the ideal`,
    node: percent(of(node)),
    rust: percent(of(rust)),
    measured: percent(of(rust)),
    aim: `≥ ${aim * 100} %`,
    met: of(rust) >= aim,
  };
}

function rows({ full, full100, ideal20, ideal100, noOp20, noOp100, pickup, pickupFull, sent }) {
  return [
    times('full stack, 0 ms stub, concurrency 20: jobs/s', whole, full.node.rate, full.rust.rate, 8),
    full100 && times('the same, concurrency 100: jobs/s', whole, full100.node.rate, full100.rust.rate, 8),
    part('worker CPU a job', micros, full.node.cpu, full.rust.cpu, 1 / 8),
    part('Redis CPU a job', micros, full.node.redisCpu, full.rust.redisCpu),
    part('Redis commands a job, sent', number(1), sent.full.node, sent.full.rust),
    part('Redis commands a job, with those inside of scripts', number(1), full.node.commands, full.rust.commands),
    part('memory, RSS after the run', mb, full.node.rss, full.rust.rss, 1 / 8),
    part('memory, peak', mb, full.node.peak, full.rust.peak, 1 / 8),
    share(20, ideal20, 0.98),
    share(100, ideal100, 0.95),
    times('no-op, concurrency 20: jobs/s', whole, noOp20.node.rate, noOp20.rust.rate, 1.5),
    times('no-op, concurrency 100: jobs/s', whole, noOp100.node.rate, noOp100.rust.rate, 1.5),
    part('worker CPU a no-op job, concurrency 20', micros, noOp20.node.cpu, noOp20.rust.cpu),
    part('Redis CPU a no-op job, concurrency 20', micros, noOp20.node.redisCpu, noOp20.rust.redisCpu, 0.7),
    part('Redis CPU a no-op job, concurrency 100', micros, noOp100.node.redisCpu, noOp100.rust.redisCpu, 0.7),
    part('Redis commands a no-op job, sent', number(1), sent.noOp.node, sent.noOp.rust),
    part('pickup from an idle queue, add → processor, p50', ms, pickup.node.p50, pickup.rust.p50, 1),
    part('the same, p99', ms, pickup.node.p99, pickup.rust.p99),
    part('add → request at the stub, p50', ms, pickupFull.node.p50, pickupFull.rust.p50, 1),
    part('the same, p99', ms, pickupFull.node.p99, pickupFull.rust.p99),
  ].filter(Boolean);
}

exports.table = (figures) =>
  [
    '| | Node worker | backend-worker | measured | aim | |',
    '|---|---|---|---|---|---|',
    ...rows(figures).map(({ name, node, rust, measured, aim, met }) => {
      const verdict = aim ? (met ? 'met' : '**not met**') : '';
      return `| ${name} | ${node} | ${rust} | ${measured} | ${aim ?? ''} | ${verdict} |`;
    }),
  ].join('\n');
