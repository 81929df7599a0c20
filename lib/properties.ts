// What counts of an object that the caller gives: its own properties and those of its prototypes, but not what somebody
// has put on Object.prototype, of whatever realm.
const { getPrototypeOf } = Reflect;
const { create, hasOwn } = Object;
const objectPrototype = Object.prototype;

/** Names of properties, in the order in which messages list them. */
export interface Names {
  readonly list: readonly string[];
  readonly known: Readonly<Record<string, true | undefined>>;
}

export function namesOf(...list: string[]): Names {
  const known: Record<string, true> = create(null);
  for (const name of list) known[name] = true;
  return { list, known };
}

/**
 * Whether Object.prototype has none of the properties that the library reads of any object, so that those of a plain object
 * can be read as they are. Compiled it costs nothing: it is false for as long as nobody changes Object.prototype.
 */
function isUntouched(): boolean {
  return !(
    // tensors
    'data' in objectPrototype ||
    'shape' in objectPrototype ||
    'dims' in objectPrototype ||
    'strides' in objectPrototype ||
    'stride' in objectPrototype ||
    'offset' in objectPrototype ||
    // passes
    'axis' in objectPrototype ||
    'eps' in objectPrototype ||
    'weight' in objectPrototype ||
    'bias' in objectPrototype ||
    'activation' in objectPrototype ||
    'residual' in objectPrototype ||
    'out' in objectPrototype ||
    'mean' in objectPrototype ||
    'variance' in objectPrototype ||
    'training' in objectPrototype ||
    'updateStats' in objectPrototype ||
    'only' in objectPrototype ||
    'signal' in objectPrototype ||
    'transfer' in objectPrototype ||
    // layers
    'dtype' in objectPrototype ||
    'decay' in objectPrototype ||
    'unbiasedRunningVar' in objectPrototype ||
    'trackRunningStats' in objectPrototype ||
    'reuse' in objectPrototype ||
    'convention' in objectPrototype ||
    'momentum' in objectPrototype ||
    // statistics and states
    'count' in objectPrototype ||
    'runningMean' in objectPrototype ||
    'runningVar' in objectPrototype ||
    'running_mean' in objectPrototype ||
    'running_var' in objectPrototype ||
    'num_batches_tracked' in objectPrototype ||
    // layers to fold into
    'groups' in objectPrototype ||
    'transposed' in objectPrototype
  );
}

/**
 * An object whose properties of these names are those that count; each is to be read once, for it may be a getter.
 *
 * @returns the object itself where all it has counts, which is nearly always.
 */
export function propertiesOf<T extends object>(object: T, { list }: Names): T {
  if (getPrototypeOf(object) === objectPrototype && isUntouched()) return object;
  const found = create(null);
  for (let i = 0; i < list.length; i++) found[list[i]] = propertyOf(object, list[i]);
  return found;
}

function propertyOf(object: object, name: string): unknown {
  if (hasOwn(object, name)) return object[name as never];
  for (let holder = getPrototypeOf(object); holder !== null; holder = getPrototypeOf(holder)) {
    if (!hasOwn(holder, name)) continue;
    const isLast = getPrototypeOf(holder) === null && hasOwn(holder, 'hasOwnProperty');
    return isLast ? undefined : object[name as never];
  }
  return undefined;
}
