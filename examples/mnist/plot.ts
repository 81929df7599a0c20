import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import { type Color, colorStyle, escapeHtml, plotStyle } from '../../bench/report/html.js';
import type { History } from './train.js';

/** A training, whose losses and accuracies are lines. */
export interface Curve extends Pick<Line, 'name' | 'color' | 'isDashed'> {
  readonly history: History;
}

/** A line of a plot. */
export interface Line {
  readonly name: string;
  /** A key of `CURVE_COLORS`. */
  readonly color: keyof typeof CURVE_COLORS;
  /** Where it lies over another one. */
  readonly isDashed?: boolean;
  readonly points: readonly { readonly x: number; readonly y: number }[];
}

export const CURVE_COLORS = {
  first: ['#0b6e99', '#4fb3dc'],
  second: ['#c2571a', '#f08a4b'],
  third: ['#6b4e9b', '#b79be0'],
  fourth: ['#2f7d32', '#7cc47f'],
  fifth: ['#a8326e', '#ec86b8'],
  sixth: ['#5c6370', '#a6adba'],
} satisfies Record<string, Color>;

/** Points per epoch: each is the mean over its share of the steps, which single batches are too noisy for. */
const POINTS = 20;

/** Of one plot; the text stays readable where 340 pixels have to do. */
const WIDTH = 480;
const LEGEND_LINE = 18;

/** Losses and accuracies of the trainings over the epochs, as SVG elements in the colours of a page. */
export function trainingPlots(curves: readonly Curve[]): string[] {
  const epochs = Math.max(...curves.map(({ history }) => history.losses.length / history.stepsPerEpoch));
  const every = Math.ceil(epochs / 10);
  const x: Plot.ScaleOptions = {
    label: 'epochs',
    domain: [0, epochs],
    ticks: Array.from({ length: Math.floor(epochs / every) + 1 }, (_, i) => i * every),
    tickFormat: 'd',
  };
  const lines = (select: (history: History) => Float64Array): Line[] =>
    curves.map(({ history, ...line }) => ({
      ...line,
      points: points(select(history), history.stepsPerEpoch),
    }));
  return [
    plotLines(
      'Training loss (mean cross entropy, log scale)',
      lines(({ losses }) => losses),
      x,
      { type: 'log', tickFormat: '~g' },
    ),
    plotLines(
      'Training accuracy (right of each batch, in %)',
      lines(({ accuracies }) => accuracies),
      x,
      { percent: true, domain: [0, 100] },
    ),
  ];
}

/** The plots side by side as an SVG document that stands alone. */
export function svgDocument(title: string, plots: readonly string[]): string {
  const height = Number(/ height="(\d+)"/.exec(plots[0])?.[1]);
  const nested = plots.map((svg, i) => svg.replace('<svg', `<svg x="${i * WIDTH}"`));
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${plots.length * WIDTH} ${height}" width="${plots.length * WIDTH}" height="${height}">
<title>${escapeHtml(title)}</title>
<style>${colorStyle(CURVE_COLORS)}</style>
<rect width="100%" height="100%" fill="var(--page)"/>
${nested.join('\n')}
</svg>
`;
}

/** Lines over one scale, with their names above them, as an SVG element in the colours of a page. */
export function plotLines(
  title: string,
  lines: readonly Line[],
  x: Plot.ScaleOptions,
  y: Plot.ScaleOptions,
): string {
  const marginTop = 34 + LEGEND_LINE * lines.length;
  const heading = { frameAnchor: 'top-left', dx: -40 } as const;
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  return Plot.plot({
    document,
    ariaLabel: title,
    width: WIDTH,
    height: 300 + marginTop,
    marginTop,
    marginLeft: 48,
    marginRight: 16,
    marginBottom: 44,
    style: { ...plotStyle, fontSize: '13px' },
    x: { labelAnchor: 'center', labelArrow: 'none', ...x },
    y: { label: null, grid: true, ...y },
    marks: [
      Plot.text([title], { ...heading, dy: -marginTop + 4, fontSize: 14, fontWeight: 600 }),
      ...lines.flatMap(({ name, color, isDashed, points }, i) => {
        const stroke = `var(--${color})`;
        const strokeDasharray = isDashed ? '6 8' : undefined;
        return [
          Plot.lineY(points, { x: 'x', y: 'y', stroke, strokeWidth: 2, strokeDasharray }),
          Plot.text([name], {
            ...heading,
            dy: -marginTop + 26 + LEGEND_LINE * i,
            fill: stroke,
            fontWeight: 600,
          }),
        ];
      }),
    ],
  }).outerHTML;
}

function points(values: Float64Array, stepsPerEpoch: number): Line['points'] {
  const width = Math.max(1, Math.floor(stepsPerEpoch / POINTS));
  return Array.from({ length: Math.floor(values.length / width) }, (_, i) => {
    const part = values.subarray(i * width, (i + 1) * width);
    return {
      x: ((i + 0.5) * width) / stepsPerEpoch,
      y: part.reduce((sum, value) => sum + value) / width,
    };
  });
}
