// What lib/ must not ask of what a caller can replace, at the time of a call: typed arrays are touched by lib/typed-array.ts
// alone, beyond their elements; functions are called directly; and no array is iterated, for its iterator is anybody's.
import { relative } from 'node:path';
import ts from 'typescript';
import { checker, lib, program } from './program.js';

/** Where what is captured at load lies. */
const keeper = 'typed-array.ts';

/** Code that runs while the library is loaded, before its caller can have replaced anything for it. */
const atLoad = new Set(['backend/caches.ts', 'backend/native.ts', 'backend/threads.ts']);

/** TensorFlow.js itself iterates arrays all the time: where that is broken, nothing of it works. */
const withTensorFlow = /^tfjs\//;

/**
 * Reads and writes files, by packages that ask prototypes all the time. Arrays of a caller are copied as bytes, and none of them goes
 * from there to native code: what a replaced method could do is give back another file than it was given. The same holds for
 * the weights of a graph model, which are bytes of a file to TensorFlow.js too. The program has no callers.
 */
const reading = /^(?:files\/|cli\/|tfjs\/fold\/weight-data\.ts$)/;

const arrayTypes =
  /^(?:(?:Float16|Float32|Float64|Uint8|Uint16|Int32|Uint32)Array|ArrayBuffer|SharedArrayBuffer)$/;
const callers = new Set(['call', 'apply', 'bind']);

const faults: string[] = [];

function report(node: ts.Node, what: string): void {
  const source = node.getSourceFile();
  const { line } = source.getLineAndCharacterOfPosition(node.getStart());
  faults.push(`lib/${relative(lib, source.fileName)}:${line + 1}: ${what}`);
}

function isArrayType(type: ts.Type): boolean {
  if (type.isUnionOrIntersection()) return type.types.some(isArrayType);
  const bound = checker.getBaseConstraintOfType(type);
  if (bound && bound !== type) return isArrayType(bound);
  return arrayTypes.test(type.symbol?.name ?? '');
}

/** Whether a node is run when a function is called, and not when its file is loaded. */
function isInFunction(node: ts.Node): boolean {
  return ts.findAncestor(node, ts.isFunctionLike) !== undefined;
}

function check(node: ts.Node, file: string): void {
  if (file !== keeper) {
    if (ts.isPropertyAccessExpression(node) && isArrayType(checker.getTypeAtLocation(node.expression)))
      report(node, `.${node.name.text} of a typed array is looked up`);
    if (
      ts.isIdentifier(node) &&
      arrayTypes.test(node.text) &&
      (ts.isNewExpression(node.parent) || ts.isPropertyAccessExpression(node.parent)) &&
      node.parent.expression === node &&
      isInFunction(node)
    )
      report(node, `${node.text} is a global that may be another by then`);
  }
  if (
    ts.isCallExpression(node) &&
    ts.isPropertyAccessExpression(node.expression) &&
    callers.has(node.expression.name.text) &&
    isInFunction(node)
  )
    report(node, `.${node.expression.name.text}() is a method of functions that may be another by then`);
  if (!withTensorFlow.test(file) && isInFunction(node)) {
    if (ts.isForOfStatement(node)) report(node, 'for … of asks an iterator');
    if (ts.isSpreadElement(node)) report(node, 'a spread asks an iterator');
    if (ts.isArrayBindingPattern(node)) report(node, 'destructuring an array asks an iterator');
  }
  ts.forEachChild(node, (child) => check(child, file));
}

const checked = program
  .getSourceFiles()
  .map((source) => ({ source, file: relative(lib, source.fileName) }))
  .filter(
    ({ source, file }) =>
      !source.isDeclarationFile && !file.startsWith('..') && !atLoad.has(file) && !reading.test(file),
  );
for (const { source, file } of checked) check(source, file);
if (checked.length === 0) throw new Error('lib/ must have files to check, got none');
if (faults.length > 0) {
  console.error(faults.join('\n'));
  process.exitCode = 1;
} else {
  console.log(`${checked.length} files of lib/ ask nothing that a caller can replace of an array`);
}
