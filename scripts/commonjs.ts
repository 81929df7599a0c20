// Makes dist/cjs/ of dist/: the same files, one by one, for where no require() gives an ES module (Jest, older TypeScript). File by
// file, so that both entries share what they have in common. Runs behind tsc, in npm run build:lib.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { build } from 'esbuild';

const entryPoints = [
  'index',
  'tfjs/index',
  'workers/index',
  'mpi/index',
  'mpi/browser',
  'files/index',
  'files/hdf5-worker',
].map((name) => `dist/${name}.js`);
const folder = 'dist/cjs';

/** Beside a .cjs file lies a .cjs file. */
const withExtensions = (text: string) => text.replace(/(["'])(\.\.?\/[\w./-]+)\.js\1/g, '$1$2.cjs$1');

function write(file: string, text: string): void {
  const path = join(folder, file);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, withExtensions(text));
}

rmSync(folder, { recursive: true, force: true });
const types = readdirSync('dist', { recursive: true, encoding: 'utf8' }).filter((file) =>
  file.endsWith('.d.ts'),
);
const options = { platform: 'node', format: 'cjs', target: 'node20', write: false } as const;
const { metafile } = await build({
  ...options,
  entryPoints,
  bundle: true,
  outdir: folder,
  // What is a peer stays one.
  packages: 'external',
  metafile: true,
  logLevel: 'error',
});
const { outputFiles } = await build({
  ...options,
  entryPoints: Object.keys(metafile.inputs),
  outbase: 'dist',
  outdir: 'dist',
  outExtension: { '.js': '.cjs' },
  define: { 'import.meta.url': '__filename' },
});
for (const { path, text } of outputFiles) write(relative('dist', path), text);
for (const file of types) write(file.replace(/\.d\.ts$/, '.d.cts'), readFileSync(join('dist', file), 'utf8'));
