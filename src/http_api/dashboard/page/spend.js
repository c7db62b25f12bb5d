// The spending of the fleet: the page reads it every half minute while it is shown, since sums change slowly.

const SPEND_EVERY = 30000;

/** An amount in USD: cents where they tell enough, otherwise three digits that count. */
function money(usd) {
  if (usd === null || usd === undefined) return '–';
  if (usd === 0 || usd >= 0.995) return `$${usd.toLocaleString('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
  return `$${Number(usd.toPrecision(3)).toLocaleString('en', { minimumFractionDigits: 2, maximumFractionDigits: 9 })}`;
}

/** Bars by the day of a month, with a line where the budget of a day is: [day, spent, possibly]. */
function dayBars(parent, days, budget) {
  const most = Math.max(budget ?? 0, ...days.map(([, usd, possible]) => usd + possible)) || 1;
  const all = svg('svg', { viewBox: `0 0 ${days.length * 10} 64`, preserveAspectRatio: 'none', class: 'bars', role: 'img' });
  const height = (usd) => (usd > 0 ? Math.max(1.5, (usd / most) * 62) : 0);
  days.forEach(([day, usd, possible], n) => {
    const [sure, more] = [height(usd), height(possible)];
    const rect = (tone, top, tall) => svg('rect', { class: tone, x: n * 10 + 1, width: 8, y: top, height: tall });
    all.append(svg('g', {}, svg('title', {}, `${day}: ${money(usd)}${possible ? `, possibly ${money(possible)} more` : ''}`),
      rect('base', 63, 1), rect('money', 63 - sure, sure), rect('maybe', Math.max(0, 63 - sure - more), more)));
  });
  if (budget) all.append(svg('path', { class: 'mark', d: `M0 ${63 - height(budget)}H${days.length * 10}` }));
  const dearest = days.reduce((most, day) => (day[1] > most[1] ? day : most), days[0]);
  const words = dearest[1] ? `most on ${dearest[0]}: ${money(dearest[1])}` : 'nothing is spent yet';
  all.setAttribute('aria-label', `Spent by the day: ${words}`);
  const [first, last] = [days[0][0], days.at(-1)[0]];
  const ends = first === last ? [first, ''] : [first, last];
  parent.replaceChildren(all, el('p', { class: 'axis' }, el('span', {}, ends[0]), el('span', {}, words), el('span', {}, ends[1])));
}

/** Amounts below each other, each with a bar and what else is known of it: {name, usd, note}. */
function amounts(parent, rows, nothing) {
  const most = Math.max(...rows.map(({ usd }) => usd)) || 1;
  parent.replaceChildren(...rows.map(({ name, usd, note }) => el('li', { class: 'amount' },
    el('span', { class: 'what' }, name),
    svg('svg', { viewBox: '0 0 100 6', preserveAspectRatio: 'none', class: 'meter', 'aria-hidden': 'true' },
      svg('rect', { width: 100, height: 6, class: 'track' }), svg('rect', { width: ((usd / most) * 100).toFixed(1), height: 6, class: 'used' })),
    el('span', { class: 'n' }, money(usd)),
    note && el('span', { class: 'note dim' }, note))));
  if (!rows.length) parent.append(el('li', { class: 'nothing' }, nothing));
}

function budgetRow(name, used, reserved) {
  const taken = used.usd + used.possibleUsd + reserved;
  const budget = used.budgetUsd;
  const share = budget ? Math.min(1, taken / budget) : 0;
  const left = budget === null ? 'no budget' : `${money(Math.max(0, budget - taken))} left of ${money(budget)}`;
  return el('li', { class: 'amount' },
    el('span', { class: 'what' }, name),
    svg('svg', { viewBox: '0 0 100 6', preserveAspectRatio: 'none', class: 'meter', 'aria-hidden': 'true' },
      svg('rect', { width: 100, height: 6, class: 'track' }), svg('rect', { width: (share * 100).toFixed(1), height: 6, class: share >= 0.8 ? 'full' : 'used' })),
    el('span', { class: 'n' }, budget === null ? '–' : `${used.percent} %`),
    el('span', { class: 'note dim' }, left));
}

/** The days of a month up to today, those without cost among them. */
function daysOf(month, today, lines) {
  const known = new Map(lines.map((line) => [line.name, line]));
  const last = Number(today.slice(8));
  return Array.from({ length: last }, (_, n) => {
    const day = `${month}-${String(n + 1).padStart(2, '0')}`;
    return [day, known.get(day)?.usd ?? 0, known.get(day)?.possibleUsd ?? 0];
  });
}

/** The kill switch as it stands. */
let switched = null;

function showSwitch({ killSwitch, switchedBy, switchedAt, reason }) {
  if (switched !== null && switched !== killSwitch) announce(killSwitch ? 'Paid calls are stopped' : 'Paid calls pass again');
  switched = killSwitch;
  set($('switch-state'), 'class', `state ${killSwitch ? 'bad' : 'ok'}`);
  say($('switch-state'), killSwitch ? 'Paid calls are stopped' : 'Paid calls pass');
  const when = switchedAt ? ` on ${date.format(Date.parse(switchedAt))}` : '';
  say($('switch-why'), switchedBy ? `Set by ${switchedBy}${when}: ${reason ?? ''}`
    : killSwitch ? 'Set by the web API, or by hand, without a name.' : 'It has not been used yet.');
  say($('switch-button'), killSwitch ? 'Let paid calls pass' : 'Stop all paid calls');
}

function showSpend({ days, types, models, students, budget }) {
  const { spend } = days;
  const { day, month } = budget;
  const own = spend.reusedJobs ? `${count(spend.reusedJobs)} ${spend.reusedJobs === 1 ? 'job' : 'jobs'}, ${count(spend.awaitedJobs)} waited` : 'no equal jobs';
  const possibly = (used) => (used.possibleUsd ? `possibly ${money(used.possibleUsd)} more` : '');
  list($('spend-tiles'), [
    { name: 'Today', value: money(day.usd), note: possibly(day), bad: day.percent >= 100 },
    { name: 'This month', value: money(month.usd), note: possibly(month), bad: month.percent >= 100 },
    { name: 'Forecast for the month', value: money(spend.forecastUsd), note: month.budgetUsd === null ? '' : `of ${money(month.budgetUsd)}`, bad: month.budgetUsd !== null && spend.forecastUsd > month.budgetUsd },
    { name: 'Calls in flight', value: money(budget.reservedUsd), note: 'at most' },
    { name: 'Saved by equal jobs', value: money(spend.savedUsd), note: own },
  ], (item) => item.name, tile);
  dayBars($('spend-days'), daysOf(month.period, day.period, spend.lines), day.budgetUsd);
  $('spend-budgets').replaceChildren(
    budgetRow(`Today, ${day.period}`, day, budget.reservedUsd), budgetRow(`Month, ${month.period}`, month, budget.reservedUsd),
    el('li', { class: 'small' }, budget.studentBudgetUsd === null ? 'Students have no allowance of their own.' : `Each student may cost ${money(budget.studentBudgetUsd)} a month.`));
  showSwitch(budget);
  const per = (line) => (line.name === 'generate-flashcards' ? 'a deck' : 'a job');
  amounts($('spend-types'), types.spend.lines.map((line) => ({
    name: line.name, usd: line.usd,
    note: [line.usdPerJob === null ? null : `${money(line.usdPerJob)} ${per(line)}`, `${count(line.calls)} paid answers`,
      line.reusedJobs ? `${count(line.reusedJobs)} reused, ${money(line.savedUsd)} saved` : null].filter(Boolean).join(' · '),
  })), 'No job has cost anything this month');
  amounts($('spend-models'), models.spend.lines.map((line) => ({
    name: line.name, usd: line.usd,
    note: [`${count(line.calls)} paid answers`, line.unpricedCalls ? `${count(line.unpricedCalls)} without a price` : null,
      line.promptTokens ? `${count(line.promptTokens + line.completionTokens)} tokens` : null].filter(Boolean).join(' · '),
  })), 'No call has cost anything this month');
  amounts($('spend-students'), students.spend.lines.slice(0, 10).map((line) => ({
    name: line.name, usd: line.usd, note: line.possibleUsd ? `possibly ${money(line.possibleUsd)} more` : null,
  })), 'No student has cost anything this month');
}

let leaveSpend = null;

/** Shows the page, and reads again until the reader goes elsewhere. */
function openSpend() {
  const gone = new AbortController();
  leaveSpend = () => gone.abort();
  const read = async (by) => (await callWithToken(`api/spend?by=${by}`, { signal: gone.signal })).json();
  const look = async () => {
    try {
      // One after the other: the first asks for a token, if one is wanted.
      const days = await read('day');
      const [types, models, students] = [await read('type'), await read('model'), await read('user')];
      if (gone.signal.aborted) return;
      notice('spend');
      showSpend({ days, types, models, students, budget: students.budget });
      set($('spend'), 'aria-busy', null);
    } catch (error) {
      if (!gone.signal.aborted) notice('spend', 'bad', `The sums cannot be read: ${error.message}`);
    }
  };
  (async () => {
    while (!gone.signal.aborted) {
      if (!document.hidden) await look();
      await pause(SPEND_EVERY, gone.signal);
    }
  })();
}

$('switch-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const [by, reason, button] = [$('switch-by').value.trim(), $('switch-reason').value.trim(), $('switch-button')];
  if (!by || !reason || switched === null) return;
  set(button, 'aria-busy', 'true');
  try {
    const order = { enabled: !switched, by, reason };
    const answer = await callWithToken('api/budget/kill-switch', { method: 'POST', body: order });
    showSwitch((await answer.json()).budget);
    $('switch-reason').value = '';
    notice('switch');
  } catch (error) {
    if (error.status !== 401) notice('switch', 'bad', `The kill switch was not set: ${error.message}`);
  } finally {
    set(button, 'aria-busy', null);
  }
});
