import { type Line, plotLines } from '../mnist/plot.js';
import type { Section } from '../mnist/report.js';
import type { NormName } from './network.js';
import { BATCH_SIZES, type Outcome } from './recipe.js';

export const TITLE = 'Normalizations by the size of the batch';

/** The networks with one norm, one for each size of a batch, and their line. */
export interface Trained extends Omit<Line, 'points'> {
  readonly norm: NormName;
  readonly outcomes: readonly Outcome[];
}

const percent = ({ accuracy }: Outcome) => `${(100 * accuracy).toFixed(2)} %`;
const seconds = (outcome: Outcome) => `${outcome.seconds.toFixed(2)} s`;

export function normSections(trained: readonly Trained[]): Section[] {
  const table = (heading: string, cell: (outcome: Outcome) => string, note: string): Section => ({
    heading,
    columns: ['norm', ...BATCH_SIZES.map((batch) => `batches of ${batch}`)],
    rows: trained.map(({ name, outcomes }) => [name, ...outcomes.map(cell)]),
    note,
  });
  return [
    table(
      'Test accuracy',
      percent,
      'Instance norm normalizes the images: between linear layers a channel of a sample is one value, of which nothing would be left.',
    ),
    table(
      'Time of a pass over the training images',
      seconds,
      'Of a CPU, all layers together. The linear layers skip zeros: paper, which is no zero any more behind instance norm, and half of what a ReLU gives.',
    ),
  ];
}

export function normPlots(trained: readonly Trained[]): string[] {
  const plot = (title: string, of: (outcome: Outcome) => number, y: Parameters<typeof plotLines>[3]) =>
    plotLines(
      title,
      trained.map(({ name, color, isDashed, outcomes }) => ({
        name,
        color,
        isDashed,
        points: outcomes.map((outcome) => ({ x: outcome.batch, y: of(outcome) })),
      })),
      { label: 'images in a batch', type: 'log', base: 2, ticks: [...BATCH_SIZES], tickFormat: 'd' },
      y,
    );
  return [
    // On a log scale those that differ by tenths stay apart beside one that gets a third wrong.
    plot('Test images it gets wrong (in %, log scale)', (outcome) => 100 * (1 - outcome.accuracy), {
      type: 'log',
      nice: true,
      tickFormat: '~g',
    }),
    plot('Time of a pass over the images (s of a CPU)', (outcome) => outcome.seconds, { zero: true }),
  ];
}

/** What the trainings say, in the words of their outcomes. */
export function conclusion(trained: readonly Trained[]): string {
  const at = (i: number) => {
    const of = (...norms: NormName[]) =>
      trained
        .filter(({ norm }) => norms.includes(norm))
        .map(({ outcomes }) => outcomes[i])
        .sort((a, b) => a.accuracy - b.accuracy);
    const [batch] = of('batch');
    const [none] = of('none');
    const [worst, , best] = of('group', 'layer', 'rms');
    return `with batch norm ${percent(batch)} of the test images, with group, layer and RMS norm ${percent(worst)} to ${percent(best)}, without a norm ${percent(none)}`;
  };
  const last = BATCH_SIZES.length - 1;
  return `Trained in batches of ${BATCH_SIZES[0]}, the network gets right ${at(0)}. In batches of ${BATCH_SIZES[last]}: ${at(last)}.`;
}
