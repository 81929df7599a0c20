// Makes dist/browser.js and dist/tfjs/browser.js: each a module by itself that browsers load as it is. What of Node.js were left in
// them could not be resolved, and the build would fail.
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { build, type Plugin } from 'esbuild';
import { version } from '../lib/version.js';

const browserPlatform: Plugin = {
  name: 'browser platform',
  setup({ onResolve }) {
    onResolve({ filter: /\/platform\/node\.js$/ }, () => ({ path: resolve('lib/platform/browser.ts') }));
  },
};

const licences = ['LICENSE', 'node_modules/fflate/LICENSE'].map((path) => readFileSync(path, 'utf8').trim());

for (const [entryPoint, outfile] of [
  ['lib/index.ts', 'dist/browser.js'],
  ['lib/tfjs/index.ts', 'dist/tfjs/browser.js'],
])
  await build({
    entryPoints: [entryPoint],
    outfile,
    bundle: true,
    format: 'esm',
    target: 'es2022',
    plugins: [browserPlatform],
    banner: {
      js: `/*!\nbatchnorm ${version}\n\n${licences.join('\n\nwith fflate\n\n')}\n*/`,
    },
  });
