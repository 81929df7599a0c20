const INTERVAL_MS = 1000;

/** Points of a chart: two minutes. */
const POINTS = 120;

const byId = (id) => document.getElementById(id);
const set = (id, text) => {
  byId(id).textContent = text;
};
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 });
/** Few digits of small numbers, all of large ones. */
const short = (value) => (value < 100 ? precise : whole).format(value);

const charts = {
  requests: {
    svg: byId('requestsChart'),
    axis: 'requestsAxis',
    most: 'requestsMost',
    unit: '/s',
    values: [],
  },
  latency: { svg: byId('latencyChart'), axis: 'latencyAxis', most: 'latencyMost', unit: ' ms', values: [] },
};

let previous;

function show(report) {
  const now = performance.now();
  // Between two looks, where there are two: the report's own figures cover some ten seconds.
  const seconds = previous === undefined ? undefined : (now - previous.at) / 1000;
  const rate = (total, before, fallback) => (seconds === undefined ? fallback : (total - before) / seconds);
  const { requests, images, latencyMs, loopDelayMs, batches } = report;
  const perSecond = rate(requests.answered, previous?.requests, requests.perSecond);
  set('requests', short(perSecond));
  set('images', short(rate(images.answered, previous?.images, images.perSecond)));
  set('latency', `${short(latencyMs.p50)} ms`);
  set('perBatch', batches.batches === 0 ? '–' : short(batches.images / batches.batches));
  set('window', whole.format(report.windowSeconds));
  fillRow('latencyRow', latencyMs);
  fillRow('loopRow', loopDelayMs);
  set('answered', whole.format(requests.answered));
  set('refused', `${whole.format(requests.refused)}, ${whole.format(requests.failed)}`);
  set('inFlight', whole.format(requests.inFlight));
  set('served', whole.format(images.answered));
  set('uptime', duration(report.uptimeSeconds));
  set('batchNorms', batchNorms(report));
  plot(charts.requests, perSecond);
  plot(charts.latency, latencyMs.p99);
  previous = { at: now, requests: requests.answered, images: images.answered };
}

/** Those that are folded are computed by nobody, on whatever the library would compute. */
function batchNorms({ batchNorms, library: { backend, isa, threads } }) {
  if (batchNorms === 'folded') return 'folded into the linear layers';
  return `${backend === 'wasm' ? 'WebAssembly' : isa}, threads: ${threads}`;
}

function fillRow(id, { p50, p90, p99, max }) {
  const cells = byId(id).querySelectorAll('td');
  for (const [i, value] of [p50, p90, p99, max].entries()) cells[i].textContent = short(value);
}

/** As many values as there are fill the width: the page shows something from its third second on. */
function plot({ svg, axis, most, unit, values }, value) {
  values.push(value);
  if (values.length > POINTS) values.shift();
  const highest = Math.max(...values);
  const top = roundUp(highest);
  const last = Math.max(values.length - 1, 1);
  const points = values.map((v, i) => `${i},${100 - (100 * v) / top}`).join(' ');
  svg.setAttribute('viewBox', `0 0 ${last} 100`);
  svg.setAttribute('preserveAspectRatio', 'none');
  const lines = [0, 50, 100].map((y) => `<line class="base" x1="0" x2="${last}" y1="${y}" y2="${y}"/>`);
  svg.innerHTML = `${lines.join('')}
    <polygon class="area" points="0,100 ${points} ${last},100"/>
    <polyline class="line" points="${points}"/>`;
  byId(axis).replaceChildren(...[top, top / 2, 0].map(label));
  set(most, `highest ${short(highest)}${unit}`);
  svg.closest('.card').querySelector('.ago').textContent = `${duration(last * (INTERVAL_MS / 1000))} ago`;
}

/** The end of an axis that reaches to the value: 1, 2 or 5 and zeros; 1 for nothing. */
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}

function label(value) {
  const element = document.createElement('span');
  element.textContent = short(value);
  return element;
}

function duration(seconds) {
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const rest = `${Math.floor(seconds % 60)} s`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${rest}` : rest;
}

async function poll() {
  try {
    const response = await fetch('/stats.json');
    if (!response.ok) throw new Error(`status ${response.status}`);
    show(await response.json());
    byId('status').classList.remove('problem');
    set('status', '');
  } catch (error) {
    byId('status').classList.add('problem');
    set('status', `No answer: ${error.message}`);
  }
  setTimeout(poll, INTERVAL_MS);
}

poll();
