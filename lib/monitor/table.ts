// What was last seen of each layer, for a terminal.
import { describe } from '../errors.js';
import { short, table } from '../text.js';
import type { Watched } from './watched.js';

const head = [
  'layer',
  'state',
  'step',
  'mean drift',
  'largest',
  'in channel',
  'variance drift',
  'dead',
  'no gradient',
  'not positive',
  'rejected',
];

/** A name as it stands where nothing in it can harm a terminal or a column. */
export function shown(name: string): string {
  return /^[\w./:@+-]{1,60}$/.test(name) ? name : describe(name);
}

export function number(value: number | null): string {
  return value === null ? '–' : short(value);
}

export function percent(share: number | null): string {
  return share === null ? '–' : `${short(100 * share)} %`;
}

export function tableOf(layers: readonly Watched[], steps: number): string {
  const rows = layers.map(({ name, latest, measured, layer: { channels } }) => {
    const record = measured ?? latest;
    if (latest === undefined || record === undefined)
      return [shown(name), 'not looked at'].concat(head.slice(2).map(() => '–'));
    const of = (count: number | null) => (count === null ? '–' : `${count} of ${channels}`);
    return [
      shown(name),
      latest.state,
      `${record.step}`,
      number(record.meanDrift),
      number(record.maxMeanDrift),
      number(record.driftChannel),
      number(record.varDrift),
      of(record.dead),
      of(record.withoutGradient),
      percent(record.notPositive),
      percent(record.rejectedShare),
    ];
  });
  return `Batch norms after step ${steps}: drift of means in running deviations, of variances in doublings\n${table(head, rows)}`;
}
