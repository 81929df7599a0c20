// The table of the README: few shapes, this library and the fastest of the others.
import { type Pass, passes } from './cases.js';
import { duration } from './report/format.js';
import type { Lookup } from './results.js';

const shapes = ['(32, 256, 56, 56)', '(32, 56, 56, 256) last', '(32, 2048, 7, 7)', '(1024, 1024)'];

/** With one thread, and the tensor as it lies. */
const others = ['plain JS', 'onnxruntime 1T', 'oneDNN 1T', 'tfjs-wasm', 'PyTorch 1T'];

/** Markdown of three columns. */
export function summaryTable(lookup: Lookup): string {
  const time = (shape: string, pass: Pass, contender: string) => {
    const subject = lookup.results.cases.find(({ name }) => name === shape);
    if (!subject) throw new Error(`the results must have the shape ${shape}, got none`);
    return lookup.find(subject, pass, contender)?.min;
  };
  const rows = shapes.flatMap((shape) =>
    passes.map((pass) => {
      const own = time(shape, pass, 'native 1T');
      const [fastest] = others
        .map((name) => ({ name, min: time(shape, pass, name) ?? Number.POSITIVE_INFINITY }))
        .sort((a, b) => a.min - b.min);
      if (own === undefined) throw new Error(`the results must have ${pass} of ${shape}, got none`);
      return [
        `${shape.replace(' last', ', `axis: -1`')}, ${pass}`,
        duration(own),
        `${duration(fastest.min)}, ${fastest.name.replace(' 1T', '')}`,
      ];
    }),
  );
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(['one call', 'batchnorm', 'fastest other']), '| --- | --- | --- |', ...rows.map(line)].join(
    '\n',
  );
}
