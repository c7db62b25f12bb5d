// Small plots, drawn as SVG and put into words for those who do not see them.

/** A line over the last minutes; `points` are [ms, value or null, paused]. Returns an element with `draw`. */
function sparkline(what, color) {
  const held = svg('path', { class: 'held' });
  const area = svg('path', { class: `area ${color}` });
  const line = svg('path', { class: `line ${color}` });
  const picture = svg('svg', { viewBox: '0 0 120 28', preserveAspectRatio: 'none', class: 'spark', role: 'img' }, area, held, line);
  picture.draw = (points, now, reach, text) => {
    const known = points.filter(([, value]) => value !== null);
    const most = Math.max(1, ...known.map(([, value]) => value));
    const x = (at) => (120 - ((now - at) / reach) * 120).toFixed(1);
    const y = (value) => (26 - (value / most) * 24).toFixed(1);
    let path = '';
    let under = '';
    let from = null;
    let last = null;
    let pauses = '';
    let seen = null;
    const close = () => { if (from !== null) under += `L${x(last)} 28L${x(from)} 28Z`; from = null; };
    for (const [at, value, paused] of points) {
      if (at < now - reach) continue;
      if (paused) pauses += `M${x(seen ?? at - 2000)} 0H${x(at)}V28H${x(seen ?? at - 2000)}Z`;
      seen = paused ? at : null;
      // A gap, where no viewer was connected or the value is unknown.
      if (value === null || (last !== null && at - last > 15000)) close();
      if (value === null) { last = null; continue; }
      const step = `${from === null ? 'M' : 'L'}${x(at)} ${y(value)}`;
      path += step;
      under += step;
      from ??= at;
      last = at;
    }
    close();
    set(held, 'd', pauses || 'M0 0');
    set(line, 'd', path || 'M0 0');
    set(area, 'd', under || 'M0 0');
    const highest = known.length ? `, highest ${text(most)}` : '';
    set(picture, 'aria-label', known.length ? `${what}: now ${text(known.at(-1)[1])}${highest}` : `${what}: not known yet`);
  };
  return picture;
}

/** Bars by the minute: [ms, completed, failed]. */
function bars(parent, minutes) {
  const most = Math.max(1, ...minutes.map(([, good, bad]) => good + bad));
  if (!parent.picture) {
    parent.picture = svg('svg', { viewBox: `0 0 ${minutes.length * 10} 64`, preserveAspectRatio: 'none', class: 'bars', role: 'img' });
    parent.most = el('span');
    parent.axis = el('p', { class: 'axis' }, el('span', {}, `${minutes.length} min ago`), parent.most, el('span', {}, 'now'));
    parent.append(parent.picture, parent.axis);
  }
  const all = parent.picture;
  while (all.children.length < minutes.length) {
    all.append(svg('g', {}, svg('title'), svg('rect', { class: 'base' }), svg('rect', { class: 'ok' }), svg('rect', { class: 'bad' })));
  }
  minutes.forEach(([at, good, bad], n) => {
    const [title, base, ok, failed] = all.children[n].children;
    const height = (jobs) => (jobs ? Math.max(1.5, (jobs / most) * 62) : 0);
    const [g, b] = [height(good), height(bad)];
    const place = (rect, top, tall) => { set(rect, 'x', n * 10 + 1); set(rect, 'width', 8); set(rect, 'y', top); set(rect, 'height', tall); };
    place(base, 63, 1);
    place(ok, 63 - g, g);
    place(failed, Math.max(0, 63 - g - b), b);
    say(title, `${clock.format(at)}: ${count(good)} completed, ${count(bad)} failed`);
  });
  const sum = (of) => minutes.reduce((total, minute) => total + minute[of], 0);
  say(parent.most, sum(1) + sum(2) ? `at most ${count(most)} a minute` : 'no job has ended in this hour');
  set(all, 'aria-label', `Jobs ended in the last hour: ${count(sum(1))} completed, ${count(sum(2))} failed`);
}

/** How much of a limit is used; hidden where there is none. */
function meter(label) {
  const fill = svg('rect', { height: 6 });
  const bar = svg('svg', { viewBox: '0 0 100 6', preserveAspectRatio: 'none', class: 'meter', 'aria-hidden': 'true' }, svg('rect', { width: 100, height: 6, class: 'track' }), fill);
  const figures = el('span', { class: 'n' });
  const node = el('div', { class: 'limit' }, el('span', {}, label), bar, figures);
  node.show = (used, limit) => {
    node.hidden = !limit;
    if (!limit) return;
    const share = Math.min(1, used / limit);
    set(fill, 'width', (share * 100).toFixed(1));
    set(fill, 'class', share >= 0.95 ? 'full' : 'used');
    say(figures, `${count(used)} of ${count(limit)}`);
  };
  return node;
}
