import type { Results } from '../results.js';
import type { TextTable } from './tables.js';

/** The latest results as a file to keep. */
export function markdown({ date, machine, command, notes }: Results, tables: readonly TextTable[]): string {
  return [
    '# Results of the benchmark',
    `${date.slice(0, 10)}, ${machine}`,
    `\`${command}\``,
    [
      'Times are per call and minima. The limit of the forward passes is the best copy of the tensor, that of backward',
      'the best a + b → c, in the same run with as many threads; fractions of it are medians over the rounds. Backward',
      'of tfjs contains the forward: it has no other. oneDNN blocked has its data in its own layout of 16 channels.',
    ].join('\n'),
    ...notes.map((note) => `- ${note}`),
    ...tables.flatMap(({ title, head, rows }) => [
      `## ${title}`,
      [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n'),
    ]),
  ]
    .join('\n\n')
    .concat('\n');
}
