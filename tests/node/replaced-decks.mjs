// How the replaced Node worker made a `generate-flashcards` result out of a provider's answer. It follows the
// description of that worker in the app's contract: a fence, text around the deck and a bare array are accepted, the
// complete cards of a cut answer are kept, duplicates by front and topic are removed, and `tokenUsage` is the total.
//
// Reads a JSON array of {answers, payload} on standard input, and writes an array of {result} or {error}.
import { text } from 'node:stream/consumers';

// The part of a text from its first bracket to its last.
function document(content) {
  const withoutFence = content.replace(/^\s*```(?:json)?\s*/i, '').replace(/\s*```\s*$/, '');
  const start = withoutFence.search(/[[{]/);
  const end = Math.max(withoutFence.lastIndexOf(']'), withoutFence.lastIndexOf('}'));
  return start < 0 ? withoutFence : withoutFence.slice(start, end + 1);
}

// The complete cards of a text that was cut off.
function completeCards(content) {
  const cards = [];
  for (const [match] of content.matchAll(/\{[^{}]*"front"[^{}]*\}/g)) {
    try {
      cards.push(JSON.parse(match));
    } catch {
      // Not complete after all.
    }
  }
  return cards;
}

function readCards(content) {
  try {
    const deck = JSON.parse(document(content));
    return Array.isArray(deck) ? deck : deck.flashcards;
  } catch {
    return completeCards(content);
  }
}

function result({ answers, payload }) {
  const completion = JSON.parse(answers[0].replace(/^\ufeff/, ''));
  const cards = readCards(completion.choices[0].message.content);
  if (!cards?.length) throw new Error('no flashcards');
  const seen = new Set();
  const flashcards = cards
    .map((card) => ({ ...card, topic: payload.topic === 'AI Selection' ? card.topic : payload.topic }))
    .filter(({ front, topic }) => {
      const identity = `${`${front}`.trim().toLowerCase()}\n${`${topic}`.trim().toLowerCase()}`;
      return !seen.has(identity) && seen.add(identity);
    });
  return { success: true, flashcards, tokenUsage: completion.usage?.total_tokens ?? 0 };
}

const results = JSON.parse(await text(process.stdin)).map((job) => {
  try {
    return { result: result(job) };
  } catch (error) {
    return { error: String(error) };
  }
});
process.stdout.write(JSON.stringify(results));
