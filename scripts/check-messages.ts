// Every message of lib/ and binding/ must stand in docs/errors.md. Tests compare what they see thrown; this finds what no test throws:
// it follows names, rules and cures from the functions of errors.ts back to the calls that say them.
import { readFileSync } from 'node:fs';
import { relative } from 'node:path';
import ts from 'typescript';
import { checker, lib, program, sourceOf } from './program.js';

/** Words with gaps, in which anything may stand. */
type Pattern = readonly (string | typeof gap)[];

/** One way through the code. */
interface Way {
  /** What parameters stand for: what a call gives them. undefined: their default. */
  readonly bindings: ReadonlyMap<ts.Symbol, ts.Expression | undefined>;
  /** Which of its branches each condition takes. */
  readonly branches: ReadonlyMap<string, number>;
}

const gap = Symbol('anything');
const anything: Pattern = [gap];

/** How far names are followed, and how many times a way may part. */
const deepest = 8;
const mostBranches = 12;

const calls = new Map<ts.Symbol, ts.CallExpression[]>();

function symbolOf(node: ts.Node): ts.Symbol | undefined {
  const symbol = checker.getSymbolAtLocation(node);
  return symbol && symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
}

function calledBy(call: ts.CallExpression): ts.Symbol | undefined {
  const { expression } = call;
  return symbolOf(ts.isPropertyAccessExpression(expression) ? expression.name : expression);
}

function collect(node: ts.Node): void {
  if (ts.isCallExpression(node)) {
    const symbol = calledBy(node);
    if (symbol) calls.set(symbol, [...(calls.get(symbol) ?? []), node]);
  }
  ts.forEachChild(node, collect);
}

/** Finds what an expression says on one way, and where that way parts. */
class Reader {
  /** A function whose calls would say more. */
  open: ts.FunctionLikeDeclaration | undefined;
  /** A condition that the way has no branch of yet, and how many there are. */
  fork: { readonly condition: string; readonly ways: number } | undefined;
  readonly #way: Way;

  constructor(way: Way) {
    this.#way = way;
  }

  read(node: ts.Expression, depth = deepest): Pattern {
    if (depth === 0) return anything;
    if (ts.isStringLiteralLike(node) || ts.isNumericLiteral(node)) return [node.text];
    if (ts.isTemplateExpression(node))
      return [
        node.head.text,
        ...node.templateSpans.flatMap((span) => [...this.read(span.expression, depth), span.literal.text]),
      ];
    if (ts.isParenthesizedExpression(node) || ts.isAsExpression(node) || ts.isNonNullExpression(node))
      return this.read(node.expression, depth);
    if (ts.isConditionalExpression(node)) {
      const branches = [node.whenTrue, node.whenFalse];
      const known = this.#known(node.condition);
      return this.read(branches[known ?? this.#branch(node.condition, 2)], depth);
    }
    if (ts.isBinaryExpression(node)) {
      const { kind } = node.operatorToken;
      const sides = [node.left, node.right];
      if (kind === ts.SyntaxKind.PlusToken) return sides.flatMap((side) => this.read(side, depth));
      if (kind === ts.SyntaxKind.QuestionQuestionToken || kind === ts.SyntaxKind.BarBarToken)
        return this.read(sides[this.#branch(node.left, 2)], depth);
    }
    if (ts.isIdentifier(node)) return this.#readName(node, depth);
    if (ts.isCallExpression(node)) return this.#readCall(node, depth);
    return fromType(node);
  }

  /** The branch of a condition that a call gives as true or false. */
  #known(condition: ts.Expression): number | undefined {
    const symbol = ts.isIdentifier(condition) ? symbolOf(condition) : undefined;
    const given = symbol && this.#way.bindings.get(symbol);
    if (given?.kind === ts.SyntaxKind.TrueKeyword) return 0;
    return given?.kind === ts.SyntaxKind.FalseKeyword ? 1 : undefined;
  }

  /** The same of the same condition of a function. */
  #branch(node: ts.Node, ways: number): number {
    const within = ts.findAncestor(node, ts.isFunctionLike)?.pos ?? 0;
    const condition = `${node.getSourceFile().fileName}:${within}:${node.getText()}`;
    const branch = this.#way.branches.get(condition);
    if (branch === undefined) this.fork ??= { condition, ways };
    return branch ?? 0;
  }

  #readName(name: ts.Identifier, depth: number): Pattern {
    const symbol = symbolOf(name);
    const declaration = symbol?.valueDeclaration;
    if (symbol === undefined || declaration === undefined) return anything;
    if (ts.isVariableDeclaration(declaration) && declaration.initializer && isConstant(declaration))
      return this.read(declaration.initializer, depth - 1);
    if (!ts.isParameter(declaration)) return fromType(name);
    if (this.#way.bindings.has(symbol)) {
      const given = this.#way.bindings.get(symbol) ?? declaration.initializer;
      return given === undefined ? anything : this.read(given, depth - 1);
    }
    this.open ??= declaration.parent as ts.FunctionLikeDeclaration;
    return anything;
  }

  #readCall(call: ts.CallExpression, depth: number): Pattern {
    const declaration = calledBy(call)?.valueDeclaration;
    if (!declaration || !ts.isFunctionDeclaration(declaration) || !declaration.body) return anything;
    const { fileName } = declaration.getSourceFile();
    // What describes a value says anything.
    if (!fileName.startsWith(lib) || /^(?:describe|abridged)/.test(declaration.name?.text ?? ''))
      return anything;
    const values = returned(declaration.body);
    if (values.length === 0) return anything;
    const value = values[values.length === 1 ? 0 : this.#branch(declaration.body, values.length)];
    const bindings = new Map([...this.#way.bindings, ...bindingsOf(declaration, call)]);
    const inner = new Reader({ ...this.#way, bindings });
    const pattern = inner.read(value, depth - 1);
    this.open ??= inner.open;
    this.fork ??= inner.fork;
    return pattern;
  }
}

function isConstant(declaration: ts.VariableDeclaration): boolean {
  return (
    ts.isIdentifier(declaration.name) &&
    (ts.getCombinedNodeFlags(declaration) & ts.NodeFlags.Const) === ts.NodeFlags.Const
  );
}

/** Where the type says it: one of several would be another each time that a message names it. */
function fromType(node: ts.Node): Pattern {
  const type = checker.getTypeAtLocation(node);
  return type.isStringLiteral() ? [type.value] : anything;
}

function returned(body: ts.Node): ts.Expression[] {
  const values: ts.Expression[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isFunctionLike(node)) return;
    if (ts.isReturnStatement(node) && node.expression) values.push(node.expression);
    ts.forEachChild(node, visit);
  };
  visit(body);
  return values;
}

function bindingsOf(
  { parameters }: ts.FunctionLikeDeclaration,
  { arguments: given }: ts.CallExpression,
): [ts.Symbol, ts.Expression | undefined][] {
  return parameters.flatMap((parameter, i) => {
    const symbol = symbolOf(parameter.name);
    return symbol && ts.isIdentifier(parameter.name) ? [[symbol, given[i]] as const] : [];
  }) as [ts.Symbol, ts.Expression | undefined][];
}

interface Message {
  readonly pattern: Pattern;
  /** The call that says most of it; undefined: it is in the binding. */
  readonly at: ts.Node | undefined;
}

/** All that an expression may say, however its function is called. */
function messagesOf(expression: ts.Expression, at: ts.Node, way: Way, depth: number): Message[] {
  const reader = new Reader(way);
  const pattern = reader.read(expression);
  const { open, fork } = reader;
  const symbol = open?.name && symbolOf(open.name);
  const found = symbol && depth > 0 ? calls.get(symbol) : undefined;
  if (open && found)
    return found.flatMap((call) => {
      const bindings = new Map([...way.bindings, ...bindingsOf(open, call)]);
      const isMaker = open.getSourceFile() === makers;
      return messagesOf(expression, isMaker ? call : at, { ...way, bindings }, depth - 1);
    });
  if (fork && way.branches.size < mostBranches)
    return Array.from({ length: fork.ways }, (_, branch) => {
      const branches = new Map([...way.branches, [fork.condition, branch] as const]);
      return messagesOf(expression, at, { ...way, branches }, depth);
    }).flat();
  return [{ pattern, at }];
}

function lettersOf(pattern: Pattern): Pattern {
  return pattern.flatMap((part): Pattern => (part === gap ? anything : [...part]));
}

/** Whether there is a text that both fit. */
function meet(one: Pattern, other: Pattern): boolean {
  const [a, b] = [lettersOf(one), lettersOf(other)];
  let row = [true];
  for (let j = 0; j < b.length; j++) row.push(row[j] && b[j] === gap);
  for (const letter of a) {
    const next = [row[0] && letter === gap];
    for (let j = 0; j < b.length; j++) {
      const isGap = letter === gap || b[j] === gap;
      next.push(isGap ? row[j + 1] || next[j] : row[j] && letter === b[j]);
    }
    row = next;
  }
  return row[b.length];
}

/** What stands before, between and behind "must" and "got". */
function sentenceOf(pattern: Pattern): Pattern[] {
  const parts: (string | typeof gap)[][] = [[]];
  for (const part of pattern) {
    const [first, ...rest] = part === gap ? anything : part.split(/ must |, got /);
    parts[parts.length - 1].push(first);
    for (const one of rest) parts.push([one]);
  }
  return parts;
}

/** A gap is no place for a sentence. */
function isLine(message: readonly Pattern[], line: readonly Pattern[]): boolean {
  return message.length === line.length && message.every((part, i) => meet(part, line[i]));
}

function textOf(pattern: Pattern): string {
  return pattern.map((part) => (part === gap ? '<…>' : part)).join('');
}

function placeOf(node: ts.Node): string {
  const source = node.getSourceFile();
  const { line } = source.getLineAndCharacterOfPosition(node.getStart());
  return `lib/${relative(lib, source.fileName)}:${line + 1}`;
}

for (const source of program.getSourceFiles()) if (source.fileName.startsWith(lib)) collect(source);

const makers = sourceOf('errors.ts');
const messages = new Map<string, Message>();
const visit = (node: ts.Node): void => {
  if (ts.isCallExpression(node) && node.expression.getText() === 'withCode')
    for (const message of messagesOf(
      node.arguments[2],
      node,
      { bindings: new Map(), branches: new Map() },
      deepest,
    ))
      messages.set(textOf(message.pattern), message);
  ts.forEachChild(node, visit);
};
visit(makers);

/** What the binding throws: all of it comes out of one function, in which text stands between double quotes. */
const binding = readFileSync('binding/binding.cpp', 'utf8');
const [thrown] = /^void throw_caught.*?^}/ms.exec(binding) ?? [''];
const said = /(?:message =|napi_throw_\w+\(env, "ERR_\w+",\s*(?="))\s*((?:"[^"]*"|[^;"])*);/g;
for (const [, text] of thrown.matchAll(said)) {
  const parts = text.replace(/^std::string\((?=")|\)$/g, '').split('"');
  const pattern = parts.map((part, i) => (i % 2 === 1 ? part : gap)).filter((_, i) => parts[i] !== '');
  messages.set(textOf(pattern), { pattern, at: undefined });
}

const lines = readFileSync('docs/errors.md', 'utf8')
  .split('```text\n')
  .slice(1)
  .flatMap((block) => block.split('\n```')[0].split('\n'))
  .map((line) => sentenceOf(line.split(/<[^<>=]+>/).flatMap((part, i) => (i === 0 ? [part] : [gap, part]))));

for (const [text, { pattern, at }] of messages) {
  const sentence = sentenceOf(pattern);
  if (lines.some((line) => isLine(sentence, line))) continue;
  const place = at === undefined ? 'binding/binding.cpp' : placeOf(at);
  console.error(`docs/errors.md must have the message of ${place}, got nothing like ${text}`);
  process.exitCode = 1;
}
console.log(`Messages: ${messages.size}, lines of docs/errors.md: ${lines.length}`);
