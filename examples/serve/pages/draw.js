import { drawStrokes, SIDE, toImage } from './digit.js';
import { lookInside } from './inside.js';

const byId = (id) => document.getElementById(id);
const paper = byId('paper');
const context = paper.getContext('2d');
const seen = byId('seen').getContext('2d');

/** The pen on the paper, and one press of an arrow key, in shares of the paper. */
const PEN = 0.07;
const STEP = 0.03;

let strokes = [];
/** The stroke being drawn, by pointer or keyboard. */
let current;
/** Where the pen of the keyboard is; undefined until a key moves it. */
let cursor;

const bars = Array.from({ length: 10 }, (_, digit) => {
  const item = document.createElement('li');
  item.innerHTML = `<span>${digit}</span><div class="track"><div class="fill"></div></div><span class="value">–</span>`;
  byId('bars').append(item);
  return { item, fill: item.querySelector('.fill'), value: item.querySelector('.value') };
});

function repaint() {
  const side = Math.round(paper.clientWidth * devicePixelRatio);
  if (paper.width !== side) paper.width = paper.height = side;
  const { color } = getComputedStyle(paper);
  context.clearRect(0, 0, side, side);
  context.strokeStyle = color;
  drawStrokes(context, strokes, side, { x: 0, y: 0 }, PEN * side);
  if (cursor !== undefined && document.activeElement === paper) {
    context.lineWidth = 2 * devicePixelRatio;
    context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue('--accent');
    context.beginPath();
    context.arc(cursor.x * side, cursor.y * side, (PEN / 2) * side + context.lineWidth, 0, 2 * Math.PI);
    context.stroke();
  }
}

function changed() {
  byId('clear').disabled = byId('undo').disabled = strokes.length === 0;
  repaint();
  recognise();
}

function clear() {
  strokes = [];
  current = undefined;
  changed();
}

/** Whether a request is under way, and whether the drawing has changed since it was sent. */
let asking = false;
let outdated = false;

/** Keeps at most one request under way, always for the latest drawing. */
async function recognise() {
  outdated = true;
  if (asking) return;
  asking = true;
  while (outdated) {
    outdated = false;
    const image = toImage(strokes);
    showSeen(image);
    lookInside(strokes.length === 0 ? undefined : image);
    if (strokes.length === 0) showNothing();
    else await ask(image);
  }
  asking = false;
}

async function ask(image) {
  const begun = performance.now();
  try {
    const response = await fetch('/predict', {
      method: 'POST',
      headers: { 'content-type': 'application/octet-stream' },
      body: image,
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.message);
    if (strokes.length > 0) show(answer, performance.now() - begun);
  } catch (error) {
    byId('status').classList.add('problem');
    byId('status').textContent = `No answer: ${error.message}`;
  }
}

function show({ predictions: [{ digit, probabilities }], ms }, roundTrip) {
  byId('digit').textContent = digit;
  delete byId('digit').dataset.empty;
  byId('summary').textContent = `${percent(probabilities[digit])} sure`;
  for (const [i, { item, fill, value }] of bars.entries()) {
    fill.style.width = `${100 * probabilities[i]}%`;
    value.textContent = percent(probabilities[i]);
    item.toggleAttribute('data-best', i === digit);
  }
  byId('status').classList.remove('problem');
  byId('status').textContent = `${ms.toFixed(2)} ms on the server, ${roundTrip.toFixed(1)} ms there and back`;
  if (current === undefined) speak(`${digit}, ${percent(probabilities[digit])} sure`);
}

function showNothing() {
  byId('digit').textContent = '?';
  byId('digit').dataset.empty = '';
  byId('summary').textContent = 'Draw a digit from 0 to 9.';
  for (const { item, fill, value } of bars) {
    fill.style.width = '0';
    value.textContent = '–';
    item.removeAttribute('data-best');
  }
  byId('status').textContent = '';
  speak('');
}

/** For screen readers, once a stroke is done: an announcement for every movement would be noise. */
function speak(text) {
  byId('spoken').textContent = text;
}

function showSeen(image) {
  const pixels = seen.createImageData(SIDE, SIDE);
  for (const [i, ink] of image.entries()) pixels.data.set([ink, ink, ink, 255], 4 * i);
  seen.putImageData(pixels, 0, 0);
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)}\u00a0%`;
}

function place({ clientX, clientY }) {
  const { left, top, width, height } = paper.getBoundingClientRect();
  const within = (share) => Math.min(1, Math.max(0, share));
  return { x: within((clientX - left) / width), y: within((clientY - top) / height) };
}

paper.addEventListener('pointerdown', (event) => {
  if (event.button !== 0 || !event.isPrimary) return;
  paper.setPointerCapture(event.pointerId);
  cursor = undefined;
  current = [place(event)];
  strokes.push(current);
  changed();
});

paper.addEventListener('pointermove', (event) => {
  if (current === undefined || !paper.hasPointerCapture(event.pointerId)) return;
  // A browser reports several movements in one event; without them fast curves have corners.
  const events = event.getCoalescedEvents?.() ?? [];
  for (const moved of events.length > 0 ? events : [event]) current.push(place(moved));
  changed();
});

for (const end of ['pointerup', 'pointercancel']) {
  paper.addEventListener(end, () => {
    if (current === undefined) return;
    current = undefined;
    changed();
  });
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

paper.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const arrow = ARROWS[event.key];
  if (arrow !== undefined) {
    const { x, y } = cursor ?? { x: 0.5 - STEP * arrow[0], y: 0.25 - STEP * arrow[1] };
    const within = (share) => Math.min(1 - PEN, Math.max(PEN, share));
    cursor = { x: within(x + STEP * arrow[0]), y: within(y + STEP * arrow[1]) };
    current?.push(cursor);
    if (current === undefined) repaint();
    else changed();
  } else if (event.key === ' ') {
    cursor ??= { x: 0.5, y: 0.25 };
    if (current === undefined) {
      current = [cursor];
      strokes.push(current);
    } else current = undefined;
    changed();
  } else if (event.key === 'Delete' || event.key === 'Backspace') clear();
  else return;
  event.preventDefault();
});

byId('clear').addEventListener('click', clear);
byId('undo').addEventListener('click', () => {
  strokes.pop();
  current = undefined;
  changed();
});
paper.addEventListener('focus', repaint);
paper.addEventListener('blur', repaint);
new ResizeObserver(repaint).observe(paper);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', repaint);
showSeen(toImage([]));
