/** The width and height of the images the network knows. */
export const SIDE = 28;

/** MNIST scales the ink into a box of this size, then puts its centre of mass into the middle of the image. */
const BOX = 20;

/** The width of a stroke in pixels of the image, about that of the pens MNIST was written with. */
const PEN = 2.4;

/** A mark smaller than this share of the paper is not blown up to fill the box: it is a dot. */
const LEAST_EXTENT = 0.12;

/** Each pixel is the mean of this many squared. */
const SAMPLES = 8;

/**
 * Strokes as an image like those of MNIST: 784 bytes, 0 is paper and 255 is ink. A stroke is a list of `{ x, y }`
 * in shares of the paper. The strokes are drawn anew with one pen, so that a small drawing is not a bold one.
 */
export function toImage(strokes) {
  const points = strokes.flat();
  if (points.length === 0) return new Uint8Array(SIDE * SIDE);
  const xs = points.map(({ x }) => x);
  const ys = points.map(({ y }) => y);
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = (BOX - PEN) / Math.max(right - left, bottom - top, LEAST_EXTENT);
  const middle = { x: SIDE / 2 - (scale * (left + right)) / 2, y: SIDE / 2 - (scale * (top + bottom)) / 2 };
  const mass = centreOfMass(render(strokes, scale, middle));
  const centred = { x: middle.x + SIDE / 2 - mass.x, y: middle.y + SIDE / 2 - mass.y };
  return render(strokes, scale, centred);
}

/** Draws strokes, scaled and moved, with a pen of the given width. */
export function drawStrokes(context, strokes, scale, { x: dx, y: dy }, width) {
  context.lineCap = 'round';
  context.lineJoin = 'round';
  context.lineWidth = width;
  for (const [first, ...rest] of strokes) {
    context.beginPath();
    context.moveTo(dx + scale * first.x, dy + scale * first.y);
    // A line of no length is a dot, for which the round caps suffice.
    context.lineTo(dx + scale * first.x, dy + scale * first.y);
    for (const { x, y } of rest) context.lineTo(dx + scale * x, dy + scale * y);
    context.stroke();
  }
}

function render(strokes, scale, move) {
  const side = SIDE * SAMPLES;
  const canvas = Object.assign(document.createElement('canvas'), { width: side, height: side });
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.scale(SAMPLES, SAMPLES);
  drawStrokes(context, strokes, scale, move, PEN);
  const { data } = context.getImageData(0, 0, side, side);
  const sums = new Float64Array(SIDE * SIDE);
  for (let y = 0; y < side; y++) {
    const row = SIDE * Math.floor(y / SAMPLES);
    // The fourth of a pixel's bytes is how much of it is covered.
    for (let x = 0; x < side; x++) sums[row + Math.floor(x / SAMPLES)] += data[4 * (y * side + x) + 3];
  }
  return Uint8Array.from(sums, (sum) => Math.round(sum / SAMPLES ** 2));
}

function centreOfMass(image) {
  let mass = 0;
  let x = 0;
  let y = 0;
  for (const [i, ink] of image.entries()) {
    mass += ink;
    x += ink * ((i % SIDE) + 0.5);
    y += ink * (Math.floor(i / SIDE) + 0.5);
  }
  return { x: x / mass, y: y / mass };
}
