// What is said to who asks for help.

/** A command that cannot be done as it was given. */
export class UsageError extends Error {}

export const usage = `Usage: batchnorm <command> <file> [options]

  inspect <file> [<other>]        the batch norms of a model file, and what is wrong with them
  fold <model.json> --out <dir>   a TensorFlow.js model without its batch norms
  gain <model.json>               what batch norms cost a TensorFlow.js model, and what folding brings

  --help      this text; behind a command what it takes
  --version   the version of the package

Files: .safetensors, .onnx, .keras, .h5, model.json of TensorFlow.js.
Exit code: 0; 1 with --strict, where something is wrong; 2 for what cannot be done.
`;

export const usages = {
  inspect: `Usage: batchnorm inspect <file> [<other>] [options]

A row for each batch norm: channels, eps, ranges of mean, variance and weight. Warnings: values that are not finite, negative variances, dead
channels (|weight| < 1e-5, or a variance below eps / 1000), variances below eps. With another file of the same model, the same of that
one, and how far means (in standard deviations) and variances (as a ratio) have drifted: more than 1, or than 2, is a warning.

  --strict        exit with 1 where there is a warning
  --json          JSON in place of the table
  --html <page>   a page with histograms, too
  --force         replace <page>

Examples:
  npx batchnorm inspect model.safetensors
  npx batchnorm inspect model.onnx --strict
  npx batchnorm inspect before.safetensors after.safetensors --html drift.html
`,
  fold: `Usage: batchnorm fold <model.json> --out <dir> [options]

Writes a model that predicts the same without the batch norms that can be folded into the layers beside them. Needs the package
@tensorflow/tfjs, and for times on wasm @tensorflow/tfjs-backend-wasm.

  --out <dir>           a folder, which is made
  --force               replace a folder that is empty or holds a model.json, but not the model's own
  --time                how long a prediction takes before and after, on each backend
  --shape <n,n,...>     the shape of an input, where the model leaves it open; again for each input
  --json                JSON in place of text

Examples:
  npx batchnorm fold model/model.json --out folded
  npx batchnorm fold model/model.json --out folded --time --shape 1,224,224,3
`,
  gain: `Usage: batchnorm gain <model.json> [options]

Measures which share of a prediction is batch norm, and how long one takes with TensorFlow.js, with install() of batchnorm/tfjs, and
folded. Needs the package @tensorflow/tfjs, and for wasm @tensorflow/tfjs-backend-wasm.

  --shape <n,n,...>   the shape of an input, where the model leaves it open; again for each input
  --json              JSON in place of the table

Examples:
  npx batchnorm gain model/model.json
  npx batchnorm gain model/model.json --shape 8,224,224,3
`,
} as const;
