// An inference off the event loop: the memory it may use meanwhile, and where its result comes from.
import type { Slot } from './backend/backend.js';
import { typeError } from './errors.js';
import { deliver, isShared, move } from './handover.js';
import { operate } from './operations.js';
import { checkApart, isInPlace } from './overlap.js';
import { newResult } from './result.js';
import { isStaged, stage, takeStaging, unstage } from './staging.js';
import type { Tensor, TensorArray } from './types.js';
import { checkKept, inClassOf, type ReadTensor } from './validate.js';

/** What it is called with, checked. */
interface Call<T extends TensorArray> {
  readonly input: ReadTensor<T>;
  readonly residual: T | undefined;
  readonly out: T | undefined;
  /** As the caller has it. */
  readonly givenOut: T | undefined;
}

/** Memory that nobody takes away while it computes. */
interface Memory<T extends TensorArray> {
  readonly x: T;
  readonly y: T;
  readonly residual: T | undefined;
}

/**
 * @param called is told once everything has been checked and copied.
 * @param begin begins the pass, and returns what must stay alive until it is done.
 * @param done is told when it is, and before the result is delivered.
 */
export function inferLater<T extends TensorArray>(
  { input, residual, out, givenOut }: Call<T>,
  signal: AbortSignal | undefined,
  transfer: boolean,
  called: () => void,
  begin: (memory: Memory<T>, slot: Slot) => unknown,
  done: () => void,
): Promise<Tensor<T>> {
  const { data, shape, size, dtype } = input;
  if (transfer && out !== undefined) throw typeError('out', 'be left out with transfer: true', out);
  if (out !== undefined) {
    isInPlace(out, 'x.data', data);
    if (residual !== undefined) checkApart('out', out, { 'residual.data': residual });
  }
  const added = residual && stage(residual, dtype);
  let source = transfer ? data : stage(data, dtype);
  // What is large goes from staging memory to new memory, which another thread touches first, or to out by way of
  // staging memory; what is small, or has been moved, stays where it is.
  const inPlace = transfer || (source !== data && (out !== undefined || !isStaged(dtype, size)));
  const isPrivate = out !== undefined && isStaged(dtype, size);
  const place = () => (isPrivate ? takeStaging<T>(dtype, size) : newResult<T>(dtype, size));
  let target = out !== undefined && isShared(out) ? out : inPlace ? source : place();
  called();
  return operate(
    signal,
    (slot) => {
      if (transfer) {
        source = move('x.data', data, dtype);
        target = source;
      }
      return begin({ x: source, y: target, residual: added }, slot);
    },
    () => {
      done();
      if (givenOut !== undefined) checkKept('out', givenOut, size);
      const result = out === undefined ? target : deliver(target, out);
      unstage(added);
      if (source !== result) unstage(source);
      if (target !== result && target !== source) unstage(target);
      return { data: givenOut ?? inClassOf(input, result), shape };
    },
  );
}
