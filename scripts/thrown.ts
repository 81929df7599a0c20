// Which error codes each public function and method can throw: those that its code, and the code it refers to, names.
import { relative } from 'node:path';
import ts from 'typescript';
import { checker, lib, sourceOf } from './program.js';

/** What a name that was imported or exported stands for. */
function aliased(symbol: ts.Symbol | undefined): ts.Symbol | undefined {
  return symbol && symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
}

/** All reasons of lib/errors.ts, which are the codes without ERR_BATCHNORM_. */
export const reasons: readonly string[] = (() => {
  const declared = sourceOf('errors.ts').statements.find(
    (statement) => ts.isTypeAliasDeclaration(statement) && statement.name.text === 'Reason',
  );
  const type = declared && checker.getTypeAtLocation(declared);
  if (!type?.isUnion()) throw new Error('lib/errors.ts must declare Reason as a union, got something else');
  return type.types.map((member) => (member as ts.StringLiteralType).value);
})();

/** What errors.ts gives an error for which nobody names a reason, and where a call would name it. */
const makers: Record<string, { position: number; reason: string }> = {
  typeError: { position: 3, reason: 'INVALID_TYPE' },
  rangeError: { position: 3, reason: 'INVALID_VALUE' },
};

/** What the binding alone throws, by the name of what throws it: WebAssembly has no threads to lack. */
const byBinding: readonly { name: RegExp; reason: string }[] = [{ name: /Later$/, reason: 'NO_THREAD' }];

/** What the backends do behind their interface: the WebAssembly backend stands for both, since both throw the same else. */
const implementations = new Map<string, ts.Node[]>();
const collect = (node: ts.Node): void => {
  if (ts.isMethodDeclaration(node) || ts.isPropertyAssignment(node)) {
    const name = node.name.getText();
    implementations.set(name, [...(implementations.get(name) ?? []), node]);
  }
  ts.forEachChild(node, collect);
};
collect(sourceOf('backend/wasm.ts'));
collect(sourceOf('backend/machine.ts'));
collect(sourceOf('backend/wasm-presence.ts'));
collect(sourceOf('backend/wasm-rows.ts'));

/** What only makes passes: those throw when they are called, and who calls them names them. */
const makersOfPasses = ['rowPasses'];

/** Where a name is declared; for a part of a destructured object, where that object declares it. */
function declarationsOf(name: ts.Identifier | ts.PrivateIdentifier): readonly ts.Declaration[] {
  const declarations = aliased(checker.getSymbolAtLocation(name))?.declarations ?? [];
  return declarations.flatMap((declaration) => {
    if (!ts.isBindingElement(declaration) || !ts.isObjectBindingPattern(declaration.parent))
      return [declaration];
    const property = (declaration.propertyName ?? declaration.name).getText();
    return checker.getTypeAtLocation(declaration.parent).getProperty(property)?.declarations ?? [];
  });
}

/** Whether a name is one of the interface between lib/ and the backends. */
function isOfBackend(name: ts.Identifier): boolean {
  return declarationsOf(name).some(
    ({ parent }) =>
      parent &&
      ts.isInterfaceDeclaration(parent) &&
      parent.getSourceFile().fileName.endsWith('backend/backend.ts'),
  );
}

/** The code behind a name: nothing for types, for what lies outside of lib/, and for errors.ts, whose callers decide. */
function codeBehind(name: ts.Identifier | ts.PrivateIdentifier): ts.Node[] {
  if (makersOfPasses.includes(name.text)) return [];
  const made = name.parent && ts.isNewExpression(name.parent) && name.parent.expression === name;
  return declarationsOf(name).flatMap((declaration): ts.Node[] => {
    const file = declaration.getSourceFile().fileName;
    if (!file.startsWith(lib)) return [];
    if (ts.isMethodSignature(declaration) || ts.isPropertySignature(declaration))
      return file.endsWith('backend/backend.ts') ? (implementations.get(name.text) ?? []) : [];
    if (ts.isClassDeclaration(declaration))
      return made
        ? declaration.members.filter(
            (member) => ts.isConstructorDeclaration(member) || ts.isPropertyDeclaration(member),
          )
        : [];
    if (ts.isVariableDeclaration(declaration))
      return declaration.initializer && ts.isArrowFunction(declaration.initializer)
        ? [declaration.initializer]
        : [];
    return ts.isFunctionLike(declaration) && !(name.text in makers) ? [declaration] : [];
  });
}

function reasonsIn(start: ts.Node): Set<string> {
  const found = new Set<string>();
  const seen = new Set<ts.Node>();
  const visit = (node: ts.Node): void => {
    if (ts.isTypeNode(node)) return;
    if (ts.isStringLiteral(node) && reasons.includes(node.text)) found.add(node.text);
    if (ts.isCallExpression(node) && ts.isIdentifier(node.expression)) {
      const maker = makers[node.expression.text];
      if (maker && node.arguments.length <= maker.position) found.add(maker.reason);
    }
    if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.SuperKeyword)
      baseOf(node)?.members.filter(ts.isConstructorDeclaration).forEach(enter);
    if (ts.isIdentifier(node) && isOfBackend(node))
      for (const { name, reason } of byBinding) if (name.test(node.text)) found.add(reason);
    if (ts.isIdentifier(node) || ts.isPrivateIdentifier(node)) codeBehind(node).forEach(enter);
    ts.forEachChild(node, visit);
  };
  const enter = (node: ts.Node): void => {
    if (seen.has(node)) return;
    seen.add(node);
    visit(node);
  };
  enter(start);
  return found;
}

/** Of what these modules export, by names like `tensor`, `BatchNorm.constructor`, `BatchNorm.forward`. */
export function thrownCodes(entryPoints: readonly string[]): Map<string, Set<string>> {
  const codes = new Map<string, Set<string>>();
  const add = (name: string, node: ts.Node) =>
    codes.set(name, new Set([...reasonsIn(node)].map((reason) => `ERR_BATCHNORM_${reason}`)));
  for (const exported of entryPoints.flatMap((path) => exportsOf(sourceOf(relative(lib, path))))) {
    for (const declaration of aliased(exported)?.declarations ?? []) {
      if (ts.isFunctionDeclaration(declaration)) add(exported.name, declaration);
      if (!ts.isClassDeclaration(declaration)) continue;
      for (const member of membersOf(declaration)) {
        if (ts.isConstructorDeclaration(member)) add(`${exported.name}.constructor`, member);
        else if (
          (ts.isMethodDeclaration(member) || ts.isSetAccessorDeclaration(member)) &&
          !ts.isPrivateIdentifier(member.name)
        )
          add(`${exported.name}.${member.name.getText()}`, member);
      }
    }
  }
  return codes;
}

/** With those that it inherits from classes of lib/; its own last. */
function membersOf(declaration: ts.ClassDeclaration): ts.ClassElement[] {
  const base = baseOf(declaration);
  return [...(base ? membersOf(base) : []), ...declaration.members];
}

/** Of the class that a node is in, or is. */
function baseOf(node: ts.Node): ts.ClassDeclaration | undefined {
  let declaration = node;
  while (!ts.isClassDeclaration(declaration)) declaration = declaration.parent;
  const inherited = declaration.heritageClauses?.[0]?.types[0]?.expression;
  const base = inherited && aliased(checker.getSymbolAtLocation(inherited))?.declarations?.[0];
  return base && ts.isClassDeclaration(base) ? base : undefined;
}

function exportsOf(source: ts.SourceFile): ts.Symbol[] {
  const symbol = checker.getSymbolAtLocation(source);
  if (!symbol) throw new Error(`${source.fileName} must be a module, got none`);
  return checker.getExportsOfModule(symbol);
}
