// The state of the page, and its connection to the worker.

/** Puts a notice above everything, or with no text takes it away. Notices are told once, when they change. */
const notices = new Map();
function notice(key, tone, text, action) {
  if (!text) notices.delete(key);
  else notices.set(key, { key, tone, text, action });
  list($('notices'), [...notices.values()], (item) => item.key, (item) => {
    const words = el('span');
    const node = el('div', { class: 'notice' }, words, item.action && el('button', { type: 'button', onclick: item.action.run }, item.action.name));
    if (!item.action && item.key === 'reset') node.append(el('button', { type: 'button', class: 'plain', onclick: () => notice('reset') }, 'Dismiss'));
    node.update = (now) => {
      set(node, 'class', `notice ${now.tone}`);
      say(words, now.text);
    };
    return node;
  });
}

/** When the figures were read, by our clock; and what stands in their way. */
let readAt = null;
let state = 'wait';
let told = null;

function pulse() {
  const age = readAt === null ? null : Date.now() - readAt;
  const of = age === null ? 'no figures yet' : `figures ${age < 3500 && state !== 'away' ? 'of now' : `${span(Math.round(age / 1000) * 1000)} old`}`;
  const word = { wait: 'Connecting', live: 'Live', away: 'Redis is away', lost: 'Disconnected', denied: 'No token', asleep: 'Paused' }[state];
  set($('pulse'), 'data-state', state === 'live' && age > 10000 ? 'lost' : state);
  say($('pulse-text'), `${word}, ${of}`);
  document.body.classList.toggle('stale', age !== null && (state !== 'live' || age > 10000));
  if (told !== state && told !== null && state !== 'wait') announce(word);
  told = state;
}
setInterval(pulse, 1000);

function showAlerts(alerts) {
  const now = new Set(alerts.map((alert) => `alert ${alert.name}`));
  for (const key of [...notices.keys()]) if (key.startsWith('alert ') && !now.has(key)) notice(key);
  for (const alert of alerts) {
    // The outage has a notice of its own, which knows how old the figures are.
    if (alert.name === 'RedisAway') continue;
    if (!notices.has(`alert ${alert.name}`)) announce(`Alert: ${alert.name}`);
    const value = alert.threshold < 1 ? `${(alert.value * 100).toFixed(0)} %` : count(Math.round(alert.value));
    notice(`alert ${alert.name}`, alert.severity === 'critical' ? 'bad' : 'warn',
      `${alert.name}${alert.subject ? ` (${alert.subject})` : ''}: ${value} ${alert.about}. ${alert.action}`);
  }
}

function showFrame({ awayMs, ageMs, alerts, figures }) {
  state = awayMs === null ? 'live' : 'away';
  if (figures) {
    readAt = Date.now() - ageMs;
    if (awayMs === null) ahead = figures.now - readAt;
    showFigures(figures);
  }
  notice('away', 'bad', awayMs === null ? null
    : `Redis has not answered for ${span(Math.max(1000, awayMs))}. ${figures ? `The figures are ${span(ageMs)} old.` : 'There are no figures yet.'} Jobs in flight go on, and their results are kept until it is back.`);
  showAlerts(alerts);
  pulse();
}

let leaveFleet = null;

function followFleet() {
  if (leaveFleet) return;
  const gone = new AbortController();
  leaveFleet = () => { gone.abort(); leaveFleet = null; };
  follow('api/dashboard/events', {
    signal: gone.signal,
    onEvent: (event, data) => (event === 'history' ? showHistory(data) : event === 'frame' && showFrame(data)),
    onState: (how, why) => {
      if (how === 'live') return notice('line');
      state = how === 'denied' ? 'denied' : 'lost';
      const again = { name: 'Enter a token', run: () => { leaveFleet?.(); notice('line'); followFleet(); } };
      if (how === 'denied') notice('line', 'warn', 'Reading is closed to everyone without a token.', again);
      else notice('line', 'bad', `${why}. Trying again.`);
      pulse();
    },
  });
}

/** A hidden page has no reader: after a while it stops its requests, which saves the fleet the work. */
let falling = null;
document.addEventListener('visibilitychange', () => {
  clearTimeout(falling);
  if (!document.hidden) return followFleet();
  falling = setTimeout(() => { leaveFleet?.(); state = 'asleep'; pulse(); }, 60000);
});

function show() {
  leaveJob?.();
  leaveSpend?.();
  leaveJob = leaveSpend = null;
  const isSpend = location.hash === '#spend';
  let job = null;
  try {
    job = location.hash.match(/^#job\/([^/]*)\/([^/]+)$/)?.slice(1).map(decodeURIComponent);
  } catch {
    // No address of ours: the fleet it is.
  }
  $('overview').hidden = Boolean(job) || isSpend;
  $('job').hidden = !job;
  $('spend').hidden = !isSpend;
  set($('to-fleet'), 'aria-current', job || isSpend ? null : 'page');
  set($('to-spend'), 'aria-current', isSpend ? 'page' : null);
  document.title = job ? `Job ${job[1]} · backend-worker` : isSpend ? 'Money · backend-worker' : 'backend-worker';
  if (isSpend) {
    openSpend();
    return $('spend-title').focus();
  }
  if (!job) return;
  openJob(...job);
  $('job-title').focus();
}
addEventListener('hashchange', () => { show(); if (!$('overview').hidden) $('main').focus({ preventScroll: true }); });

$('find').addEventListener('submit', (event) => {
  event.preventDefault();
  const id = $('find-id').value.trim();
  if (id) location.hash = jobLink('', id);
});

$('token-button').addEventListener('click', async () => {
  if (await askForToken('For routes that want one: READ_TOKEN to look, ADMIN_TOKEN to look and to change something.')) {
    leaveFleet?.();
    followFleet();
  }
});

pulse();
show();
followFleet();
