// The fleet at a glance.

/** How far back the plots of the queues reach, ms. */
const REACH = 5 * 60000;

/** `layout:queue` → points [ms, waiting, jobs a second, paused]. */
const history = new Map();
/** By how much Redis's clock is ahead of ours, ms. */
let ahead = 0;
const redisNow = () => Date.now() + ahead;

const specOf = ({ layout, queue }) => `${layout}:${queue}`;

function remember(name, at, waiting, rate, paused) {
  const points = history.get(name) ?? [];
  if (points.length && at <= points.at(-1)[0]) return;
  points.push([at, waiting, rate, paused]);
  while (points.length && points[0][0] < at - REACH) points.shift();
  history.set(name, points);
}

function showHistory({ queues, points }) {
  history.clear();
  for (const [at, of] of points) for (const [n, name] of queues.entries()) remember(name, at, ...of[n]);
}

/** Shown by the second, between two frames: [element, function]. */
const ticking = new Map();
const tick = (node, text) => { ticking.set(node, text); say(node, text()); };
setInterval(() => {
  for (const [node, text] of ticking) {
    if (node.isConnected) say(node, text());
    else ticking.delete(node);
  }
}, 1000);

/** The time until then, in whole seconds. */
const countdown = (until) => {
  const s = Math.max(1, Math.ceil((until - redisNow()) / 1000));
  return s < 10 ? `${s} s` : span(s * 1000);
};

const rateText = (rate) => (rate === null ? '–' : rate >= 10 || rate === 0 ? count(Math.round(rate)) : rate.toFixed(1));

/** The paused queues, as of the last figures. */
let pausedQueues = new Set();

function queueRow(queue) {
  const cell = (label) => el('td', { role: 'cell', 'data-label': label, class: 'n' });
  const [waiting, active, delayed, failed, oldest] = ['Waiting', 'Active', 'Delayed', 'Dead letters', 'Oldest waits'].map(cell);
  const depth = sparkline(`${specOf(queue)}, jobs waiting in the last minutes`, 'depth');
  const rate = sparkline(`${specOf(queue)}, jobs ended a second in the last minutes`, 'rate');
  const rateNow = el('span', { class: 'n now' });
  const held = el('strong', { class: 'state warn' }, 'Paused');
  const node = el('tr', { role: 'row' },
    el('th', { role: 'rowheader', scope: 'row' }, el('span', {}, queue.queue), ' ', el('span', { class: 'tag' }, queue.layout), ' ', held),
    waiting, active, delayed, failed, oldest,
    el('td', { role: 'cell', 'data-label': 'Depth', class: 'plot' }, depth),
    el('td', { role: 'cell', 'data-label': 'Jobs ended / s', class: 'plot' }, el('span', { class: 'with' }, rate, rateNow)));
  let before = queue.paused;
  node.update = (now) => {
    held.hidden = !now.paused;
    if (before !== now.paused) announce(`Queue ${specOf(now)} ${now.paused ? 'is paused' : 'runs again'}`);
    before = now.paused;
    for (const [where, value] of [[waiting, now.waiting], [active, now.active], [delayed, now.delayed], [failed, now.failed]]) {
      say(where, count(value));
      where.classList.toggle('zero', !value);
    }
    failed.classList.toggle('bad', now.failed > 0);
    node.classList.toggle('idle', !(now.paused || now.waiting || now.active || now.delayed || now.failed || now.perSecond));
    say(oldest, now.oldestWaitingMs ? span(now.oldestWaitingMs) : '–');
    oldest.classList.toggle('zero', !now.oldestWaitingMs);
    oldest.classList.toggle('bad', now.oldestWaitingMs > 300000);
    const points = history.get(specOf(now)) ?? [];
    const at = points.at(-1)?.[0] ?? redisNow();
    depth.draw(points.map(([ms, value, , paused]) => [ms, value, paused]), at, REACH, count);
    rate.draw(points.map(([ms, , value, paused]) => [ms, value, paused]), at, REACH, rateText);
    say(rateNow, rateText(now.perSecond));
  };
  return node;
}

const STATES = { CLOSED: ['ok', 'Closed'], HALF_OPEN: ['warn', 'Half-open'], OPEN: ['bad', 'Open'] };

async function reset(name, button) {
  set(button, 'aria-busy', 'true');
  try {
    await callWithToken(`api/circuit-breakers/reset/${encodeURIComponent(name)}`, { method: 'POST' });
    announce(`Circuit breaker ${name} has been reset`);
  } catch (error) {
    if (error.status !== 401) notice('reset', 'bad', `Circuit breaker ${name} was not reset: ${error.message}`);
  } finally {
    set(button, 'aria-busy', null);
  }
}

function breakerRow({ name }) {
  const [state, behind, why, probe] = [el('strong', { class: 'state' }), el('span', { class: 'dim' }), el('p', { class: 'dim' }), el('p', { class: 'probe' })];
  const button = el('button', { type: 'button', onclick: () => reset(name, button) }, 'Reset', el('span', { class: 'unseen' }, ` circuit breaker ${name}`));
  const node = el('li', { class: 'breaker' }, el('div', { class: 'what' }, el('p', {}, el('span', { class: 'name' }, name), ' ', state), why, probe), behind, button);
  let before = null;
  node.update = (now) => {
    const [tone, word] = STATES[now.state] ?? ['warn', now.state];
    set(state, 'class', `state ${tone}`);
    say(state, word);
    say(behind, now.providers.join(', '));
    say(why, now.state === 'HALF_OPEN'
      ? `${now.successes} of ${now.successThreshold} probes have succeeded`
      : `${now.failures} of ${now.failureThreshold} failures`);
    const next = now.nextRetryAt ? Date.parse(now.nextRetryAt) : null;
    probe.hidden = next === null;
    if (next !== null) tick(probe, () => (next > redisNow() ? `Next probe in ${countdown(next)}` : 'The next call is a probe'));
    else ticking.delete(probe);
    // A closed one without failures has nothing to reset. What has the focus keeps it.
    const idle = now.state === 'CLOSED' && !now.failures;
    button.classList.toggle('plain', now.state === 'CLOSED');
    set(button, 'aria-disabled', idle ? 'true' : null);
    button.disabled = idle && document.activeElement !== button;
    if (before && before !== now.state) announce(`Circuit breaker ${name}: ${word}`);
    before = now.state;
  };
  return node;
}

function limitRow({ provider }) {
  const kinds = [['concurrent', 'calls at a time'], ['requestsPerMinute', 'requests a minute'], ['tokensPerMinute', 'tokens a minute']];
  const meters = kinds.map(([, label]) => meter(label));
  const [free, throttle, full] = [el('p', { class: 'small' }), el('p', { class: 'probe' }), el('p', { class: 'probe' })];
  const node = el('li', {}, el('p', { class: 'name' }, provider), meters, full, free, throttle);
  node.update = (now) => {
    for (const [n, [kind]] of kinds.entries()) meters[n].show(now[kind].used, now[kind].limit);
    const open = kinds.filter(([kind]) => !now[kind].limit).map(([kind, label]) => `${count(now[kind].used)} ${label}`);
    say(free, open.length ? `Without a limit: ${open.join(', ')}` : '');
    say(full, now.full ?? '');
    full.hidden = !now.full;
    const until = now.throttledUntil ? Date.parse(now.throttledUntil) : null;
    throttle.hidden = until === null;
    if (until !== null) tick(throttle, () => (until > redisNow() ? `Left alone for ${countdown(until)}, as it asked for` : 'It may be asked again'));
    else ticking.delete(throttle);
  };
  return node;
}

/** Silence after which a replica counts as gone: its jobs are taken over. */
const SILENT = 15000;

function replicaRow({ name }) {
  const [badge, about, load, jobs] = [el('strong', { class: 'state' }), el('span', { class: 'dim' }), el('span', { class: 'n' }), el('ul', { class: 'jobs' })];
  const summary = el('summary', {}, el('span', { class: 'name id' }, name), ' ', badge, about, load);
  const node = el('li', {}, el('details', {}, summary, jobs));
  node.update = (now) => {
    const sum = (of) => now.queues.reduce((total, queue) => total + queue[of], 0);
    const gone = now.silentMs > SILENT;
    set(badge, 'class', `state ${gone ? 'bad' : 'ok'}`);
    say(badge, gone ? `Silent for ${span(now.silentMs)}` : 'Working');
    say(about, `version ${now.version}, up ${span(now.uptimeMs)}`);
    say(load, `${count(sum('inFlight'))} of ${count(sum('slots'))} slots`);
    const running = now.queues.flatMap((queue) => queue.jobs.map((job) => ({ ...job, queue: specOf(queue) })));
    running.sort((a, b) => b.ageMs - a.ageMs);
    const more = sum('inFlight') - running.length;
    list(jobs, running, (job) => `${job.queue} ${job.id}`, jobRow,
      running.length ? '' : more > 0 ? 'Its jobs have ids that are too long to show' : 'No job in flight');
  };
  return node;
}

function jobRow(job) {
  const [kind, age] = [el('span', { class: 'dim' }), el('span', { class: 'n' })];
  const node = el('li', {}, el('a', { href: jobLink(job.queue, job.id), class: 'id' }, job.id), age, el('p', {}, el('span', { class: 'tag' }, job.queue), ' ', kind));
  node.update = (now) => {
    say(kind, now.type ?? '');
    say(age, span(now.ageMs));
  };
  return node;
}

function failureRow(failure) {
  const [kind, badge, reason, when] = [el('span', { class: 'dim' }), el('strong', { class: 'state bad' }), el('p', { class: 'reason' }), el('time', { class: 'n' })];
  const node = el('li', { class: 'failure' },
    el('div', {}, badge, ' ', el('a', { href: jobLink(specOf(failure), failure.jobId), class: 'id' }, failure.jobId), el('span', { class: 'tag' }, specOf(failure)), kind), when, reason);
  node.update = (now) => {
    say(badge, now.class ?? 'failed');
    say(kind, now.type ?? '');
    say(reason, now.error ?? 'No reason is known');
    const at = now.at ? Date.parse(now.at) : null;
    when.hidden = at === null;
    if (at !== null) {
      set(when, 'datetime', now.at);
      set(when, 'title', date.format(at));
      tick(when, () => ago(redisNow() - at));
    }
  };
  return node;
}

function tile({ name }) {
  const [value, note] = [el('span', { class: 'figure' }), el('span', { class: 'dim' })];
  const node = el('div', {}, el('dt', {}, name), el('dd', {}, value, note));
  node.update = (now) => {
    say(value, now.value);
    say(note, now.note ?? '');
    node.classList.toggle('bad', Boolean(now.bad));
  };
  return node;
}

function showTiles({ queues, replicas, minutes }) {
  const sum = (items, of) => items.reduce((total, item) => total + (item[of] ?? 0), 0);
  const alive = replicas.filter((replica) => replica.silentMs <= SILENT);
  const work = alive.flatMap((replica) => replica.queues);
  const rates = queues.map((queue) => queue.perSecond).filter((rate) => rate !== null);
  const lately = minutes.slice(-15);
  const [good, bad] = [1, 2].map((of) => lately.reduce((total, minute) => total + minute[of], 0));
  const held = sum(queues.filter((queue) => queue.paused), 'waiting');
  const share = good + bad ? (bad * 100) / (good + bad) : null;
  list($('tiles'), [
    { name: 'Replicas', value: count(alive.length), note: replicas.length > alive.length ? `${replicas.length - alive.length} silent` : '', bad: replicas.length > alive.length },
    { name: 'In flight', value: count(sum(work, 'inFlight')), note: `of ${count(sum(work, 'slots'))}` },
    { name: 'Waiting', value: count(sum(queues, 'waiting')), note: held ? `${count(held)} paused` : '' },
    { name: 'Delayed', value: count(sum(queues, 'delayed')) },
    { name: 'Ended / s', value: rates.length ? rateText(rates.reduce((a, b) => a + b, 0)) : '–' },
    { name: 'Failed, 15 min', value: share === null ? '–' : `${share.toFixed(share && share < 10 ? 1 : 0)} %`, note: share === null ? '' : `${count(bad)} of ${count(good + bad)}`, bad: share > 5 },
    { name: 'Dead letters', value: count(sum(queues, 'failed')) },
  ], (item) => item.name, tile);
}

function showFigures(figures) {
  for (const queue of figures.queues) remember(specOf(queue), figures.now, queue.waiting, queue.perSecond, queue.paused);
  pausedQueues = new Set(figures.queues.filter((queue) => queue.paused).map(specOf));
  showTiles(figures);
  bars($('minutes'), figures.minutes);
  list($('queues'), figures.queues, specOf, queueRow);
  list($('breakers'), figures.breakers, (breaker) => breaker.name, breakerRow, 'Breakers and limits are switched off');
  list($('limits'), figures.limits, (limit) => limit.provider, limitRow, 'Breakers and limits are switched off');
  list($('replicas'), figures.replicas, (replica) => replica.name, replicaRow, 'No replica has been heard of yet');
  list($('failures'), figures.failures ?? [], (failure) => `${specOf(failure)} ${failure.jobId}`, failureRow,
    figures.failures ? 'No dead letters' : 'Not known yet');
}
