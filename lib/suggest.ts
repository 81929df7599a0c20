// What somebody may have meant who wrote a name that is not known. For messages only: none of it runs unless one is thrown.

/**
 * Words of other frameworks, without case and underscores: the name that must be known for the suggestion to hold, and the
 * suggestion where it is another.
 */
const terms: readonly (readonly [term: string, known: string, suggestion?: string])[] = [
  ['epsilon', 'eps'],
  ['gamma', 'weight'],
  ['beta', 'bias'],
  ['scale', 'weight'],
  ['center', 'bias'],
  ['offset', 'bias'],
  ['b', 'bias'],
  ['affine', 'trackRunningStats', 'weight and bias'],
  ['elementwiseaffine', 'trackRunningStats', 'weight and bias'],
  ['affine', 'reuse', 'weight and bias'],
  ['elementwiseaffine', 'reuse', 'weight and bias'],
  ['numgroups', 'groups'],
  ['numgroups', 'reuse', 'the first argument, groups'],
  ['normalizedshape', 'shape'],
  ['normalizedshape', 'reuse', 'the first argument, shape'],
  ['numfeatures', 'trackRunningStats', 'the first argument, channels'],
  ['channels', 'trackRunningStats', 'the first argument, channels'],
  ['channelslast', 'axis', 'axis: -1'],
  ['channelsfirst', 'axis', 'axis: 1'],
  ['dataformat', 'axis'],
  ['dim', 'axis'],
  ['unbiased', 'unbiasedRunningVar'],
  ['momentum', 'decay', 'decay, the weight of the old running value'],
  ['renormclipping', 'renorm', 'renorm: { rMax, dMax }'],
  ['training', 'updateStats', 'train() or eval()'],
  ['relu', 'activation', "activation: 'relu'"],
  ['output', 'out'],
  ['inplace', 'out'],
  ['mean', 'running_mean'],
  ['movingmean', 'running_mean'],
  ['movingmean', 'mean'],
  ['runningmean', 'mean'],
  ['inputmean', 'mean'],
  ['var', 'variance'],
  ['var', 'running_var'],
  ['variance', 'running_var'],
  ['runningvariance', 'running_var'],
  ['runningvar', 'variance'],
  ['movingvar', 'moving_variance'],
  ['movingvariance', 'variance'],
  ['inputvar', 'variance'],
];

function bare(name: string): string {
  return name.replace(/[^a-z0-9]/gi, '').toLowerCase();
}

/** `; did you mean <one of the names>?`, or nothing. */
export function suggestionFor(name: string, known: readonly string[]): string {
  const word = bare(name.slice(0, 100));
  let best: string | undefined;
  for (let i = 0; best === undefined && i < known.length; i++) if (bare(known[i]) === word) best = known[i];
  for (let i = 0; best === undefined && i < terms.length; i++) {
    const entry = terms[i];
    if (entry[0] === word && known.includes(entry[1])) best = entry[2] ?? entry[1];
  }
  if (best === undefined) {
    // A slip of the finger or two; of those that are as near the first.
    let least = word.length > 4 ? 2.5 : 1.5;
    for (let i = 0; i < known.length; i++) {
      const far = distance(word, bare(known[i]));
      if (far >= least) continue;
      least = far;
      best = known[i];
    }
  }
  return best === undefined || word === '' ? '' : `; did you mean ${best}?`;
}

/** Insertions, deletions, substitutions and transpositions of neighbours from one text to another (Damerau, 1964). */
export function distance(a: string, b: string): number {
  let before: number[] = [];
  let last: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    before = last;
    last = row;
    row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substituted = last[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      row[j] = Math.min(substituted, last[j] + 1, row[j - 1] + 1);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        row[j] = Math.min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.length];
}
