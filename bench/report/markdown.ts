import type { Results } from '../results.js';
import type { TextTable } from './tables.js';

/** What every run says of itself. */
export type Run = Pick<Results, 'date' | 'machine' | 'command' | 'notes'>;

/** The latest results as a file to keep; `text` says how to read them. */
export function markdownFile(
  title: string,
  { date, machine, command, notes }: Run,
  text: readonly string[],
  tables: readonly TextTable[],
): string {
  return [
    `# ${title}`,
    `${date.slice(0, 10)}, ${machine}`,
    `\`${command}\``,
    text.join('\n'),
    ...notes.map((note) => `- ${note}`),
    ...tables.flatMap(({ title, head, rows }) => [
      `## ${title}`,
      [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n'),
    ]),
  ]
    .join('\n\n')
    .concat('\n');
}

/** The results of the passes. */
export function markdown(results: Results, tables: readonly TextTable[]): string {
  const text =
    results.measurements.length > 0
      ? [
          'Times are per call and minima. The limit of the forward passes is the best copy of the tensor, that of backward',
          'the best a + b → c, in the same run with as many threads; fractions of it are medians over the rounds. Backward',
          'of tfjs contains the forward: it has no other. oneDNN blocked has its data in its own layout of 16 channels. Rows',
          'with weights have one for each position, with a mask the last positions of samples do not count, a quarter of all, and',
          'with missing values 1 % of x is imputed; there PyTorch computes by hand, for it has no such batch norm.',
          'Rows of group, instance, layer and RMS norm are named so; all have weight and bias, RMS norm its weight. Inference finds the',
          'statistics as training does, and onnxruntime and plain JS have one forward for both.',
        ]
      : [
          'Each kind of data is one that `npm run hunt` searches among; 200,704 values a channel, "4 M values" as it says.',
        ];
  return markdownFile('Results of the benchmark', results, text, tables);
}
