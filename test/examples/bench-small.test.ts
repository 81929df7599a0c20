// Small calls in the benchmark: what they are measured against, and how they are judged.
import { describe, expect, it } from 'vitest';
import { type Case, selectCases } from '../../bench/cases.js';
import { isSmall, type Roofline } from '../../bench/contender.js';
import { Lookup, type Measurement } from '../../bench/results.js';
import { judge } from '../../bench/targets.js';

const cases = selectCases({ quick: false, sweep: false, only: 'dense', dtype: 'float32' });
const caseOf = (name: string) => cases.find((it) => it.name === name) as Case;

function time(name: string, pass: Measurement['pass'], nanoseconds: number): Measurement {
  return {
    case: name,
    pass,
    contender: 'native 1T',
    min: nanoseconds,
    median: nanoseconds,
    rounds: [nanoseconds],
  };
}

function verdict(name: string, measurements: Measurement[]) {
  const results = {
    date: '',
    machine: '',
    command: '',
    threads: 1,
    contenders: [{ name: 'native 1T', threads: 1 }],
    cases,
    measurements,
    accuracy: [],
    notes: [],
  };
  return judge(new Lookup(results)).find((it) => it.name === name && it.target.includes('×'));
}

describe('small calls', () => {
  it('are those whose tensors fit the nearest caches', () => {
    expect(['(1, 16)', '(1, 256)', '(32, 256)', '(1024, 1024)'].map((name) => isSmall(caseOf(name)))).toEqual(
      [true, true, true, false],
    );
  });

  it.each<[string, string, Measurement['pass'], Roofline, number]>([
    ['inference (1, 16)', '(1, 16)', 'inference', 'call', 2],
    ['inference (1, 256)', '(1, 256)', 'inference', 'call', 2.5],
    ['training (32, 256)', '(32, 256)', 'training', 'bound', 1.15],
  ])('%s is a multiple of a call beside it', (target, name, pass, limit, most) => {
    const at = (multiple: number) =>
      verdict(target, [time(name, limit, 100), time(name, pass, 100 * multiple)]);
    expect(at(most)).toMatchObject({ reached: true, worst: most.toFixed(2), worstCase: name });
    expect(at(most + 0.02)).toMatchObject({ reached: false });
    expect(verdict(target, [time(name, pass, 100)])).toMatchObject({ reached: undefined });
  });

  it('of many layers in turn are judged by those of one, which no other library measures', () => {
    const many = caseOf('(1, 16) of 32 layers');
    expect([many.layers, many.twin, many.shape]).toEqual([32, '(1, 16)', [1, 16]]);
    const at = (nanoseconds: number) =>
      verdict('inference (1, 16), 32 layers in turn', [
        time('(1, 16)', 'inference', 80),
        time(many.name, 'inference', nanoseconds),
      ]);
    expect(at(84)).toMatchObject({ reached: true, worst: '1.05', worstCase: many.name });
    expect(at(120)).toMatchObject({ reached: false, worst: '1.50' });
    // Of one layer speaks the case of one layer alone.
    expect(
      verdict('inference (1, 16)', [time(many.name, 'call', 1), time(many.name, 'inference', 9)]),
    ).toMatchObject({ reached: undefined });
  });
});
