// Builds with AddressSanitizer and UndefinedBehaviorSanitizer: the addon, test/native and its fuzzer from the same objects.
import { execFileSync } from 'node:child_process';
import { resolve } from 'node:path';
import { buildTargets } from './run.js';

/** What node-gyp-build finds the addon under, as BATCHNORM_PREBUILD. */
export const sanitizedRoot = resolve('build/sanitized');

// Clang, because GCC's AddressSanitizer looks at neither masked nor streaming instructions, and has no fuzzer.
export const clang = 'clang++';

// -O1: at -O3 compilers take minutes over what sanitizers make of the kernels.
const flags = '-fsanitize=address,undefined -fsanitize=fuzzer-no-link -gline-tables-only -O1';

/** The environment of a program that was built with sanitizers: the first finding ends it. */
export const sanitizerOptions = {
  ASAN_OPTIONS: 'detect_leaks=1',
  UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
  TSAN_OPTIONS: 'halt_on_error=1',
};

/** @throws Error where Clang or its sanitizers are not installed. */
export function sanitizerLibrary(): string {
  let library = '';
  try {
    library = execFileSync(clang, ['-print-file-name=libclang_rt.asan-x86_64.so'], { encoding: 'utf8' });
  } catch {}
  if (!library.startsWith('/'))
    throw new Error(
      `${clang} must be there with its sanitizers, got ${library || 'nothing'}: on Debian, apt-get install clang libclang-rt-dev`,
    );
  return library.trim();
}

/** Builds CMake targets; returns their folder. */
export function buildSanitized(...targets: readonly string[]): string {
  sanitizerLibrary();
  const settings = { CMAKE_CXX_COMPILER: clang, BATCHNORM_CXX_FLAGS: flags };
  return buildTargets(`${sanitizedRoot}/build`, targets, settings);
}
