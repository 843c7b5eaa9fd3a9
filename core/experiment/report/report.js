'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const dark = matchMedia('(prefers-color-scheme: dark)').matches;
Chart.defaults.color = dark ? '#ddd' : '#333';
Chart.defaults.borderColor = '#8884';
Chart.defaults.animation = false;
Chart.defaults.maintainAspectRatio = false;

const at = (result, path) => path.split('/').reduce((o, k) => o?.[k], result);
const number = (x) => typeof x === 'number';
const element = (tag, text, name) => {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (name) e.className = name;
  return e;
};
const byId = (id) => document.getElementById(id);
const percent = (x) => (100 * x).toFixed(1) + ' %';
const fixed = (digits, factor = 1) => (x) => (x * factor).toFixed(digits);

const columns = [
  ['right', 'accuracy/accuracy', percent], ['perplexity', 'text/perplexity', fixed(4)], ['KL, nats', 'text/kl', fixed(4)],
  ['hottest, × even', 'accuracy/balance/max_over_mean', fixed(2)], ['load CV', 'accuracy/balance/variation', fixed(3)],
  ['load entropy', 'accuracy/balance/entropy', fixed(4)], ['routing, bits', 'text/entropy_bits', fixed(2)],
  ['overlap between layers', 'text/overlap', fixed(2)], ['experts a token', 'text/experts_a_token', fixed(2)],
  ['active parameters, M', 'model_facts/active_parameters', fixed(2, 1e-6)], ['memory, MB', 'model_facts/memory_bytes', fixed(1, 1e-6)],
  ['tokens/s', 'speed/decode_tokens_per_second', fixed(0)], ['of bandwidth', 'speed/share_of_bandwidth', percent],
  ['first token, ms', 'speed/first_token_ms', fixed(1)],
];

function table(target, head, rows) {
  const line = target.createTHead().insertRow();
  for (const title of head) line.append(element('th', title));
  const body = target.createTBody();
  for (const { cells, name } of rows) {
    const row = body.insertRow();
    cells.forEach((text, i) => row.append(element('td', text, i === 0 ? name : '')));
  }
}

function swapText(cell) {
  const runs = at(cell, 'model_facts/layers/0/router');
  const settings = runs === cell.trained_router ? `${runs} with other settings` : `${runs} instead of ${cell.trained_router}`;
  return runs && cell.trained_router ? `routed by ${settings}` : 'another routing than the trained one';
}
function costText(cell) {
  const said = [['accuracy', percent, ' right'], ['perplexity', (x) => `perplexity ${x.toFixed(4)}`, ''], ['max_over_mean', (x) => `hottest expert ${x.toFixed(2)} × even`, ''],
                ['tokens_per_second', fixed(0), ' tokens/s']];
  const parts = said.filter(([key]) => cell.cost?.[key]).map(([key, f, what]) => `${f(cell.cost[key].to)}${what} instead of ${f(cell.cost[key].from).replace(/^.* (?=[\d.]+( × even)?$)/, '')}`);
  return parts.length ? parts.join('; ') : 'no cell with the trained router to compare with';
}

// The cells that no other beats in both.
function frontier(points) {
  return points.filter((p) => !points.some((q) => q.x >= p.x && q.y >= p.y && (q.x > p.x || q.y > p.y))).sort((a, b) => a.x - b.x);
}

const names = {
  id: 'names',
  afterDatasetsDraw(chart) {
    const { ctx, chartArea } = chart;
    ctx.save();
    ctx.font = '12px system-ui, sans-serif';
    ctx.fillStyle = Chart.defaults.color;
    const points = chart.data.datasets.flatMap((set, s) => (set.type === 'line' || !chart.isDatasetVisible(s) ? [] : chart.getDatasetMeta(s).data));
    const taken = points.map((p) => ({ x: p.x - 6, y: p.y - 6, w: 12, h: 12 }));
    chart.data.datasets.forEach((set, s) => {
      if (set.type === 'line' || !chart.isDatasetVisible(s)) return;
      chart.getDatasetMeta(s).data.forEach((point, i) => {
        const text = set.data[i].name;
        const width = ctx.measureText(text).width;
        // Beside the point where there is room; in a crowd only some names stand, the others show on touch.
        for (const [dx, dy] of [[8, 4], [8, -9], [8, 17], [-8 - width, 4], [-8 - width, -9], [-8 - width, 17], [-width / 2, -10], [-width / 2, 20], [-width / 2, -24], [-width / 2, 34]]) {
          const box = { x: point.x + dx, y: point.y + dy - 10, w: width, h: 12 };
          const inside = box.x >= chartArea.left && box.x + box.w <= chart.width && box.y >= chartArea.top - 14 && box.y + box.h <= chartArea.bottom;
          const free = taken.every((t) => box.x > t.x + t.w || t.x > box.x + box.w || box.y > t.y + t.h || t.y > box.y + box.h);
          if (!inside || !free) continue;
          taken.push(box);
          ctx.fillText(text, box.x, box.y + 10);
          break;
        }
      });
    });
    ctx.restore();
  },
};

function pareto() {
  const qualities = [['accuracy/accuracy', '% right', 100], ['text/perplexity', '1 / perplexity', 0]];
  const [path, title, factor] = qualities.find(([p]) => data.cells.some((c) => number(at(c, p)))) ?? [];
  const points = data.cells.filter((c) => path && number(at(c, path)) && number(at(c, 'speed/decode_tokens_per_second')))
    .map((c) => ({ x: at(c, 'speed/decode_tokens_per_second'), y: factor ? factor * at(c, path) : 1 / at(c, path), name: c.cell, own: c.own_router }));
  if (points.length === 0) return byId('pareto-section').remove();
  // What has fallen far behind would press all others together: it stands at the lower edge.
  const ordered = points.map((p) => p.y).sort((p, q) => q - p);
  const best = ordered[0];
  const reach = Math.max(0.02 * Math.abs(best), 8 * (best - ordered[Math.floor(ordered.length / 2)]));
  const edge = Math.max(best - reach, ordered.at(-1) - 0.1 * reach);
  const top = factor ? Math.min(100, best + 0.1 * reach) : best + 0.1 * reach;
  const shown = points.map((p) => ({ ...p, y: Math.max(p.y, edge), fallen: p.y < edge, real: p.y }));
  const set = (own) => shown.filter((p) => p.own === own);
  new Chart(byId('pareto'), {
    type: 'scatter',
    plugins: [names],
    data: { datasets: [
      { label: 'own router', data: set(true), pointRadius: 6, pointHoverRadius: 8, backgroundColor: '#2563eb' },
      { label: 'a router that the model was not trained for', data: set(false), pointRadius: 7, pointHoverRadius: 9, pointStyle: 'triangle', backgroundColor: '#d97706' },
      { label: 'not beaten in both', type: 'line', data: frontier(shown.filter((p) => !p.fallen)), borderColor: '#16a34a', borderWidth: 2, pointRadius: 0, stepped: 'after' },
    ] },
    options: {
      scales: { x: { title: { display: true, text: 'tokens/s, one request' } }, y: { title: { display: true, text: title }, min: edge, max: top } },
      clip: false,
      plugins: { legend: { labels: { usePointStyle: true } }, tooltip: { callbacks: { label: ({ raw }) => `${raw.name}: ${raw.real.toFixed(2)} ${title}, ${raw.x.toFixed(0)} tokens/s` } } },
    },
  });
  const fallen = shown.filter((p) => p.fallen).map((p) => `${p.name} (${p.real.toFixed(1)})`);
  byId('pareto-note').textContent = fallen.length ? `On the lower edge, far below it: ${fallen.join(', ')}.` : '';
}

// Dark: none; the middle: even; bright: three times even or more.
function heatColour(load) {
  const t = Math.min(load / 3, 1);
  return `hsl(${Math.round(250 - 230 * t)} 75% ${Math.round(18 + 42 * t)}%)`;
}
function heatMap(parent, layers) {
  if (!layers?.length) return;
  parent.append(element('h3', 'Load, layers by experts'));
  const most = Math.max(...layers.map((l) => l.tokens.length));
  const box = parent.appendChild(element('div', undefined, 'heat'));
  box.style.height = `${layers.length * 26 + 60}px`;
  const load = layers.map(({ tokens }) => { const all = tokens.reduce((a, b) => a + b, 0) || 1; return tokens.map((t) => t * tokens.length / all); });
  new Chart(box.appendChild(element('canvas')), {
    type: 'bar',
    data: {
      labels: layers.map((l) => `layer ${l.layer}`),
      datasets: Array.from({ length: most }, (_, e) => ({
        label: `expert ${e}`, data: load.map((l) => (e < l.length ? 1 : 0)), backgroundColor: load.map((l) => heatColour(l[e] ?? 0)),
        barPercentage: 0.94, categoryPercentage: 1, borderSkipped: false,
      })),
    },
    options: {
      indexAxis: 'y',
      scales: { x: { stacked: true, max: most, ticks: { callback: (v) => (v < most ? v : '') }, grid: { display: false }, title: { display: true, text: 'expert; blue: none, green: half as much again as even, orange: 3 × even' } },
                y: { stacked: true, grid: { display: false } } },
      plugins: { legend: { display: false }, tooltip: { callbacks: { label: (i) => `expert ${i.datasetIndex}: ${(load[i.dataIndex][i.datasetIndex] ?? 0).toFixed(2)} × even` } } },
    },
  });
}

function history(parent, overTime, layers) {
  if (!overTime?.steps?.length || !overTime.max_over_mean.length) return;
  parent.append(element('h3', 'Hottest expert over time, × even'));
  const box = parent.appendChild(element('div', undefined, 'history'));
  new Chart(box.appendChild(element('canvas')), {
    type: 'line',
    data: { labels: overTime.steps, datasets: overTime.max_over_mean.map((y, l) => ({
      label: `layer ${layers?.[l]?.layer ?? l}`, data: y, pointRadius: 0, borderWidth: 2, borderColor: `hsl(${(l * 67) % 360} 65% 50%)` })) },
    options: { interaction: { mode: 'index', intersect: false }, scales: { x: { title: { display: true, text: 'step' } }, y: { beginAtZero: true } } },
  });
}

function detail(target, cell) {
  for (const canvas of target.querySelectorAll('canvas')) Chart.getChart(canvas)?.destroy();
  target.replaceChildren(element('h3', cell.cell));
  if (!cell.own_router) target.append(element('p', `Not the router that this model was trained with: ${swapText(cell)}. ${costText(cell)}.`, 'label'));
  heatMap(target, cell.accuracy?.load);
  history(target, cell.accuracy?.load_over_time, cell.accuracy?.load);
  if (cell.accuracy?.samples?.length) target.append(element('h3', 'Answers'));
  for (const sample of cell.accuracy?.samples ?? []) {
    if (!sample) continue;
    const box = target.appendChild(element('div', undefined, sample.right ? 'sample' : 'sample wrong'));
    box.append(element('b', sample.question), element('pre', sample.text), element('div', sample.right ? 'right' : `wrong: expected ${sample.expected}`));
  }
  const more = target.appendChild(element('details'));
  more.append(element('summary', 'Configuration'), element('pre', JSON.stringify(cell.config, null, 1), 'config'),
              element('p', `${cell.program}; model ${cell.model_sha256.slice(0, 16)}`, 'note'));
}

function pickers() {
  if (data.cells.length === 0) return byId('details-section').remove();
  for (const [side, first] of [['left', 0], ['right', Math.min(1, data.cells.length - 1)]]) {
    const select = byId(side);
    data.cells.forEach((cell, i) => select.append(new Option(cell.cell + (cell.own_router ? '' : ' *'), i)));
    select.value = first;
    const show = () => detail(byId(`${side}-detail`), data.cells[select.value]);
    select.addEventListener('change', show);
    show();
  }
}

document.title = data.name;
byId('name').textContent = data.name;
byId('about').textContent = [`${data.cells.length} cells`, ...data.programs.map((p) => `patchbay ${p}`),
  data.left_out.length ? `left out, not there: ${data.left_out.join(', ')}` : '', data.missing.length ? `not measured yet: ${data.missing.join(', ')}` : '',
  ...data.failed.map((f) => `failed: ${f.cell}: ${f.error}`)].filter(Boolean).join(' · ');
pareto();
const swapped = data.cells.filter((c) => !c.own_router);
if (swapped.length === 0) byId('costs-section').remove();
for (const cell of swapped) {
  const item = byId('costs').appendChild(element('li'));
  item.append(element('b', cell.cell), ` – ${swapText(cell)}: ${costText(cell)}`);
}
const spread = (g, key, f) => (g[key] ? `${f(g[key].mean)} (${f(g[key].min)} to ${f(g[key].max)})` : '');
if (data.groups.length === 0) {
  byId('groups-section').remove();
} else {
  table(byId('groups'), ['group', 'models', 'right', 'perplexity', 'hottest, × even', 'tokens/s'], data.groups.map((g) => ({
    cells: [g.group, g.models.length, spread(g, 'accuracy', percent), spread(g, 'perplexity', fixed(4)), spread(g, 'max_over_mean', fixed(2)), spread(g, 'tokens_per_second', fixed(0))] })));
}
const shown = columns.filter(([, path]) => data.cells.some((c) => number(at(c, path))));
table(byId('cells'), ['cell', ...shown.map(([title]) => title)], data.cells.map((c) => ({
  name: c.own_router ? '' : 'swapped', cells: [c.cell + (c.own_router ? '' : ' *'), ...shown.map(([, path, f]) => (number(at(c, path)) ? f(at(c, path)) : ''))] })));
pickers();
