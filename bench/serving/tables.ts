import { duration } from '../report/format.js';
import type { TextTable } from '../report/tables.js';
import { median } from '../results.js';
import type { Measurement } from './measurements.js';
import { figureOf, type Results, type Spread } from './results.js';
import { sizeOf } from './state.js';

/** Everything that was measured. */
export function servingTables(results: Results): TextTable[] {
  const of = (measure: Measurement['measure']) =>
    results.measurements.filter((measurement) => measurement.measure === measure);
  const requests = of('requests');
  return [
    ...of('loop').map((measurement) => loopTable(results, measurement)),
    ...of('pool').map((measurement) => poolTable(results, measurement)),
    ...(requests.length > 0 ? [requestTable(results, requests)] : []),
    ...requests.filter(large).map((measurement) => throughputTable(results, measurement)),
    ...of('rate').map((measurement) => rateTable(results, measurement)),
  ];
}

/** Where the bytes are what it costs. */
function large({ shape }: Measurement): boolean {
  return sizeOf(shape) >= 1 << 20;
}

function megabytes({ shape }: Measurement): string {
  return `${((sizeOf(shape) * 4) / 1e6).toPrecision(3)} MB`;
}

const middle = (spread: Spread | undefined, show: (value: number) => string) =>
  spread ? `${show(spread.median)} (${show(spread.min)})` : '-';
const milliseconds = (value: number) => duration(value * 1e6);
const perSecond = (value: number) => (value < 1e4 ? value.toFixed(0) : `${(value / 1e3).toFixed(0)} k`);

function loopTable(results: Results, measurement: Measurement): TextTable {
  return {
    title: `Event loop while tensors of ${megabytes(measurement)} are computed, ${measurement.inFlight} in flight`,
    head: [
      '',
      ...['p50', 'p99', 'max'].map((name) => `delay ${name}`),
      ...['p50', 'p99', 'max'].map((name) => `1 ms timer late ${name}`),
      'tensors/s',
    ],
    rows: measurement.ways.map(({ name }) => {
      const figure = (key: string) => figureOf(results, measurement.name, name, key);
      return [
        name,
        ...['loop', 'timer'].flatMap((clock) => {
          const worst = figure(`${clock} max`);
          return [
            middle(figure(`${clock} p50`), milliseconds),
            middle(figure(`${clock} p99`), milliseconds),
            worst ? milliseconds(worst.max) : '-',
          ];
        }),
        middle(figure('perSecond'), perSecond),
      ];
    }),
  };
}

function poolTable(results: Results, measurement: Measurement): TextTable {
  return {
    title: `What libuv's pool does behind ${measurement.inFlight} tensors of ${megabytes(measurement)}`,
    head: ['', 'fs.stat p50', 'p99', "dns.lookup('localhost') p50", 'p99'],
    rows: measurement.ways.map(({ name }) => [
      name,
      ...['stat p50', 'stat p99', 'lookup p50', 'lookup p99'].map((key) =>
        middle(figureOf(results, measurement.name, name, key), milliseconds),
      ),
    ]),
  };
}

function requestTable(results: Results, measurements: readonly Measurement[]): TextTable {
  const [{ ways }] = measurements;
  return {
    title: 'Time per request: minimum (median over the rounds)',
    head: ['', ...ways.map(({ name }) => name)],
    rows: measurements.map(({ name, shape, inFlight }) => [
      `(${shape.join(', ')}), ${inFlight} in flight`,
      ...ways.map((way) => {
        const min = figureOf(results, name, way.name, 'min');
        const usual = figureOf(results, name, way.name, 'median');
        return min && usual ? `${duration(min.min)} (${duration(usual.median)})` : '-';
      }),
    ]),
  };
}

function throughputTable(results: Results, measurement: Measurement): TextTable {
  const bytes = 8 * sizeOf(measurement.shape);
  const run = figureOf(results, measurement.name, 'run', 'median');
  return {
    title: `Throughput of ${megabytes(measurement)}, ${measurement.inFlight} in flight: median of the rounds`,
    head: ['', 'GB/s read and written', 'tensors/s', 'share of run'],
    rows: measurement.ways.map(({ name }) => {
      const own = figureOf(results, measurement.name, name, 'median');
      if (!own) return [name, '-', '-', '-'];
      const share =
        run && median(run.rounds.slice(0, own.rounds.length).map((time, i) => time / own.rounds[i]));
      return [
        name,
        (bytes / own.median).toFixed(1),
        perSecond(1e9 / own.median),
        share === undefined ? '-' : share.toFixed(2),
      ];
    }),
  };
}

function rateTable(results: Results, measurement: Measurement): TextTable {
  const [first] = measurement.ways;
  const base = figureOf(results, measurement.name, first.name, 'perSecond');
  return {
    title: `Operations per second of (${measurement.shape.join(', ')}), ${megabytes(measurement)}: one thread of JavaScript, and workers`,
    head: ['', 'best round', 'median', `times ${first.name}`],
    rows: measurement.ways.map(({ name }) => {
      const own = figureOf(results, measurement.name, name, 'perSecond');
      if (!own || !base) return [name, '-', '-', '-'];
      const times = median(own.rounds.map((rate, round) => rate / base.rounds[round]));
      return [name, perSecond(own.max), perSecond(own.median), times.toFixed(2)];
    }),
  };
}
