import { parseArgs } from 'node:util';
import { type Storage, storageNamed } from '../mnist/storage.js';
import { integer } from '../options.js';

export const USAGE = `Usage: npm run serve -- [options]

  --model <file>  the network to serve (default out/mnist.safetensors, which npm start writes)
  --train         where that file does not exist, train for two epochs, with batch norm and without, and write both (20 s)
  --quick         the same on 10,000 images (6 s)
  --host <name>   address to listen on (default 127.0.0.1: this machine alone; 0.0.0.0: all networks)
  --port <n>      port to listen on (default 8784; 0: any free one)
  --batch <n>     images in one pass through the network at most (default 64)
  --grace <n>     seconds that unfinished requests may hold up the end after SIGTERM or SIGINT (default 10)
  --no-fold       keep the batch norms as layers that compute off the event loop, instead of folding them into the
                  linear layers: the same answers, later, for so small a batch norm costs less than the way to
                  another thread
  --dtype <d>     bfloat16: the batch norms stay layers, and what they take and give is stored in half the bytes
                  (default float32)
  --help          this text`;

export interface Options {
  readonly model: string;
  /** Images to train on where there is no model; 0: none. */
  readonly train: number;
  readonly host: string;
  readonly port: number;
  readonly batch: number;
  readonly grace: number;
  readonly fold: boolean;
  /** Of what batch norms that stay layers take and give. */
  readonly dtype: Storage;
}

/** @throws {TypeError | RangeError} for an option that is unknown or out of range. */
export function readOptions(args?: string[]): Options | 'help' {
  const { values } = parseArgs({
    args,
    options: {
      model: { type: 'string', default: 'out/mnist.safetensors' },
      train: { type: 'boolean', default: false },
      quick: { type: 'boolean', default: false },
      host: { type: 'string', default: '127.0.0.1' },
      port: { type: 'string', default: '8784' },
      batch: { type: 'string', default: '64' },
      grace: { type: 'string', default: '10' },
      'no-fold': { type: 'boolean', default: false },
      dtype: { type: 'string', default: 'float32' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  for (const name of ['model', 'host'] as const) {
    if (values[name] === '') throw new RangeError(`--${name} must not be empty, got ""`);
  }
  const dtype = storageNamed(values.dtype);
  return {
    model: values.model,
    train: values.quick ? 10_000 : values.train ? 60_000 : 0,
    host: values.host,
    port: integer('--port', values.port, 0, 65_535),
    batch: integer('--batch', values.batch, 1, 4096),
    grace: integer('--grace', values.grace, 0, 3600),
    fold: !values['no-fold'] && dtype === 'float32',
    dtype,
  };
}
