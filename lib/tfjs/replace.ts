// Properties of the classes of TensorFlow.js, replaced for a while.

/**
 * Puts what `change` makes of a property in its place, on `target` itself where it is inherited.
 *
 * @returns what undoes it, unless somebody else has put something over it.
 */
export function replace(
  target: object | undefined,
  key: string,
  change: (stock: PropertyDescriptor) => PropertyDescriptor,
): () => void {
  let owner = target;
  while (owner && !Object.hasOwn(owner, key)) owner = Object.getPrototypeOf(owner) as object | undefined;
  const stock = owner && Object.getOwnPropertyDescriptor(owner, key);
  if (!target || !stock) return () => {};
  const changed = change(stock);
  Object.defineProperty(target, key, changed);
  return () => {
    const present = Object.getOwnPropertyDescriptor(target, key);
    if (present?.set !== changed.set || present?.value !== changed.value) return;
    if (owner === target) Object.defineProperty(target, key, stock);
    else Reflect.deleteProperty(target, key);
  };
}
