// How the Rust tests drive a script: a request a line on standard input, `{op, args}` in JSON, and its answer a line on
// standard output, `{ok}` or `{error}`.
import readline from 'node:readline';

// Answers requests with these operations, one after the other, until standard input ends.
export async function serve(operations) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { op, args } = JSON.parse(line);
    let answer;
    try {
      answer = { ok: (await operations[op](args)) ?? null };
    } catch (error) {
      answer = { error: String(error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
}
