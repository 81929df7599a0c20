// Compiled, not run: the types as a user of the package meets them.
import {
  BatchNorm,
  capabilities,
  FrozenBatchNorm,
  foldIntoLinear,
  type ProcessGroup,
  type Tensor,
} from 'batchnorm';
import { loadBatchNorms, type StoredBatchNorm } from 'batchnorm/files';
import { mpi } from 'batchnorm/mpi';
import { WorkerGroup } from 'batchnorm/workers';

const bn = new BatchNorm(2, { dtype: 'float64', convention: 'keras', momentum: 0.99 });
const y: Tensor<Float64Array> = bn.forward({ data: Float64Array.of(1, 2, 3, 4), shape: [2, 2] });
const frozen: FrozenBatchNorm<'float64'> = bn.freeze();
const later: Promise<Tensor<Float64Array>> = frozen.runAsync(y, { signal: AbortSignal.timeout(1000) });
const folded = foldIntoLinear({ weight: new Float32Array(4), shape: [2, 2] }, bn);
const isa: string = capabilities().isa;
// @ts-expect-error a dtype is a string of four
new BatchNorm(2, { dtype: 'int8' });
const bits: Tensor<Uint16Array> = new BatchNorm(2, { dtype: 'bfloat16' }).forward({
  data: Uint16Array.of(1, 2, 3, 4),
  shape: [2, 2],
});
// @ts-expect-error bits are no floats
bn.forward(bits);
const pixels = { data: new Uint8Array(4), shape: [2, 2] };
const normalize = FrozenBatchNorm.fromMeanStd({ mean: [0, 0], std: [1, 1], dtype: 'float32' });
const plane: Tensor<Float32Array> = normalize.run(pixels, { outAxis: 1 });
const half: Tensor<Uint16Array> = normalize.run(pixels, { dtype: 'float16', out: new Uint16Array(4) });
// @ts-expect-error out is another class than dtype says
normalize.run(pixels, { dtype: 'int8', out: new Uint8Array(4) });
const group: ProcessGroup = WorkerGroup.join(new WorkerGroup(1, { timeout: 1000 }).handle, 0);
const stored: Promise<Map<string, StoredBatchNorm>> = loadBatchNorms('model.onnx', { timeout: 1000 });
const member = new BatchNorm(2, { group });
const processes: Required<ProcessGroup> = mpi({ library: 'libmpi.so.40', timeout: 1000 });
void [later, folded, isa, member, bits, processes, stored, plane, half];
