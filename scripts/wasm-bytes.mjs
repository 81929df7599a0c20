// Writes lib/backend/wasm-bytes.ts, in which the WebAssembly module travels with the JavaScript, deflated and in base64.
// node scripts/wasm-bytes.mjs <module>; without one a placeholder, unless there is something already.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { deflateRawSync } from 'node:zlib';

const file = 'lib/backend/wasm-bytes.ts';
const [, , module] = process.argv;

if (module !== undefined || !existsSync(file)) {
  const bytes = module && deflateRawSync(readFileSync(module), { level: 9 }).toString('base64');
  const comment = bytes
    ? 'Made by npm run build:wasm.'
    : 'A placeholder: npm run build:wasm has not been run.';
  const value = bytes ? `'${bytes}'` : 'undefined';
  writeFileSync(file, `// ${comment}\nexport const wasmBytes: string | undefined = ${value};\n`);
}
