// Elements, made without markup: whatever Redis or a producer wrote is text, and stays text.

const $ = (id) => document.getElementById(id);

/** An element with attributes and children; texts become text nodes. `on…` are listeners. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const SVG = 'http://www.w3.org/2000/svg';

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Writes a text where it differs: what a reader has selected stays selected. */
function say(node, text) {
  const value = String(text);
  if (node.textContent !== value) node.textContent = value;
}

function set(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/**
 * Shows a list, and keeps the element of each item for as long as the item is there: focus, open details and
 * selections live on. `make` returns an element with an `update` method. `nothing` is what an empty list (a `ul`) says.
 */
function list(parent, items, keyOf, make, nothing) {
  const before = parent.items ?? new Map();
  const now = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const node = before.get(key) ?? make(item);
    node.update(item);
    now.set(key, node);
  }
  for (const [key, node] of before) if (now.get(key) !== node) node.remove();
  parent.items = now;
  parent.nothing ??= el('li', { class: 'nothing' });
  say(parent.nothing, nothing ?? '');
  if (nothing && !now.size) parent.append(parent.nothing);
  else parent.nothing.remove();
  let place = parent.firstChild;
  for (const node of now.values()) {
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
}

/** Told to screen readers, once. */
function announce(text) {
  $('announcer').textContent = text;
}

const number = new Intl.NumberFormat('en');
const count = (n) => number.format(n ?? 0);
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const date = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });

/** A length of time, in its two largest units. */
function span(ms) {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  const s = Math.round(ms / 1000);
  if (ms < 10000) return `${(ms / 1000).toFixed(1)} s`;
  if (s < 60) return `${s} s`;
  if (s < 3600) return s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s / 60} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** How long ago, in one unit: it is read at a glance. */
function ago(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86400)} d ago`;
}

const jobLink = (queue, id) => `#job/${encodeURIComponent(queue)}/${encodeURIComponent(id)}`;
