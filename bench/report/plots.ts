import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import { bytesOf, type Case, passes, sizeOf } from '../cases.js';
import { geometricMean, type Lookup } from '../results.js';
import { tabulated } from './tables.js';

const style = {
  background: 'white',
  color: '#1f2933',
  fontFamily: 'system-ui, sans-serif',
  fontSize: '12px',
};

/** In the order of the contenders: this library in dark blues, everybody else in colours. */
const palette = [
  '#0b3c8c',
  '#3f8efc',
  '#8c8c8c',
  '#d1495b',
  '#f0868f',
  '#2a9d4a',
  '#8fc93a',
  '#e08e0b',
  '#f2c14e',
  '#7b4ea3',
  '#b58bd6',
  '#0f8b8d',
];

function colors({ results }: Lookup): Plot.ScaleOptions {
  const domain = results.contenders.map(({ name }) => name);
  return { domain, range: domain.map((_, i) => palette[i % palette.length]) };
}

function svg(options: Plot.PlotOptions): string {
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  return Plot.plot({ document, style, ...options }).outerHTML;
}

/** The names of the contenders beside their colours. */
export function legend(lookup: Lookup): string {
  const { domain, range } = colors(lookup) as { domain: string[]; range: string[] };
  return domain
    .map((name, i) => `<span class="key"><i style="background:${range[i]}"></i>${name}</span>`)
    .join('');
}

/** Dots: the fraction of the limit, for each shape and pass. */
export function fractionPlot(lookup: Lookup): string | undefined {
  const { cases, contenders } = lookup.results;
  const subjects = tabulated(cases);
  const shown = lookup.passesOf(subjects);
  const points = subjects.flatMap((subject) =>
    shown.flatMap((pass) =>
      contenders.flatMap(({ name }) => {
        const fraction = lookup.fraction(subject, pass, name);
        return fraction === undefined
          ? []
          : [{ shape: subject.name, pass, contender: name, fraction: Math.min(fraction, 1.2) }];
      }),
    ),
  );
  if (points.length === 0) return undefined;
  return svg({
    width: 1040,
    height: 90 + 19 * subjects.length,
    marginLeft: 180,
    marginTop: 48,
    marginBottom: 44,
    marginRight: 16,
    x: {
      domain: [0, 1.2],
      ticks: [0, 0.25, 0.5, 0.75, 1],
      tickFormat: '~g',
      label: 'fraction of the limit',
      labelAnchor: 'center',
      labelArrow: 'none',
      labelOffset: 34,
      grid: true,
    },
    y: { domain: subjects.map(({ name }) => name), label: null, grid: true },
    fx: { domain: shown, label: null, padding: 0.06 },
    color: colors(lookup),
    marks: [
      Plot.ruleX([1], { stroke: '#1f2933', strokeDasharray: '3,3' }),
      // Drawn backwards: this library on top.
      Plot.dot(points.toReversed(), {
        x: 'fraction',
        y: 'shape',
        fx: 'pass',
        fill: 'contender',
        r: 4,
        stroke: 'white',
        strokeWidth: 0.6,
      }),
    ],
  });
}

/** Lines: bytes moved per second against the size of the tensor. */
export function sweepPlot(lookup: Lookup): string | undefined {
  const { cases, contenders } = lookup.results;
  const subjects = cases.filter(({ group }) => group === 'sweep');
  const point = (subject: Case, series: string, pass: (typeof passes)[number], nanoseconds: number) => ({
    series,
    pass,
    size: bytesOf(subject),
    // Of what must be moved at least: x and y, or x, dy and dx.
    speed: ((pass === 'backward' ? 3 : 2) * bytesOf(subject)) / nanoseconds,
  });
  const lines = subjects.flatMap((subject) =>
    passes.flatMap((pass) =>
      contenders.flatMap(({ name }) => {
        const own = lookup.find(subject, pass, name);
        return own ? [point(subject, name, pass, own.min)] : [];
      }),
    ),
  );
  const limits = subjects.flatMap((subject) =>
    passes.flatMap((pass) => {
      const limit = lookup.limit(subject, pass, contenders[0].name);
      return limit ? [point(subject, 'limit', pass, limit.min)] : [];
    }),
  );
  if (lines.length === 0) return undefined;
  return svg({
    width: 1040,
    height: 400,
    marginLeft: 56,
    marginTop: 40,
    marginBottom: 44,
    marginRight: 32,
    x: {
      type: 'log',
      label: 'tensor',
      labelAnchor: 'center',
      labelArrow: 'none',
      ticks: [1e3, 1e5, 1e7],
      tickFormat: size,
    },
    y: { type: 'log', label: 'GB/s', grid: true, ticks: 6, tickFormat: '~g' },
    fx: { domain: passes, label: null, padding: 0.06 },
    color: colors(lookup),
    marks: [
      Plot.lineY(limits, { x: 'size', y: 'speed', fx: 'pass', stroke: '#1f2933', strokeDasharray: '3,3' }),
      Plot.lineY(lines, { x: 'size', y: 'speed', fx: 'pass', stroke: 'series', strokeWidth: 2 }),
    ],
  });
}

function size(bytes: number): string {
  if (bytes >= 1e6) return `${bytes / 1e6} MB`;
  return bytes >= 1e3 ? `${bytes / 1e3} kB` : `${bytes} B`;
}

/** Nothing smaller can be shown on a logarithmic axis. */
const smallestError = 1e-9;

/** Dots with names: the worst error of the hard cases against the speed in training. */
export function errorPlot(lookup: Lookup): string | undefined {
  const { accuracy, cases, contenders } = lookup.results;
  const sizable = tabulated(cases).filter((subject) => sizeOf(subject) >= 2e5);
  const points = (['channels-first', 'channels-last'] as const).flatMap((layout) =>
    contenders.flatMap(({ name }) => {
      const errors = accuracy.filter((it) => it.contender === name && it.layout === layout);
      const fractions = sizable
        .filter((subject) => subject.layout === layout)
        .flatMap((subject) => lookup.fraction(subject, 'training', name) ?? []);
      if (errors.length === 0 || fractions.length === 0) return [];
      const worst = Math.max(...errors.flatMap(({ varianceError, yError }) => [varianceError, yError]));
      return [
        {
          contender: name,
          layout,
          error: Math.max(worst, smallestError),
          fraction: geometricMean(fractions),
        },
      ];
    }),
  );
  if (points.length === 0) return undefined;
  const isSerial = ({ contender }: (typeof points)[number]) =>
    contenders.some(({ name, threads }) => name === contender && threads === 1);
  return svg({
    width: 1040,
    height: 400,
    marginLeft: 56,
    marginTop: 40,
    marginBottom: 44,
    marginRight: 24,
    x: {
      type: 'log',
      domain: [0.001, 6],
      ticks: [0.001, 0.01, 0.1, 1],
      label: 'training: fraction of the limit, geometric mean of the shapes →',
      labelAnchor: 'center',
      labelArrow: 'none',
      tickFormat: '~g',
    },
    y: { type: 'log', nice: true, label: '↑ worst error', labelArrow: 'none', grid: true, tickFormat: '.0e' },
    fx: { label: null, padding: 0.06 },
    color: colors(lookup),
    marks: [
      Plot.ruleY([1e-6], { stroke: '#1f2933', strokeDasharray: '3,3' }),
      Plot.dot(points, { x: 'fraction', y: 'error', fx: 'layout', fill: 'contender', r: 5 }),
      // With several threads below on the right: the error is that of one thread, and the speed often close.
      ...[points.filter(isSerial), points.filter((it) => !isSerial(it))].map((some, i) =>
        Plot.text(some, {
          x: 'fraction',
          y: 'error',
          fx: 'layout',
          text: 'contender',
          fill: 'contender',
          textAnchor: i === 0 ? 'end' : 'start',
          dx: i === 0 ? -8 : 8,
          dy: i === 0 ? -9 : 10,
          fontWeight: 600,
        }),
      ),
    ],
  });
}
