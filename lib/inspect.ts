// How layers look where objects are printed.
import { isObject } from './errors.js';

/** The method that `util.inspect` and `console.log` of Node.js, Bun and Deno ask for. */
export const inspect: unique symbol = Symbol.for('nodejs.util.inspect.custom');

/** `BatchNorm(64, { axis: 1, … })` with the settings that are not undefined. */
export function inspected(name: string, channels: number, settings: object, state = ''): string {
  return inspectedOf(name, String(channels), settings, state);
}

/** The same of a layer whose first arguments are others. */
export function inspectedOf(name: string, first: string, settings: object, state = ''): string {
  const layer = `${name}(${first}, ${told(settings)})`;
  return `${state === '' ? layer : `${layer}, ${state}`}; toJSON() can be saved and sent`;
}

function told(settings: object): string {
  const given = Object.keys(settings)
    .map((key) => ({ key, value: settings[key as never] as unknown }))
    .filter(({ value }) => value !== undefined)
    .map(({ key, value }) => `${key}: ${toldValue(value)}`);
  return `{ ${given.join(', ')} }`;
}

function toldValue(value: unknown): string {
  if (isObject(value)) return told(value);
  return typeof value === 'string' ? `'${value}'` : String(value);
}
