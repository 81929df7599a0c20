// What counts of an object that the caller gives: its own properties and those of its prototypes, but not what somebody
// has put on Object.prototype, of whatever realm.
const { getPrototypeOf } = Reflect;
const { create, hasOwn } = Object;
const objectPrototype = Object.prototype;

/**
 * Whose instances are the objects of this realm: those whose prototypes end with its Object.prototype. `instanceof` asks nothing of what
 * somebody may have replaced, since nobody else has this function, and compilers know it better than isPrototypeOf.
 */
function Realm(): void {}
Realm.prototype = objectPrototype;

/** Names of properties, in the order in which messages list them. */
export interface Names {
  readonly list: readonly string[];
  /** Whether Object.prototype has none of them. */
  readonly areUntouched: () => boolean;
}

/** @param areUntouched of a set that is read where nanoseconds count; by default that all names are untouched. */
export function namesOf(list: readonly string[], areUntouched = areAllUntouched): Names {
  return { list, areUntouched };
}

/** Whether a name is one of them. What is given the most stands first: a table of names takes longer than the first look. */
export function isNamed(name: string, { list }: Names): boolean {
  for (let i = 0; i < list.length; i++) if (list[i] === name) return true;
  return false;
}

// Whether Object.prototype has none of the properties that are read, so that an object can be read as it is. Written out, for
// compiled it then costs nothing: it is known for as long as nobody changes Object.prototype.

function areTensorsUntouched(): boolean {
  return !(
    'data' in objectPrototype ||
    'shape' in objectPrototype ||
    'dims' in objectPrototype ||
    'strides' in objectPrototype ||
    'stride' in objectPrototype ||
    'offset' in objectPrototype
  );
}

/** Of what a run of a frozen layer takes. */
export function areRunsUntouched(): boolean {
  return !(
    'out' in objectPrototype ||
    'residual' in objectPrototype ||
    'outAxis' in objectPrototype ||
    'dtype' in objectPrototype
  );
}

/** Of what the methods of layers take. */
export function areCallsUntouched(): boolean {
  return !(
    'out' in objectPrototype ||
    'residual' in objectPrototype ||
    'moments' in objectPrototype ||
    'sums' in objectPrototype ||
    'updateStats' in objectPrototype ||
    'only' in objectPrototype ||
    'of' in objectPrototype ||
    'accumulate' in objectPrototype ||
    'retain' in objectPrototype ||
    'weights' in objectPrototype ||
    'outside' in objectPrototype ||
    'weightsGrad' in objectPrototype ||
    'outAxis' in objectPrototype ||
    'dtype' in objectPrototype ||
    'signal' in objectPrototype ||
    'transfer' in objectPrototype
  );
}

function areAllUntouched(): boolean {
  return (
    areTensorsUntouched() &&
    areCallsUntouched() &&
    !(
      // passes
      'axis' in objectPrototype ||
      'eps' in objectPrototype ||
      'weight' in objectPrototype ||
      'bias' in objectPrototype ||
      'activation' in objectPrototype ||
      'mean' in objectPrototype ||
      'variance' in objectPrototype ||
      'training' in objectPrototype ||
      // layers
      'decay' in objectPrototype ||
      'unbiasedRunningVar' in objectPrototype ||
      'trackRunningStats' in objectPrototype ||
      'reuse' in objectPrototype ||
      'singleValue' in objectPrototype ||
      'missing' in objectPrototype ||
      'virtualBatchSize' in objectPrototype ||
      'renorm' in objectPrototype ||
      'rMax' in objectPrototype ||
      'dMax' in objectPrototype ||
      'convention' in objectPrototype ||
      'momentum' in objectPrototype ||
      'group' in objectPrototype ||
      'timeout' in objectPrototype ||
      // statistics and states
      'count' in objectPrototype ||
      'squares' in objectPrototype ||
      'sumDy' in objectPrototype ||
      'sumDyXmu' in objectPrototype ||
      'runningMean' in objectPrototype ||
      'runningVar' in objectPrototype ||
      'prefix' in objectPrototype ||
      'strict' in objectPrototype ||
      'std' in objectPrototype ||
      'scale' in objectPrototype ||
      // layers to fold into
      'groups' in objectPrototype ||
      'transposed' in objectPrototype
    )
  );
}

export const tensorNames = namesOf(
  ['data', 'shape', 'dims', 'strides', 'stride', 'offset'],
  areTensorsUntouched,
);

/**
 * An object whose properties of these names are those that count; each is to be read once, for it may be a getter.
 *
 * @returns the object itself where all it has counts, which is nearly always.
 */
export function propertiesOf<T extends object>(object: T, names: Names): T {
  return object instanceof Realm && names.areUntouched() ? object : chosenOf(object, names);
}

// The same of what is read in every call: asked of Names, which function it is would be found out each time.

/** Of a tensor. */
export function tensorPropertiesOf<T extends object>(tensor: T): T {
  return tensor instanceof Realm && areTensorsUntouched() ? tensor : chosenOf(tensor, tensorNames);
}

/** Of what a run of a frozen layer takes: fewer, for what is compiled together has a limit. */
export function runPropertiesOf<T extends object>(options: T, names: Names): T {
  return options instanceof Realm && areRunsUntouched() ? options : chosenOf(options, names);
}

/** Of what the methods of layers take. */
export function callPropertiesOf<T extends object>(options: T, names: Names): T {
  return options instanceof Realm && areCallsUntouched() ? options : chosenOf(options, names);
}

function chosenOf<T extends object>(object: T, { list }: Names): T {
  const properties = create(null);
  for (let i = 0; i < list.length; i++) properties[list[i]] = propertyOf(object, list[i]);
  return properties;
}

/** The property of this name, if it counts; to be read once. */
export function propertyOf(object: object, name: string): unknown {
  if (hasOwn(object, name)) return object[name as never];
  for (let holder = getPrototypeOf(object); holder !== null; holder = getPrototypeOf(holder)) {
    if (!hasOwn(holder, name)) continue;
    const isRoot =
      holder === objectPrototype || (getPrototypeOf(holder) === null && hasOwn(holder, 'hasOwnProperty'));
    return isRoot ? undefined : object[name as never];
  }
  return undefined;
}
