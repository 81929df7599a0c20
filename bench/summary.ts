// What the README says of the results: one number, and a table of few shapes with the fastest of the others.
import { bytesOf, type Case, type Pass, passes } from './cases.js';
import { duration } from './report/format.js';
import type { Lookup } from './results.js';

const shapes = ['(32, 256, 56, 56)', '(32, 56, 56, 256) last', '(32, 2048, 7, 7)', '(1024, 1024)'];

/** With one thread, and the tensor as it lies. */
const others = ['plain JS', 'onnxruntime 1T', 'oneDNN 1T', 'tfjs-wasm', 'PyTorch 1T'];

function caseOf({ results }: Lookup, shape: string): Case {
  const subject = results.cases.find(({ name }) => name === shape);
  if (!subject) throw new Error(`the results must have the shape ${shape}, got none`);
  return subject;
}

/** Nanoseconds, of what must be there. */
function timeOf(lookup: Lookup, subject: Case, pass: Pass, contender: string): number {
  const found = lookup.find(subject, pass, contender);
  if (!found) throw new Error(`the results must have ${pass} of ${subject.name} by ${contender}, got none`);
  return found.min;
}

/** One sentence, in Markdown. */
export function summaryNumber(lookup: Lookup): string {
  const subject = caseOf(lookup, shapes[0]);
  const time = (contender: string) => timeOf(lookup, subject, 'training', contender);
  const own = time('native 1T');
  const times = (contender: string) => Math.floor(time(contender) / own);
  const megabytes = Math.round(bytesOf(subject) / 1e6);
  return `**${megabytes} MB are normalized in training in ${duration(own)} on one thread: ${times('plain JS')} times as fast as loops of plain
JavaScript, ${times('onnxruntime 1T')} times as fast as ONNX Runtime, ${times('PyTorch 1T')} times as fast as PyTorch.**`;
}

/** Markdown of three columns. */
export function summaryTable(lookup: Lookup): string {
  const rows = shapes.flatMap((shape) => {
    const subject = caseOf(lookup, shape);
    return passes.map((pass) => {
      const [fastest] = others
        .filter((name) => lookup.find(subject, pass, name))
        .map((name) => ({ name, min: timeOf(lookup, subject, pass, name) }))
        .sort((a, b) => a.min - b.min);
      return [
        `${shape.replace(' last', ', `axis: -1`')}, ${pass}`,
        duration(timeOf(lookup, subject, pass, 'native 1T')),
        `${duration(fastest.min)}, ${fastest.name.replace(' 1T', '')}`,
      ];
    });
  });
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(['one call', 'batchnorm', 'fastest other']), '| --- | --- | --- |', ...rows.map(line)].join(
    '\n',
  );
}
