// lib/ as the compiler sees it.
import { resolve, sep } from 'node:path';
import ts from 'typescript';

export const lib = resolve('lib');
const config = ts.getParsedCommandLineOfConfigFile('tsconfig.json', undefined, {
  ...ts.sys,
  onUnRecoverableConfigFileDiagnostic: ({ messageText }) => {
    throw new Error(ts.flattenDiagnosticMessageText(messageText, '\n'));
  },
});
if (!config) throw new Error('tsconfig.json must be readable, got nothing');
/** What tsconfig.build.json leaves to the build for browsers, too. */
const files = config.fileNames.map((file) => resolve(file)).filter((file) => file.startsWith(lib + sep));
export const program = ts.createProgram(files, config.options);
export const checker = program.getTypeChecker();

export function sourceOf(path: string): ts.SourceFile {
  const source = program.getSourceFile(resolve(lib, path));
  if (!source) throw new Error(`lib/${path} must be part of tsconfig.json, got nothing`);
  return source;
}
