// How layers look where objects are printed.

/** The method that `util.inspect` and `console.log` of Node.js, Bun and Deno ask for. */
export const inspect: unique symbol = Symbol.for('nodejs.util.inspect.custom');

/** `BatchNorm(64, { axis: 1, … })` with the settings that are not undefined. */
export function inspected(name: string, channels: number, settings: object, state = ''): string {
  const given = Object.keys(settings)
    .map((key) => ({ key, value: settings[key as never] as unknown }))
    .filter(({ value }) => value !== undefined)
    .map(({ key, value }) => `${key}: ${typeof value === 'string' ? `'${value}'` : value}`);
  const layer = `${name}(${channels}, { ${given.join(', ')} })`;
  return `${state === '' ? layer : `${layer}, ${state}`}; toJSON() can be saved and sent`;
}
