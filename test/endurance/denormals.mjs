// How much longer passes take over denormal numbers, and over normal ones whose squares are too small to be held, than over
// others. Each line of its output is a JSON object: { dtype, pass, denormal, tiny }, as ratios. The fastest of many runs
// counts: other programs only ever add to it.
import { backward, forwardInference, forwardTraining, setThreads } from 'batchnorm';

const shape = [16, 64, 28, 28];
const size = shape.reduce((product, dimension) => product * dimension);
const runs = 40;
setThreads(1);

function fastest(pass) {
  let least = Number.POSITIVE_INFINITY;
  for (let run = 0; run < runs; run++) {
    const begin = performance.now();
    pass();
    least = Math.min(least, performance.now() - begin);
  }
  return least;
}

for (const [dtype, ArrayType, leastUnit, tinyUnit] of [
  ['float32', Float32Array, 1e-42, 1e-30],
  ['float64', Float64Array, 1e-312, 1e-250],
]) {
  const tensorOf = (unit) => ({
    data: ArrayType.from({ length: size }, (_, i) => unit * (((i * 7919) % 101) - 50)),
    shape,
  });
  const [usual, denormal, tiny] = [tensorOf(1), tensorOf(leastUnit), tensorOf(tinyUnit)];
  const out = new ArrayType(size);
  const statistics = { mean: new Float64Array(64), variance: new Float64Array(64).fill(1) };
  const passes = {
    training: (x) => forwardTraining(x, { out }),
    inference: (x) => forwardInference(x, { ...statistics, out }),
    backward: (x) => backward(x, x, { ...statistics, out }),
  };
  for (const [pass, call] of Object.entries(passes)) {
    fastest(() => call(usual));
    const [least, time, timeOfTiny] = [usual, denormal, tiny].map((x) => fastest(() => call(x)));
    console.log(JSON.stringify({ dtype, pass, denormal: time / least, tiny: timeOfTiny / least }));
  }
}
