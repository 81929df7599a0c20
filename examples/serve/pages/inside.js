// What batch norms do with the drawing: the features of each hidden layer as histograms, of the network with batch norm and of the one
// without.

/** Features are counted from −EDGE to EDGE, in bars of this width; what lies beyond is written at the edge. */
const EDGE = 10;
const WIDTH = 0.5;
const BARS = (2 * EDGE) / WIDTH;

const byId = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

/** Whether a look is under way, and the image to look at next. */
let looking = false;
let next;
/** Whether the server has none of it. */
let missing = false;

/** Shows what becomes of an image, and nothing for none. Keeps at most one request under way, always for the latest image. */
export async function lookInside(image) {
  next = { image };
  if (looking || missing) return;
  looking = true;
  while (next !== undefined) {
    const { image: latest } = next;
    next = undefined;
    const report = latest && (await ask(latest));
    if (missing) break;
    // What was cleared meanwhile has nothing to show.
    if (latest === undefined) showNothing();
    else if (report !== undefined && (next === undefined || next.image !== undefined)) show(report);
  }
  looking = false;
}

/** Undefined where there is no answer: the status of the prediction says so already. */
async function ask(image) {
  try {
    const response = await fetch('/inside', {
      method: 'POST',
      headers: { 'content-type': 'application/octet-stream' },
      body: image,
    });
    missing = response.status === 404;
    return response.ok ? await response.json() : undefined;
  } catch {
    return undefined;
  }
}

function show(report) {
  byId('work').hidden = false;
  byId('without').hidden = report.without === undefined;
  const networks = [report.with, report.without].filter((network) => network !== undefined);
  const histograms = networks.map(({ layers }) =>
    layers.map(({ sums, normalized }) => ({
      count: sums.length,
      before: normalized && histogram(sums),
      after: histogram(normalized ?? sums),
    })),
  );
  const all = histograms.flat().flatMap(({ before, after }) => [...(before?.shares ?? []), ...after.shares]);
  const top = Math.max(...all, 0.01);
  for (const [i, id] of ['with', 'without'].slice(0, networks.length).entries()) {
    answer(id, networks[i].probabilities);
    byId(`${id}Layers`).replaceChildren(...histograms[i].map((layer, number) => figure(layer, number, top)));
  }
}

function showNothing() {
  for (const id of ['with', 'without']) {
    byId(`${id}Digit`).textContent = '–';
    byId(`${id}Sure`).textContent = '';
    byId(`${id}Layers`).replaceChildren();
  }
}

function answer(id, probabilities) {
  const most = Math.max(...probabilities);
  byId(`${id}Digit`).textContent = probabilities.indexOf(most);
  byId(`${id}Sure`).textContent = `${percent(most)} sure`;
}

/** Shares of the values: per bar, beyond the edges, and above 0, which a ReLU lets through. */
function histogram(values) {
  const shares = new Array(BARS).fill(0);
  let [below, above, positive] = [0, 0, 0];
  for (const value of values) {
    if (value > 0) positive += 1 / values.length;
    if (value < -EDGE) below += 1 / values.length;
    else if (value >= EDGE) above += 1 / values.length;
    else shares[Math.floor((value + EDGE) / WIDTH)] += 1 / values.length;
  }
  return { shares, below, above, positive };
}

function figure({ count, before, after }, number, top) {
  const element = document.createElement('figure');
  const through = `the ReLU lets ${percent(after.positive)} through`;
  const bars = ({ shares }, kind) =>
    shares
      .map((share, i) =>
        share === 0
          ? ''
          : `<rect class="${kind}" x="${i}" width="1" y="${100 - (100 * share) / top}" height="${(100 * share) / top}"/>`,
      )
      .join('');
  // Of what goes into the ReLU: it is what the next layer gets.
  const edge = ({ below, above }) => [below, above].map((share) => (share > 0 ? percent(share) : ''));
  const [below, above] = edge(after);
  const label = `${count} features from −${EDGE} to ${EDGE}, ${below || 'none'} below, ${above || 'none'} above; ${through}`;
  element.innerHTML = `<figcaption>Hidden layer ${number + 1}, ${count} features: ${through}</figcaption>
    <svg class="features" viewBox="0 0 ${BARS} 100" preserveAspectRatio="none" role="img" aria-label="${label}">
      ${before ? bars(before, 'before') : ''}${bars(after, before ? 'after' : 'before')}
      <line class="base" x1="0" x2="${BARS}" y1="100" y2="100"/><line class="zero" x1="${BARS / 2}" x2="${BARS / 2}" y1="0" y2="100"/>
    </svg>
    <div class="ends"><span>${below && `◂ ${below} below `}−${EDGE}</span><span>0</span><span>${EDGE}${above && ` ${above} above ▸`}</span></div>`;
  return element;
}
