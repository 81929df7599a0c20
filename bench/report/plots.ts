import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import { bytesOf, type Case, passes, sizeOf } from '../cases.js';
import { geometricMean, type Lookup } from '../results.js';
import { type Color, escapeHtml, plotStyle } from './html.js';
import { placed } from './labels.js';
import { tabulated } from './tables.js';

/** In the order of the contenders: this library in blues, everybody else in other colours. */
const palette: readonly Color[] = [
  ['#0b3c8c', '#a9cbff'],
  ['#3f8efc', '#3f8efc'],
  ['#8c8c8c', '#a8a8a8'],
  ['#d1495b', '#f0707f'],
  ['#f0868f', '#f5a9b0'],
  ['#2a9d4a', '#4cc76b'],
  ['#8fc93a', '#b3e06a'],
  ['#e08e0b', '#f0a63a'],
  ['#f2c14e', '#f7d688'],
  ['#7b4ea3', '#a983cf'],
  ['#b58bd6', '#cfb3ea'],
  ['#0f8b8d', '#3fc0c2'],
];

/** What the page must define for the plots. */
export const contenderColors = Object.fromEntries(palette.map((color, i) => [`contender-${i}`, color]));

function colors({ results }: Lookup): { domain: string[]; range: string[] } {
  const domain = results.contenders.map(({ name }) => name);
  return { domain, range: domain.map((_, i) => `var(--contender-${i % palette.length})`) };
}

/** Of one plot; two or three stand side by side, or one below the other where there is no room. */
const width = 370;

function figure(caption: string, options: Plot.PlotOptions): string {
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  const style = { ...plotStyle, fontSize: '12px' };
  const svg = Plot.plot({ document, ariaLabel: caption, width, style, ...options }).outerHTML;
  return `<figure><figcaption>${escapeHtml(caption)}</figcaption>${svg}</figure>`;
}

function sideBySide(figures: readonly string[]): string {
  return `<div class="plots">${figures.join('\n')}</div>`;
}

/** Room for the ticks and labels of a plot. */
const frame = { height: 340, marginLeft: 44, marginTop: 28, marginBottom: 44, marginRight: 16 } as const;

/** The names of the contenders beside their colours. */
export function legend(lookup: Lookup): string {
  const { domain, range } = colors(lookup);
  return domain
    .map((name, i) => `<span class="key"><i style="background:${range[i]}"></i>${escapeHtml(name)}</span>`)
    .join('');
}

/** Where the axis of the fractions ends; what is faster stands there as a triangle, with its value. */
const mostFraction = 1.2;

/** Dots: the fraction of the limit, for each shape, a plot for each pass. */
export function fractionPlots(lookup: Lookup): string | undefined {
  const { cases, contenders } = lookup.results;
  const every = tabulated(cases);
  const plots = lookup.passesOf(every).flatMap((pass) => {
    const subjects = every.filter((subject) =>
      contenders.some(({ name }) => lookup.find(subject, pass, name)),
    );
    const points = subjects.flatMap((subject) =>
      contenders.flatMap(({ name }) => {
        const fraction = lookup.fraction(subject, pass, name);
        return fraction === undefined ? [] : [{ shape: subject.name, contender: name, fraction }];
      }),
    );
    if (points.length === 0) return [];
    const beyond = points.filter(({ fraction }) => fraction > mostFraction);
    const values = subjects.flatMap(({ name }) => {
      const own = beyond.filter(({ shape }) => shape === name).map(({ fraction }) => fraction);
      return own.length === 0 ? [] : [{ shape: name, text: rangeOf(own) }];
    });
    // Drawn backwards: this library on top.
    const within = points.filter(({ fraction }) => fraction <= mostFraction).toReversed();
    const dot = { y: 'shape', fill: 'contender', r: 4, stroke: 'var(--page)', strokeWidth: 0.6 } as const;
    return figure(pass, {
      height: 60 + 19 * subjects.length,
      marginLeft: 18 + 6.1 * Math.max(...subjects.map(({ name }) => name.length)),
      marginTop: 8,
      marginBottom: 44,
      marginRight: 48,
      x: {
        domain: [0, mostFraction],
        ticks: [0, 0.25, 0.5, 0.75, 1],
        tickFormat: '~g',
        label: 'fraction of the limit',
        labelAnchor: 'center',
        labelArrow: 'none',
        labelOffset: 34,
        grid: true,
      },
      y: { domain: subjects.map(({ name }) => name), label: null, grid: true },
      color: colors(lookup),
      marks: [
        Plot.ruleX([1], { stroke: 'var(--text)', strokeDasharray: '3,3' }),
        Plot.dot(within, { x: 'fraction', ...dot }),
        Plot.dot(beyond.toReversed(), { x: mostFraction, symbol: 'triangle', rotate: 90, ...dot }),
        Plot.text(values, { x: mostFraction, y: 'shape', text: 'text', textAnchor: 'start', dx: 8 }),
      ],
    });
  });
  return plots.length === 0 ? undefined : sideBySide(plots);
}

/** The values in few characters: one of them, or the least and the greatest. */
function rangeOf(values: readonly number[]): string {
  const [least, greatest] = [Math.min(...values), Math.max(...values)].map((value) => value.toPrecision(2));
  return least === greatest ? least : `${least}–${greatest}`;
}

/** Lines: bytes moved per second against the size of the tensor, a plot for each pass. */
export function sweepPlots(lookup: Lookup): string | undefined {
  const { cases, contenders } = lookup.results;
  const subjects = cases.filter(({ group }) => group === 'sweep');
  const plots = passes.flatMap((pass) => {
    const point = (subject: Case, series: string, nanoseconds: number) => ({
      series,
      size: bytesOf(subject),
      // Of what must be moved at least: x and y, or x, dy and dx.
      speed: ((pass === 'backward' ? 3 : 2) * bytesOf(subject)) / nanoseconds,
    });
    const lines = subjects.flatMap((subject) =>
      contenders.flatMap(({ name }) => {
        const own = lookup.find(subject, pass, name);
        return own ? [point(subject, name, own.min)] : [];
      }),
    );
    const limits = subjects.flatMap((subject) => {
      const limit = lookup.limit(subject, pass, contenders[0].name);
      return limit ? [point(subject, 'limit', limit.min)] : [];
    });
    if (lines.length === 0) return [];
    return figure(pass, {
      ...frame,
      x: {
        type: 'log',
        label: 'tensor',
        labelAnchor: 'center',
        labelArrow: 'none',
        ticks: [1e3, 1e5, 1e7],
        tickFormat: size,
      },
      y: { type: 'log', label: 'GB/s', grid: true, ticks: 6, tickFormat: '~g' },
      color: colors(lookup),
      marks: [
        Plot.lineY(limits, { x: 'size', y: 'speed', stroke: 'var(--text)', strokeDasharray: '3,3' }),
        Plot.lineY(lines, { x: 'size', y: 'speed', stroke: 'series', strokeWidth: 2 }),
      ],
    });
  });
  return plots.length === 0 ? undefined : sideBySide(plots);
}

function size(bytes: number): string {
  if (bytes >= 1e6) return `${bytes / 1e6} MB`;
  return bytes >= 1e3 ? `${bytes / 1e3} kB` : `${bytes} B`;
}

/** The powers of ten within the domain of an axis. */
function decades(from: number, to: number, [least, most]: readonly number[]): number[] {
  return Array.from({ length: to - from + 1 }, (_, i) => Number(`1e${from + i}`)).filter(
    (value) => value >= least && value <= most,
  );
}

/** The pixel of a value on a logarithmic axis. */
function at(value: number, [least, most]: readonly number[], from: number, to: number): number {
  return from + ((to - from) * Math.log(value / least)) / Math.log(most / least);
}

/** Where the axis of the errors ends; what is smaller, or none, stands there as a triangle. */
const leastError = 1e-9;

/** What this library keeps below. */
const promised = 1e-6;

/** Dots with names: the worst error of the hard cases against the speed in training, a plot for each layout. */
export function errorPlots(lookup: Lookup): string | undefined {
  const { accuracy, cases, contenders } = lookup.results;
  const sizable = tabulated(cases).filter((subject) => sizeOf(subject) >= 2e5);
  const points = (['channels-first', 'channels-last'] as const).flatMap((layout) =>
    contenders.flatMap(({ name }) => {
      const errors = accuracy.filter(
        (it) => it.contender === name && it.layout === layout && it.norm === undefined,
      );
      const fractions = sizable
        .filter((subject) => subject.layout === layout)
        .flatMap((subject) => lookup.fraction(subject, 'training', name) ?? []);
      if (errors.length === 0 || fractions.length === 0) return [];
      const error = Math.max(
        ...errors.flatMap(({ varianceError, yError }) => [varianceError ?? yError, yError]),
      );
      return [{ contender: name, layout, error, fraction: geometricMean(fractions) }];
    }),
  );
  if (points.length === 0) return undefined;
  // The same axes for both layouts: to where they usually reach, and further where a value does.
  const fractions = points.map(({ fraction }) => fraction);
  const speeds = [Math.min(0.003, ...fractions) / 1.3, Math.max(1, ...fractions) * 1.3];
  const mostError = 2 * Math.max(1e-5, ...points.map(({ error }) => error).filter(Number.isFinite));
  const room = {
    left: frame.marginLeft,
    right: width,
    top: frame.marginTop - 8,
    bottom: frame.height - frame.marginBottom,
  };
  const plots = [...new Set(points.map(({ layout }) => layout))].map((layout) => {
    const own = points
      .filter((point) => point.layout === layout)
      .map((point) => {
        const { error } = point;
        if (error < leastError) return { ...point, error: leastError, end: 'least' };
        // What is no number is worse than any.
        return error <= mostError
          ? { ...point, end: undefined }
          : { ...point, error: mostError, end: 'most' };
      });
    const heightOf = (error: number) => at(error, [leastError, mostError], room.bottom, frame.marginTop);
    const labels = placed(
      own.map(({ contender, fraction, error }) => ({
        name: contender,
        x: at(fraction, speeds, room.left, width - frame.marginRight),
        y: heightOf(error),
      })),
      room,
      [{ ...room, top: heightOf(promised), bottom: heightOf(promised) }],
    );
    const dot = { x: 'fraction', y: 'error', fill: 'contender', r: 5 } as const;
    return figure(layout, {
      ...frame,
      x: {
        type: 'log',
        domain: speeds,
        ticks: decades(-4, 1, speeds),
        label: 'training: fraction of the limit, mean of the shapes →',
        labelAnchor: 'center',
        labelArrow: 'none',
        tickFormat: '~g',
      },
      y: {
        type: 'log',
        domain: [leastError, mostError],
        label: '↑ worst error',
        labelArrow: 'none',
        grid: true,
        ticks: decades(-9, 9, [leastError, mostError]),
        tickFormat: '.0e',
      },
      color: colors(lookup),
      marks: [
        Plot.ruleY([promised], { stroke: 'var(--text)', strokeDasharray: '3,3' }),
        Plot.dot(
          own.filter(({ end }) => end === undefined),
          dot,
        ),
        ...(['least', 'most'] as const).map((which) =>
          Plot.dot(
            own.filter(({ end }) => end === which),
            { ...dot, symbol: 'triangle', rotate: which === 'least' ? 180 : 0 },
          ),
        ),
        Plot.link(
          labels.filter(({ y, textY }) => Math.abs(textY - y) > 7),
          {
            x1: { value: 'x', scale: null },
            y1: { value: 'y', scale: null },
            x2: { value: 'textX', scale: null },
            y2: { value: 'textY', scale: null },
            stroke: 'name',
          },
        ),
        ...(['start', 'end'] as const).map((textAnchor) =>
          Plot.text(
            labels.filter(({ anchor }) => anchor === textAnchor),
            {
              x: { value: 'textX', scale: null },
              y: { value: 'textY', scale: null },
              text: 'name',
              fill: 'name',
              textAnchor,
              fontWeight: 600,
              fontSize: 11,
            },
          ),
        ),
      ],
    });
  });
  return sideBySide(plots);
}
