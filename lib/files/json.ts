// JSON that someone else wrote: only what an object itself has counts, and everything has a type that is looked at.
import { abridged } from './abridged.js';
import { invalidFile, tooLarge } from './failures.js';
import type { Source } from './source.js';

/** More than the largest description of a model takes. */
const mostBytes = 1 << 26;

/** How deep models may lie within models. */
export const mostDepth = 64;

export type Json = Readonly<Record<string, unknown>>;

function checkSize(name: string, bytes: number): void {
  if (bytes > mostBytes) throw tooLarge(name, `have at most ${mostBytes} bytes`, `${bytes}`);
}

/** All of a file, of which nothing is read where that would be too much. */
export function parseSource(name: string, source: Source): unknown {
  checkSize(name, source.size);
  return parseJson(name, source.read(0, source.size));
}

export function parseJson(name: string, bytes: Uint8Array): unknown {
  checkSize(name, bytes.length);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw invalidFile(name, 'be UTF-8', 'other bytes', error);
  }
  return parseText(name, text);
}

export function parseText(name: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw invalidFile(name, 'be JSON', abridged(text), error);
  }
}

export function isJson(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A property of its own, or undefined. */
export function own(object: unknown, key: string): unknown {
  return isJson(object) && Object.hasOwn(object, key) ? object[key] : undefined;
}

/** The property that a path of keys leads to, or undefined. */
export function along(object: unknown, ...keys: string[]): unknown {
  return keys.reduce(own, object);
}

export function listOf(name: string, value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw invalidFile(name, 'be an array', abridged(value));
  return value;
}

export function textOf(name: string, value: unknown): string {
  if (typeof value !== 'string') throw invalidFile(name, 'be a string', abridged(value));
  return value;
}

export function finiteOf(name: string, value: unknown): number {
  if (typeof value !== 'number' || !Number.isFinite(value))
    throw invalidFile(name, 'be a finite number', abridged(value));
  return value;
}

export function epsOf(name: string, value: unknown): number {
  const eps = finiteOf(name, value);
  if (eps < 0) throw invalidFile(name, 'be at least 0', `${eps}`);
  return eps;
}

export function isSizes(value: unknown): value is number[] {
  // every() passes over holes.
  return (
    Array.isArray(value) &&
    !value.includes(undefined) &&
    value.every((item) => Number.isSafeInteger(item) && item >= 0)
  );
}

export function sizesOf(name: string, value: unknown): readonly number[] {
  if (!isSizes(value)) throw invalidFile(name, 'be an array of non-negative integers', abridged(value));
  return value;
}
