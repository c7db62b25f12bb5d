// The way to the API: one token, kept in this tab; calls and streams that carry it in a header.

const KEY = 'backend-worker token';
const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** What the API says no with. */
class Refused extends Error {
  constructor(status, message, wait) {
    super(message);
    Object.assign(this, { status, wait });
  }
}

/** Asks for a token, and says why; resolves to whether one was given. */
const askForToken = (() => {
  let asked = null;
  const [dialog, form, input] = [$('token-dialog'), $('token-form'), $('token')];
  $('token-cancel').addEventListener('click', () => dialog.close('no'));
  return (why) => {
    if (asked) return asked;
    say($('token-why'), why);
    input.value = '';
    dialog.returnValue = 'no';
    dialog.showModal();
    input.focus();
    const submit = () => { token.set(input.value.trim()); dialog.returnValue = 'yes'; };
    form.addEventListener('submit', submit, { once: true });
    asked = new Promise((resolve) => {
      dialog.addEventListener('close', () => {
        form.removeEventListener('submit', submit);
        input.value = '';
        asked = null;
        resolve(dialog.returnValue === 'yes');
      }, { once: true });
    });
    return asked;
  };
})();

/** How long the head of an answer may take. */
const PATIENCE = 15000;

async function call(path, { method = 'GET', body, signal } = {}) {
  const bearer = token.get();
  const headers = bearer ? { authorization: `Bearer ${bearer}` } : {};
  if (body) headers['content-type'] = 'application/json';
  const gone = new AbortController();
  signal?.addEventListener('abort', () => gone.abort(), { once: true });
  const timer = setTimeout(() => gone.abort(), PATIENCE);
  const plain = { cache: 'no-store', credentials: 'omit', redirect: 'error' };
  const sent = body && JSON.stringify(body);
  const answer = await fetch(path, { ...plain, method, headers, body: sent, signal: gone.signal }).finally(() => clearTimeout(timer));
  if (answer.ok) return answer;
  const refusal = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, refusal.error ?? `HTTP ${answer.status}`, answer.headers.get('retry-after'));
}

/** As `call`; where the API wants a token, asks for one, until it fits or the reader has none. */
async function callWithToken(path, options) {
  const first = token.get();
  for (;;) {
    const before = token.get();
    try {
      return await call(path, options);
    } catch (error) {
      if (error.status !== 401) throw error;
      const why = before ? `The token at hand does not do: ${error.message}.` : `${error.message}.`;
      if (await askForToken(why)) continue;
      // One that opens some routes is better than one that opens none.
      token.set(first);
      throw error;
    }
  }
}

/** Silence after which a stream counts as dead: the server sends something every few seconds. */
const SILENCE = 20000;

/** Reads Server-Sent Events until the stream ends: `EventSource` cannot send a header. */
async function readEvents(path, onEvent, signal) {
  const gone = new AbortController();
  const stop = () => gone.abort();
  signal.addEventListener('abort', stop);
  let watchdog;
  try {
    const answer = await callWithToken(path, { signal: gone.signal });
    watchdog = setTimeout(stop, SILENCE);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let unread = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(watchdog);
      watchdog = setTimeout(stop, SILENCE);
      unread += value;
      const blocks = unread.split('\n\n');
      unread = blocks.pop();
      for (const block of blocks) {
        const field = (name) => block.split('\n').filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trim());
        const data = field('data');
        if (data.length) onEvent(field('event')[0] ?? 'message', JSON.parse(data.join('\n')));
      }
    }
  } finally {
    clearTimeout(watchdog);
    signal.removeEventListener('abort', stop);
  }
}

const pause = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener('abort', () => { clearTimeout(timer); resolve(); }, { once: true });
});

/** Follows a stream over every interruption. `onState` hears `live`, `lost` with a reason, or `denied`. */
async function follow(path, { onEvent, onState, over = () => false, signal }) {
  let wait = 1000;
  while (!signal.aborted) {
    try {
      await readEvents(path, (event, data) => { wait = 1000; onState('live'); onEvent(event, data); }, signal);
      if (over()) return;
      onState('lost', 'The connection was closed');
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 401) return onState('denied', error.message);
      if (error.status === 404 || error.status === 400) return onState('gone', error.message);
      if (error.wait) wait = Math.max(wait, Number(error.wait) * 1000 || 0);
      onState('lost', error instanceof Refused ? error.message : 'This replica does not answer');
    }
    // Spread, so that the pages of a replica that was replaced do not come back as one.
    await pause(wait * (0.75 + Math.random() / 2), signal);
    wait = Math.min(wait * 2, 15000);
  }
}
