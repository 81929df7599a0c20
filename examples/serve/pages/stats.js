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
  requests: { svg: byId('requestsChart'), most: 'requestsMost', unit: '/s', values: [] },
  latency: { svg: byId('latencyChart'), most: 'latencyMost', unit: ' ms', values: [] },
};

let previous;

function show(report) {
  const now = performance.now();
  // Between two looks, where there are two: the report's own figures cover some ten seconds.
  const seconds = previous === undefined ? undefined : (now - previous.at) / 1000;
  const rate = (total, before, fallback) => (seconds === undefined ? fallback : (total - before) / seconds);
  const { requests, images, latencyMs, loopDelayMs, batches, library } = report;
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
  set(
    'library',
    library.backend === 'js' ? 'plain JavaScript' : `${library.isa}, threads: ${library.threads}`,
  );
  plot(charts.requests, perSecond);
  plot(charts.latency, latencyMs.p99);
  previous = { at: now, requests: requests.answered, images: images.answered };
}

function fillRow(id, { p50, p90, p99, max }) {
  const cells = byId(id).querySelectorAll('td');
  for (const [i, value] of [p50, p90, p99, max].entries()) cells[i].textContent = short(value);
}

/** As many values as there are fill the width: the page shows something from its third second on. */
function plot({ svg, most, unit, values }, value) {
  values.push(value);
  if (values.length > POINTS) values.shift();
  const highest = Math.max(...values);
  const last = Math.max(values.length - 1, 1);
  const points = values.map((v, i) => `${i},${100 - (highest > 0 ? (96 * v) / highest : 0)}`).join(' ');
  svg.setAttribute('viewBox', `0 0 ${last} 100`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.innerHTML = `<line class="base" x1="0" x2="${last}" y1="100" y2="100"/>
    <polygon class="area" points="0,100 ${points} ${last},100"/>
    <polyline class="line" points="${points}"/>`;
  set(most, `highest ${short(highest)}${unit}`);
  svg.parentElement.querySelector('.ago').textContent = `${duration(last * (INTERVAL_MS / 1000))} ago`;
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
