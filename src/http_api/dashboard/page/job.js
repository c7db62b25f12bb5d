// One job, and its timeline. What it was given and what it made are not shown.

const JOB_STATES = { waiting: ['', 'Waiting'], delayed: ['warn', 'Delayed'], active: ['info', 'Active'], completed: ['ok', 'Completed'], failed: ['bad', 'Failed'] };

let leaveJob = null;

/** A moment of the timeline. */
function moment(tone, title, { at, badge, text, meta } = {}) {
  const when = at ? Date.parse(at) : null;
  return el('li', { class: `moment ${tone}` },
    el('p', {}, el('strong', {}, title), ' ', badge && el('span', { class: 'tag' }, badge)),
    text && el('p', { class: 'reason' }, text),
    (when || meta) && el('p', { class: 'dim' }, when && el('time', { datetime: at, title: date.format(when) }, clock.format(when)), when && meta ? ' · ' : '', meta));
}

function line({ at, attempt, try: nth, class: kind, cause, delayMs, replica }) {
  if (kind === 'retried') return [moment('info', 'Put back by hand', { at, text: cause, meta: replica && `by ${replica}` })];
  const title = nth ? `Attempt ${attempt}, try ${nth} failed` : `Attempt ${attempt} failed`;
  const failed = moment('bad', title, { at, badge: kind, text: cause, meta: replica && `on ${replica}` });
  return delayMs ? [failed, el('li', { class: 'gap' }, `waits ${span(delayMs)}`)] : [failed];
}

/** How it stands now, as the last moment. */
function standing(job) {
  const { status, waitingFor, progress, attemptsMade, error } = job;
  if (status === 'completed') return moment('ok', 'Completed', { at: job.endedAt });
  if (status === 'failed') return moment('bad', 'Failed for good: a dead letter', { at: job.endedAt, text: error, meta: `after ${count(attemptsMade)} ${attemptsMade === 1 ? 'attempt' : 'attempts'}` });
  if (status === 'active') return moment('info', 'Running', { meta: `${progress} %` });
  if (status === 'waiting') {
    const held = el('p', { class: 'probe' });
    tick(held, () => (pausedQueues.has(specOf(job)) ? 'Its queue is paused: no worker claims its jobs' : ''));
    const node = moment('now', 'In line');
    node.append(held);
    return node;
  }
  const due = waitingFor?.until ? Date.parse(waitingFor.until) : null;
  const node = moment('warn', waitingFor?.gate ? `Waits for the gate of ${waitingFor.gate}` : 'Waits for its time', { text: waitingFor?.reason });
  if (due) {
    const left = el('p', { class: 'probe' });
    node.append(left);
    tick(left, () => (due > redisNow() ? `Until ${clock.format(due)}, in ${countdown(due)}` : 'It is due'));
  }
  return node;
}

function showJob(job, cards) {
  const [tone, word] = JOB_STATES[job.status] ?? ['', job.status];
  const fact = (name, value) => value !== null && value !== undefined && el('div', {}, el('dt', {}, name), el('dd', {}, value));
  const began = job.addedAt && moment('', 'Added', { at: job.addedAt });
  // A failed job's last line is the failure itself.
  const lines = job.status === 'failed' && job.history.length ? job.history.slice(0, -1) : job.history;
  const last = job.status === 'failed' ? job.history.at(-1) : null;
  const end = standing({ ...job, endedAt: job.endedAt ?? last?.at });
  if (last?.class) end.querySelector('p').append(el('span', { class: 'tag' }, last.class));
  $('job-body').replaceChildren(
    el('dl', { class: 'facts' },
      fact('State', el('strong', { class: `state ${tone}` }, word)),
      fact('Queue', `${job.layout}:${job.queue}`),
      fact('Type', job.type),
      fact('Progress', `${job.progress} %`),
      fact('Cards written', cards > 0 ? count(cards) : null),
      fact('Attempts used', count(job.attemptsMade)),
      fact('Deployment', job.result?.usage?.deployments?.join(', ') ?? job.result?.usage?.deployment),
      fact('Cost', typeof job.result?.usage?.costUsd === 'number' ? `$${job.result.usage.costUsd.toFixed(6)}` : null),
      (job.paidCalls ?? []).map(({ step, cameTo, usd, service }) => fact(`Call ${step}`, `$${usd.toFixed(6)}, ${cameTo}${service ? `, at ${service}` : ''}`))),
    el('section', { class: 'card', 'aria-labelledby': 'h-timeline' },
      el('div', { class: 'head' }, el('h2', { id: 'h-timeline' }, 'Timeline')),
      el('ol', { class: 'timeline' }, began, lines.flatMap(line), end)));
}

/** Shows a job, and follows it until it has ended or the reader goes elsewhere. */
function openJob(queue, id) {
  const gone = new AbortController();
  leaveJob = () => gone.abort();
  const where = queue ? `?queue=${encodeURIComponent(queue)}` : '';
  const message = (text) => $('job-body').replaceChildren(el('p', { class: 'card nothing' }, text));
  $('job-title').replaceChildren('Job ', el('span', { class: 'id' }, id));
  message('Looking…');
  let shown = null;
  let cards = 0;
  let looking = null;
  let again = false;
  const look = async () => {
    // One request at a time; an event during a request triggers another one.
    if (looking) { again = true; return; }
    looking = (async () => {
      const answer = await callWithToken(`api/job-status/${encodeURIComponent(id)}${where}`, { signal: gone.signal });
      const job = await answer.json();
      if (gone.signal.aborted) return;
      if (shown && shown !== job.status) announce(`Job ${id}: ${job.status}`);
      shown = job.status;
      showJob(job, cards);
    })();
    try {
      await looking;
    } catch (error) {
      if (gone.signal.aborted) return;
      if (!shown) message(error.status === 404 ? 'No queue knows this job.' : `It cannot be shown: ${error.message}`);
    } finally {
      looking = null;
    }
    if (again && !gone.signal.aborted) {
      again = false;
      // A job that reports often is looked at four times a second at most.
      await pause(250, gone.signal);
      if (!gone.signal.aborted) await look();
    }
  };
  look().then(() => follow(`api/job-events?jobId=${encodeURIComponent(id)}${where.replace('?', '&')}`, {
    signal: gone.signal,
    onState: () => {},
    // An event says when to look; how the job stands, the look says.
    onEvent: (event, data) => {
      if (event === 'card') cards = Math.max(cards, data.index + 1);
      return look();
    },
    over: () => shown === 'completed' || shown === 'failed',
  }));
}
