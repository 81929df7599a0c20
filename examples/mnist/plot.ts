import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import type { History } from './train.js';

/** A line of the plot. */
export interface Curve {
  readonly name: string;
  readonly color: string;
  readonly history: History;
}

/** Points per epoch: each is the mean over its share of the steps, which single batches are too noisy for. */
const POINTS = 20;

/** The training losses over the epochs, as an SVG document that stands alone. */
export function lossPlot(title: string, curves: readonly Curve[]): string {
  const epochs = Math.max(...curves.map(({ history }) => history.losses.length / history.stepsPerEpoch));
  const every = Math.ceil(epochs / 10);
  const epochTicks = Array.from({ length: Math.floor(epochs / every) + 1 }, (_, i) => i * every);
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  const svg = Plot.plot({
    document,
    width: 860,
    height: 440,
    marginTop: 64,
    marginLeft: 56,
    marginRight: 24,
    marginBottom: 44,
    style: { background: 'white', color: '#1f2933', fontFamily: 'system-ui, sans-serif', fontSize: '13px' },
    x: {
      label: 'epochs',
      labelAnchor: 'center',
      labelArrow: 'none',
      domain: [0, epochs],
      ticks: epochTicks,
      tickFormat: 'd',
    },
    y: { type: 'log', label: null, grid: true, tickFormat: '~g' },
    marks: [
      Plot.text([title], { frameAnchor: 'top-left', dx: -48, dy: -56, fontSize: 17, fontWeight: 600 }),
      Plot.text(['training loss (mean cross entropy, log scale)'], {
        frameAnchor: 'top-left',
        dx: -48,
        dy: -30,
      }),
      ...curves.flatMap(({ name, color, history }, i) => [
        Plot.lineY(points(history), { x: 'epoch', y: 'loss', stroke: color, strokeWidth: 2 }),
        Plot.text([name], {
          frameAnchor: 'top-right',
          dx: -8,
          dy: 10 + 20 * i,
          fill: color,
          fontSize: 14,
          fontWeight: 600,
        }),
      ]),
    ],
  });
  svg.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  return `${svg.outerHTML}\n`;
}

function points({ losses, stepsPerEpoch }: History): { epoch: number; loss: number }[] {
  const width = Math.max(1, Math.floor(stepsPerEpoch / POINTS));
  return Array.from({ length: Math.floor(losses.length / width) }, (_, i) => {
    const part = losses.subarray(i * width, (i + 1) * width);
    return {
      epoch: ((i + 0.5) * width) / stepsPerEpoch,
      loss: part.reduce((sum, loss) => sum + loss) / width,
    };
  });
}
