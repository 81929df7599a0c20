// Runs while the site is built: the browser gets pictures, not numbers to draw.
import { speedPicture } from '../../../bench/picture.js';
import { readPublished } from '../../../bench/published.js';
import { errorPlots, fractionPlots, legend, sweepPlots } from '../../../bench/report/plots.js';

interface Section {
  readonly title: string;
  readonly text: string;
  /** HTML. */
  readonly plots: string;
}

export interface Plots {
  readonly picture: string;
  readonly machine: string;
  readonly command: string;
  readonly legend: string;
  readonly sections: readonly Section[];
}

declare const data: Plots;

export { data };

export default {
  watch: ['../../../bench/RESULTS.md'],
  load(): Plots {
    const lookup = readPublished();
    const { machine, date, command } = lookup.results;
    const sections = [
      {
        title: 'Fraction of the limit',
        text: 'The limit of inference and training is the best copy of the tensor, that of backward the best a + b → c, in the same run with as many threads. Further right is faster; a triangle is beyond the edge.',
        plots: fractionPlots(lookup) ?? '',
      },
      {
        title: 'Size of the tensor',
        text: 'Channels-last matrices: bytes that must be moved at least, x and y, or x, dy and dx, per time. Dashed: the limit with one thread.',
        plots: sweepPlots(lookup) ?? '',
      },
      {
        title: 'Error against speed',
        text: 'The worst error of variance and y on data that is hard to compute. Lower and further right is better; a triangle is beyond the edge. Dashed: what this library promises.',
        plots: errorPlots(lookup) ?? '',
      },
    ];
    const missing = sections.find(({ plots }) => plots === '');
    if (missing)
      throw new Error(`bench/RESULTS.md must have what "${missing.title}" shows, got nothing of it`);
    return {
      picture: speedPicture(lookup, false),
      machine: `${machine}, ${date}`,
      command,
      legend: legend(lookup),
      sections,
    };
  },
};
