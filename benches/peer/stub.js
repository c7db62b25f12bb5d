// The provider of the benchmark, for both workers: answers each POST with the same chat completion after DELAY_MS. It
// speaks as much HTTP as that takes, over plain sockets, so that it is not what is measured. A child process of the
// benchmark: tells its port, each arrival when asked to, and what it has served.
const net = require('node:net');

// The smallest deck that counts as one.
const cards = [...Array(10)].map((_, n) => ({
  front: `Term ${n}`,
  back: 'What it means.',
  topic: 'Biology',
  difficulty: 'beginner',
  example: '',
  pronunciation: null,
}));
const body = JSON.stringify({
  id: 'chatcmpl-stub',
  object: 'chat.completion',
  created: 1700000000,
  model: 'stub',
  choices: [
    {
      index: 0,
      finish_reason: 'stop',
      message: { role: 'assistant', content: JSON.stringify({ flashcards: cards }), refusal: null },
    },
  ],
  usage: { prompt_tokens: 400, completion_tokens: 600, total_tokens: 1000 },
});
const answer = Buffer.from(
  `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
);

const delay = Number(process.env.DELAY_MS);
let announce = false;
let served = 0;
let held = 0;

function serve(socket) {
  served++;
  if (announce) process.send({ arrived: process.hrtime.bigint().toString() });
  if (delay === 0) return socket.write(answer);
  const arrived = performance.now();
  setTimeout(() => {
    held += performance.now() - arrived;
    if (!socket.destroyed) socket.write(answer);
  }, delay);
}

const server = net.createServer({ noDelay: true }, (socket) => {
  let input = Buffer.alloc(0);
  socket.on('error', () => socket.destroy());
  socket.on('data', (chunk) => {
    input = input.length === 0 ? chunk : Buffer.concat([input, chunk]);
    for (;;) {
      const head = input.indexOf('\r\n\r\n');
      if (head < 0) return;
      const length = /\r\ncontent-length: *(\d+)/i.exec(input.toString('latin1', 0, head));
      if (!length) return socket.end('HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\n\r\n');
      const end = head + 4 + Number(length[1]);
      if (input.length < end) return;
      input = input.subarray(end);
      serve(socket);
    }
  });
});

process.on('message', (message) => {
  if (message === 'announce') announce = true;
  if (message === 'counts') process.send({ served, held });
});
process.on('disconnect', () => process.exit(0));
server.listen(0, '127.0.0.1', () => process.send({ port: server.address().port }));
