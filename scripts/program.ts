// lib/ as the compiler sees it.
import { resolve } from 'node:path';
import ts from 'typescript';

export const lib = resolve('lib');
const config = ts.getParsedCommandLineOfConfigFile('tsconfig.build.json', undefined, {
  ...ts.sys,
  onUnRecoverableConfigFileDiagnostic: ({ messageText }) => {
    throw new Error(ts.flattenDiagnosticMessageText(messageText, '\n'));
  },
});
if (!config) throw new Error('tsconfig.build.json must be readable, got nothing');
export const program = ts.createProgram(config.fileNames, config.options);
export const checker = program.getTypeChecker();

export function sourceOf(path: string): ts.SourceFile {
  const source = program.getSourceFile(resolve(lib, path));
  if (!source) throw new Error(`lib/${path} must be part of tsconfig.build.json, got nothing`);
  return source;
}
