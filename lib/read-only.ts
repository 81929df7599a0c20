import { typeError } from './errors.js';

const { defineProperty, getOwnPropertyDescriptor, keys } = Object;

/** Properties of a class that are read alone: writing one throws with what to do instead. When the library is loaded. */
export function refuseWrites(prototype: object, cures: Readonly<Record<string, string>>): void {
  const names = keys(cures);
  for (let i = 0; i < names.length; i++) {
    const name = names[i];
    defineProperty(prototype, name, {
      ...getOwnPropertyDescriptor(prototype, name),
      set(value: unknown) {
        throw typeError(name, cures[name], value);
      },
    });
  }
}
