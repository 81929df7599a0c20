// Writes lib/backend/wasm-bytes.ts, in which the WebAssembly module travels with the JavaScript, deflated and in base64.
// node scripts/wasm-bytes.mjs <module>; without one a placeholder, unless there is something already; with --must it fails
// where there is no more than that: a package without the module would leave systems without a binary with nothing.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { deflateRawSync } from 'node:zlib';

const file = 'lib/backend/wasm-bytes.ts';
const [, , argument] = process.argv;
const must = argument === '--must';
const module = must ? undefined : argument;

if (must) {
  if (!existsSync(file) || readFileSync(file, 'utf8').includes('= undefined;')) {
    console.error('the package must have the WebAssembly module, got none: npm run build:wasm');
    process.exitCode = 1;
  }
} else if (module !== undefined || !existsSync(file)) {
  const bytes = module && deflateRawSync(readFileSync(module), { level: 9 }).toString('base64');
  const comment = bytes
    ? 'Made by npm run build:wasm.'
    : 'A placeholder: npm run build:wasm has not been run.';
  const value = bytes ? `'${bytes}'` : 'undefined';
  writeFileSync(file, `// ${comment}\nexport const wasmBytes: string | undefined = ${value};\n`);
}
