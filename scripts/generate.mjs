// Writes the sources that are made: lib/version.ts, so that the version needs no file beside the code, and
// lib/backend/wasm-bytes.ts, in which the WebAssembly module travels with the JavaScript, deflated and in base64.
// node scripts/generate.mjs <module>; without one a placeholder, unless there is something already; with --must it fails where
// there is no more than that: a package without the module would leave systems without a binary with nothing.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { deflateRawSync } from 'node:zlib';

const bytesFile = 'lib/backend/wasm-bytes.ts';
const [, , argument] = process.argv;
const must = argument === '--must';
const module = must ? undefined : argument;

const { version } = JSON.parse(readFileSync('package.json', 'utf8'));
writeFileSync('lib/version.ts', `// Made of package.json.\nexport const version = '${version}';\n`);

if (must) {
  if (!existsSync(bytesFile) || readFileSync(bytesFile, 'utf8').includes('= undefined;')) {
    console.error('the package must have the WebAssembly module, got none: npm run build:wasm');
    process.exitCode = 1;
  }
} else if (module !== undefined || !existsSync(bytesFile)) {
  const bytes = module && deflateRawSync(readFileSync(module), { level: 9 }).toString('base64');
  const comment = bytes
    ? 'Made by npm run build:wasm.'
    : 'A placeholder: npm run build:wasm has not been run.';
  const value = bytes ? `'${bytes}'` : 'undefined';
  writeFileSync(bytesFile, `// ${comment}\nexport const wasmBytes: string | undefined = ${value};\n`);
}
